"""The types of the columns in lines of JSON, which may differ from line to line."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.inputs.base import joined_type
from beam_semdedup.inputs.jsonl_lines import AROUND_OBJECT, cut, may_be_objects, read_json, spans


@dataclass
class _Values:
    """How many values of a type a column has, and the number of the first line with one."""

    count: int
    line: int


class ColumnTypes:
    """The types of the columns in blocks of lines, from the lines that are well-formed."""

    def __init__(self) -> None:
        self._found: dict[str, dict[pa.DataType, _Values]] = {}
        self._mixed: dict[str, int] = {}

    def add(self, block: bytes, first_line: int) -> int:
        """Takes a block into account; returns the number of its lines that are not blank."""
        starts, ends, before = spans(block)
        lines = cut(block, starts, ends)
        good = may_be_objects(lines)
        if not _is_utf8(block):
            good &= np.fromiter(map(_is_utf8, lines), bool, len(lines))
        objects = list(itertools.compress(lines, good))
        self._add_lines(objects, before[good] + first_line)
        return len(lines)

    def schema(self) -> pa.Schema:
        """Returns each column with the type that holds its values, or those of the most lines.

        It has no columns where no line is JSON.
        """
        commonest = {name: max(found, key=lambda t: found[t].count) for name, found in self._found.items()}
        return pa.schema({**commonest, **{name: pa.null() for name in self._mixed if name not in commonest}}.items())

    def conflicts(self) -> dict[str, str]:
        """Returns the columns whose values no one type holds, each with its types and where they are, in words."""
        lines = {name: [(v.line, str(type_)) for type_, v in found.items()] for name, found in self._found.items()}
        for name, line in self._mixed.items():
            lines.setdefault(name, []).append((line, "of several types at once"))
        return {
            name: " and ".join(f"{type_} in line {line:,}" for line, type_ in sorted(found))
            for name, found in lines.items()
            if len(found) > 1 or name in self._mixed
        }

    def _add_lines(self, lines: Sequence[bytes], numbers: npt.NDArray[np.int64]) -> None:
        """Counts the columns of lines, of which `numbers` are the numbers; those that are no JSON have none."""
        table = _read(lines)
        if table is not None:
            for name, column in zip(table.column_names, table.columns, strict=True):
                self._count(name, column, numbers)
            return
        rows = [_parsed(line) for line in lines]
        groups = _alike(rows)
        if len(groups) == 1:
            self._add_rows(rows, numbers)
        else:
            for group in groups:
                self._add_lines([lines[index] for index in group], numbers[group])

    def _add_rows(self, rows: Sequence[dict[str, Any]], numbers: npt.NDArray[np.int64]) -> None:
        """Counts the columns of rows each for itself, so that one that Arrow cannot read takes none with it."""
        for name in dict.fromkeys(name for row in rows for name in row):
            having = [index for index, row in enumerate(rows) if name in row]
            self._add_values(
                name, [json.dumps({name: rows[index][name]}).encode() for index in having], numbers[having]
            )

    def _add_values(self, name: str, values: Sequence[bytes], numbers: npt.NDArray[np.int64]) -> None:
        """Counts objects with one column."""
        table = _read(values)
        if table is not None:
            self._count(name, table.column(0), numbers)
        elif len(values) == 1:
            self._mixed.setdefault(name, int(numbers[0]))
        else:
            middle = len(values) // 2
            self._add_values(name, values[:middle], numbers[:middle])
            self._add_values(name, values[middle:], numbers[middle:])

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


def _read(lines: Sequence[bytes]) -> pa.Table | None:
    """Returns a table with a row for each line; None where Arrow cannot read all of them."""
    with contextlib.suppress(pa.ArrowInvalid):
        table = read_json(lines, None)
        return table if lines and table.num_rows == len(lines) else None
    return None


def _alike(rows: Sequence[dict[str, Any]]) -> list[npt.NDArray[np.int64]]:
    """Returns the positions of the rows in groups in which every column has one kind of value.

    Halving alone would end at single lines where the kinds alternate.
    """
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                kinds.setdefault(name, set()).add(_kind(value))
    mixed = [name for name, found in kinds.items() if len(found) > 1]
    groups: dict[tuple[type, ...], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(tuple(_kind(row.get(name)) for name in mixed), []).append(position)
    return [np.array(group) for group in groups.values()]


def _kind(value: Any) -> type:
    """Returns the type of a value; integers are as floats, since a column may have both."""
    return float if type(value) is int else type(value)


def _parsed(line: bytes) -> dict[str, Any]:
    """Returns the values of a line; none where it is malformed, also as Arrow sees it."""
    try:
        row = json.loads(line.strip(AROUND_OBJECT), object_pairs_hook=_without_repetition, parse_float=_finite)
        json.dumps(row, ensure_ascii=False).encode()  # halves of surrogates
        return dict(row)
    except (ValueError, RecursionError):
        return {}


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands there twice")
    return row


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number that is too large")
    return value
