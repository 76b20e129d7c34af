"""A unit of visits: which rows of a segment file are compared in which clusters besides their own."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.compute.identical import first_identical
from beam_semdedup.compute.short_vectors import Basis, fit_basis
from beam_semdedup.compute.threads import slices
from beam_semdedup.compute.visits import Clusters, Visits
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit import model
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import UnitId
from beam_semdedup.stages.assign import find_assigned
from beam_semdedup.stages.costs import warn_of_cost
from beam_semdedup.storage import segments, tables
from beam_semdedup.storage.columns import VISIT_COLUMNS
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import RankedRows, SegmentFile

_LOG = logging.getLogger(__name__)
_SAMPLE_ROWS = 4096
_VISIT_BYTES = 32  # of a row and a cluster, while they are found and sorted


@dataclass(frozen=True)
class _Facts(Record):
    """What a file of visits says of itself: the `number` of it among those of the unit, and whether it is the last."""

    unit: UnitId
    basis: str
    number: int
    last: bool


def visit_clusters(job: Job, file: SegmentFile, fitted: FittedKMeans) -> tuple[SegmentFile, ...]:
    """Writes the visits of the rows of a segment file; returns the files with them.

    A row that is the same as an earlier one, bit for bit, visits nothing: the earlier one, which lives in the same
    cluster, is the best that it can find, if the rows are compared with each other.
    """
    if not file.num_rows:
        return ()
    wanted = UnitId(file.name, fitted.content_hash, file.num_rows)
    with naming_unit(f"visits of {file.name}"):
        basis = find_basis(job)
        finished = basis and _find_finished(job, wanted, basis[1])
        if finished is not None:
            return finished
        with stored.discarding(job.kmeans, remedy=job.remedy):
            rows = find_assigned(job, file.name).segments
            batches, offsets = segments.vector_offsets(job.segments, rows, job.segment_schema)
        return tuple(_write(job, wanted, batches, offsets, fitted, basis))


def _find_finished(job: Job, unit: UnitId, basis: str) -> tuple[SegmentFile, ...] | None:
    """Returns the files with the visits of a unit that were written before; None where these are not whole."""
    result: list[SegmentFile] = []
    for number in itertools.count():
        found = segments.read_index(job.visits.file(_file_name(unit, number)), _Facts, segments.VISITS, job.generation)
        if not found or replace(found[0], last=True) != _Facts(unit, basis, number, last=True):
            return None
        result.append(found[1].file)
        if found[0].last:
            return tuple(result)
    return None


def _file_name(unit: UnitId, number: int) -> str:
    """Returns the name of one of the files with the visits of a unit; the first has that of its segment file."""
    return f"{unit.name.removesuffix('.arrow')}+{number}.arrow" if number else unit.name


def segment_file(name: str) -> str:
    """Returns the name of the segment file whose rows make the visits in the file `name`."""
    return re.sub(r"\+\d+\.arrow$", ".arrow", name)


def _write(
    job: Job,
    unit: UnitId,
    batches: list[pa.RecordBatch],
    offsets: npt.NDArray[np.int64],
    fitted: FittedKMeans,
    basis: tuple[Basis, str] | None,
) -> Iterator[SegmentFile]:
    """Writes the visits of the rows of a unit; yields the files with them.

    Args:
        batches: the unit's rows.
        offsets: (n,) where in the segment file the vector of each begins.
        basis: the directions of the short vectors, and what identifies them; None where no unit was before, so that
            this one chooses them, and warns of what n_probes=exact costs.
    """
    table = pa.Table.from_batches([batch.select(_names(job)) for batch in batches])
    order = job.ranking.order(table)
    rows = RankedRows(batches, order)[:]
    if job.compares_itself:
        first = first_identical(rows, len(rows), job.parameters.pairwise_batch_size)
        own = np.flatnonzero(first == np.arange(len(rows)))
        if len(own) < len(rows):
            rows, order = rows[own], order[own]
    labels = table.column("centroid").to_numpy()[order]
    clusters = Clusters(fitted.centroids(job.model.options), job.parameters.pairwise_batch_size)
    if basis is None:
        basis = _make_basis(job, clusters, rows, labels)
        if job.parameters.n_probes == "exact" and not job.has_generations:
            warn_of_cost(job, rows, labels, clusters.centroids, basis[0].width)
    directions, identity = basis
    short = directions.shorten(rows)
    schema = job.visit_schema(short.shape[1])
    others = tables.combined(table.select(job.ranking.columns))

    def batch(key: int, visitors: npt.NDArray[np.int64], visited: npt.NDArray[np.int32]) -> list[pa.RecordBatch]:
        starts = np.flatnonzero(np.diff(visitors, prepend=-1))
        who = visitors[starts]
        result = tables.take(others, order[who])
        clusters = pa.ListArray.from_arrays(
            pa.array(np.append(starts, len(visitors)).astype(np.int32)), pa.array(visited)
        )
        columns = [segments.to_column(short[who]), clusters, pa.array(labels[who]), pa.array(offsets[order[who]])]
        for place, (column, values) in enumerate(zip(VISIT_COLUMNS, columns, strict=True)):
            result = result.add_column(place, column, values)
        return result.cast(schema).to_batches()

    parts = _in_parts(job, clusters, rows, labels, short.itemsize * short.shape[1])
    for number, (visits, last) in enumerate(parts):
        found = [(visit[0], one) for visit in visits for one in batch(*visit)]
        facts = _Facts(unit, identity, number, last)
        name, kind = _file_name(unit, number), segments.VISITS
        yield segments.write_batches(job.visits, name, schema, found, facts, kind, job.generation).file


_KeyVisits: TypeAlias = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int32]]
"""A key, visitors (v,), ascending, of clusters of it, and the cluster (v,) that each visits."""


def _in_parts(
    job: Job,
    clusters: Clusters,
    rows: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    short_bytes: int,
) -> Iterator[tuple[list[_KeyVisits], bool]]:
    """Yields the visits of rows by key, in parts that take no more memory than the vectors of an assign unit may.

    With each comes whether it is the last part; there is one at least.
    """
    width, limit = job.sizes.centroids_per_key, job.sizes.assign_rows * job.sizes.dimension * rows.itemsize
    row_bytes = short_bytes + 12 + job.sizes.carried_bytes
    step = max(1, limit // (_VISIT_BYTES * len(clusters.centroids)))
    waiting: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]] = []
    held = 0
    for part in slices(0, len(rows), step) if len(rows) else [slice(0, 0)]:
        visitors, visited = _visits(job, clusters, rows[part], labels[part])
        # A record for each key that a row visits; the clusters of a row that are near it may be said in any order.
        records = np.count_nonzero((np.diff(visited // width) != 0) | (np.diff(visitors) != 0)) + 1
        size = int(len(visitors) * _VISIT_BYTES + records * row_bytes)
        if waiting and held + size > limit:
            yield _by_key(waiting, width), False
            waiting, held = [], 0
        waiting.append((part.start + visitors, visited))
        held += size
    yield _by_key(waiting, width), True


def _by_key(parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]], width: int) -> list[_KeyVisits]:
    visitors, visited = (np.concatenate(column) for column in zip(*parts, strict=True))
    keys = visited // width
    few = keys.astype(np.uint16) if keys.max(initial=0) < 1 << 16 else keys  # sorted by digits, not by comparing
    order = np.argsort(few, kind="stable")
    visitors, visited, keys = visitors[order], visited[order], keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    bounds = np.append(starts, len(keys))
    parts_of_keys = zip(keys[starts].tolist(), bounds[:-1], bounds[1:], strict=True)
    return [(key, visitors[low:high], visited[low:high]) for key, low, high in parts_of_keys]


def find_basis(job: Job) -> tuple[Basis, str] | None:
    """Returns the directions of the run's short vectors, and what identifies them; None where there are none yet."""
    file = job.basis
    try:
        data = file.read_bytes()
        vectors = model.from_npy(data)
    except FileNotFoundError:
        return None
    except ValueError:
        vectors = np.empty(0)
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != job.sizes.dimension or not _bounds(vectors):
        _LOG.warning("%s is damaged; it is made again", file)
        file.delete()
        return None
    return Basis(vectors), model.content_hash(data)


def _bounds(vectors: npt.NDArray[np.float32]) -> bool:
    """Returns whether the values are as those of unit vectors, whose products neither overflow nor are no number."""
    return bool((np.abs(vectors) <= 1 + 1e-3).all())


def _make_basis(
    job: Job, clusters: Clusters, rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]
) -> tuple[Basis, str]:
    """Stores the directions that suit the rows of a unit, if no other unit was faster: any give the same results."""
    file = job.basis
    some = np.linspace(0, len(rows), min(_SAMPLE_ROWS, len(rows)), endpoint=False, dtype=np.int64)
    rows, labels = rows[some], labels[some]
    basis = fit_basis(rows, labels, 1 - job.parameters.matching_reach, _visits(job, clusters, rows, labels))
    file.create_if_absent(model.to_npy(basis.vectors))
    found = find_basis(job)
    if found is None:
        raise RuntimeError(f"{file} is gone, though the run wrote it; run again")
    return found


def _visits(job: Job, clusters: Clusters, rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> Visits:
    p = job.parameters
    if p.n_probes == "exact":
        return clusters.in_reach(rows, labels, p.matching_reach)
    return clusters.nearest(rows, labels, p.n_probes - 1)


def _names(job: Job) -> list[str]:
    return list(dict.fromkeys(["centroid", *job.ranking.columns]))
