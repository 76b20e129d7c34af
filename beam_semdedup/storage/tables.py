"""The parquet files of the stages: a table, and what the program says of it in the file's metadata."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.storage.damage import DamagedFile, as_damage
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.records import Record

_LOG = logging.getLogger(__name__)
_FACTS = b"semdedup"
_R = TypeVar("_R", bound=Record)
_LARGEST_TEXT = 2**31 - 1
_WIDE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


def write(
    file: File, table: pa.Table, facts: Record | None, compression: str, row_group_size: int = 65_536, **options: Any
) -> None:
    """Writes a table, whole, with `facts` in place of its schema's metadata; `options` are `pq.write_table`'s.

    Its pages have checksums.
    """
    table = table.replace_schema_metadata({_FACTS: facts.to_json()} if facts else None)
    with file.atomic_write() as scratch:
        pq.write_table(
            table,
            scratch,
            compression=compression,
            row_group_size=row_group_size,
            write_page_checksum=True,
            **options,
        )


def take(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Returns rows of a table, in this order, in one chunk, or in several where a text column is too large for that.

    A text of 32-bit offsets holds 2 GiB in one piece, and Arrow puts all that it takes from into one.
    """
    if table.nbytes <= _LARGEST_TEXT:
        return table.take(pa.array(rows)).combine_chunks()
    wide = table.cast(pa.schema([f.with_type(_WIDE.get(f.type, f.type)) for f in table.schema])).combine_chunks()
    return pa.concat_tables(_pieces(wide, rows, table.schema))


def combined(table: pa.Table) -> pa.Table:
    """Returns the table with each column in one chunk, from which `take` is fast; itself where it is too large."""
    return table.combine_chunks() if table.nbytes <= _LARGEST_TEXT else table


def _pieces(wide: pa.Table, rows: npt.NDArray[np.int64], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yields rows in tables of `schema` that are small enough for it."""
    if len(rows) == 1 or len(rows) * wide.nbytes <= wide.num_rows * _LARGEST_TEXT:  # on the average
        piece = wide.take(pa.array(rows))
        if len(rows) == 1 or piece.nbytes <= _LARGEST_TEXT:
            yield piece.cast(schema).combine_chunks()
            return
    for half in np.array_split(rows, 2):
        yield from _pieces(wide, half, schema)


def opened(source: pa.NativeFile, footer: pq.FileMetaData | None = None, **options: Any) -> pq.ParquetFile:
    """Opens a parquet file, whose pages are held against their checksums as they are read, where they have some.

    Args:
        footer: where it is known, so that it is not read again.
        options: those of `pq.ParquetFile`.
    """
    return pq.ParquetFile(source, metadata=footer, page_checksum_verification=True, **options)


def read_facts(file: File, kind: type[_R]) -> _R | None:
    """Returns the facts that `write` put into a file; None where there is no file that can be read."""
    try:
        with as_damage(file), file.open() as source:
            return kind.from_json(pq.read_schema(source).metadata[_FACTS])
    except DamagedFile as error:
        if file.exists():
            _LOG.warning("%s", error)
        return None
