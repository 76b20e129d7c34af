"""The tile kernel: for each row of a cluster the most similar row that is ranked before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from beam_semdedup.arrays import in_threads, namespace, rounding_error, row_dot

TIE = 1e-6
"""Similarities closer than this are ties, which the earliest-ranked row wins."""

_GATHERED_BATCHES = 4  # rows that a thread compares with each gathered strip, in strips


class Rows(Protocol):
    """(n, d) float32 rows in rank order: an array, or what gathers them when it is indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, ranks: slice | np.ndarray, /) -> Any: ...


def max_similarity(rows: Rows, low: int, high: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """For the rows ranked `[low, high)` of one cluster, the similarity to and rank of the best earlier row.

    The winner is the earliest-ranked row within `TIE` of the maximum over all earlier rows; a bit-identical
    one, where there is any, wins before all others. Its score is computed from the two rows alone, so that the
    result does not depend on `batch`, on `[low, high)` or on the number of threads: float32 products over
    tiles only nominate, and wherever the second best is too near for float32 to tell, the row is settled in
    float64. Work is done for the tiles on and below the diagonal alone. Rows that are gathered when they are
    indexed are never held beyond a few tiles a thread; of an array with identical rows the others are copied.

    Args:
        rows: n unit rows of one cluster in rank order.
        low, high: 0 <= low < high <= n.
        batch: columns of a tile.

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
        own = ranks[asking] - low
        scores[own], best = _best_earlier(_chosen(rows, ranks), asking, batch)
        winners[own] = ranks[best]
    return scores, winners


def first_identical(rows: Rows, high: int, batch: int) -> np.ndarray:
    """For the rows ranked before `high`, the rank of the first bit-identical one; (high,) int64."""
    hashes = np.concatenate(in_threads(lambda part: _hash_rows(rows[part]), _slices(0, high, batch)))
    _, firsts, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    result = firsts[inverse]
    repeated = np.flatnonzero(result != np.arange(high))
    for part in _slices(0, len(repeated), batch):
        own = repeated[part]
        equal = (rows[own] == rows[result[own]]).all(axis=1)
        unequal = own[~_to_host(equal)]
        result[unequal] = unequal  # two rows with one hash
    return result


def _best_earlier(rows: Rows, asking: slice, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and positions of the winners for the rows at `asking`, among rows of which no two are identical."""
    height = batch * (1 if isinstance(rows, np.ndarray) else _GATHERED_BATCHES)
    parts = list(_slices(asking.start, asking.stop, height))[::-1]  # those with the most to do first
    nominated = in_threads(lambda part: _nominate(rows, part, batch), parts)[::-1]
    winner, unclear = (np.concatenate(column) for column in zip(*nominated, strict=True))
    score = np.zeros(len(winner), dtype=np.float32)

    def settle(part: slice) -> None:
        winner[unclear[part] - asking.start] = _settle(rows, unclear[part], batch)

    def compute(part: slice) -> None:
        own, best = rows[asking.start + part.start : asking.start + part.stop], rows[winner[part]]
        score[part] = _to_host(row_dot(own, best).astype(np.float32).clip(-1, 1))

    in_threads(settle, _slices(0, len(unclear), batch))
    has_earlier = 1 if asking.start == 0 else 0
    in_threads(compute, _slices(has_earlier, len(winner), batch))
    return score, winner


def _nominate(rows: Rows, part: slice, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The most similar earlier rows of the rows in `part`, and the positions of those that float32 cannot tell."""
    queries = rows[part]
    xp = namespace(queries)
    best = xp.full(len(queries), -xp.inf, dtype=xp.float32)
    second = xp.full(len(queries), -xp.inf, dtype=xp.float32)
    winner = xp.arange(part.start, part.stop)
    for own, products, column in _tiles(rows, queries, part.start, batch):
        _fold(products, part.start + own.start - column, column, best[own], second[own], winner[own])
    doubt = TIE + 2 * rounding_error(queries.shape[1])
    unclear = xp.flatnonzero((second >= best - xp.float32(doubt)) & (second > -xp.inf))
    return _to_host(winner), part.start + _to_host(unclear)


def _fold(products: Any, diagonal: int, column: int, best: Any, second: Any, winner: Any) -> None:
    """Takes the products of some rows with some earlier ones into their best and second best so far, in place.

    Args:
        products: (m, c) float32, overwritten; row i counts up to its column i + `diagonal`, exclusive.
        column: the position of the first column.
        best, second: (m,) float32.
        winner: (m,) int64, the position of the best.
    """
    xp = namespace(products)
    _mask_later(products, diagonal)
    at = products.argmax(axis=1)
    each = xp.arange(len(at))
    top = products[each, at]
    products[each, at] = -xp.inf
    xp.maximum(second, xp.maximum(products.max(axis=1), xp.minimum(top, best)), out=second)
    xp.copyto(winner, at + column, where=top > best)
    xp.maximum(best, top, out=best)


def _settle(rows: Rows, asking: np.ndarray, batch: int) -> np.ndarray:
    """The winners of the rows at some positions, ascending, from float64 products.

    One pass over the earlier rows finds the maxima, one the first within `TIE`.
    """
    queries = rows[asking]
    xp = namespace(queries)
    queries, positions = queries.astype(xp.float64), xp.asarray(asking)
    best = xp.full(len(asking), -xp.inf, dtype=xp.float64)
    for _, products in _exact_strips(rows, queries, positions, batch):
        xp.maximum(best, products.max(axis=1), out=best)
    winner = xp.full(len(asking), -1, dtype=xp.int64)
    for column, products in _exact_strips(rows, queries, positions, batch):
        near = products >= (best - TIE)[:, None]
        xp.copyto(winner, near.argmax(axis=1) + column, where=near.any(axis=1) & (winner < 0))
    return _to_host(winner)


def _exact_strips(rows: Rows, queries: Any, positions: Any, batch: int) -> Iterator[tuple[int, Any]]:
    """First column and float64 products of strips of rows before the last of the `positions`; later ones are -inf."""
    xp = namespace(queries)
    for part in _slices(0, int(positions[-1]), batch):
        products = queries @ rows[part].astype(xp.float64).T
        products[xp.arange(part.start, part.stop) >= positions[:, None]] = -xp.inf
        yield part.start, products


def _tiles(rows: Rows, queries: Any, start: int, batch: int) -> Iterator[tuple[slice, Any, int]]:
    """Which of the queries, at positions from `start` on, their products with a strip of rows, and its first column.

    Tiles end where the last of their queries stands. Those that the diagonal cuts are low, so that little beyond it is
    computed.
    """
    xp, stop = namespace(queries), start + len(queries)
    space = xp.empty(batch * batch, dtype=xp.float32)
    for strip in _slices(0, stop - 1, batch):
        candidates = rows[strip]
        for own in _slices(max(0, strip.start + 1 - start), len(queries), batch):
            cut = start + own.start < strip.stop
            for low in _slices(own.start, own.stop, max(1, batch // 4)) if cut else [own]:
                shape = low.stop - low.start, min(strip.stop, start + low.stop - 1) - strip.start
                out = space[: shape[0] * shape[1]].reshape(shape)
                yield low, xp.matmul(queries[low], candidates[: shape[1]].T, out=out), strip.start


def _mask_later(products: Any, diagonal: int) -> None:
    """Sets the products with rows that do not rank earlier to minus infinity."""
    if diagonal < products.shape[1]:
        xp = namespace(products)
        cut = products[:, max(0, diagonal) :]
        later = xp.arange(max(0, diagonal), products.shape[1]) >= xp.arange(diagonal, diagonal + len(cut))[:, None]
        xp.copyto(cut, -xp.inf, where=later)


def _chosen(rows: Rows, ranks: np.ndarray) -> Rows:
    """The rows at some ranks, ascending."""
    if len(ranks) == ranks[-1] + 1:
        return rows
    return rows[ranks] if isinstance(rows, np.ndarray) else _Chosen(rows, ranks)


class _Chosen:
    """The rows at some ranks of others that are gathered when they are indexed."""

    def __init__(self, rows: Rows, ranks: np.ndarray) -> None:
        self._rows, self._ranks = rows, ranks

    def __len__(self) -> int:
        return len(self._ranks)

    def __getitem__(self, positions: slice | np.ndarray) -> Any:
        return self._rows[self._ranks[positions]]


def _hash_rows(matrix: Any) -> np.ndarray:
    """A 64-bit hash of the bits of each row; (n,) uint64."""
    xp = namespace(matrix)
    words = xp.ascontiguousarray(matrix).view(xp.uint32).astype(xp.uint64)
    weights = np.random.default_rng(0).integers(0, 2**63, words.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    words *= xp.asarray(weights)
    return _to_host(words.sum(axis=1, dtype=xp.uint64))


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(low, min(low + step, stop)) for low in range(start, stop, step))


def _to_host(array: Any) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.get()
