"""The types of the columns in lines of JSON, which may differ from line to line."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.inputs.base import joined_type
from beam_semdedup.inputs.jsonl_lines import cut, may_be_objects, read_json, spans


@dataclass
class _Values:
    """How many values of a type a column has, and the number of the first line with one."""

    count: int
    line: int


class ColumnTypes:
    """The types of the columns in blocks of lines, from the lines that are well-formed."""

    def __init__(self) -> None:
        self._found: dict[str, dict[pa.DataType, _Values]] = {}
        self._any_utf8 = False

    def add(self, block: bytes, first_line: int) -> int:
        """Takes a block into account; returns the number of its lines that are not blank."""
        starts, ends, before = spans(block)
        lines = cut(block, starts, ends)
        good = may_be_objects(lines)
        objects = list(itertools.compress(lines, good))
        self._any_utf8 = self._any_utf8 or any(map(_is_utf8, objects))
        for table, numbers in _readable_runs(objects, before[good] + first_line):
            for name, column in zip(table.column_names, table.columns, strict=True):
                self._count(name, column, numbers)
        return len(lines)

    def schema(self) -> pa.Schema:
        """Returns each column with the type that holds its values, or those of the most lines.

        It has no columns where no line is JSON.
        """
        if not self._any_utf8:
            return pa.schema([])
        commonest = {name: max(found, key=lambda t: found[t].count) for name, found in self._found.items()}
        return pa.schema(commonest.items())

    def conflicts(self) -> dict[str, str]:
        """Returns the columns whose values no one type holds, each with its types and where they are, in words."""
        conflicts = {name: found for name, found in self._found.items() if len(found) > 1}
        lines = {name: sorted((v.line, str(type_)) for type_, v in found.items()) for name, found in conflicts.items()}
        return {name: " and ".join(f"{t} in line {line:,}" for line, t in found) for name, found in lines.items()}

    def _count(self, name: str, column: pa.ChunkedArray, numbers: npt.NDArray[np.int64]) -> None:
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
    """Returns the type with strings for the times that Arrow sees in some strings; JSON has none."""
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


def _readable_runs(
    lines: Sequence[bytes], numbers: npt.NDArray[np.int64]
) -> Iterator[tuple[pa.Table, npt.NDArray[np.int64]]]:
    """Yields tables of all well-formed lines, with the lines' numbers; a table for each of their schemas, or more."""
    if not lines:
        return
    with contextlib.suppress(pa.ArrowInvalid):
        table = read_json(lines, None)
        if table.num_rows == len(lines):
            yield table, numbers
            return
    groups = _alike(lines)
    if len(groups) == 1:
        groups = [group for group in np.array_split(groups[0], 2) if len(lines) > 1]
    for group in groups:
        yield from _readable_runs([lines[index] for index in group], numbers[group])


def _alike(lines: Sequence[bytes]) -> list[npt.NDArray[np.int64]]:
    """Returns the positions of the lines in groups in which every column has one kind of value.

    Halving alone would end at single lines where the kinds alternate.
    """
    rows = [_parsed(line) for line in lines]
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


def _parsed(line: bytes) -> dict[str, Any]:
    """Returns the values of a line, integers as floats since a column may have both; none where it is malformed."""
    try:
        return dict(json.loads(line, parse_int=float))
    except (ValueError, RecursionError):
        return {}
