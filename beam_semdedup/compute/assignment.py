"""The assignment of rows to centroids: which is nearest, and how far it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute import cuda
from beam_semdedup.compute.arrays import (
    exclusive,
    halving_on_memory_error,
    namespace,
    rounding_error,
    row_dot,
    tile_bytes,
    to_host,
)
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.tiles import Top, fold, multiply
from beam_semdedup.compute.types import Array, Library

_EQUALLY_NEAR = 1e-12


def assign_with_distances(
    rows: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32], batch: int, xp: Library
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Finds what `assign` and `distances` find for rows that lie on the host, computed by `xp`.

    On a GPU the rows are copied there part by part, each while the one before it is computed with.

    Args:
        rows: (n, d) unit rows.
        centroids: (k, d).
        batch: rows per tile; less on a GPU where memory does not suffice.
        xp: the module that computes.

    Returns:
        labels (n,); l2 and cosine (n,).

    Raises:
        MemoryError: a GPU has no room for the centroids and one row.
    """
    if xp is np or not len(rows):
        labels = assign(rows, centroids, batch)
        return labels, *distances(rows, centroids, labels)

    def attempt(step: int) -> list[tuple[Array, ...]]:
        on_device = xp.asarray(centroids)
        found = []
        for uploaded in cuda.uploaded(rows[part] for part in slices(0, len(rows), step)):
            labels = assign(uploaded, on_device, step)
            found.append(tuple(map(to_host, (labels, *distances(uploaded, on_device, labels)))))
        return found

    with exclusive(xp):
        parts = halving_on_memory_error(batch, attempt)
    labels, l2, cosine = (np.concatenate(column) for column in zip(*parts, strict=True))
    return labels, l2, cosine


def assign(rows: Array, centroids: Array, batch: int) -> Array:
    """Finds the nearest centroid of each row, the first of equally near ones; (n,) int32.

    Float32 products over tiles nominate; where they cannot tell the nearest two apart, float64 decides, so
    that a row's centroid does not depend on the rows beside it. Its products too depend on the tile in their
    last bits, so what differs by less than `_EQUALLY_NEAR` is equal.

    Args:
        rows: (n, d) float32.
        centroids: (k, d) float32.
        batch: rows per tile.
    """
    xp = namespace(rows)
    result = xp.empty(len(rows), dtype=xp.int32)
    squares = row_dot(centroids, centroids)
    half, half32 = squares / 2, (squares / 2).astype(xp.float32)
    scale = float(xp.sqrt(squares.max()))

    def tile(part: slice) -> None:
        queries = rows[part]
        score = multiply(queries, centroids)
        score -= half32
        top = Top.before_any(xp.full(len(queries), -1))
        fold(score, len(centroids), 0, top)
        best, second, at = top
        longest = float(xp.sqrt(xp.square(queries).sum(axis=1).max()))
        doubt = 2 * rounding_error(queries.shape[1], xp) * max(1.0, scale) * max(longest, scale, 1.0)
        unclear = xp.flatnonzero(second >= best - xp.float32(doubt))
        if len(unclear):
            score[unclear, at[unclear]] = best[unclear]
            near = score[unclear] >= best[unclear, None] - xp.float32(doubt)
            columns = xp.flatnonzero(near.any(axis=0))
            exact = centroids[columns].astype(xp.float64)
            precise = queries[unclear].astype(xp.float64) @ exact.T - half[columns]
            equal = _EQUALLY_NEAR * max(1.0, scale * scale)
            at[unclear] = columns[(precise >= precise.max(axis=1, keepdims=True) - equal).argmax(axis=1)]
        result[part] = at

    step = max(1, min(batch, tile_bytes(xp) // (4 * len(centroids))))
    in_threads(tile, slices(0, len(rows), step))
    return result


def distances(rows: Array, centroids: Array, labels: Array) -> tuple[Array, Array]:
    """Computes the distances of each row to its centroid from these two vectors alone.

    Args:
        rows: (n, d) float32 unit rows.
        centroids: (k, d) float32.
        labels: (n,) the centroid of each row.

    Returns:
        l2 (n,) float32, Euclidean, to the raw centroid; cosine (n,) float32, 1 - cosine.
    """
    xp = namespace(rows)
    l2 = xp.empty(len(rows), dtype=xp.float32)
    cosine = xp.empty(len(rows), dtype=xp.float32)
    norms = row_dot(centroids, centroids)
    for part in slices(0, len(rows), max(8192, tile_bytes(xp) // (16 * rows.shape[1]))):
        nearest = centroids[labels[part]]
        dot, square, norm = row_dot(rows[part], nearest), row_dot(rows[part], rows[part]), norms[labels[part]]
        l2[part] = xp.sqrt(xp.maximum(square - 2 * dot + norm, 0))
        length = xp.sqrt(square * norm)
        cosine[part] = 1 - dot / xp.where(length > 0, length, 1)
    return l2, cosine
