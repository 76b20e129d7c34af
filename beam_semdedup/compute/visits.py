"""Visits: the clusters besides its own in which a row must be compared, so that no similar pair is missed.

Let x and y be any two rows, and A and B any two centroids. The signed distance of a point z to the bisector of A and B,

    f(z) = (|z - B|² - |z - A|²) / (2 |A - B|),

changes by at most |x - y| between x and y. So with r(x) + r(y) >= |x - y| it cannot be that both f(x) > r(x) and
-f(y) > r(y): x, which lives in A, *visits* B if f(x) <= r(x), y visits A likewise, and one of them does. Nothing is
assumed of how rows came to live where they live: labels may be wrong, and centroids anywhere.

Where both do, one comparison is enough. Of each two clusters one is the *place* of the pairs whose rows visit both
ways: a pair with a visitor from the place may be left out in the other one, if the native there surely visits the
place. For there it is a visitor, and is compared with the row or with an earlier row that is the same, bit for bit.

What r is, is in `radius`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.arrays import rounding_error, row_dot
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.tiles import multiply

SCORE_ROUNDING = 2.0**-23
"""More than what a score, rounded to float32, may exceed the product by, which is 2^-25 of at most 1."""

_GAP_ERROR = 1e-12  # of a squared distance of centroids by float64 products, in units of the largest square
_SURE = 1e-10  # more than float64 products and sums may be off, in the same units
_UP = 1 + 1e-6  # what is rounded to float32 and multiplied stays an upper bound
_TILE_BYTES = 4 << 20

Visits: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]
"""Visitors (v,), positions of rows, ascending, and the clusters that they visit (v,)."""


def radius(squares: npt.NDArray[np.float64], reach: float) -> npt.NDArray[np.float64]:
    """Returns r(x) of each row, such that r(x) + r(y) >= |x - y| wherever x·y rounded to float32 is at least 1 - reach.

    Then x·y >= t = 1 - e, with e = reach + `SCORE_ROUNDING`, and |x - y|² = |x|² + |y|² - 2 x·y <= a + b for
    a = |x|² - t and b = |y|² - t. For any s > 0, 2s √(a + b) <= a + b + s², so that

        |x - y| <= √(a + b) <= (a / 2s + s/4) + (b / 2s + s/4) = r(x) + r(y).

    With s = √(2e) rows of length 1 have r = s/2: nothing is lost for them. Rows need not have length 1.

    Args:
        squares: (n,) squared norms of the rows.
        reach: in [0, 2).
    """
    e = reach + SCORE_ROUNDING
    s = float(np.sqrt(2 * e))
    return (squares - (1 - e)) / (2 * s) + s / 4


def is_place_of(cluster: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Returns whether a cluster is the place of the pairs whose rows visit both ways between it and others (h,); (h,).

    It is so of about every second other.
    """
    result: npt.NDArray[np.bool_] = ((cluster + others) % 2 == 0) == (cluster < others)
    return result


@dataclass(frozen=True)
class Surroundings:
    """Some rows, and what may be near them.

    Attributes:
        rows: (n, d) float32.
        labels: (n,) the clusters where they live.
        centroids: (k, d) float32.
        reach: see `radius`.
    """

    rows: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    centroids: npt.NDArray[np.float32]
    reach: float

    def may_hold(self, clusters: npt.NDArray[np.int32], longest: float) -> npt.NDArray[np.bool_]:
        """Says in which of some clusters B there may be a row y within reach of a row x, of cluster A; (n, m).

        A row lives with the centroid nearest to it, so that f(y) <= 0 for A and B, and f(x) <= f(y) + |x - y| is at
        most r(x) + r(y): see the module. What the float32 products of x, and those by which y came to live there, may
        be off is added.

        Args:
            clusters: (m,) which ones.
            longest: no row there has a larger norm.
        """
        centroids = self.centroids[clusters]
        squares = row_dot(centroids, centroids)
        norms, own, homes, which = self._own
        scale = max(1.0, float(max(squares.max(), row_dot(homes, homes).max())) ** 0.5)
        gaps = _squares_between(homes.astype(np.float64), centroids.astype(np.float64))[which]
        both = radius(norms, self.reach) + radius(np.array([longest**2]), self.reach)
        farther = own[:, None] - (multiply(self.rows, centroids) - squares / 2)  # f(x) |A - B|
        doubt = 4 * rounding_error(self.rows.shape[1]) * scale * max(scale, longest, float(norms.max()) ** 0.5)
        result: npt.NDArray[np.bool_] = farther <= both[:, None] * np.sqrt(gaps) * _UP + doubt
        return result

    @cached_property
    def _own(
        self,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The squares of the rows, s(A) as in `Clusters.in_reach`, the centroids A, and which of them is each row's."""
        homes, which = np.unique(self.labels, return_inverse=True)
        a = self.centroids[homes]
        own = row_dot(self.rows, a[which]) - (row_dot(a, a) / 2)[which]
        return row_dot(self.rows, self.rows), own, a, which


def _squares_between(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    return np.maximum(result, 0, out=result)


@dataclass(frozen=True)
class Clusters:
    """The clusters of a model, as rows visit them.

    Attributes:
        centroids: (k, d) float32.
        batch: rows of a tile of products, at most.
    """

    centroids: npt.NDArray[np.float32]
    batch: int

    def in_reach(self, rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], reach: float) -> Visits:
        """Finds for each row x of a cluster A the clusters B that it visits: those with f(x) <= r(x); see the module.

        With s(C) = x·C - |C|²/2 this is s(A) - s(B) <= r(x) |A - B|. What the float32 products and sums may be off is
        added; |A - B| and r(x) are rounded up, and r(x) is not below 0. Equal centroids visit each other.

        Args:
            rows: (n, d); those of one cluster best stand together.
            labels: (n,) where each lives.
            reach: see `radius`.
        """

        def tile(part: slice) -> Visits:
            queries, own = rows[part], labels[part]
            each = np.arange(len(own))
            scores, squares, doubt = self._scores(queries)
            least = scores[each, own] - doubt
            r = np.maximum(radius(squares, reach), 0)
            homes, which = np.unique(own, return_inverse=True)
            allowed = self._gaps(homes)[which]
            allowed *= (r * _UP).astype(np.float32)[:, None]
            scores += allowed
            scores[each, own] = -np.inf
            visitors, visited = np.nonzero(scores >= least[:, None])
            return part.start + visitors, visited.astype(np.int32)

        return self._in_tiles(tile, len(rows))

    def surely_visits(
        self, rows: npt.NDArray[np.float32], home: int, others: npt.NDArray[np.int64], reach: float
    ) -> npt.NDArray[np.bool_]:
        """Returns which rows (n, d) of a cluster surely visit which `others` (h,); (n, h).

        Those are among what `in_reach` finds, whatever it is asked together with: f(x) <= r(x) holds of them although
        all that rounding may be off counts against it here.
        """
        squares = row_dot(rows, rows)
        own, exact = self.centroids[home].astype(np.float64), self.centroids[others].astype(np.float64)
        square, others_squares = own @ own, np.einsum("ij,ij->i", exact, exact)
        largest = max(1.0, float(square), float(others_squares.max(initial=0)), float(squares.max(initial=0)))
        at_home = rows.astype(np.float64) @ own - square / 2
        scores = rows.astype(np.float64) @ exact.T - others_squares / 2
        between = square + others_squares - 2 * (exact @ own)
        gaps = np.sqrt(np.maximum(between - _GAP_ERROR * largest, 0)) / _UP
        allowed = np.maximum(radius(squares, reach), 0)[:, None] / _UP * gaps
        sure: npt.NDArray[np.bool_] = scores + allowed >= at_home[:, None] + _SURE * largest
        return sure

    def nearest(self, rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], number: int) -> Visits:
        """Finds for each row the `number` nearest clusters besides its own, the first of equally near ones.

        Float32 products nominate, and float64 ones of a row and a centroid alone decide, so that what is found does not
        depend on the rows beside it.

        Args:
            rows, labels: as for `in_reach`.
            number: all others, where there are no more.

        Returns:
            the visits of a row with the nearest cluster first.
        """
        number = min(number, len(self.centroids) - 1)

        def tile(part: slice) -> Visits:
            queries, own = rows[part], labels[part]
            scores, _, doubt = self._scores(queries)
            scores[np.arange(len(own)), own] = -np.inf
            place = scores.shape[1] - number
            last = np.partition(scores, place, axis=1)[:, place]
            who, where = np.nonzero(scores >= (last - doubt)[:, None])
            exact = row_dot(queries[who], self.centroids[where]) - self._squares[where] / 2
            order = np.lexsort((where, -exact, who))
            who, where = who[order], where[order]
            chosen = np.arange(len(who)) - np.searchsorted(who, who) < number
            return part.start + who[chosen], where[chosen].astype(np.int32)

        return self._in_tiles(tile, len(rows) if number > 0 else 0)

    def _in_tiles(self, tile: Callable[[slice], Visits], num_rows: int) -> Visits:
        step = max(1, min(self.batch, _TILE_BYTES // (4 * len(self.centroids))))
        none = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)
        parts = in_threads(tile, slices(0, num_rows, step))
        visitors, visited = (np.concatenate(column) for column in zip(none, *parts, strict=True))
        return visitors, visited

    def _scores(
        self, rows: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], np.float32]:
        """Returns s(C) for rows and centroids (n, k), the squares of the rows (n,), and how far off two s may be."""
        squares, scale = row_dot(rows, rows), max(1.0, float(self._squares.max()) ** 0.5)
        scores = multiply(rows, self.centroids)
        scores -= (self._squares / 2).astype(np.float32)
        doubt = 2 * rounding_error(rows.shape[1]) * scale * max(scale, float(squares.max()) ** 0.5)
        return scores, squares, np.float32(doubt * _UP)

    @cached_property
    def _squares(self) -> npt.NDArray[np.float64]:
        return row_dot(self.centroids, self.centroids)

    @cached_property
    def _exact(self) -> npt.NDArray[np.float64]:
        return self.centroids.astype(np.float64)

    def _gaps(self, homes: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Returns the distances of the centroids `homes` (h,) to all (h, k), none smaller than it is."""
        between = self._squares[homes][:, None] + self._squares - 2 * (self._exact[homes] @ self._exact.T)
        error = _GAP_ERROR * float(self._squares.max())
        return (np.sqrt(np.maximum(between, 0) + error) * _UP).astype(np.float32)
