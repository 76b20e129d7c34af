"""JSON lines as input: planned by one pass over them, read by blocks of whole lines."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from beam_semdedup.errors import as_input_error
from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.base import FileFacts, InputUnit, RowBatch, joined_type
from beam_semdedup.storage.folder import File, FileInfo

_BLOCK_BYTES = 1 << 20
_VECTORS = pa.list_(pa.float32())
_SPACE = ord(" ")
_AROUND_OBJECT = b" \t\r\n\xef\xbb\xbf"


class Jsonl:
    """JSON lines, planned by one pass that counts newlines; compressed files are read from their start."""

    extensions = (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst", ".jsonl.bz2", ".jsonl.xz")
    without_columns = "no line is a JSON object: jsonl has one object a line, in UTF-8"

    def inspect(self, file: FileInfo) -> FileFacts:
        """See `Format.inspect`; reads the whole file, and the types are those of all its well-formed lines."""
        parts: list[InputUnit] = []
        first_row, first_line, offset = 0, 1, 0
        types = _Types()
        with as_input_error(f"{file}: not readable as text lines"), _opened(file) as stream:
            for block in _blocks(stream):
                num_rows = types.add(block, first_line)
                parts.append(InputUnit(file.url, 0, first_row, num_rows, (), offset, len(block), first_line))
                first_row += num_rows
                first_line += block.count(b"\n")
                offset += len(block)
        if _compression(file):
            parts = [InputUnit(file.url, 0, 0, first_row, length=-1)]
        parts = [part for part in parts if part.num_rows]
        return FileFacts(file, types.schema(), first_row, tuple(parts), conflicts=types.conflicts())

    def head(self, file: FileInfo) -> pa.Schema:
        """See `Format.head`; from the first block with a well-formed line."""
        types = _Types()
        with as_input_error(f"{file}: not readable as text lines"), _opened(file) as stream:
            for block in _blocks(stream):
                types.add(block, 1)
                if types.schema():
                    break
        return types.schema()

    def dimension(self, facts: FileFacts, embedding_field: str) -> int | None:
        """See `Format.dimension`; from the first block with a vector."""
        schema = pa.schema([(embedding_field, _VECTORS)])
        for part in facts.parts:
            for rows in self.read(facts.info, part, schema):
                counts = embeddings.lengths(rows.table.column(0).combine_chunks())
                if commonest := embeddings.commonest_length(counts):
                    return commonest
        return None

    def vector_type(self, type_: pa.DataType) -> pa.DataType:
        """See `Format.vector_type`; a list of any numbers is read as float32, also where all happen to be integers."""
        return _VECTORS if joined_type(type_, _VECTORS) else type_

    def joined_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        """See `Format.joined_type`; the same rule as within a file."""
        return joined_type(a, b)

    def read(self, file: File, unit: InputUnit, schema: pa.Schema) -> Iterator[RowBatch]:
        """See `Format.read`. A line that is no object, or whose values have other types, is malformed."""
        with _opened(file) as stream:
            if unit.offset:
                stream.seek(unit.offset)
            line = unit.first_line
            # A compressed file is read, and its rows counted, from its start; any other from the unit's offset.
            position = 0 if unit.length < 0 else unit.first_row
            stop = unit.first_row + unit.num_rows
            for block in _blocks(stream, unit.length):
                starts, ends, numbers = _line_spans(block)
                first = max(0, unit.first_row - position)
                last = min(len(starts), stop - position)
                if first < last:
                    table, good = _parse_lines(_lines(block, starts[first:last], ends[first:last]), schema)
                    numbers = numbers[first:last] + line
                    yield RowBatch(
                        table,
                        np.arange(position + first, position + last)[good],
                        numbers[good],
                        numbers[~good],
                    )
                position += len(starts)
                line += block.count(b"\n")
                if position >= stop:
                    break

    def copy_without(
        self,
        source: File,
        target: Path,
        id_column: pa.Field,
        is_listed: Callable[[pa.ChunkedArray], np.ndarray],
        batch_bytes: int,
    ) -> tuple[int, int]:
        """See `Format.copy_without`; the other lines stay byte for byte, malformed and blank ones too."""
        rows_read = rows_listed = 0
        schema = pa.schema([id_column.with_type(pa.int64() if pa.types.is_integer(id_column.type) else pa.string())])
        with (
            _opened(source) as stream,
            fsspec.open(str(target), "wb", compression=_compression(source)) as sink,
        ):
            for block in _blocks(stream):
                starts, ends, _ = _line_spans(block)
                table, good = _parse_lines(_lines(block, starts, ends), schema)
                listed = np.zeros(len(starts), dtype=bool)
                listed[good] = is_listed(table.column(0))
                written = 0
                for line in np.flatnonzero(listed):
                    sink.write(block[written : starts[line]])
                    written = ends[line] + 1
                sink.write(block[written:])
                rows_read += len(listed)
                rows_listed += int(listed.sum())
        return rows_read, rows_listed

    def places(self, file: File, numbers: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """See `Format.places`."""
        return pa.nulls(len(numbers), pa.int32()), pa.array(numbers, pa.int64())


def _line_spans(block: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts and ends of the lines of `block` that are not blank, and how many lines stand before each."""
    data = np.frombuffer(block, dtype=np.uint8)
    newlines = np.flatnonzero(data == ord("\n"))
    ends = newlines if block.endswith(b"\n") else np.append(newlines, len(block))
    starts = np.concatenate([[0], newlines + 1])[: len(ends)]
    blank = np.zeros(len(starts), dtype=bool)
    for index in np.flatnonzero(data[starts] <= _SPACE):
        blank[index] = not block[starts[index] : ends[index]].strip()
    kept = np.flatnonzero(~blank)
    return starts[kept], ends[kept], kept


def _lines(block: bytes, starts: np.ndarray, ends: np.ndarray) -> list[bytes]:
    return [block[start:end] for start, end in zip(starts, ends, strict=True)]


def _parse_lines(lines: Sequence[bytes], schema: pa.Schema) -> tuple[pa.Table, np.ndarray]:
    """The table of the well-formed lines, and which they are (n,) bool."""
    good = np.fromiter(map(_may_be_object, lines), bool, len(lines))
    if not good.any():
        return schema.empty_table(), good
    table, good[good] = _parse_objects(list(itertools.compress(lines, good)), schema)
    return table, good


def _may_be_object(line: bytes) -> bool:
    """Whether a line begins and ends as an object does.

    Lines that do can be parsed together: no JSON value has a `}`, a newline and a `{` in a row in it, so that
    each is a row of its own or an error. And a line `null` would crash Arrow's parser.
    """
    line = line.strip(_AROUND_OBJECT)
    return line[:1] == b"{" and line[-1:] == b"}"


def _parse_objects(lines: Sequence[bytes], schema: pa.Schema) -> tuple[pa.Table, np.ndarray]:
    """As `_parse_lines`; halves what does not parse as a whole."""
    try:
        table = _read_json(lines, schema)
        if table.num_rows == len(lines):
            table.validate(full=True)  # strings that are not UTF-8
            return table.select(schema.names), np.ones(len(lines), dtype=bool)
    except pa.ArrowInvalid:
        pass
    if len(lines) == 1:
        return schema.empty_table(), np.zeros(1, dtype=bool)
    middle = len(lines) // 2
    halves = [_parse_objects(lines[:middle], schema), _parse_objects(lines[middle:], schema)]
    return pa.concat_tables([h[0] for h in halves]), np.concatenate([h[1] for h in halves])


def _read_json(lines: Sequence[bytes], schema: pa.Schema | None) -> pa.Table:
    data = b"\n".join(lines)
    return pj.read_json(
        pa.BufferReader(data),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pj.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
        ),
    )


@dataclass
class _Values:
    """How many values of a type a column has, and the number of the first line with one."""

    count: int
    line: int


class _Types:
    """The types of the columns in blocks of lines, from the lines that are well-formed."""

    def __init__(self) -> None:
        self._found: dict[str, dict[pa.DataType, _Values]] = {}
        self._any_utf8 = False

    def add(self, block: bytes, first_line: int) -> int:
        """Takes a block into account; the number of its lines that are not blank."""
        starts, ends, before = _line_spans(block)
        lines = _lines(block, starts, ends)
        good = np.fromiter(map(_may_be_object, lines), bool, len(lines))
        objects = list(itertools.compress(lines, good))
        self._any_utf8 = self._any_utf8 or any(map(_is_utf8, objects))
        for table, numbers in _readable_runs(objects, before[good] + first_line):
            for name, column in zip(table.column_names, table.columns, strict=True):
                self._count(name, column, numbers)
        return len(lines)

    def schema(self) -> pa.Schema:
        """Each column with the type that holds its values, or those of the most lines; none where no line is JSON."""
        if not self._any_utf8:
            return pa.schema([])
        commonest = {name: max(found, key=lambda t: found[t].count) for name, found in self._found.items()}
        return pa.schema(commonest.items())

    def conflicts(self) -> dict[str, str]:
        """The columns whose values no one type holds, each with its types and where they are, in words."""
        conflicts = {name: found for name, found in self._found.items() if len(found) > 1}
        lines = {name: sorted((v.line, str(type_)) for type_, v in found.items()) for name, found in conflicts.items()}
        return {name: " and ".join(f"{t} in line {line:,}" for line, t in found) for name, found in lines.items()}

    def _count(self, name: str, column: pa.ChunkedArray, numbers: np.ndarray) -> None:
        """Counts values under their type, or joins it with one that was counted before into one that holds both."""
        found, type_ = self._found.setdefault(name, {}), _without_times(column.type)
        count = len(column) - column.null_count
        if type_ not in found:
            first = numbers[np.argmax(column.is_valid().to_numpy())]
            values = _Values(0, int(first))
            for other in found:
                if joined := joined_type(other, type_):
                    counted, type_ = found.pop(other), joined
                    values = counted if counted.count else values
                    break
            found[type_] = values
        found[type_].count += count


def _without_times(type_: pa.DataType) -> pa.DataType:
    """The type with strings for the times that Arrow sees in some strings; JSON has none."""
    if pa.types.is_timestamp(type_):
        return pa.string()
    if pa.types.is_list(type_):
        return pa.list_(type_.value_field.with_type(_without_times(type_.value_type)))
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_without_times(field.type)) for field in type_])
    return type_


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _readable_runs(lines: Sequence[bytes], numbers: np.ndarray) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Tables of all well-formed lines, with the lines' numbers; those of different schemas come in different tables."""
    if not lines:
        return
    with contextlib.suppress(pa.ArrowInvalid):
        table = _read_json(lines, None)
        if table.num_rows == len(lines):
            yield table, numbers
            return
    groups = _alike(lines)
    if len(groups) == 1:
        groups = [group for group in np.array_split(groups[0], 2) if len(lines) > 1]
    for group in groups:
        yield from _readable_runs([lines[index] for index in group], numbers[group])


def _alike(lines: Sequence[bytes]) -> list[np.ndarray]:
    """The positions of the lines in groups in which every column has one kind of value.

    Halving alone would end at single lines where the kinds alternate.
    """
    rows = [_values(line) for line in lines]
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                kinds.setdefault(name, set()).add(type(value))
    mixed = [name for name, found in kinds.items() if len(found) > 1]
    groups: dict[tuple[type, ...], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(tuple(type(row.get(name)) for name in mixed), []).append(position)
    return [np.array(group) for group in groups.values()]


def _values(line: bytes) -> dict[str, Any]:
    """The values of a line, integers as floats since a column may have both; empty where it is malformed."""
    try:
        return dict(json.loads(line, parse_int=float))
    except (ValueError, RecursionError):
        return {}


def _blocks(stream: IO[bytes], length: int = -1) -> Iterator[bytes]:
    """Runs of whole lines of about `_BLOCK_BYTES` from the next `length` bytes of `stream` (-1: all)."""
    rest = b""
    while length != 0:
        data = stream.read(_BLOCK_BYTES if length < 0 else min(length, _BLOCK_BYTES))
        if not data:
            break
        length -= len(data) if length > 0 else 0
        cut = data.rfind(b"\n") + 1
        if cut:
            yield rest + data[:cut]
            rest = data[cut:]
        else:
            rest += data
    if rest:
        yield rest


def _opened(file: File) -> IO[bytes]:
    """The content of a file, decompressed as its name says."""
    return file.open_stream(_compression(file))


def _compression(file: File) -> str | None:
    """What the name of a file says about its compression, in fsspec's words."""
    return fsspec.utils.infer_compression(file.name)
