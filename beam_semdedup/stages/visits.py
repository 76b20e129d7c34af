"""A unit of visits: which rows of a segment file are compared in which clusters besides their own."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.compute.identical import first_identical
from beam_semdedup.compute.short_vectors import Basis, fit_basis
from beam_semdedup.compute.visits import Clusters, Visits
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit import model
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import UnitId
from beam_semdedup.stages.costs import warn_of_cost
from beam_semdedup.storage import segments, tables
from beam_semdedup.storage.columns import VISIT_COLUMNS
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import RankedRows, Segment

_LOG = logging.getLogger(__name__)
_SAMPLE_ROWS = 4096


@dataclass(frozen=True)
class _Facts(Record):
    """What a file of visits says of itself."""

    unit: UnitId
    basis: str


def visit_clusters(job: Job, references: tuple[Segment, ...], fitted: FittedKMeans) -> tuple[Segment, ...]:
    """Writes the visits of the rows of a segment file, whose references these are; returns references to them.

    A row that is the same as an earlier one, bit for bit, visits nothing: the earlier one, which lives in the same
    cluster, is the best that it can find, if the rows are compared with each other.
    """
    if not references:
        return ()
    name = references[0].file
    wanted = UnitId(name, fitted.content_hash, sum(segment.num_rows for segment in references))
    with naming_unit(f"visits of {name}"):
        finished = segments.read_index(job.visits.file(name), _Facts, segments.VISITS, job.generation)
        found = find_basis(job)
        if finished and found and finished[0] == _Facts(wanted, found[1]):
            return finished[1]
        with stored.discarding(job.kmeans):
            batches, offsets = segments.vector_offsets(job.segments, references, job.segment_schema)
        table = pa.Table.from_batches([batch.select(_names(job)) for batch in batches])
        order = job.ranking.order(table)
        rows = RankedRows(batches, order)[:]
        labels = table.column("centroid").to_numpy()[order]
        if job.parameters.within:
            first = first_identical(rows, len(rows), job.parameters.pairwise_batch_size)
            own = np.flatnonzero(first == np.arange(len(rows)))
            rows, labels, order = rows[own], labels[own], order[own]
        basis, identity = found or _make_basis(job, batches)
        centroids = fitted.centroids(job.kmeans.options)
        if not found and job.parameters.n_probes == "exact" and job.parameters.against is None:
            warn_of_cost(job, rows, labels, centroids, basis.width)
        visitors, visited = _visits(job, rows, labels, centroids)
        chosen = order[visitors]
        columns = [
            segments.to_column(basis.shorten(rows)[visitors]),
            pa.array(visited),
            pa.array(labels[visitors]),
            pa.array(offsets[chosen]),
        ]
        written = tables.take(table.select(job.ranking.columns), chosen)
        for place, (column, values) in enumerate(zip(VISIT_COLUMNS, columns, strict=True)):
            written = written.add_column(place, column, values)
        written, facts = written.cast(job.visit_schema(basis.width + 1)), _Facts(wanted, identity)
        width = job.sizes.centroids_per_key
        return segments.write(job.visits, name, written, width, facts, segments.VISITS, job.generation)


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


def _make_basis(job: Job, batches: list[pa.RecordBatch]) -> tuple[Basis, str]:
    """Stores the directions that suit the rows of a unit, if no other unit was faster: any give the same results."""
    file = job.basis
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    groups = int(np.searchsorted(starts, _SAMPLE_ROWS)) + 1
    rows = RankedRows(batches[:groups], np.arange(starts[: groups + 1][-1]))[:]
    basis = fit_basis(rows, starts[: min(groups, len(batches))], 1 - job.parameters.matching_reach)
    file.create_if_absent(model.to_npy(basis.vectors))
    found = find_basis(job)
    if found is None:
        raise RuntimeError(f"{file} is gone, though the run wrote it; run again")
    return found


def _visits(
    job: Job, rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], centroids: npt.NDArray[np.float32]
) -> Visits:
    p, clusters = job.parameters, Clusters(centroids, job.parameters.pairwise_batch_size)
    if p.n_probes == "exact":
        return clusters.in_reach(rows, labels, p.matching_reach)
    return clusters.nearest(rows, labels, p.n_probes - 1)


def _names(job: Job) -> list[str]:
    return list(dict.fromkeys(["centroid", *job.ranking.columns]))
