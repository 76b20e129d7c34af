"""Screens: what is multiplied in place of the rows to find the most similar ones, and which rows that leaves open."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.arrays import namespace, rounding_error, row_dot
from beam_semdedup.compute.comparison import TIE
from beam_semdedup.compute.short_vectors import Basis, fit_basis
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.tiles import Top
from beam_semdedup.compute.types import Array, RankedVectors

_LONGEST = 2.0**15  # the norm from which on rows are not rounded: float16 ends at 65504
LEAST_ROWS = 2048
"""Rows of a cluster from which on short vectors save more than they cost."""
_SAMPLE_ROWS, _STEP_ROWS = 4096, 4096
_UNIT_ROUNDOFF, _SMALLEST = 2.0**-11, 2.0**-25  # of float16: relative, and half of its smallest number


class Screen:
    """Multiplies the float32 rows themselves; open is where the second product may be as good as the best.

    A subclass multiplies something else: it says what, and how far the products may be trusted.

    Attributes:
        second: a screen for the rows that this one leaves open, where these may be many; None: they are settled.
    """

    second: Screen | None = None

    def for_rows(self, rows: RankedVectors, batch: int) -> Screen:
        """Returns the screen that these rows can be compared with, reading `batch` of them at a time if it must."""
        return self

    def prepared(self, rows: Array) -> Array:
        """Returns what `tiles.multiply` takes in place of rows (…, n, d) float32."""
        return rows

    def all_prepared(self, rows: RankedVectors, batch: int) -> RankedVectors:
        """Returns what gives prepared rows when it is indexed, reading `batch` of them at a time if it must."""
        return _Prepared(self, rows)

    def unclear(self, top: Top, dimension: int) -> Array:
        """Returns which of n unit rows (n,) bool of this dimension are left open by their largest products."""
        xp = namespace(top.best)
        doubt = xp.float32(TIE + 2 * rounding_error(dimension, xp))
        return (top.second >= top.best - doubt) & (top.second > -xp.inf)


class _Prepared:
    """Rows that a screen prepares when they are indexed."""

    def __init__(self, screen: Screen, rows: RankedVectors) -> None:
        self._screen, self._rows = screen, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, ranks: slice | npt.NDArray[np.int64]) -> Array:
        return self._screen.prepared(self._rows[ranks])


EXACT = Screen()


@dataclass(frozen=True)
class Rounded(Screen):
    """Multiplies rows rounded to float16, several times as fast on tensor cores; open is what is near a threshold.

    The maximum of any other row is on the side of the threshold on which its best product is, and so is the score of
    the row that had it: the rows that score at least `threshold` are the same as with `EXACT`. The winner may be
    another row than there, less similar by twice the `screening_error` at most; its score is the exact one of that row.

    Attributes:
        threshold: the score of a duplicate.
        longest: the largest norm of a row.
    """

    threshold: float
    longest: float = 1.0

    def for_rows(self, rows: RankedVectors, batch: int) -> Screen:
        """Returns this screen with the largest norm of these rows, or `EXACT` where float16 does not hold them."""
        squares = in_threads(lambda part: float(row_dot(rows[part], rows[part]).max()), slices(0, len(rows), batch))
        longest: float = max(squares) ** 0.5
        return replace(self, longest=longest) if longest < _LONGEST else EXACT

    def prepared(self, rows: Array) -> Array:
        """Returns the rows as float16: on a GPU as such, on NumPy as float32 numbers of these values."""
        half = rows.astype(np.float16)
        return half.astype(np.float32) if isinstance(half, np.ndarray) else half

    def unclear(self, top: Top, dimension: int) -> Array:
        """Returns which of n rows (n,) bool have their best product near the threshold."""
        return abs(top.best - namespace(top.best).float32(self.threshold)) <= self.reach(dimension)

    def reach(self, dimension: int) -> float:
        """Returns how near to the threshold the best product leaves open on which side the exact score is.

        That score is at most `TIE` below the row's maximum; it, the threshold and their difference are rounded to
        float32.
        """
        return screening_error(dimension, self.longest) + TIE + 2.0**-22


@dataclass(frozen=True)
class Short(Screen):
    """Multiplies short vectors on NumPy, whose products are upper bounds; open is what may reach a threshold.

    Of a row that is not open no product reaches the threshold, by more than a score is rounded by, and so with `EXACT`
    too its score is below; here its winner is the row with the highest bound, which may be a much less similar one.
    Open rows have the winners and scores of `EXACT`, bit for bit.

    Attributes:
        threshold: the score of a duplicate.
        basis: the directions of the short vectors.
    """

    threshold: float
    basis: Basis
    second: Screen | None = EXACT

    def for_rows(self, rows: RankedVectors, batch: int) -> Screen:
        """Returns this screen, or `EXACT` for rows so few that their short vectors cost more than they save."""
        return self if self.basis.width and len(rows) >= LEAST_ROWS else EXACT

    def prepared(self, rows: Array) -> Array:
        """Returns the short vectors (n, m + 1) of the rows."""
        return self.basis.shorten(rows)

    def all_prepared(self, rows: RankedVectors, batch: int) -> RankedVectors:
        """Returns the short vectors of all rows: they are small, and each is used many times."""
        return np.concatenate([self.prepared(rows[part]) for part in slices(0, len(rows), max(batch, _STEP_ROWS))])

    def unclear(self, top: Top, dimension: int) -> Array:
        """Returns which of n rows (n,) bool have a bound that reaches the threshold.

        The bound and the threshold are rounded to float32, and so is a score.
        """
        return ~(top.best < np.float32(self.threshold - 2.0**-22))


def screen_at(threshold: float | None) -> Screen:
    """Returns the screen by which a GPU finds the rows that score at least `threshold`; `EXACT` where there is none."""
    return EXACT if threshold is None else Rounded(threshold)


def short_screen_at(threshold: float | None, rows: RankedVectors, starts: npt.NDArray[np.int64]) -> Screen:
    """Returns the screen by which NumPy finds the rows that score at least `threshold`; `EXACT` where none saves work.

    Args:
        rows: n unit rows, cluster after cluster.
        starts: (c,) where each cluster begins.
    """
    sizes = np.diff(starts, append=len(rows))
    large = np.flatnonzero(sizes >= LEAST_ROWS)
    if threshold is None or not len(large):
        return EXACT
    most = max(1, _SAMPLE_ROWS // len(large))
    sample = [np.linspace(0, sizes[at] - 1, min(most, sizes[at])).astype(np.int64) + starts[at] for at in large]
    groups = np.repeat(np.arange(len(sample)), [len(part) for part in sample])
    return Short(threshold, fit_basis(rows[np.concatenate(sample)], groups, threshold))


def screening_error(dimension: int, longest: float) -> float:
    """Returns how far a product of rows rounded to float16 may be from the exact product of the rows.

    Rounding moves a number v to v(1 + δ) + η with |δ| ≤ u = 2^-11, |η| ≤ 2^-25, and so a row x of norm at most L to
    x + r with |r| ≤ e = uL + √d·2^-25. By Cauchy and Schwarz the exact product of two rounded rows differs from x·y by
    |r·y + x·s + r·s| ≤ 2Le + e². Float16 numbers multiply exactly in float32, and each of d additions, in whatever
    order, loses at most 2^-22 (tensor cores truncate) of the sum of the magnitudes, which is at most (L + e)².

    Args:
        dimension: d.
        longest: L, the largest norm of a row, below 2^15.
    """
    error: float = _UNIT_ROUNDOFF * longest + dimension**0.5 * _SMALLEST
    return 2 * longest * error + error**2 + dimension * 2.0**-22 * (longest + error) ** 2
