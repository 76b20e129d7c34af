"""Many small clusters compared at once: one product and one reduction for all that are about as large."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from beam_semdedup.compute.arrays import namespace, pair_dot, to_host
from beam_semdedup.compute.similarity import TIE, first_of_hash, hash_rows, longest_row, unclear
from beam_semdedup.compute.tiles import LONGEST, fold, multiply, rounded

LARGEST = 4096
"""Rows of a cluster up to which it is compared with others at once.

On its own a cluster takes some eighty calls of the GPU, about a millisecond of the host; one of 4,096 rows of 768
values keeps an H100 busy for half of that, with the half of its products that are not needed (estimated, not measured).
"""

_PADDING = 1.25
_MOST_BATCHES = 65_535  # some versions of cuBLAS take no more
_ODD = np.uint64(0x9E3779B97F4A7C15)  # of all bits, so that equal rows of two clusters differ in their hashes


def step_bytes(sizes: Any, dimension: int) -> Any:
    """What the arrays of a step take for each cluster of these sizes, float64 products of all its rows included."""
    return sizes * (24 * dimension + 32 * sizes)


def max_similarity_of_each(
    rows: Any, starts: np.ndarray, stops: np.ndarray, memory: int, threshold: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What `similarity.max_similarity` finds for all rows of each of some clusters.

    Args:
        rows: (n, d) float32, cluster after cluster, each in rank order.
        starts, stops: (c,) where in `rows` each cluster begins and ends, ascending.
        memory: bytes for the arrays of one step; one cluster is compared at once whatever it takes.
        threshold: as for `max_similarity`.

    Returns:
        scores (m,) float32 and winners (m,) int64, positions in `rows`, of the rows of all these clusters in order.
    """
    xp = namespace(rows)
    everyone = xp.arange(len(rows))
    cluster = xp.searchsorted(xp.asarray(starts), everyone, side="right") - 1
    positions = xp.flatnonzero((cluster >= 0) & (everyone < xp.asarray(stops)[cluster]))
    cluster, members = cluster[positions], rows[positions] if len(positions) < len(rows) else rows
    hashes = hash_rows(members) + cluster.astype(xp.uint64) * _ODD
    first = positions[first_of_hash(members, hashes, max(1, memory // (8 * rows.shape[1])))]
    scores, winners = xp.ones(len(positions), dtype=xp.float32), first.copy()
    # Only the first of several identical rows takes part in the products: it would win against the others.
    asking = xp.flatnonzero(first == positions)
    scores[asking], winners[asking] = _best_earlier(rows, positions[asking], cluster[asking], memory, threshold)
    return to_host(scores), to_host(winners)


def _best_earlier(rows: Any, asking: Any, cluster: Any, memory: int, threshold: float | None) -> tuple[Any, Any]:
    """Scores and winners of different rows among those before each in its cluster; `asking` and `cluster` ascend."""
    xp, dimension, longest = namespace(rows), rows.shape[1], 1.0
    if threshold is not None:
        longest = longest_row(rows, len(rows))
        threshold = threshold if longest < LONGEST else None
    scores, winners = xp.zeros(len(asking), dtype=xp.float32), asking.copy()
    _, starts, sizes = map(to_host, xp.unique(cluster, return_index=True, return_counts=True))
    for group, width in _groups(sizes, dimension, memory):
        ranks = xp.arange(width)
        inside = ranks < xp.asarray(sizes[group])[:, None]
        # Padding ranks after the cluster's own rows, so no real row is compared with it.
        table = xp.asarray(starts[group])[:, None] + xp.where(inside, ranks, 0)
        members = rows[asking[table.ravel()]].reshape(*table.shape, dimension)
        best, second, winner = _nominate(members, threshold is not None)
        at = winner.reshape(table.shape)
        open_ones = unclear(best, second, dimension, threshold, longest).reshape(table.shape) & inside
        which = to_host(xp.flatnonzero(open_ones.any(axis=1)))
        step = max(1, memory // int(step_bytes(width, dimension)))
        for part in (which[start : start + step] for start in range(0, len(which), step)):
            at[part] = xp.where(open_ones[part], _settle(members[part]), at[part])
        found = inside & (at >= 0)
        later, earlier = table[found], xp.take_along_axis(table, xp.maximum(at, 0), axis=1)[found]
        scores[later] = pair_dot(rows, rows, asking[later], asking[earlier]).astype(xp.float32).clip(-1, 1)
        winners[later] = asking[earlier]
    return scores, winners


def _groups(sizes: np.ndarray, dimension: int, memory: int) -> Iterator[tuple[np.ndarray, int]]:
    """Clusters of about the same size, no more than the memory holds, and the largest of their sizes."""
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        width = int(sizes[order[start]])
        similar = int(np.searchsorted(-sizes[order], -int(width / _PADDING), side="right"))
        affordable = memory // int(step_bytes(width, dimension))
        stop = start + max(1, min(similar - start, affordable, _MOST_BATCHES))
        yield order[start:stop], width
        start = stop


def _nominate(members: Any, rounding: bool) -> tuple[Any, Any, Any]:
    """The best and second best product of each row with earlier ones of its cluster, and the rank of the best."""
    xp = namespace(members)
    clusters, width, _ = members.shape
    prepared = rounded(members) if rounding else members
    best = xp.full(clusters * width, -xp.inf, dtype=xp.float32)
    second, winner = best.copy(), xp.full(clusters * width, -1, dtype=xp.int64)
    fold(multiply(prepared, prepared), 0, 0, best, second, winner)
    return best, second, winner


def _settle(members: Any) -> Any:
    """The rank of each row's winner, from float64 products; (c, m)."""
    xp = namespace(members)
    exact = members.astype(xp.float64)
    similarity = exact @ exact.swapaxes(1, 2)
    ranks = xp.arange(members.shape[1])
    similarity = xp.where(ranks[:, None] > ranks, similarity, -xp.inf)
    near = similarity >= similarity.max(axis=2, keepdims=True) - TIE
    return near.argmax(axis=2)
