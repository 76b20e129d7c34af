"""The tile kernel: for each row of a cluster the most similar row that is ranked before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from beam_semdedup.arrays import namespace, rounding_error, row_dot

TIE = 1e-6
"""Similarities closer than this are ties, which the earliest-ranked row wins."""


class Rows(Protocol):
    """(n, d) float32 rows in rank order: an array, or what gathers them when it is indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, ranks: slice | np.ndarray, /) -> Any: ...


def max_similarity(rows: Rows, low: int, high: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """For the rows ranked `[low, high)` of one cluster, the similarity to and rank of the best earlier row.

    The winner is the earliest-ranked row within `TIE` of the maximum over all earlier rows; a bit-identical
    one, where there is any, wins before all others. Its score is computed from the two rows alone, so that the
    result does not depend on `batch`, on `[low, high)` or on the number of threads: float32 products over
    tiles of `batch` × `batch` only nominate, and wherever the second best is too near for float32 to tell, the
    row is settled in float64. Work is done for the tiles on and below the diagonal alone, and never more
    memory is used than a few tiles and the `high - low` rows.

    Args:
        rows: n unit rows of one cluster in rank order.
        low, high: 0 <= low < high <= n.
        batch: rows and columns of a tile.

    Returns:
        scores (high - low,) float32 in [-1, 1]; winners (high - low,) int64 ranks. The first-ranked row has
        score 0.0 and itself as winner. Exactly 1.0 for bit-identical rows.
    """
    first = first_identical(rows, high, batch)
    ranks = np.arange(low, high)
    scores = np.ones(high - low, dtype=np.float32)
    winners = first[low:high].copy()
    # Only the first of several identical rows takes part in the products: it would win against the others.
    distinct = np.flatnonzero(first == np.arange(high))
    asking = ranks[winners == ranks]
    if len(asking):
        scores[asking - low], winners[asking - low] = _best_earlier(rows, asking, distinct, batch)
    return scores, winners


def first_identical(rows: Rows, high: int, batch: int) -> np.ndarray:
    """For the rows ranked before `high`, the rank of the first bit-identical one; (high,) int64."""
    hashes = np.concatenate([_hash_rows(rows[start : min(start + batch, high)]) for start in range(0, high, batch)])
    _, firsts, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    result = firsts[inverse]
    for repeated in _chunks(np.flatnonzero(result != np.arange(high)), batch):
        equal = (rows[repeated] == rows[result[repeated]]).all(axis=1)
        unequal = repeated[~_to_host(equal)]
        result[unequal] = unequal  # two rows with one hash
    return result


def _best_earlier(rows: Rows, asking: np.ndarray, distinct: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and winners of the ranks `asking` among the ranks `distinct` before each; both ascending."""
    queries = rows[asking] if len(asking) < len(rows) else rows[0 : len(rows)]
    xp = namespace(queries)
    best = xp.full(len(asking), -xp.inf, dtype=xp.float32)
    second = xp.full(len(asking), -xp.inf, dtype=xp.float32)
    winner = xp.asarray(asking.copy())
    for columns, candidates, tiles in _tiles(rows, asking, distinct, batch):
        for part in tiles:
            products = queries[part] @ candidates.T
            _mask_later(products, asking[part], columns)
            at = products.argmax(axis=1)
            each = xp.arange(len(at))
            top = products[each, at]
            products[each, at] = -xp.inf
            runner_up = xp.maximum(products.max(axis=1), xp.minimum(top, best[part]))
            second[part] = xp.maximum(second[part], runner_up)
            winner[part] = xp.where(top > best[part], xp.asarray(columns)[at], winner[part])
            best[part] = xp.maximum(best[part], top)
    doubt = TIE + 2 * rounding_error(queries.shape[1])
    unclear = _to_host(xp.flatnonzero((second >= best - xp.float32(doubt)) & (second > -xp.inf)))
    if len(unclear):
        winner[unclear] = xp.asarray(_settle(rows, queries[unclear], asking[unclear], distinct, batch))
    winners = _to_host(winner)
    scores = np.zeros(len(asking), dtype=np.float32)
    for found in _chunks(np.flatnonzero(winners != asking), batch):
        similarity = row_dot(queries[found], rows[winners[found]]).astype(np.float32)
        scores[found] = _to_host(similarity.clip(-1, 1))
    return scores, winners


def _settle(rows: Rows, queries: Any, asking: np.ndarray, distinct: np.ndarray, batch: int) -> np.ndarray:
    """The winners of some rows, from float64 products: one pass for the maxima, one for the first within `TIE`."""
    xp = namespace(queries)
    best = xp.full(len(asking), -xp.inf, dtype=xp.float64)
    for _, products, part in _exact_tiles(rows, queries, asking, distinct, batch):
        best[part] = xp.maximum(best[part], products.max(axis=1))
    winner = xp.full(len(asking), -1, dtype=xp.int64)
    for columns, products, part in _exact_tiles(rows, queries, asking, distinct, batch):
        near = products >= (best[part] - TIE)[:, None]
        found = near.any(axis=1) & (winner[part] < 0)
        winner[part] = xp.where(found, xp.asarray(columns)[near.argmax(axis=1)], winner[part])
    return _to_host(winner)


def _exact_tiles(
    rows: Rows, queries: Any, asking: np.ndarray, distinct: np.ndarray, batch: int
) -> Iterator[tuple[np.ndarray, Any, slice]]:
    xp = namespace(queries)
    for columns, candidates, tiles in _tiles(rows, asking, distinct, batch):
        exact = candidates.astype(xp.float64)
        for part in tiles:
            products = queries[part].astype(xp.float64) @ exact.T
            _mask_later(products, asking[part], columns)
            yield columns, products, part


def _tiles(
    rows: Rows, asking: np.ndarray, distinct: np.ndarray, batch: int
) -> Iterator[tuple[np.ndarray, Any, list[slice]]]:
    """Runs of candidates, gathered once each, with the parts of `asking` that have candidates among them."""
    distinct = distinct[: np.searchsorted(distinct, asking[-1])]
    for start in range(0, len(distinct), batch):
        columns = distinct[start : start + batch]
        contiguous = columns[-1] - columns[0] + 1 == len(columns)
        candidates = rows[columns[0] : columns[-1] + 1] if contiguous else rows[columns]
        begin = int(np.searchsorted(asking, columns[0], side="right"))
        yield (
            columns,
            candidates,
            [slice(p, min(p + batch, len(asking))) for p in range(begin, len(asking), batch)],
        )


def _mask_later(products: Any, asking: np.ndarray, columns: np.ndarray) -> None:
    """Sets the products with rows that do not rank earlier to minus infinity."""
    if columns[-1] >= asking[0]:
        xp = namespace(products)
        products[xp.asarray(columns)[None, :] >= xp.asarray(asking)[:, None]] = -xp.inf


def _hash_rows(matrix: Any) -> np.ndarray:
    """A 64-bit hash of the bits of each row; (n,) uint64."""
    xp = namespace(matrix)
    words = xp.ascontiguousarray(matrix).view(xp.uint32).astype(xp.uint64)
    weights = np.random.default_rng(0).integers(0, 2**63, words.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    words *= xp.asarray(weights)
    return _to_host(words.sum(axis=1, dtype=xp.uint64))


def _chunks(positions: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(positions), size):
        yield positions[start : start + size]


def _to_host(array: Any) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.get()
