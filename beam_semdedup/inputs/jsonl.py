"""JSON lines as input: planned by one pass over them, read by blocks of whole lines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa

from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.inputs.base import (
    Copied,
    Copier,
    FileFacts,
    Format,
    InputUnit,
    IsListed,
    Marker,
    Marks,
    Piece,
    RowBatch,
    joined_type,
    listed_rows,
)
from beam_semdedup.inputs.jsonl_lines import AROUND_OBJECT, blocks, cut, may_be_objects, parse, spans, what_is_no_lines
from beam_semdedup.inputs.jsonl_types import ColumnTypes
from beam_semdedup.storage.folder import File, FileInfo

_VECTORS = pa.list_(pa.float32())


class _Lines(NamedTuple):
    """A piece: some bytes of a file, decompressed, and which row and line (from 1) of the file begins there."""

    offset: int
    length: int
    first_row: int
    first_line: int


@dataclass(frozen=True)
class Jsonl(Format, Copier, Marker):
    """JSON lines, planned by one pass that counts newlines. Blank lines are no rows.

    A part is a block of lines, or all of a compressed file, which is read from its start whichever rows are wanted.

    Attributes:
        block_bytes: about how many bytes are read at a time.
    """

    block_bytes: int = 1 << 20

    extensions = (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst", ".jsonl.bz2", ".jsonl.xz")
    without_columns = "no line is a JSON object: jsonl has one object a line, in UTF-8"

    def begins_so(self, start: bytes) -> bool:
        """See `Format.begins_so`."""
        return start.strip(AROUND_OBJECT).startswith(b"{")

    def inspect(self, file: FileInfo) -> FileFacts:
        """See `Format.inspect`; reads the whole file, and the types are those of all its well-formed lines."""
        parts: list[InputUnit] = []
        first_row, first_line, offset = 0, 1, 0
        types = ColumnTypes()
        with as_input_error(f"{file}: not readable as text lines"), _opened(file) as stream:
            for block in self._blocks(file, stream):
                num_rows = types.add(block, first_line)
                lines = _Lines(offset, len(block), first_row, first_line)
                parts.append(InputUnit(file.url, 0, first_row, num_rows, lines))
                first_row += num_rows
                first_line += block.count(b"\n")
                offset += len(block)
        is_compressed = _compression(file) is not None
        if is_compressed:
            parts = [InputUnit(file.url, 0, 0, first_row, _Lines(0, offset, 0, 1))]
        with_rows = tuple(part for part in parts if part.num_rows)
        return FileFacts(
            file, types.schema(), first_row, with_rows, conflicts=types.conflicts(), divisible=is_compressed
        )

    def head(self, file: FileInfo) -> pa.Schema:
        """See `Format.head`; from the first block with a well-formed line."""
        types = ColumnTypes()
        with as_input_error(f"{file}: not readable as text lines"), _opened(file) as stream:
            for block in self._blocks(file, stream):
                types.add(block, 1)
                if types.schema():
                    break
        return types.schema()

    def _blocks(self, file: File, stream: IO[bytes]) -> Iterator[bytes]:
        """Yields the lines of a file in blocks; InputError where its first bytes tell that it has none."""
        start = stream.read(self.block_bytes)
        if what := what_is_no_lines(start):
            raise InputError(f"{file}: {what}")
        return blocks(stream, self.block_bytes, start=start)

    def vector_type(self, type_: pa.DataType) -> pa.DataType:
        """See `Format.vector_type`; a list of any numbers is read as float32, also where all happen to be integers."""
        return _VECTORS if joined_type(type_, _VECTORS) else type_

    def join(self, pieces: Sequence[Piece]) -> Piece:
        """See `Format.join`."""
        first, last = _Lines(*pieces[0]), _Lines(*pieces[-1])
        return first._replace(length=last.offset + last.length - first.offset)

    def where(self, piece: Piece) -> str:
        """See `Format.where`."""
        return f"from line {_Lines(*piece).first_line}"

    def read(self, file: File, unit: InputUnit, schema: pa.Schema) -> Iterator[RowBatch]:
        """See `Format.read`. A line that is no object, or whose values have other types, is malformed."""
        offset, length, position, line = _Lines(*unit.piece)
        stop = unit.first_row + unit.num_rows
        with _opened(file) as stream:
            if offset:
                stream.seek(offset)
            for block in blocks(stream, self.block_bytes, length):
                starts, ends, numbers = spans(block)
                first = max(0, unit.first_row - position)
                last = min(len(starts), stop - position)
                if first < last:
                    table, good = parse(cut(block, starts[first:last], ends[first:last]), schema)
                    numbers = numbers[first:last] + line
                    positions = np.arange(position + first, position + last)
                    yield RowBatch(table, positions[good], numbers[good], numbers[~good])
                position += len(starts)
                line += block.count(b"\n")
                if position >= stop:
                    break

    def copy_without(
        self,
        source: File,
        targets: Sequence[Path],
        id_column: pa.Field | None,
        is_listed: IsListed,
        batch_bytes: int,
    ) -> Copied:
        """See `Copier.copy_without`; the other lines stay byte for byte, malformed and blank ones too."""
        (target,), rows_read, rows_listed = targets, 0, 0
        columns = [] if id_column is None else [_as_read(id_column)]
        with (
            _opened(source) as stream,
            fsspec.open(str(target), "wb", compression=_compression(source)) as sink,
        ):
            for block in blocks(stream, self.block_bytes):
                starts, ends, _ = spans(block)
                listed = np.zeros(len(starts), dtype=bool)
                if columns:
                    table, good = parse(cut(block, starts, ends), pa.schema(columns))
                    listed[good] = is_listed(table.column(0))
                else:
                    listed = listed_rows(is_listed, rows_read, len(starts))
                written = 0
                for line in np.flatnonzero(listed):
                    sink.write(block[written : starts[line]])
                    written = ends[line] + 1
                sink.write(block[written:])
                rows_read += len(listed)
                rows_listed += int(listed.sum())
        return Copied(rows_read, rows_listed)

    def copy_marked(
        self, source: File, target: Path, id_column: pa.Field | None, marks: Marks, batch_bytes: int
    ) -> int:
        """See `Marker.copy_marked`; malformed and blank lines stay byte for byte."""
        rows_read = 0
        with (
            _opened(source) as stream,
            fsspec.open(str(target), "wb", compression=_compression(source)) as sink,
        ):
            for block in blocks(stream, self.block_bytes):
                starts, ends, _ = spans(block)
                lines = cut(block, starts, ends)
                if id_column is None:
                    good = may_be_objects(lines)
                    ids = pa.chunked_array([pa.array(rows_read + np.flatnonzero(good))])
                else:
                    table, good = parse(lines, pa.schema([_as_read(id_column)]))
                    ids = table.column(0)
                added = iter(_members(marks(ids)))
                written = 0
                for start, line in zip(starts[good].tolist(), itertools.compress(lines, good), strict=True):
                    close = start + line.rindex(b"}")
                    is_empty = line[: close - start].strip() == b"{"
                    sink.write(block[written:close] + (b"" if is_empty else b", ") + next(added))
                    written = close
                sink.write(block[written:])
                rows_read += len(lines)
        return rows_read


def _members(columns: pa.Table) -> Iterator[bytes]:
    """Yields the values of each row as the members of a JSON object; bytes in hexadecimal digits."""
    for row in columns.to_pylist():
        plain = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
        yield json.dumps(plain, ensure_ascii=False)[1:-1].encode()


def _as_read(ids: pa.Field) -> pa.Field:
    """Returns the column of ids with one of the two types that they have in JSON."""
    return ids.with_type(pa.int64() if pa.types.is_integer(ids.type) else pa.string())


def _opened(file: File) -> IO[bytes]:
    """Opens a file, to be decompressed as its name says."""
    return file.open_stream(_compression(file))


def _compression(file: File) -> str | None:
    """Returns what the name of a file says about its compression, in fsspec's words."""
    found: str | None = fsspec.utils.infer_compression(file.name)
    return found
