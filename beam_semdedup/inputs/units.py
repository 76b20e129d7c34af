"""How the input is cut into units of work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from beam_semdedup.inputs.base import InputUnit
from beam_semdedup.inputs.dataset import InputFacts


def units(facts: InputFacts, rows_per_unit: int) -> list[InputUnit]:
    """Returns units of about `rows_per_unit` rows: neighbouring parts of a file together, larger ones cut."""
    result: list[InputUnit] = []
    for number, file in enumerate(facts.files):
        for parts in _neighbours(file.parts, rows_per_unit):
            rows, piece = sum(part.num_rows for part in parts), facts.format.join([part.piece for part in parts])
            unit = replace(parts[0], file=number, num_rows=rows, piece=piece)
            result += _cut(unit, rows_per_unit) if file.divisible else [unit]
    return result


def _neighbours(parts: Sequence[InputUnit], rows_per_unit: int) -> Iterator[list[InputUnit]]:
    """Yields runs of consecutive parts that have at most `rows_per_unit` rows together, or a larger one alone."""
    run: list[InputUnit] = []
    rows = 0
    for part in parts:
        if run and rows + part.num_rows > rows_per_unit:
            yield run
            run, rows = [], 0
        run.append(part)
        rows += part.num_rows
    if run:
        yield run


def _cut(unit: InputUnit, rows_per_unit: int) -> list[InputUnit]:
    """Returns a unit in even ones of at most `rows_per_unit` rows, which read their rows of the same piece."""
    number = -(-unit.num_rows // rows_per_unit)
    bounds = [unit.first_row + unit.num_rows * i // number for i in range(number + 1)]
    return [
        replace(unit, first_row=low, num_rows=high - low) for low, high in zip(bounds[:-1], bounds[1:], strict=True)
    ]
