"""Many small clusters compared at once: one product and one reduction for all that are about as large."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.arrays import namespace, to_host
from beam_semdedup.compute.comparison import TIE, compare
from beam_semdedup.compute.identical import first_identical
from beam_semdedup.compute.screens import EXACT, Screen
from beam_semdedup.compute.tiles import Top, fold, multiply
from beam_semdedup.compute.types import Array

LARGEST = 4096
"""Rows of a cluster up to which it is compared with others at once.

On its own a cluster takes some eighty calls of the GPU, about a millisecond of the host; one of 4,096 rows of 768
values keeps an H100 busy for half of that, with the half of its products that are not needed (estimated, not measured).
"""

_PADDING = 1.25
_MOST_BATCHES = 65_535  # some versions of cuBLAS take no more


def fit_together(sizes: npt.NDArray[np.int64], dimension: int, memory: int) -> npt.NDArray[np.bool_]:
    """Returns which clusters of these sizes (c,) are better compared at once than on their own; (c,) bool.

    Args:
        memory: bytes for the arrays of one step; each of these clusters needs no more.
    """
    return (sizes <= LARGEST) & (_step_bytes(sizes, dimension) <= memory)


def max_similarity_of_each(
    rows: Array,
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
    memory: int,
    screen: Screen = EXACT,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Finds what `similarity.max_similarity` finds for all rows of each of some clusters.

    Args:
        rows: (n, d) float32, cluster after cluster, each in rank order.
        starts, stops: (c,) where in `rows` each cluster begins and ends, ascending.
        memory: bytes for the arrays of one step; one cluster is compared at once whatever it takes.
        screen: as for `max_similarity`.

    Returns:
        scores (m,) float32 and winners (m,) int64, positions in `rows`, of the rows of all these clusters in order.

    Raises:
        MemoryError: a GPU has no room for a step.
    """
    xp = namespace(rows)
    everyone = xp.arange(len(rows))
    cluster = xp.searchsorted(xp.asarray(starts), everyone, side="right") - 1
    positions = xp.flatnonzero((cluster >= 0) & (everyone < xp.asarray(stops)[cluster]))
    step = max(1, memory // (8 * rows.shape[1]))
    # A row of a cluster that is not asked for counts to the one before it, and behind its rows is the first of none.
    first = first_identical(rows, len(rows), step, cluster)[positions]
    asked = positions[first == positions]
    batches = _Batches(rows, asked, cluster[asked], memory, screen.for_rows(rows, step))
    return compare(rows, positions, first, batches, step)


class _Batches:
    """Nominates by products of whole clusters, of many that are about as large at once.

    The rows of clusters of 3 and 2 rows, and their places among those asked for, are laid out as

        ranks     0  1  2        places     0  1  2
                  0  1  -                   3  4  3

    where the padding (-) repeats the first row. It ranks after the cluster's own rows, so none is compared with it.

    Args:
        rows: as for `max_similarity_of_each`.
        asked: (a,) int64 positions of the rows without an identical one before them in their cluster, ascending.
        cluster: (a,) which cluster each is of, ascending.
        memory: as for `max_similarity_of_each`.
        screen: of these rows.
    """

    def __init__(self, rows: Array, asked: Array, cluster: Array, memory: int, screen: Screen) -> None:
        self._rows, self._asked, self._memory, self._screen = rows, asked, memory, screen
        _, starts, sizes = namespace(rows).unique(cluster, return_index=True, return_counts=True)
        self._starts, self._sizes = to_host(starts), to_host(sizes)

    def nominate(self) -> tuple[Array, Array]:
        """See `Nominator.nominate`."""
        xp, dimension = namespace(self._rows), self._rows.shape[1]
        winners, unclear = self._asked.copy(), xp.zeros(len(self._asked), dtype=bool)
        for members, real, places in self._batches(np.arange(len(self._sizes))):
            prepared, (clusters, width, _) = self._screen.prepared(members), members.shape
            top = Top.before_any(xp.tile(xp.arange(width), clusters))
            fold(multiply(prepared, prepared), 0, 0, top)
            winners[places] = self._asked[places - real % width + top.winner[real]]
            unclear[places] = self._screen.unclear(top, dimension)[real]
        return winners, xp.flatnonzero(unclear)

    def settle(self, open_ones: Array) -> Array:
        """See `Nominator.settle`."""
        xp, winners = namespace(self._rows), self._asked.copy()
        clusters = xp.unique(xp.searchsorted(xp.asarray(self._starts), open_ones, side="right") - 1)
        for members, real, places in self._batches(to_host(clusters)):
            winners[places] = self._asked[places - real % members.shape[1] + _settled(members)[real]]
        return winners[open_ones]

    def _batches(self, clusters: npt.NDArray[np.int64]) -> Iterator[tuple[Array, Array, Array]]:
        """Yields the rows (c, m, d) of c of the clusters and, of those that are no padding, both places.

        These are the places among the c · m of the layout, and among the rows asked for, (r,) int64 each.
        """
        xp = namespace(self._rows)
        for group, width in self._groups(clusters):
            ranks, starts, sizes = xp.arange(width), xp.asarray(self._starts[group]), xp.asarray(self._sizes[group])
            inside = ranks < sizes[:, None]
            places = (starts[:, None] + xp.where(inside, ranks, 0)).ravel()
            real = xp.flatnonzero(inside)
            yield self._rows[self._asked[places]].reshape(len(group), width, -1), real, places[real]

    def _groups(self, clusters: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
        """Yields clusters of about the same size, no more than the memory holds, and the largest of their sizes."""
        ordered = clusters[np.argsort(-self._sizes[clusters], kind="stable")]
        sizes, start = self._sizes[ordered], 0
        while start < len(ordered):
            width = int(sizes[start])
            similar = int(np.searchsorted(-sizes, -int(width / _PADDING), side="right"))
            affordable = self._memory // int(_step_bytes(width, self._rows.shape[1]))
            stop = start + max(1, min(similar - start, affordable, _MOST_BATCHES))
            yield ordered[start:stop], width
            start = stop


def _settled(members: Array) -> Array:
    """Returns the rank of the winner of each row (c, m, d) in its cluster, from float64 products; (c · m,) int64."""
    xp, ranks = namespace(members), namespace(members).arange(members.shape[1])
    exact = members.astype(xp.float64)
    products = xp.where(ranks[:, None] > ranks, exact @ exact.swapaxes(1, 2), -xp.inf)
    return (products >= products.max(axis=2, keepdims=True) - TIE).argmax(axis=2).ravel()


def _step_bytes(sizes: Array, dimension: int) -> Array:
    """Returns the bytes of a step's arrays for each cluster of these sizes, float64 products of all rows included."""
    return sizes * (24 * dimension + 32 * sizes)
