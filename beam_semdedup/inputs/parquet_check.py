"""The footer of a parquet file, held against itself and the file before Arrow is asked of it.

Arrow believes a footer: it makes room for as many rows as it claims, and ends the process where it contradicts itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import thrift
from beam_semdedup.inputs.parquet_footer import MAGIC, Chunk, Column, Element, FileField, Group
from beam_semdedup.inputs.thrift import Struct
from beam_semdedup.storage.folder import File

_ENCRYPTED_MAGIC = b"PARE"
_TAIL_BYTES, _ENDING_BYTES = 64 << 10, 8
_ROWS_PER_BYTE = 1 << 20
_REPEATED, _REPETITIONS = 2, (0, 1, 2)
_HISTOGRAMS = (2, 3)
"""The fields of SizeStatistics that have a number for each level: of repetition, and of definition."""


def checked_metadata(file: File, source: pa.NativeFile) -> pq.FileMetaData:
    """Returns the footer of a file that is open as `source`, if it contradicts neither itself nor the file.

    Raises:
        InputError: there is no footer, one that does, or columns are encrypted.
    """
    try:
        return _checked(source)
    except ValueError as error:
        raise InputError(f"{file}: not a readable parquet file: {error}") from error


def _checked(source: pa.NativeFile) -> pq.FileMetaData:
    size = source.size()
    tail = source.read_at(min(size, _TAIL_BYTES), max(0, size - _TAIL_BYTES))
    length = int.from_bytes(tail[-_ENDING_BYTES:-4], "little")
    if tail[-4:] == _ENCRYPTED_MAGIC:
        raise ValueError("it is encrypted: write it without encryption")
    if tail[-4:] != MAGIC or length + _ENDING_BYTES + len(MAGIC) > size:
        raise ValueError("it does not end as a parquet file does: it is another kind of file, or cut off")
    if length + _ENDING_BYTES > len(tail):
        tail = source.read_at(length + _ENDING_BYTES, size - length - _ENDING_BYTES)
    footer = tail[len(tail) - length - _ENDING_BYTES :]
    check(thrift.read(footer)[0], size)
    return pq.read_metadata(pa.BufferReader(MAGIC + footer))


def check(footer: Struct, size: int) -> None:
    """Raises ValueError where a footer contradicts itself, or a file of `size` bytes."""
    try:
        leaves, groups = list(_leaves(footer[FileField.SCHEMA])), footer[FileField.ROW_GROUPS]
        for number, group in enumerate(groups):
            _check_group(f"row group {number}", group, leaves, size)
        rows = sum(group[Group.NUM_ROWS] for group in groups)
        if footer[FileField.NUM_ROWS] != rows:
            raise ValueError(f"its footer says {footer[FileField.NUM_ROWS]:,} rows, and {rows:,} in its row groups")
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("its footer says less than each does") from error


@dataclass(frozen=True)
class _Leaf:
    """A column: its physical type, and the highest of its levels of repetition and of definition."""

    type_: int
    levels: tuple[int, int]


def _leaves(schema: Sequence[Struct]) -> Iterator[_Leaf]:
    """Yields the columns of a schema, whose elements stand each before its children."""
    open_ = [(schema[0].get(Element.CHILDREN, 0), 0, 0)]
    for element in schema[1:]:
        while open_ and not open_[-1][0]:
            open_.pop()
        if not open_:
            break
        children, repetition, definition = open_[-1]
        open_[-1] = children - 1, repetition, definition
        kind = element.get(Element.REPETITION, 0)
        if kind not in _REPETITIONS:
            raise ValueError(f"its footer says that a column has repetition {kind}")
        repetition, definition = repetition + (kind == _REPEATED), definition + (kind > 0)
        if element.get(Element.CHILDREN):
            open_.append((element[Element.CHILDREN], repetition, definition))
        else:
            yield _Leaf(element[Element.TYPE], (repetition, definition))
    if any(children for children, _, _ in open_):
        raise ValueError("its footer says that there are more columns than it names")


def _check_group(name: str, group: Struct, leaves: Sequence[_Leaf], size: int) -> None:
    rows, chunks, stored = group[Group.NUM_ROWS], group[Group.COLUMNS], 0
    if len(chunks) != len(leaves):
        raise ValueError(f"its footer says that {name} has {len(chunks):,} columns, and the schema {len(leaves):,}")
    for leaf, chunk in zip(leaves, chunks, strict=True):
        if Chunk.CRYPTO in chunk:  # Arrow ends the process that asks for such a column
            raise ValueError("columns are encrypted: write it without encryption")
        column = chunk[Chunk.METADATA]
        said = f"its footer says that {b'.'.join(column[Column.PATH]).decode(errors='replace')!r} in {name}"
        if column[Column.TYPE] != leaf.type_:
            raise ValueError(f"{said} has another type than in the schema")
        values, num_bytes = column[Column.NUM_VALUES], column[Column.COMPRESSED_BYTES]
        if values < rows or (values > rows and not leaf.levels[0]):
            raise ValueError(f"{said} has {values:,} values in {rows:,} rows")
        start = column.get(Column.DICTIONARY_AT) or column[Column.DATA_AT]
        if not (Chunk.PATH in chunk or 0 <= start <= start + num_bytes <= size):
            raise ValueError(f"{said} lies outside the file")
        for field, most in zip(_HISTOGRAMS, leaf.levels, strict=True):
            if len(column.get(Column.SIZES, {}).get(field, ())) not in (0, most + 1):
                raise ValueError(f"{said} has other levels than the schema")
        stored += num_bytes
    if not 0 <= rows <= (stored * _ROWS_PER_BYTE if leaves else rows):
        raise ValueError(f"its footer says that {name} has {rows:,} rows in {stored:,} bytes")
