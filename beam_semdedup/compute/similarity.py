"""The tile kernel: for each row of a cluster the most similar row that is ranked before it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from beam_semdedup.compute import cuda
from beam_semdedup.compute.arrays import namespace, rounding_error, row_dot, to_host
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.tiles import LONGEST, fold, multiply, rounded, screening_error

TIE = 1e-6
"""Similarities closer than this are ties, which the earliest-ranked row wins."""

_ALIGNED = 8
_GATHERED_BATCHES = 4  # rows that a thread compares with each gathered strip, in strips


class RankedVectors(Protocol):
    """(n, d) float32 rows in rank order: an array, or what gathers them when it is indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, ranks: slice | np.ndarray, /) -> Any: ...


def max_similarity(
    rows: RankedVectors, low: int, high: int, batch: int, threshold: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """For the rows ranked `[low, high)` of one cluster, the similarity to and rank of the best earlier row.

    The winner is the earliest-ranked row within `TIE` of the maximum over all earlier rows; a bit-identical
    one, where there is any, wins before all others. Its score is computed from the two rows alone, so that the
    result does not depend on `batch`, on `[low, high)` or on the number of threads: float32 products over
    tiles only nominate, and wherever the second best is too near for float32 to tell, the row is settled in
    float64. Work is done for the tiles on and below the diagonal alone. Rows that are gathered when they are
    indexed are never held beyond a few tiles a thread; of an array with identical rows the others are copied.

    With a `threshold` the products are of rows rounded to float16, several times as fast on tensor cores, and the rows
    settled in float64 are those whose best product is within `screening_reach` of it. The maximum of any other row is
    on the side of the threshold on which its best product is, and so is the score of the row that had it: the rows
    that score at least `threshold` are the same as without. The winner may be another row than without, less similar by
    twice the `screening_error` at most; its score is the exact one of that row.

    Args:
        rows: n unit rows of one cluster in rank order.
        low, high: 0 <= low < high <= n.
        batch: rows and columns of a tile.
        threshold: the score of a duplicate.

    Returns:
        scores (high - low,) float32 in [-1, 1]; winners (high - low,) int64 ranks. The first-ranked row has
        score 0.0 and itself as winner. Exactly 1.0 for bit-identical rows.
    """
    first = first_identical(rows, high, batch)
    scores = np.ones(high - low, dtype=np.float32)
    winners = first[low:high].copy()
    # Only the first of several identical rows takes part in the products: it would win against the others.
    ranks = np.flatnonzero(first == np.arange(high))
    asking = slice(int(np.searchsorted(ranks, low)), len(ranks))
    if asking.start < asking.stop:
        asked = ranks[asking] - low
        scores[asked], best = _best_earlier(_chosen(rows, ranks), asking, batch, threshold)
        winners[asked] = ranks[best]
    return scores, winners


def first_identical(rows: RankedVectors, high: int, batch: int) -> np.ndarray:
    """For the rows ranked before `high`, the rank of the first bit-identical one; (high,) int64."""
    hashes = in_threads(lambda part: hash_rows(rows[part]), slices(0, high, batch))
    return to_host(first_of_hash(rows, namespace(hashes[0]).concatenate(hashes), batch))


def first_of_hash(rows: RankedVectors, hashes: Any, batch: int) -> Any:
    """For each row the position of the first bit-identical one of those with the same hash; (n,) int64."""
    xp = namespace(hashes)
    _, firsts, inverse = xp.unique(hashes, return_index=True, return_inverse=True)
    result = firsts[inverse]
    repeated = to_host(xp.flatnonzero(result != xp.arange(len(result))))
    for part in slices(0, len(repeated), batch):
        later = repeated[part]
        equal = (rows[later] == rows[to_host(result[later])]).all(axis=1)
        unequal = later[~to_host(equal)]
        result[unequal] = xp.asarray(unequal)  # two rows with one hash
    return result


def unclear(best: Any, second: Any, dimension: int, threshold: float | None, longest: float) -> Any:
    """Which rows the float32 or rounded products of unit or `longest` rows leave open; (n,) bool.

    Args:
        best, second: (n,) float32, each row's largest products.
        dimension, longest: of the rows.
        threshold: None where the products are of float32: then it matters whether the second may be as good.
    """
    xp = namespace(best)
    if threshold is None:
        return (second >= best - xp.float32(TIE + 2 * rounding_error(dimension, xp))) & (second > -xp.inf)
    return abs(best - xp.float32(threshold)) <= screening_reach(dimension, longest)


def screening_reach(dimension: int, longest: float) -> float:
    """How near to a threshold the best product of `rounded` rows leaves open on which side the exact score is.

    That score is at most `TIE` below the row's maximum; it, the threshold and their difference are rounded to float32.
    """
    return screening_error(dimension, longest) + TIE + 2.0**-22


def _best_earlier(
    rows: RankedVectors, asking: slice, batch: int, threshold: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and positions of the winners for the rows at `asking`, among rows of which no two are identical."""
    longest = 1.0
    if threshold is not None:
        longest = longest_row(rows, batch)
        threshold = threshold if longest < LONGEST else None
    height = batch * (1 if _is_array(rows) else _GATHERED_BATCHES)
    parts = list(slices(asking.start, asking.stop, height))[::-1]  # those with the most to do first
    nominated = in_threads(lambda part: _nominate(rows, part, batch, threshold, longest), parts)[::-1]
    winner, open_ones = (np.concatenate(column) for column in zip(*nominated, strict=True))
    score = np.zeros(len(winner), dtype=np.float32)

    def compute(part: slice) -> None:
        queries, best = rows[asking.start + part.start : asking.start + part.stop], rows[winner[part]]
        score[part] = to_host(row_dot(queries, best).astype(np.float32).clip(-1, 1))

    for part in slices(0, len(open_ones), batch):
        winner[open_ones[part] - asking.start] = _settle(rows, open_ones[part], batch)
    has_earlier = 1 if asking.start == 0 else 0
    in_threads(compute, slices(has_earlier, len(winner), batch))
    return score, winner


def _nominate(
    rows: RankedVectors, part: slice, batch: int, threshold: float | None, longest: float
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar earlier rows of the rows in `part`, and the positions of those that are `unclear`."""
    prepare = (lambda strip: strip) if threshold is None else rounded
    queries = prepare(rows[part])
    xp = namespace(queries)
    best = xp.full(len(queries), -xp.inf, dtype=xp.float32)
    second = xp.full(len(queries), -xp.inf, dtype=xp.float32)
    winner = xp.arange(part.start, part.stop)
    for which, products, column in _tiles(rows, queries, part.start, batch, prepare):
        fold(products, part.start + which.start - column, column, best[which], second[which], winner[which])
    found = xp.flatnonzero(unclear(best, second, queries.shape[1], threshold, longest))
    return to_host(winner), part.start + to_host(found)


def _settle(rows: RankedVectors, asking: np.ndarray, batch: int) -> np.ndarray:
    """The winners of the rows at some positions, ascending, from float64 products.

    One pass over the earlier rows finds the maxima, one the first within `TIE`.
    """
    queries = rows[asking]
    xp = namespace(queries)
    queries, positions = queries.astype(xp.float64), xp.asarray(asking)
    strips = list(slices(0, int(asking[-1]), batch))

    def products(strip: slice) -> Any:
        result = queries @ rows[strip].astype(xp.float64).T
        result[xp.arange(strip.start, strip.stop) >= positions[:, None]] = -xp.inf
        return result

    def first_near(strip: slice) -> Any:
        near = products(strip) >= (best - TIE)[:, None]
        return xp.where(near.any(axis=1), near.argmax(axis=1) + strip.start, positions)

    best = functools.reduce(xp.maximum, in_threads(lambda strip: products(strip).max(axis=1), strips))
    return to_host(functools.reduce(xp.minimum, in_threads(first_near, strips)))


def _tiles(
    rows: RankedVectors, queries: Any, start: int, batch: int, prepare: Callable[[Any], Any]
) -> Iterator[tuple[slice, Any, int]]:
    """Which of the queries, at positions from `start` on, their products with a strip of rows, and its first column.

    Tiles end where the last of their queries stands. Those that the diagonal cuts are low, so that little beyond it is
    computed.
    """
    xp, stop = namespace(queries), start + len(queries)
    space = xp.empty(min(batch, len(queries)) * min(batch, stop), dtype=xp.float32)
    for strip in slices(0, stop - 1, batch):
        candidates = prepare(rows[strip])
        for which in slices(max(0, strip.start + 1 - start), len(queries), batch):
            cut = start + which.start < strip.stop
            for low in slices(which.start, which.stop, max(1, batch // 4)) if cut else [which]:
                # Rows of products begin at multiples of 32 bytes, which tensor cores are faster with.
                needed = -(-(start + low.stop - 1 - strip.start) // _ALIGNED) * _ALIGNED
                shape = low.stop - low.start, min(len(candidates), needed)
                out = space[: shape[0] * shape[1]].reshape(shape)
                yield low, multiply(queries[low], candidates[: shape[1]], out), strip.start


def _chosen(rows: RankedVectors, ranks: np.ndarray) -> RankedVectors:
    """The rows at some ranks, ascending."""
    if len(ranks) == ranks[-1] + 1:
        return rows
    return rows[ranks] if _is_array(rows) else _Chosen(rows, ranks)


def _is_array(rows: RankedVectors) -> bool:
    return hasattr(rows, "dtype")


def longest_row(rows: RankedVectors, batch: int) -> float:
    """The largest norm of a row."""
    squares = in_threads(lambda part: float(row_dot(rows[part], rows[part]).max()), slices(0, len(rows), batch))
    return max(squares) ** 0.5


class _Chosen:
    """The rows at some ranks of others that are gathered when they are indexed."""

    def __init__(self, rows: RankedVectors, ranks: np.ndarray) -> None:
        self._rows, self._ranks = rows, ranks

    def __len__(self) -> int:
        return len(self._ranks)

    def __getitem__(self, positions: slice | np.ndarray) -> Any:
        return self._rows[self._ranks[positions]]


def hash_rows(matrix: Any) -> Any:
    """A 64-bit hash of the bits of each row; (n,) uint64."""
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 2**63, matrix.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    if namespace(matrix) is not np:
        return cuda.hash_rows(matrix, weights)
    return np.einsum("ij,j->i", np.ascontiguousarray(matrix).view(np.uint32), weights)
