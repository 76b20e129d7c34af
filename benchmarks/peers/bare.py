"""The floor: the same rule in one NumPy process that holds all rows in memory.

Each row goes to its nearest centroid; within a cluster rows rank by (cosine distance to the centroid, id)
descending, and a row is a duplicate if its cosine similarity to any earlier row is at least 1 - eps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.peers.vectors import arguments, load, write_ids

_ASSIGN_ROWS = 16_384
_TILE = 1024
_NOT_EARLIER = np.triu(np.ones((_TILE, _TILE), dtype=bool))


def assign(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The nearest centroid of each row, (n,) int64."""
    half_squares = np.einsum("ij,ij->i", centroids, centroids) / 2
    labels = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _ASSIGN_ROWS):
        part = slice(start, start + _ASSIGN_ROWS)
        products = rows[part] @ centroids.T
        products -= half_squares
        labels[part] = products.argmax(axis=1)
    return labels


def clusters(
    rows: np.ndarray, ids: pa.ChunkedArray, centroids: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each cluster its rows in rank order and their positions."""
    id_ranks = pc.rank(ids).to_numpy()
    by_label = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[by_label], prepend=-1, append=-1))
    for low, high in zip(bounds[:-1], bounds[1:], strict=True):
        members = by_label[low:high]
        cluster = rows[members]
        centroid = centroids[labels[members[0]]]
        distances = (1 - cluster @ centroid.astype(np.float64) / np.linalg.norm(centroid)).astype(np.float32)
        order = np.lexsort((id_ranks[members], distances))[::-1]
        yield cluster[order], members[order]


def has_earlier(cluster: np.ndarray, threshold: float) -> np.ndarray:
    """Which rows (n, d), in rank order, reach `threshold` with an earlier one; (n,) bool."""
    best = np.full(len(cluster), -np.inf, dtype=np.float32)
    for start in range(0, len(cluster), _TILE):
        candidates = cluster[start : start + _TILE]
        for low in range(start, len(cluster), _TILE):
            part = slice(low, low + _TILE)
            products = cluster[part] @ candidates.T
            if low == start:
                products[_NOT_EARLIER[: len(products), : len(products)]] = -np.inf
            np.maximum(best[part], products.max(axis=1), out=best[part])
    return best >= threshold


def main() -> None:
    """The whole job."""
    options = arguments(__doc__)
    centroids = np.load(options.centroids)
    ids, rows = load(options.input)
    labels = assign(rows, centroids)
    found = [
        positions[has_earlier(cluster, 1 - options.eps)]
        for cluster, positions in clusters(rows, ids, centroids, labels)
    ]
    write_ids(options.output, ids, np.concatenate(found))


if __name__ == "__main__":
    main()
