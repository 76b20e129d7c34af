"""Matches: the best earlier row of rows that are compared in clusters, natives of them and visitors to them.

The rows of all clusters have one order here. A native is compared with the natives and the visitors of its cluster, a
visitor with the natives. The score of a pair is its product in float64, of the two rows alone, rounded to float32; a
row's match is the row before it with the highest score, the earliest of those, if that score reaches the threshold.

Cheap bounds come first. Products of short vectors leave out most pairs. Where many of a tile are left, those go that
are compared elsewhere, and those whose bound is below what the later row has found; then those that float32 products of
the rows leave out, and where still many are left, float64 ones. What is left is scored pair by pair.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.arrays import rounding_error, row_dot, rows_at
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.tiles import multiply
from beam_semdedup.compute.visits import SCORE_ROUNDING

NO_MATCH = -1
_DENSE = 1 / 64  # of a tile's pairs that are left: from there on products of all are cheaper than of each
_EXACT_ERROR = 1e-11  # of float64 products of rows of length 1, by a matrix product
_PAIRS = 1 << 14  # scored at once
_NONE = np.float32(-np.inf)

_Pairs: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
_NO_PAIRS: _Pairs = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)

Gather: TypeAlias = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""Returns the vectors (n, d) float32 of rows at positions (n,)."""

Elsewhere: TypeAlias = Callable[[npt.NDArray[np.int64], slice], npt.NDArray[np.bool_]]
"""Returns which pairs of visitors, at positions (v,), and natives, at n consecutive ones, are compared in another
cluster, (v, n)."""


class Best:
    """The best earlier row of each of n rows, so far; threads may offer to one at the same time.

    Attributes:
        scores: (n,) float32, minus infinity where none is found.
        winners: (n,) int64 ranks of the rows found, `NO_MATCH` where none is.
    """

    def __init__(self, size: int) -> None:
        self.scores = np.full(size, _NONE, dtype=np.float32)
        self.winners = np.full(size, NO_MATCH, dtype=np.int64)
        self._lock = threading.Lock()

    def offer(
        self, later: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], ranks: npt.NDArray[np.int64]
    ) -> None:
        """Takes what is better than what is known: a higher score, or the same one with an earlier row.

        Args:
            later: (p,) positions of rows, each as often as there is something to offer.
            scores, ranks: (p,) with the rows of these ranks.
        """
        order = np.lexsort((ranks, -scores, later))
        chosen = order[np.flatnonzero(np.diff(later[order], prepend=-1))]
        rows, scores, ranks = later[chosen], scores[chosen], ranks[chosen]
        with self._lock:
            known = self.scores[rows]
            better = (scores > known) | ((scores == known) & (ranks < self.winners[rows]))
            self.scores[rows[better]], self.winners[rows[better]] = scores[better], ranks[better]

    def known(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Returns the scores and the winners of some rows at one moment."""
        with self._lock:
            return self.scores[rows], self.winners[rows]


@dataclass(frozen=True)
class Rows:
    """Rows that are compared, in their order.

    Attributes:
        ranks: (n,) int64, ascending: the place of each in the order of all rows; no two rows have the same.
        short: (n, m + 1) float32 short vectors.
        gather: gives vectors by position.
        references: how many of the first ones others are compared with, and nothing is found for.
        best: what is found, of these rows and perhaps of others.
        places: (n,) int64 where in `best` each of these rows is.
    """

    ranks: npt.NDArray[np.int64]
    short: npt.NDArray[np.float32]
    gather: Gather
    references: int
    best: Best
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ranks)

    @cached_property
    def longest(self) -> float:
        """At least the largest norm of a row; short vectors are as long as their rows, or a little longer."""
        return float(row_dot(self.short, self.short).max() ** 0.5)


def match(
    natives: Rows,
    visitors: Rows,
    low: int,
    high: int,
    reach: float,
    batch: int,
    within: bool = True,
    among_natives: bool = True,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Finds the best earlier rows of the natives and the visitors of one cluster, and offers them to their `best`.

    Args:
        natives, visitors: of whom no two natives that are compared are the same, bit for bit. The references of both
            rank before all others, and are not compared with each other.
        low, high: the natives that are looked at: each with the natives before it, and with all visitors.
        reach: scores of at least 1 - reach are matches; 2 or more: all scores are.
        batch: rows and columns of a tile.
        within: whether the others are compared with each other too, and not with references alone.
        among_natives: whether natives are compared with natives, and not with visitors alone.
        elsewhere: says which of the pairs need not be compared here.
    """
    threshold = 1 - reach if reach < 2 else -np.inf
    own, others = max(low, natives.references), high if within else min(high, natives.references)

    def compare(task: tuple[slice, bool, int, int]) -> _Pairs:
        part, visiting, start, stop = task
        block = _Block(visitors if visiting else natives, np.arange(part.start, part.stop))
        left = []
        for strip in slices(start, stop, batch):
            columns = _Block(natives, np.arange(strip.start, strip.stop))
            cut = not visiting and strip.stop > part.start  # the diagonal goes through the tile
            said = functools.partial(elsewhere, block.at, strip) if elsewhere and visiting else None
            left.append(_Tile(block, columns, visiting, cut, threshold).compare(said))
        return settle(visiting, [pairs for pairs in left if len(pairs[0])], _PAIRS)

    def settle(visiting: bool, found: list[_Pairs], least: int) -> _Pairs:
        """Scores pairs if they are at least so many; returns those that are left."""
        if not found:
            return _NO_PAIRS
        pairs = _joined(found)
        if len(pairs[0]) < least:
            return pairs
        rows, columns = (_Block(which, np.arange(len(which))) for which in (visitors if visiting else natives, natives))
        _Tile(rows, columns, visiting, False, threshold).score(*pairs)
        return _NO_PAIRS

    each = list(slices(own, high, batch))[::-1] if among_natives else []  # those with the most to do first
    tasks = [(part, False, 0, part.stop if within else natives.references) for part in each]
    tasks += [(part, True, own, high) for part in slices(0, visitors.references, batch)]
    tasks += [(part, True, low, others) for part in slices(visitors.references, len(visitors), batch)]
    left = in_threads(compare, tasks)
    for visiting in (False, True):
        settle(visiting, [pairs for task, pairs in zip(tasks, left, strict=True) if task[1] == visiting], 1)


def num_pairs(natives: Rows, visitors: Rows, low: int, high: int, within: bool, among_natives: bool) -> int:
    """Returns how many pairs `match` compares, those that are compared elsewhere included."""
    own, others = max(low, natives.references), high if within else min(high, natives.references)
    asked = max(0, high - own)
    pairs = asked * (own + high - 1) // 2 if within else asked * natives.references
    visits = asked * visitors.references + max(0, others - low) * (len(visitors) - visitors.references)
    return pairs * among_natives + visits


class _Block:
    """Some rows, whose vectors are gathered once, and only if they are needed.

    Args:
        at: (n,) their positions among `rows`, ascending.
    """

    def __init__(self, rows: Rows, at: npt.NDArray[np.int64]) -> None:
        self.rows, self.at = rows, at
        self.ranks = rows.ranks[at]
        self._full: npt.NDArray[np.float32] | None = None

    def short(self) -> npt.NDArray[np.float32]:
        """Returns the short vectors; of rows that stand together they are not copied."""
        low, high = int(self.at[0]), int(self.at[-1]) + 1
        return self.rows.short[low:high] if high - low == len(self.at) else self.rows.short[self.at]

    def full(self) -> npt.NDArray[np.float32]:
        """Returns the vectors of all."""
        if self._full is None:
            self._full = self.rows.gather(self.at)
        return self._full

    def some(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns the vectors at positions in the block."""
        if self._full is not None:
            return rows_at(self._full, positions)
        unique, inverse = np.unique(positions, return_inverse=True)
        return rows_at(self.rows.gather(self.at[unique]), inverse)

    def part(self, positions: npt.NDArray[np.int64]) -> _Block:
        """Returns the block of the rows at positions, ascending; this one where these are all."""
        if len(positions) == len(self.at):
            return self
        part = _Block(self.rows, self.at[positions])
        part._full = None if self._full is None else rows_at(self._full, positions)
        return part

    def known(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Returns the scores and the winners that are known of the rows."""
        return self.rows.best.known(self.rows.places[self.at])

    def offer(self, at: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], ranks: npt.NDArray[np.int64]) -> None:
        """Offers rows of these ranks to those at positions in the block."""
        if len(at):
            self.rows.best.offer(self.rows.places[self.at[at]], scores, ranks)


@dataclass(frozen=True)
class _Tile:
    """The pairs of the rows of two blocks: each row with the columns before it, and both ways each column too.

    What floating point makes of numbers that are too large is never less than anything, and so such pairs stay.
    """

    rows: _Block
    columns: _Block
    both_ways: bool
    cut: bool
    threshold: float

    def compare(self, elsewhere: Callable[[], npt.NDArray[np.bool_]] | None) -> _Pairs:
        """Returns the pairs whose scores are to be found; where many are left, finds them itself.

        Offers to each row, and both ways to each column, what is best for it. The pairs are positions among all rows.
        """
        bounds = None
        if self.rows.rows.short.shape[1] > 1:
            bounds = multiply(self.rows.short(), self.columns.short())
            least = self.threshold - SCORE_ROUNDING - 2.0**-23  # of a score, and of this number
            close = np.less(bounds, np.float32(least))
            np.logical_not(close, out=close)
        else:
            close = np.ones((len(self.rows.at), len(self.columns.at)), dtype=bool)
        if self.cut:
            close &= self.earlier
        if not _is_dense(close):
            i, j = _positions(close)
            return self.rows.at[i], self.columns.at[j]
        tile: _Tile = self
        if elsewhere is not None:
            close &= ~elsewhere()
        if bounds is not None:
            close &= self._reach(bounds, *(block.known()[0] for block in (self.rows, self.columns)))
        for exact in (False, True):
            if not _is_dense(close):
                break
            i = np.flatnonzero(close.any(axis=1))
            close = close.take(i, axis=0)
            j = np.flatnonzero(close.any(axis=0))
            close = close if len(j) == close.shape[1] else close.take(j, axis=1)
            tile = _Tile(tile.rows.part(i), tile.columns.part(j), self.both_ways, self.cut, self.threshold)
            close &= tile._best_by_float64(close) if exact else tile._best_by_float32()
        tile.score(*_positions(close))
        return _NO_PAIRS

    @cached_property
    def earlier(self) -> npt.NDArray[np.bool_]:
        """Which columns rank before which rows."""
        number, before = len(self.columns.at), np.searchsorted(self.columns.ranks, self.rows.ranks)
        small = np.min_scalar_type(number)  # many are compared at once
        return np.arange(number, dtype=small) < before.astype(small)[:, None]

    def score(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> None:
        """Scores pairs, at positions in the two blocks, and offers what is similar."""
        for part in slices(0, len(rows), _PAIRS):
            i, j = rows[part], columns[part]
            earlier = self.columns.ranks[j] < self.rows.ranks[i]
            scores = row_dot(self.rows.some(i), self.columns.some(j)).astype(np.float32).clip(-1, 1)
            similar = scores.astype(np.float64) >= self.threshold
            first, second = similar & earlier, similar & ~earlier
            self.rows.offer(i[first], scores[first], self.columns.ranks[j[first]])
            self.columns.offer(j[second], scores[second], self.rows.ranks[i[second]])

    def _reach(
        self, numbers: npt.NDArray[np.float32], of_rows: npt.NDArray[np.float32], of_columns: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """Returns which pairs have a number that is not less than what the later row of the two needs."""
        less = numbers < of_rows[:, None]
        if self.both_ways:
            less &= self.earlier
            less |= (numbers < of_columns) & ~self.earlier
        return np.logical_not(less, out=less)

    @property
    def _scale(self) -> float:
        """At least 1, and the largest product of the norms of a row and a column."""
        return max(1.0, self.rows.rows.longest * self.columns.rows.longest)

    def _best_by_float32(self) -> npt.NDArray[np.bool_]:
        """Returns which pairs may be the best of the later row, by float32 products of all of them.

        Of each later row the score of its largest product with an earlier one is known to within the error of
        products, and so is that of every other: a pair whose score must be less, or less than what is known or similar,
        is none. A score is a product rounded to float32, and so is what the products are held against.
        """
        products = multiply(self.rows.full(), self.columns.full())
        error = self._scale * rounding_error(self.rows.full().shape[1])

        def least(block: _Block, largest: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            surely = np.minimum(largest.astype(np.float64) - error, 1)
            score = np.maximum(np.maximum(surely, block.known()[0]), self.threshold)
            return np.nextafter((score - error - 2.0**-22).astype(np.float32), _NONE)

        by_row, of_columns = products, np.empty(0, dtype=np.float32)
        if self.both_ways or self.cut:
            by_row = products.copy()
            np.copyto(by_row, _NONE, where=~self.earlier)
        if self.both_ways:
            by_column = products.copy()
            np.copyto(by_column, _NONE, where=self.earlier)
            of_columns = least(self.columns, by_column.max(axis=0))
        return self._reach(products, least(self.rows, by_row.max(axis=1)), of_columns)

    def _best_by_float64(self, close: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Returns which of the pairs that are left may be the best of the later row, by float64 products of all."""
        products = self.rows.full().astype(np.float64) @ self.columns.full().astype(np.float64).T
        error = self._scale * _EXACT_ERROR
        highest = (products + error).astype(np.float32).clip(-1, 1)
        lowest = (products - error).astype(np.float32).clip(-1, 1)
        if not self.both_ways:
            return _candidates(highest, lowest, close, self.rows, self.columns, self.threshold)
        left = _candidates(highest, lowest, close & self.earlier, self.rows, self.columns, self.threshold)
        later = (close & ~self.earlier).T
        return left | _candidates(highest.T, lowest.T, later, self.columns, self.rows, self.threshold).T


def _positions(pairs: npt.NDArray[np.bool_]) -> _Pairs:
    """Returns the rows and the columns of pairs."""
    return np.divmod(np.flatnonzero(pairs), pairs.shape[1]) if pairs.size else _NO_PAIRS


def _joined(pairs: list[_Pairs]) -> _Pairs:
    return np.concatenate([i for i, _ in pairs]), np.concatenate([j for _, j in pairs])


def _is_dense(close: npt.NDArray[np.bool_]) -> bool:
    return bool(np.count_nonzero(close) > _DENSE * close.size)


def _candidates(
    highest: npt.NDArray[np.float32],
    lowest: npt.NDArray[np.float32],
    pairs: npt.NDArray[np.bool_],
    later: _Block,
    earlier: _Block,
    threshold: float,
) -> npt.NDArray[np.bool_]:
    """Returns which pairs may be the best of the later row, given the highest and the lowest that their score may be.

    What is surely not better than another pair of the row, or than what is known, is none: it scores less, or the same
    with a row that is not earlier.
    """
    scores, winners = later.known()
    least = np.where(pairs, lowest, _NONE).max(axis=1, initial=_NONE)
    sure = pairs & (lowest == least[:, None]) & (highest == lowest)
    first = np.where(sure.any(axis=1), sure.argmax(axis=1), pairs.shape[1])
    result: npt.NDArray[np.bool_] = pairs & (highest >= least[:, None])
    result &= (highest > least[:, None]) | (np.arange(pairs.shape[1]) <= first[:, None])
    result &= (highest > scores[:, None]) | ((highest == scores[:, None]) & (earlier.ranks < winners[:, None]))
    return result & (highest.astype(np.float64) >= threshold)
