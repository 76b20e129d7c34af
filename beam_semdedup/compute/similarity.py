"""The tile kernel: the most similar earlier-ranked row of each row of one cluster, however large."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.arrays import is_array, namespace, to_host
from beam_semdedup.compute.comparison import TIE, compare
from beam_semdedup.compute.identical import first_identical
from beam_semdedup.compute.screens import EXACT, Screen
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.tiles import Top, fold, multiply
from beam_semdedup.compute.types import Array, RankedVectors

_ALIGNED = 8
_GATHERED_BATCHES = 4  # rows that a thread compares with each gathered strip, in strips


def max_similarity(
    rows: RankedVectors, low: int, high: int, batch: int, screen: Screen = EXACT, before: int | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Finds for the rows ranked `[low, high)` of one cluster the similarity to and rank of the best earlier row.

    The winner is the earliest-ranked row within `TIE` of the maximum over all earlier rows; a bit-identical
    one, where there is any, wins before all others. Its score is computed from the two rows alone, so that the
    result does not depend on `batch`, on `[low, high)` or on the number of threads: float32 products over
    tiles only nominate, and wherever the second best is too near for float32 to tell, the row is settled in
    float64. Work is done for the tiles on and below the diagonal alone. Rows that are gathered when they are
    indexed are never held beyond a few tiles a thread; of an array with identical rows the others are copied.

    Args:
        rows: n unit rows of one cluster in rank order.
        low, high: 0 <= low < high <= n.
        batch: rows and columns of a tile.
        screen: what is multiplied in place of the rows; see `screens` for what that leaves of the above.
        before: the rows ranked from there on, at most `low`, are compared with none of each other; None: with all.

    Returns:
        scores (high - low,) float32 in [-1, 1]; winners (high - low,) int64 ranks. A row that is compared with none,
        as the first-ranked one, has score 0.0 and itself as winner. Exactly 1.0 for bit-identical rows.

    Raises:
        MemoryError: a GPU has no room for the tiles.
    """
    first = to_host(first_identical(rows, high, batch))
    if before is not None:
        first[before:] = np.where(first[before:] < before, first[before:], np.arange(before, high))
    tiles = _Tiles(rows, np.flatnonzero(first == np.arange(high)), low, batch, screen, before)
    return compare(rows, np.arange(low, high), first[low:], tiles, batch)


class _Tiles:
    """Nominates by tiles of products, in threads.

    Args:
        rows: as for `max_similarity`.
        candidates: (c,) the ranks of those without an identical row before them, ascending; it would win against them.
        low: the rank of the first row that is asked for.
        batch, screen, before: as for `max_similarity`.
    """

    def __init__(
        self,
        rows: RankedVectors,
        candidates: npt.NDArray[np.int64],
        low: int,
        batch: int,
        screen: Screen,
        before: int | None,
    ) -> None:
        self._rows, self._candidates = chosen(rows, candidates), candidates
        self._start, self._batch, self._screen = int(np.searchsorted(candidates, low)), batch, screen
        self._stop = len(candidates) if before is None else int(np.searchsorted(candidates, before))

    def nominate(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """See `Nominator.nominate`."""
        self._screen = screen = self._screen.for_rows(self._rows, self._batch)
        prepared = screen.all_prepared(self._rows, self._batch)
        height = self._batch * (1 if is_array(self._rows) else _GATHERED_BATCHES)
        parts = list(slices(self._start, len(self._candidates), height))[::-1]  # those with the most to do first
        nominated = in_threads(lambda part: self._nominate(part, screen, prepared), parts)[::-1]
        winners, open_ones = (np.concatenate(column) for column in zip(*nominated, strict=True))
        return self._candidates[winners], open_ones - self._start

    def settle(self, open_ones: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """See `Nominator.settle`."""
        asking, winners = self._start + open_ones, np.empty(len(open_ones), dtype=np.int64)
        left = np.arange(len(asking))
        second = self._screen.second
        if second is not None:
            parts = [asking[part] for part in slices(0, len(asking), self._batch)]
            found = in_threads(lambda some: self._nominate_some(some, second), parts)
            winners, unclear = (np.concatenate(column) for column in zip(*found, strict=True))
            left = np.flatnonzero(unclear)
        for part in slices(0, len(left), self._batch):
            winners[left[part]] = self._settle(asking[left[part]])
        return self._candidates[winners]

    def _nominate(
        self, part: slice, screen: Screen, prepared: RankedVectors
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Finds the winners of the candidates in `part`, and which candidates of it are open, both among candidates."""
        queries = prepared[part]
        xp = namespace(queries)
        top = Top.before_any(xp.arange(part.start, part.stop))
        for which, products, column in self._products(queries, part.start, prepared):
            fold(products, part.start + which.start - column, column, top.part(which))
        found = xp.flatnonzero(screen.unclear(top, queries.shape[1]))
        return to_host(top.winner), part.start + to_host(found)

    def _nominate_some(
        self, asking: npt.NDArray[np.int64], screen: Screen
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Finds the winners of some candidates, ascending, and which of them (a,) are open."""
        queries = screen.prepared(self._rows[asking])
        xp = namespace(queries)
        positions = xp.asarray(asking)
        top = Top.before_any(positions.copy())
        for strip in slices(0, min(int(asking[-1]), self._stop), self._batch):
            products = multiply(queries, screen.prepared(self._rows[strip]))
            if asking[0] < strip.stop:
                products[xp.arange(strip.start, strip.stop) >= positions[:, None]] = -xp.inf
            fold(products, products.shape[1], strip.start, top)
        return to_host(top.winner), to_host(screen.unclear(top, queries.shape[1]))

    def _products(self, queries: Array, start: int, prepared: RankedVectors) -> Iterator[tuple[slice, Array, int]]:
        """Yields which of the queries, the candidates from `start` on, their products with a strip, and where that is.

        Tiles end where the last of their queries stands. Those that the diagonal cuts are low, so that little beyond it
        is computed.
        """
        xp, batch, stop = namespace(queries), self._batch, start + len(queries)
        space = xp.empty(min(batch, len(queries)) * min(batch, stop), dtype=xp.float32)
        for strip in slices(0, min(stop - 1, self._stop), batch):
            earlier = prepared[strip]
            for which in slices(max(0, strip.start + 1 - start), len(queries), batch):
                cut = start + which.start < strip.stop
                for low in slices(which.start, which.stop, max(1, batch // 4)) if cut else [which]:
                    # Rows of products begin at multiples of 32 bytes, which tensor cores are faster with.
                    needed = -(-(start + low.stop - 1 - strip.start) // _ALIGNED) * _ALIGNED
                    shape = low.stop - low.start, min(len(earlier), needed)
                    out = space[: shape[0] * shape[1]].reshape(shape)
                    yield low, multiply(queries[low], earlier[: shape[1]], out), strip.start

    def _settle(self, asking: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Finds the winners of some candidates, ascending, in two passes over those before: for the maxima, and for the
        first within `TIE` of them.
        """
        queries = self._rows[asking]
        xp = namespace(queries)
        queries, positions = queries.astype(xp.float64), xp.asarray(asking)
        strips = list(slices(0, min(int(asking[-1]), self._stop), self._batch))

        def products(strip: slice) -> Array:
            result = queries @ self._rows[strip].astype(xp.float64).T
            result[xp.arange(strip.start, strip.stop) >= positions[:, None]] = -xp.inf
            return result

        def first_near(strip: slice) -> Array:
            near = products(strip) >= (best - TIE)[:, None]
            return xp.where(near.any(axis=1), near.argmax(axis=1) + strip.start, positions)

        best = functools.reduce(xp.maximum, in_threads(lambda strip: products(strip).max(axis=1), strips))
        return to_host(functools.reduce(xp.minimum, in_threads(first_near, strips)))


def chosen(rows: RankedVectors, ranks: npt.NDArray[np.int64]) -> RankedVectors:
    """Returns rows of which those at different `ranks` are the first; all of them where these are so already."""
    if np.array_equal(ranks, np.arange(len(ranks))):
        return rows
    return rows[ranks] if is_array(rows) else _Chosen(rows, ranks)


class _Chosen:
    """The rows at some ranks of others that are gathered when they are indexed."""

    def __init__(self, rows: RankedVectors, ranks: npt.NDArray[np.int64]) -> None:
        self._rows, self._ranks = rows, ranks

    def __len__(self) -> int:
        return len(self._ranks)

    def __getitem__(self, positions: slice | npt.NDArray[np.int64]) -> Array:
        return self._rows[self._ranks[positions]]
