"""How the input is cut into units of work."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from beam_semdedup.inputs import vectors
from beam_semdedup.inputs.base import Format, InputUnit
from beam_semdedup.inputs.dataset import InputFacts
from beam_semdedup.neighbours import neighbours


@dataclass(frozen=True)
class AssignUnit:
    """One unit of assign work: rows that follow each other in the input.

    Attributes:
        parts: where they are, a part for each file.
    """

    parts: tuple[InputUnit, ...]

    @property
    def num_rows(self) -> int:
        """The rows of all parts."""
        return sum(part.num_rows for part in self.parts)

    def describe(self, kind: Format) -> str:
        """Returns the words of the format for where its rows are, from the first part to the last."""
        return " to ".join(map(kind.describe, dict.fromkeys([self.parts[0], self.parts[-1]])))


def units(facts: InputFacts, rows_per_unit: int) -> list[AssignUnit]:
    """Returns units of about `rows_per_unit` rows: neighbouring parts together, small files too; larger ones cut."""
    result: list[AssignUnit] = []
    parts = [replace(part, file=number) for number, file in enumerate(facts.files) for part in file.parts]
    for run in neighbours(parts, lambda part: part.num_rows, rows_per_unit):
        of_files = itertools.groupby(run, key=lambda part: part.file)
        joined = [_joined(facts.format, list(of_file)) for _, of_file in of_files]
        if facts.files[joined[0].file].divisible and len(joined) == 1:
            result += [AssignUnit((part,)) for part in _cut(joined[0], rows_per_unit)]
        else:
            result.append(AssignUnit(tuple(joined)))
    return result


def vector_units(kind: Format, units: Sequence[AssignUnit]) -> list[AssignUnit]:
    """Returns units whose parts are the rows that have their vectors in one file, those of small files together.

    Args:
        units: all of the input, in its order.
    """
    parts = []
    of_files = itertools.groupby((part for unit in units for part in unit.parts), key=lambda part: part.file)
    for found in (list(of_file) for _, of_file in of_files):
        stops = np.cumsum([part.num_rows for part in found])
        for start in range(0, int(stops[-1]), vectors.ROWS):
            stop = min(start + vectors.ROWS, int(stops[-1]))
            first, last = np.searchsorted(stops, [start, stop - 1], side="right")
            pieces = dict.fromkeys(part.piece for part in found[first : last + 1])  # which parts that are cut share
            parts.append(replace(found[0], first_row=start, num_rows=stop - start, piece=kind.join([*pieces])))
    return [AssignUnit(tuple(run)) for run in neighbours(parts, lambda part: part.num_rows, vectors.ROWS)]


def _joined(kind: Format, parts: Sequence[InputUnit]) -> InputUnit:
    """Returns neighbouring parts of a file as one."""
    rows, piece = sum(part.num_rows for part in parts), kind.join([part.piece for part in parts])
    return replace(parts[0], num_rows=rows, piece=piece)


def _cut(part: InputUnit, rows_per_unit: int) -> list[InputUnit]:
    """Returns a part in even ones of at most `rows_per_unit` rows, which read their rows of the same piece."""
    number = -(-part.num_rows // rows_per_unit)
    bounds = [part.first_row + part.num_rows * i // number for i in range(number + 1)]
    return [
        replace(part, first_row=low, num_rows=high - low) for low, high in zip(bounds[:-1], bounds[1:], strict=True)
    ]
