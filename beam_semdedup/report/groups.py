"""Groups of rows that follow `max_id` to the row that is kept, and the chains in them.

A row is removed if it resembles *some* row before it, which may be removed too. So the row that stays may be less
similar to it than 1 - eps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beam_semdedup.report.collect import Collected
from beam_semdedup.report.results import Results
from beam_semdedup.report.rows import Hashes, find_rows, similarities
from beam_semdedup.storage.damage import DamagedFile

LARGEST, MEMBERS, WORST = 12, 6, 8
_MOST_CHAINED = 20_000


@dataclass(frozen=True)
class Group:
    """A kept row and what it stands for; rows by the hashes of their ids.

    Attributes:
        size: its rows, with the kept one.
        members: some of the removed ones, the least similar to their `max_id` first, with that score and the number
            of steps to the kept row.
    """

    root: int
    size: int
    members: tuple[tuple[int, float, int], ...]


@dataclass(frozen=True)
class Chains:
    """The removed rows whose `max_id` is removed too.

    Attributes:
        count: of them.
        measured: those whose similarity to the kept row was computed, a random sample where they are not all.
        below: those of the measured ones that are less similar to the kept row than 1 - eps.
        similarities: of the measured ones.
        worst: the least similar ones, one of each group: row and kept row, by hashes of their ids, similarity, steps.
        why_not: why none was measured, if so.
    """

    count: int
    measured: int = 0
    below: int = 0
    similarities: tuple[float, ...] = ()
    worst: tuple[tuple[int, int, float, int], ...] = ()
    why_not: str = ""


@dataclass(frozen=True)
class Groups:
    """All groups of a run at its eps: how many of each size, and some of them."""

    count: int
    sizes: dict[int, int]
    largest: tuple[Group, ...]
    chains: Chains


def find_groups(results: Results, collected: Collected) -> Groups | None:
    """Puts the removed rows of a run into groups; None where they are too many for the memory.

    Raises:
        DamagedFile: a file cannot be read.
    """
    if not collected.removed.is_whole:
        return None
    parts = collected.removed.parts
    ids, targets, scores, centroids = (
        np.concatenate([part[i] for part in parts]) if parts else np.empty(0, dtype=kind)
        for i, kind in enumerate((np.uint64, np.uint64, np.float64, np.int32))
    )
    order = np.argsort(ids, kind="stable")
    ids, targets, scores, centroids = ids[order], targets[order], scores[order], centroids[order]
    roots, steps = follow(ids, targets)
    found, where, counts = np.unique(roots, return_inverse=True, return_counts=True)
    sizes, times = np.unique(counts + 1, return_counts=True)
    by_size = np.argsort(-counts, kind="stable")[:LARGEST]
    largest = []
    for group in by_size.tolist():
        mine = np.flatnonzero(where == group)
        mine = mine[np.lexsort((ids[mine], scores[mine]))][:MEMBERS]
        members = tuple(zip(ids[mine].tolist(), scores[mine].tolist(), steps[mine].tolist(), strict=True))
        largest.append(Group(int(found[group]), int(counts[group]) + 1, members))
    chained = np.flatnonzero(steps > 1)
    chains = _measure(results, collected.eps, ids[chained], roots[chained], steps[chained], centroids[chained])
    return Groups(len(found), dict(zip(sizes.tolist(), times.tolist(), strict=True)), tuple(largest), chains)


def follow(ids: Hashes, targets: Hashes) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Follows removed rows to the row that is kept, which is none of them.

    Args:
        ids: (n,) ascending; targets: (n,) the row that each resembles.

    Returns:
        The kept row of each, and how many steps away it is. Where ids repeat there may be circles: in one of them some
        row counts as the kept one.
    """
    places = np.minimum(np.searchsorted(ids, targets), max(0, len(ids) - 1))
    ends = ids[places] != targets if len(ids) else np.empty(0, dtype=bool)
    ends |= targets == ids
    last = np.where(ends, np.arange(len(ids)), places)
    steps = np.where(ends, 0, 1)
    for _ in range(len(ids).bit_length() + 1):
        if np.array_equal(last[last], last):
            break
        steps = steps + steps[last]
        last = last[last]
    return targets[last], steps + 1


def _measure(
    results: Results,
    eps: float,
    ids: Hashes,
    roots: Hashes,
    steps: npt.NDArray[np.int64],
    centroids: npt.NDArray[np.int32],
) -> Chains:
    """Computes how similar rows are to the kept rows at the end of their chains; the rows come in a random order."""
    if not len(ids):
        return Chains(0)
    chosen = slice(0, _MOST_CHAINED)
    ends = centroids[chosen]  # the kept row is in the same cluster, where rows are compared in their own alone
    try:
        if results.configuration.has_visits:
            kept = find_rows(results, roots[chosen].tolist(), (), 1)
            homes = [kept[root].centroid if root in kept else -1 for root in roots[chosen].tolist()]
            ends = np.array(homes, dtype=np.int32)
        found = similarities(results, ids[chosen], roots[chosen], centroids[chosen], ends)
    except DamagedFile as error:  # also where the segments were deleted, which scores do not need
        return Chains(len(ids), why_not=str(error))
    measured = np.flatnonzero(~np.isnan(found))
    by_similarity = measured[np.argsort(found[measured], kind="stable")]
    of_groups = np.unique(roots[chosen][by_similarity], return_index=True)[1]  # one of each group
    worst = by_similarity[np.sort(of_groups)][:WORST]
    rows = zip(*(values[worst].tolist() for values in (ids[chosen], roots[chosen], found, steps[chosen])), strict=True)
    below = int((found[measured].astype(np.float32).astype(np.float64) < 1 - eps).sum())
    if not len(measured):
        return Chains(len(ids), why_not="the rows that stay are those of other files")
    return Chains(len(ids), len(measured), below, tuple(found[measured].tolist()), tuple(rows))
