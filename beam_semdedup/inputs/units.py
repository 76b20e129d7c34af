"""How the input is cut into units of work."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
