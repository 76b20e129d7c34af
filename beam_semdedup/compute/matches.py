"""Matches: the best earlier row of rows that are compared in a cluster, natives of it and visitors to it.

The rows of all clusters have one order here. A native is compared with the natives and the visitors of its cluster, a
visitor with the natives. The score of a pair is its product in float64, of the two rows alone, rounded to float32; a
row's match is the row before it with the highest score, the earliest of those, if that score reaches the threshold.

Cheap bounds come first. Products of short vectors leave out most pairs; where many of a tile are left, float32 products
of the rows do, and where still many are, float64 ones. What is left is scored pair by pair.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.arrays import rounding_error, row_dot
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.tiles import multiply
from beam_semdedup.compute.visits import SCORE_ROUNDING

NO_MATCH = -1
_DENSE = 1 / 64  # of a tile's pairs that are left: from there on products of all are cheaper than of each
_EXACT_ERROR = 1e-11  # of float64 products of rows of length 1, by a matrix product
_PAIRS = 1 << 14  # scored at once

Gather = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""Returns the vectors (n, d) float32 of rows at positions (n,)."""


@dataclass(frozen=True)
class Rows:
    """Rows that are compared, in their order.

    Attributes:
        ranks: (n,) int64, ascending: the place of each in the order of all rows; no two rows have the same.
        short: (n, m + 1) float32 short vectors.
        gather: gives vectors by position.
        references: how many of the first ones others are compared with, and nothing is found for.
    """

    ranks: npt.NDArray[np.int64]
    short: npt.NDArray[np.float32]
    gather: Gather
    references: int = 0

    def __len__(self) -> int:
        return len(self.ranks)


class Best:
    """The best earlier row of each of n rows, so far; threads may offer to one at the same time.

    Attributes:
        scores: (n,) float32, minus infinity where none is found.
        winners: (n,) int64 ranks of the rows found, `NO_MATCH` where none is.
    """

    def __init__(self, size: int) -> None:
        self.scores = np.full(size, -np.inf, dtype=np.float32)
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
        rows, first = np.unique(later[order], return_index=True)
        chosen = order[first]
        scores, ranks = scores[chosen], ranks[chosen]
        with self._lock:
            known = self.scores[rows]
            better = (scores > known) | ((scores == known) & (ranks < self.winners[rows]))
            self.scores[rows[better]], self.winners[rows[better]] = scores[better], ranks[better]

    def known(self, part: slice) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Returns the scores and the winners of some rows at one moment."""
        with self._lock:
            return self.scores[part].copy(), self.winners[part].copy()


def match(
    natives: Rows, visitors: Rows, low: int, high: int, reach: float, batch: int, within: bool = True
) -> tuple[Best, Best]:
    """Finds the best earlier rows of the natives and the visitors of one cluster.

    Args:
        natives, visitors: of whom no two natives that are compared are the same, bit for bit. The references of both
            rank before all others, and are not compared with each other.
        low, high: the natives that are looked at: each with the natives before it, and with all visitors.
        reach: scores of at least 1 - reach are matches; 2 or more: all scores are.
        batch: rows and columns of a tile.
        within: whether the others are compared with each other too, and not with references alone.

    Returns:
        the matches of the natives, and those of the visitors.
    """
    found = Best(len(natives)), Best(len(visitors))
    threshold = 1 - reach if reach < 2 else -np.inf
    own, others = max(low, natives.references), high if within else min(high, natives.references)

    def compare(task: tuple[slice, bool, int, int]) -> None:
        part, visiting, start, stop = task
        block = _Block(visitors if visiting else natives, part, found[visiting])
        for strip in slices(start, stop, batch):
            columns = _Block(natives, strip, found[0])
            _Tile(block, columns, visiting, threshold).compare()

    each = list(slices(own, high, batch))[::-1]  # those with the most to do first
    tasks = [(part, False, 0, part.stop if within else natives.references) for part in each]
    tasks += [(part, True, own, high) for part in slices(0, visitors.references, batch)]
    tasks += [(part, True, low, others) for part in slices(visitors.references, len(visitors), batch)]
    in_threads(compare, tasks)
    return found


def num_pairs(natives: Rows, visitors: Rows, low: int, high: int, within: bool) -> int:
    """Returns how many pairs `match` compares."""
    own, others = max(low, natives.references), high if within else min(high, natives.references)
    asked = max(0, high - own)
    pairs = asked * (own + high - 1) // 2 if within else asked * natives.references
    return pairs + asked * visitors.references + max(0, others - low) * (len(visitors) - visitors.references)


class _Block:
    """Consecutive rows, whose vectors are gathered once, and only if they are needed."""

    def __init__(self, rows: Rows, part: slice, best: Best) -> None:
        self.ranks, self.short, self.best, self.part = rows.ranks[part], rows.short[part], best, part
        self._gather = rows.gather
        self._full: npt.NDArray[np.float32] | None = None

    def full(self) -> npt.NDArray[np.float32]:
        """Returns the vectors of all."""
        if self._full is None:
            self._full = self._gather(np.arange(self.part.start, self.part.stop))
        return self._full

    @cached_property
    def longest(self) -> float:
        """The largest norm of a row."""
        return float(row_dot(self.full(), self.full()).max() ** 0.5)

    def some(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns the vectors at positions in the block."""
        if self._full is not None:
            return self._full[positions]
        unique, inverse = np.unique(positions, return_inverse=True)
        return self._gather(self.part.start + unique)[inverse]

    def offer(self, at: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], ranks: npt.NDArray[np.int64]) -> None:
        """Offers rows of these ranks to those at positions in the block."""
        if len(at):
            self.best.offer(self.part.start + at, scores, ranks)


@dataclass(frozen=True)
class _Tile:
    """The pairs of the rows of two blocks: each row with the columns before it, and both ways each column too."""

    rows: _Block
    columns: _Block
    both_ways: bool
    threshold: float

    def compare(self) -> None:
        """Offers to each row, and both ways to each column, what is best for it."""
        shape = len(self.rows.ranks), len(self.columns.ranks)
        close = np.ones(shape, dtype=bool)
        if self.rows.short.shape[1] > 1:
            least = self.threshold - SCORE_ROUNDING - 2.0**-23  # of a score, and of this number
            close = multiply(self.rows.short, self.columns.short) >= np.float32(least)
        if not self.both_ways and self.columns.part.stop > self.rows.part.start:  # the diagonal cuts it
            close &= self.columns.ranks < self.rows.ranks[:, None]
        dense = _DENSE * close.size
        if np.count_nonzero(close) > dense:
            earlier = self.columns.ranks < self.rows.ranks[:, None]
            longest = max(1.0, self.rows.longest * self.columns.longest)
            for exact in (False, True):
                close = self._best_of_many(close, earlier, exact, longest)
                if np.count_nonzero(close) <= dense:
                    break
        self._score(*np.nonzero(close))

    def _score(self, who: npt.NDArray[np.int64], whom: npt.NDArray[np.int64]) -> None:
        """Scores pairs of rows and columns, and offers what is similar."""
        for part in slices(0, len(who), _PAIRS):
            i, j = who[part], whom[part]
            earlier = self.columns.ranks[j] < self.rows.ranks[i]
            if not self.both_ways:
                i, j, earlier = i[earlier], j[earlier], earlier[earlier]
            if not len(i):
                continue
            scores = row_dot(self.rows.some(i), self.columns.some(j)).astype(np.float32).clip(-1, 1)
            similar = scores.astype(np.float64) >= self.threshold
            first, second = similar & earlier, similar & ~earlier
            self.rows.offer(i[first], scores[first], self.columns.ranks[j[first]])
            self.columns.offer(j[second], scores[second], self.rows.ranks[i[second]])

    def _best_of_many(
        self, close: npt.NDArray[np.bool_], earlier: npt.NDArray[np.bool_], exact: bool, longest: float
    ) -> npt.NDArray[np.bool_]:
        """Returns which of the pairs that are left may be the best of one of their rows, by products of all of them."""
        a, b = self.rows.full(), self.columns.full()
        if exact:
            a, b = a.astype(np.float64), b.astype(np.float64)
        products = a @ b.T
        # The float32 sum with the error is rounded once more.
        error = longest * (_EXACT_ERROR if exact else rounding_error(a.shape[1]) + 2.0**-22)
        highest = (products + error).astype(np.float32).clip(-1, 1)
        lowest = (products - error).astype(np.float32).clip(-1, 1)
        left = _candidates(highest, lowest, close & earlier, self.rows, self.columns, self.threshold)
        if self.both_ways:
            close = (close & ~earlier).T
            left |= _candidates(highest.T, lowest.T, close, self.columns, self.rows, self.threshold).T
        return left


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
    scores, winners = later.best.known(later.part)
    least = np.where(pairs, lowest, np.float32(-np.inf)).max(axis=1, initial=np.float32(-np.inf))
    sure = pairs & (lowest == least[:, None]) & (highest == lowest)
    first = np.where(sure.any(axis=1), sure.argmax(axis=1), pairs.shape[1])
    result: npt.NDArray[np.bool_] = pairs & (highest >= least[:, None])
    result &= (highest > least[:, None]) | (np.arange(pairs.shape[1]) <= first[:, None])
    result &= (highest > scores[:, None]) | ((highest == scores[:, None]) & (earlier.ranks < winners[:, None]))
    return result & (highest.astype(np.float64) >= threshold)
