"""A shard holds some of the rows of a fit and computes what needs them, on NumPy and on a GPU alike."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_semdedup.compute import cuda
from beam_semdedup.compute.arrays import (
    halving_on_memory_error,
    has_room,
    namespace,
    row_dot,
    tile_bytes,
    to_device,
    to_host,
)
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.tiles import Top, fold, multiply

_LOG = logging.getLogger(__name__)
_TILE_BYTES, _TILE_ROWS = 4 << 20, 256  # the product is read again while it is in the cache; fewer rows are slow
_SUM_ROWS = 1024


class Shard:
    """Holds some of the rows to fit on, and computes what needs them.

    Attributes:
        rows: (m, d) float32, NumPy or CuPy.
        batch: most rows of a tile.
        number: which shard this is.
    """

    def __init__(self, rows: Any, batch: int = 1 << 15, number: int = 0) -> None:
        self.rows, self.batch, self.number = rows, batch, number
        self._labels: Any = None
        self._sums: Any = None

    def size(self) -> tuple[tuple[int, int], float]:
        """Returns the shape (m, d) of the rows, and the sum of their squared norms."""
        return self.rows.shape, float(row_dot(self.rows, self.rows).sum())

    def start_init(self, chosen: Sequence[np.ndarray] | None) -> int:
        """Begins to choose initial centroids among all rows, or the `chosen` of each shard; returns their number."""
        xp = namespace(self.rows)
        self._labels = None
        self._init_rows = self.rows if chosen is None else self.rows[xp.asarray(chosen[self.number])]
        self._square = row_dot(self._init_rows, self._init_rows)
        self._distance = xp.full(len(self._init_rows), xp.inf)
        self._owner = xp.zeros(len(self._init_rows), dtype=xp.int64)
        return len(self._init_rows)

    def take(self, positions: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the rows at this shard's of the positions, (n, d) float32."""
        return to_host(self._init_rows[namespace(self.rows).asarray(positions[self.number])])

    def approach(self, candidates: np.ndarray, positions: Sequence[np.ndarray], first: int) -> float:
        """Returns the sum of the squared distances to the nearest candidate, after more were added.

        Args:
            candidates: (c, d) float32, the added ones.
            positions: which rows of each shard they are.
            first: how many candidates there were before.
        """
        xp = namespace(self.rows)
        closeness, position = nearest(self._init_rows, xp.asarray(candidates), self.batch)
        distance = xp.maximum(self._square - 2 * closeness, 0)
        self._owner = xp.where(distance < self._distance, first + position, self._owner)
        self._distance = xp.minimum(distance, self._distance)
        added = xp.asarray(positions[self.number])
        self._distance[added] = 0  # exactly, so that none is drawn again
        self._owner[added] = first + sum(map(len, positions[: self.number])) + xp.arange(len(added))
        return float(self._distance.sum())

    def draw(self, factor: float, seed: Sequence[int]) -> np.ndarray:
        """Returns the positions of rows drawn with a chance of `factor` times their squared distance, ascending."""
        xp = namespace(self.rows)
        random = xp.asarray(np.random.default_rng([*seed, self.number]).random(len(self._distance)))
        return to_host(xp.flatnonzero(random < factor * self._distance))

    def owned(self, number: int) -> np.ndarray:
        """Returns how many rows each of the `number` candidates is nearest to, (number,)."""
        return to_host(namespace(self.rows).bincount(self._owner, minlength=number))

    def step(self, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Finds the nearest centroid (k, d) float32 of each row.

        Returns:
            The sum (k, d) float64 and the number (k,) of the rows of each centroid, and the number of rows that have
            another one than before.
        """
        xp, before, k = namespace(self.rows), self._labels, len(centroids)
        _, self._labels = nearest(self.rows, xp.asarray(centroids), self.batch)
        everyone = xp.arange(len(self.rows))
        moved = everyone if before is None else xp.flatnonzero(self._labels != before)
        if before is None or 2 * len(moved) > len(everyone):
            self._sums = _sums(self.rows, everyone, self._labels, k)
        elif len(moved):  # float64, so that adding and subtracting a row leaves an error far below float32's
            self._sums = self._sums + _sums(self.rows, moved, self._labels, k) - _sums(self.rows, moved, before, k)
        return to_host(self._sums), to_host(xp.bincount(self._labels, minlength=k)), len(moved)

    def farthest(self, centroids: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the rows that are farthest from their centroid: squared distances (n,), rows (n, d), labels (n,)."""
        xp = namespace(self.rows)
        means, distance = xp.asarray(centroids), xp.empty(len(self.rows))
        for part in slices(0, len(self.rows), max(_SUM_ROWS, tile_bytes(xp) // (16 * means.shape[1]))):
            apart = self.rows[part] - means[self._labels[part]]
            distance[part] = row_dot(apart, apart)
        far = xp.argsort(-distance)[:number]
        return to_host(distance[far]), to_host(self.rows[far]), to_host(self._labels[far])


def where_computed(rows: np.ndarray, xp: Any) -> Any:
    """Returns the rows where `xp` computes; on the host, with a warning, where a GPU has no room for them."""
    if has_room(xp, rows.nbytes):
        with contextlib.suppress(MemoryError):  # others may have taken it
            return to_device(rows, xp)
    _LOG.warning("The GPU has no room for %s rows to fit on: the CPU fits", f"{len(rows):,}")
    return rows


def nearest(rows: Any, centroids: Any, batch: int) -> tuple[Any, Any]:
    """Finds the nearest of some centroids of each row.

    Returns:
        Its closeness, which is half its square less than their product, (m,) float32, and which it is, (m,). The
        squared distance of a row x to it is x @ x - 2 * closeness.
    """
    half = (row_dot(centroids, centroids) / 2).astype(np.float32)
    if namespace(rows) is not np:
        return halving_on_memory_error(batch, lambda step: _nearest_on_device(rows, centroids, half, step))
    closeness = np.empty(len(rows), dtype=np.float32)
    position = np.empty(len(rows), dtype=np.int32)

    def tile(part: slice) -> None:
        score = rows[part] @ centroids.T
        score -= half
        position[part] = at = score.argmax(axis=1)
        closeness[part] = score[np.arange(len(at)), at]

    step = max(_TILE_ROWS, _TILE_BYTES // (4 * len(centroids)))
    in_threads(tile, slices(0, len(rows), min(batch, step)))
    return closeness, position


def _nearest_on_device(rows: Any, centroids: Any, half: Any, step: int) -> tuple[Any, Any]:
    """See `nearest`: tiles of `step` rows one after the other, each of them read once after its product."""
    xp = namespace(rows)
    top = Top.before_any(xp.full(len(rows), -1))
    for part in slices(0, len(rows), step):
        score = multiply(rows[part], centroids)
        score -= half
        fold(score, len(centroids), 0, top.part(part))
    return top.best, top.winner


def _sums(rows: Any, chosen: Any, labels: Any, number: int) -> Any:
    """Returns the sums (number, d) float64 of the `chosen` rows of each label, in their order."""
    xp = namespace(rows)
    order = chosen[xp.argsort(labels[chosen], kind="stable")]
    if xp is not np:
        return cuda.sums_of_runs(rows, order, xp.searchsorted(labels[order], xp.arange(number + 1)))
    result = np.zeros((number, rows.shape[1]))
    ordered = to_host(labels[order])
    for part in slices(0, len(ordered), _SUM_ROWS):
        run_labels, values = ordered[part], rows[order[part]].astype(xp.float64)
        cuts = np.flatnonzero(np.diff(run_labels, prepend=-1)).tolist()
        for low, high in zip(cuts, [*cuts[1:], len(run_labels)], strict=True):
            result[run_labels[low]] += xp.ones(high - low) @ values[low:high]
    return result
