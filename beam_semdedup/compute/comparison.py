"""The comparison of rows with those that rank before them, in whichever way their products are laid out.

Who calls knows which rows are copies of an earlier one, bit for bit. For the others a nominator finds the most similar
earlier row by products that may be inexact, and says which rows they leave open; it settles these by products in
float64. Scores are computed last, each from its two rows alone, so that they depend on nothing else.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.arrays import namespace, pair_dot, to_host
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.types import Array, RankedVectors

TIE = 1e-6
"""Similarities closer than this are ties, which the earliest-ranked row wins."""


class Nominator(Protocol):
    """Finds the winners of rows (a of them) that are no copies, among rows of which no two are."""

    def nominate(self) -> tuple[Array, Array]:
        """Finds what inexact products tell.

        Returns:
            winners (a,) int64, positions; a row with no earlier one wins against itself. Which of the a rows are open,
            (o,) ascending.
        """
        ...

    def settle(self, open_ones: Array) -> Array:
        """Finds the earliest-ranked rows within `TIE` of the maximum, by float64 products.

        Args:
            open_ones: (o,) which of the a rows are asked for, at least one, ascending.

        Returns:
            winners (o,) int64, positions.
        """
        ...


def compare(
    rows: RankedVectors, positions: Array, first: Array, nominator: Nominator, step: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Finds the similarity to and the position of the best earlier row of each of some rows.

    Args:
        rows: n unit rows.
        positions: (m,) int64 where in `rows` those asked for stand, ascending.
        first: (m,) int64 the position of the first row that is bit-identical to each, its own where there is none.
        nominator: finds the winners of the rows that are their own first.
        step: rows whose scores are computed at once.

    Returns:
        scores (m,) float32 in [-1, 1], winners (m,) int64, positions. A row with an identical one before it scores
        1.0, one with none at all before it wins against itself and scores 0.0.
    """
    xp = namespace(first)
    scores, winners = xp.ones(len(first), dtype=np.float32), first.copy()
    at = xp.flatnonzero(first == positions)
    if len(at):
        asked = positions[at]
        best, open_ones = nominator.nominate()
        if len(open_ones):
            best[open_ones] = nominator.settle(open_ones)
        found = xp.empty(len(at), dtype=np.float32)

        def score(part: slice) -> None:
            dots = pair_dot(rows, asked[part], best[part]).astype(np.float32).clip(-1, 1)
            found[part] = to_host(dots) if xp is np else dots

        in_threads(score, slices(0, len(at), step))
        found[best == asked] = 0
        scores[at], winners[at] = found, best
    return to_host(scores), to_host(winners)
