"""A unit of the recall: the best earlier rows that the rows of a sample have among the rows of a key.

Of all keys together they say which of the sampled rows that a run kept are duplicates that it missed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.compute.arrays import rounding_error, row_dot
from beam_semdedup.compute.identical import first_identical
from beam_semdedup.compute.matches import NO_MATCH, Best, Gather, Rows, match
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.tiles import multiply
from beam_semdedup.compute.visits import SCORE_ROUNDING
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import Counts, PairwiseResult, RecallManifest, UnitId
from beam_semdedup.stages import sample as samples
from beam_semdedup.stages.assign import find_assigned
from beam_semdedup.stages.generations import compared, read_rows
from beam_semdedup.stages.index import index_all, segments_of
from beam_semdedup.stages.pairwise import centroids_of
from beam_semdedup.stages.sample import Sample, SampleFile
from beam_semdedup.storage import tables
from beam_semdedup.storage.layout import comparison_name
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import ROWS, RankedRows, Segment
from beam_semdedup.storage.threads import in_io_threads

_UNIT_LENGTH = 1 + 1e-6  # of the longest vector, where they are normalised


@dataclass(frozen=True)
class RecallUnit(Record):
    """A finished unit, and its file: the positions in the sample of the rows that have an earlier row within the reach.

    Attributes:
        sample: the checksums of the sample.
        scores: of the best of these.
        pairs: that were compared.
        began: when the attempt that tells of it began it, in seconds since the epoch.
    """

    unit: UnitId
    sample: tuple[int, ...]
    rows: tuple[int, ...]
    scores: tuple[float, ...]
    pairs: int
    reused: bool
    began: float

    @property
    def num_rows(self) -> int:
        """The rows of the key."""
        return self.unit.num_rows


def estimate_recall(
    job: Job, units: Sequence[PairwiseResult], assigned: Sequence[tuple[int, str]], fitted: FittedKMeans
) -> None:
    """Does all of the stage in this process, one key after the other, when the units have drawn their rows.

    Args:
        assigned: the generation and the name of each segment file.
    """
    file = samples.collect(job, units, fitted)
    sample = samples.load(job, file, fitted)
    files = [index.file for index in in_io_threads(lambda file: find_assigned(job.at(file[0]), file[1]), assigned)]
    finish(job, [search_key(job, key, file, sample, fitted) for key in index_all(job, files)], file, fitted)


def search_key(job: Job, key: Segment, file: SampleFile, sample: Sample, fitted: FittedKMeans) -> RecallUnit:
    """Stores and returns what the rows of a sample have among the rows of a key.

    Args:
        key: where the index has it.
    """
    began = time.time()
    parts = [part for part in segments_of(job, key) if part.kind == ROWS and _is_asked(job, part)]
    num_rows = sum(segment.num_rows for segment in parts)
    first, last = centroids_of(job, key.key)
    name = comparison_name(first, last, 0, num_rows, num_rows)
    wanted, checksums = UnitId(name, fitted.content_hash, num_rows), tuple(part.checksum for part in file.segments)
    with naming_unit(f"the recall in {name}"):
        stored_at = job.recall.file(f"{name}.json")
        unit = RecallUnit.read(stored_at)
        if unit and (unit.unit, unit.sample) == (wanted, checksums):
            return replace(unit, reused=True, began=began)
        found = _search(job, parts, sample) if parts and _is_near(job, sample, first, last) else ([], [], 0)
        unit = RecallUnit(wanted, checksums, tuple(found[0]), tuple(found[1]), found[2], False, began)
        unit.write(stored_at)
        return unit


def _is_asked(job: Job, part: Segment) -> bool:
    """Says whether a row that is like one of a segment can be its duplicate."""
    return job.compares_itself or part.generation != job.generation


def _is_near(job: Job, sample: Sample, first: int, last: int) -> bool:
    """Says whether one of some clusters may hold rows within the reach of the sample; only these are read."""
    if not len(sample):
        return False
    if job.parameters.assume_normalized:  # the vectors themselves say how long they are
        return True
    return bool(sample.around.may_hold(np.arange(first, last + 1, dtype=np.int32), _UNIT_LENGTH).any())


def finish(job: Job, units: Iterable[RecallUnit], file: SampleFile, fitted: FittedKMeans) -> None:
    """Writes the manifest of the stage."""
    units = list(units)
    found = samples.load(job, file, fitted).found
    best = found.copy()
    for unit in units:
        rows = np.array(unit.rows, dtype=np.int64)
        best[rows] = np.fmax(best[rows], np.array(unit.scores, dtype=np.float32))
    manifest = RecallManifest(
        counts=Counts.of(units),
        finished=time.time(),
        began=min((unit.began for unit in units), default=time.time()),
        centroids=fitted.content_hash,
        pairs_done=sum(unit.pairs for unit in units if not unit.reused),
        reach=job.recall_reach,
        found=_or_none(found),
        best=_or_none(best),
    )
    manifest.write(job.recall_manifest)


def _or_none(scores: npt.NDArray[np.float32]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(score) else score for score in scores.tolist())


def _search(job: Job, parts: Sequence[Segment], sample: Sample) -> tuple[list[int], list[float], int]:
    """Returns which rows of the sample have an earlier row within the reach in some segments, their scores, and how
    many pairs were compared.

    Products of short vectors, in the clusters that may hold such rows, leave out nearly all pairs; of the rows that are
    left the order is found, and from it and their vectors the scores.
    """
    p = job.parameters
    batches, table = read_rows(job, parts, [*job.ranking.columns, "centroid"])
    labels = table.column("centroid").to_numpy()
    by_cluster = np.argsort(labels, kind="stable")
    vectors = RankedRows(batches, by_cluster)
    longest = _longest(job, sample, vectors)
    asked, near, pairs = _close(job, sample, vectors, labels[by_cluster], longest)
    if not len(near):
        return [], [], pairs
    found, own = by_cluster[near], compared(job, tables.take(sample.table, asked))
    # A sampled row stands before itself in the dataset: Arrow's sort is stable.
    everyone = pa.concat_tables([own, table.select(own.column_names).take(found)])
    order = job.ranking.order(everyone, within=job.by_generation)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    mine, theirs = order[order < len(asked)], order[order >= len(asked)]
    ranked = RankedRows(batches, found[theirs - len(asked)])
    first = np.flatnonzero(first_identical(ranked, len(theirs), p.pairwise_batch_size) == np.arange(len(theirs)))
    asking = asked[mine]
    best = Best(len(asking))
    short = sample.basis.shorten(ranked[first])
    match(
        _rows(ranks[theirs[first]], short, lambda at: ranked[first[at]], Best(len(first))),
        _rows(ranks[mine], sample.short[asking], lambda at: sample.vectors[asking[at]], best),
        0,
        len(first),
        job.recall_reach,
        p.pairwise_batch_size,
        among_natives=False,
    )
    have = best.winners != NO_MATCH
    return asking[have].tolist(), best.scores[have].tolist(), pairs


def _rows(ranks: npt.NDArray[np.int64], short: npt.NDArray[np.float32], gather: Gather, best: Best) -> Rows:
    return Rows(ranks, short, gather, 0, best, np.arange(len(ranks)))


def _longest(job: Job, sample: Sample, vectors: RankedRows) -> float:
    """Returns a length that none of the vectors exceeds."""
    if not job.parameters.assume_normalized:
        return _UNIT_LENGTH
    parts = list(slices(0, len(vectors), job.parameters.pairwise_batch_size))
    squares = in_threads(lambda part: float(row_dot(vectors[part], vectors[part]).max()), parts)
    return max(*squares, float(row_dot(sample.vectors, sample.vectors).max())) ** 0.5 * _UNIT_LENGTH


def _close(
    job: Job,
    sample: Sample,
    vectors: RankedRows,
    labels: npt.NDArray[np.int32],
    longest: float,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Returns the positions of the rows of the sample, and of those among `vectors`, that may be within the reach.

    And how many pairs were compared to tell.

    Args:
        vectors: n rows, cluster after cluster.
        labels: (n,) their clusters.
        longest: the largest length.
    """
    batch = job.parameters.pairwise_batch_size
    clusters, starts = np.unique(labels, return_index=True)
    tiles = [
        (column, slice(part.start, part.stop))
        for column, (start, stop) in enumerate(zip(starts.tolist(), [*starts[1:].tolist(), len(labels)], strict=True))
        for part in slices(start, stop, batch)
    ]
    reached = sample.around.may_hold(clusters, longest)
    whole = not sample.basis.width
    error = rounding_error(job.sizes.dimension) * max(1.0, longest**2) if whole else 0.0
    least = np.float32(1 - job.recall_reach - SCORE_ROUNDING - 2.0**-22 - error)
    mine = sample.vectors if whole else sample.short
    asked, near = np.zeros(len(sample), dtype=bool), np.zeros(len(labels), dtype=bool)

    def look(tile: tuple[int, slice]) -> None:
        column, part = tile
        asking = np.flatnonzero(reached[:, column])
        if not len(asking):
            return
        rows = vectors[part] if whole else sample.basis.shorten(vectors[part])
        for some in slices(0, len(asking), batch):
            close = multiply(mine[asking[some]], rows) >= least
            if close.any():
                near[part] |= close.any(axis=0)
                asked[asking[some][close.any(axis=1)]] = True  # threads set, and never take back

    in_threads(look, tiles)
    pairs = int((reached.sum(axis=0) * np.diff(starts, append=len(labels))).sum())
    return np.flatnonzero(asked), np.flatnonzero(near), pairs
