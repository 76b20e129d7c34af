"""The sample of rows by which a run's recall is estimated: drawn where rows are compared, put together in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.compute.sampling import sampled
from beam_semdedup.compute.short_vectors import Basis, fit_basis
from beam_semdedup.compute.visits import Surroundings
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import PairwiseResult, SampleFacts, UnitId
from beam_semdedup.stages.generations import read_rows, source_keys
from beam_semdedup.storage import layout, segments, tables
from beam_semdedup.storage.columns import MAX_SOURCE
from beam_semdedup.storage.damage import DamagedFile, as_damage
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.segments import RankedRows, Segment
from beam_semdedup.storage.threads import in_io_threads


def draw(
    job: Job,
    wanted: UnitId,
    table: pa.Table,
    batches: Sequence[pa.RecordBatch],
    order: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
) -> None:
    """Stores those of a unit's rows that are sampled, with the scores that were found for them.

    A copy of an earlier row is left out: every run finds it.

    Args:
        wanted: identifies the unit.
        table: `batches` laid end to end, without the vectors.
        order: (n,) the positions of the unit's rows.
        scores: (n,) theirs; NaN where a row cannot be a duplicate.
    """
    if not job.has_sample or is_drawn(job, wanted):
        return
    p = job.parameters
    sources = source_keys(table, "source_file", "source_row")
    chosen = sampled(sources, p.random_state, p.recall_sample, job.sizes.num_rows)[order] & ~(scores >= 1)
    rows = order[chosen]
    drawn = tables.take(table.select([name for name in job.sample_schema.names if name in table.schema.names]), rows)
    drawn = drawn.append_column("embedding", segments.to_column(RankedRows(batches, rows)[:]))
    drawn = drawn.append_column("__found", pa.array(scores[chosen]))
    drawn = drawn.select(job.sample_schema.names).cast(job.sample_schema)
    segments.write(job.sample, layout.sampled_name(wanted.name), drawn, job.sizes.n_clusters, SampleFacts(wanted))


def draw_again(job: Job, wanted: UnitId, parts: Callable[[], Sequence[Segment]], ranked: slice, results: File) -> None:
    """Draws as `draw` does from some rows of a key, whose scores are in the file of their results.

    Args:
        parts: says where rows of the key are, all of the job's own generation.
        ranked: which of these, in their order.
    """
    if not job.has_sample or is_drawn(job, wanted):
        return
    batches, table = read_rows(job, parts(), [*job.ranking.columns, "centroid"])
    order = job.ranking.order(table)
    with stored.discarding(job.pairwise), as_damage(results), results.open() as source:
        found = tables.opened(source).read(columns=["cosine_sim_score", *([MAX_SOURCE] if job.has_generations else [])])
    scores = found.column(0).to_numpy()
    if job.has_generations:
        scores = without_first(scores, found.column(MAX_SOURCE).is_null().to_numpy())
    elif not job.has_visits:
        scores = without_first(scores, np.diff(table.column("centroid").to_numpy()[order], prepend=-1)[ranked] != 0)
    draw(job, wanted, table, batches, order[ranked], scores)


def without_first(scores: npt.NDArray[np.float32], is_first: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Returns scores without those of rows that were compared with none, which are no duplicates at any eps."""
    return np.where(is_first, np.float32(np.nan), scores)


def is_drawn(job: Job, wanted: UnitId) -> bool:
    """Says whether the sampled rows of a unit are stored."""
    found = segments.read_index(job.sample.file(layout.sampled_name(wanted.name)), SampleFacts)
    return found is not None and found[0].unit == wanted


@dataclass(frozen=True)
class SampleFile:
    """The file of all sampled rows."""

    segments: tuple[Segment, ...]


def collect(job: Job, units: Iterable[PairwiseResult], fitted: FittedKMeans) -> SampleFile:
    """Puts what units drew into one file, in the order of the rows' sources; returns the reference to it."""
    units = sorted(units, key=lambda unit: unit.name)
    wanted = UnitId(layout.SAMPLE, fitted.content_hash, sum(unit.num_rows for unit in units))
    with naming_unit("the sample of rows"):
        found = segments.read_index(job.sample.file(layout.SAMPLE), SampleFacts)
        if found and found[0].unit == wanted:
            return SampleFile(found[1].segments)
        parts = [part for parts in in_io_threads(lambda unit: _drawn(job, unit, fitted), units) for part in parts]
        with stored.discarding(job.pairwise):
            batches = segments.read(job.sample, parts, job.sample_schema)
        table = pa.Table.from_batches(batches, job.sample_schema)
        order = np.argsort(source_keys(table, "source_file", "source_row"))
        vectors = _vectors(job, batches, order)
        table = tables.take(table.drop_columns(["embedding"]), order)
        table = table.append_column("embedding", segments.to_column(vectors))
        table = table.select(job.sample_schema.names).cast(job.sample_schema)
        written = segments.write(job.sample, layout.SAMPLE, table, job.sizes.n_clusters, SampleFacts(wanted))
        return SampleFile(written.segments)


@dataclass(frozen=True)
class Sample:
    """The sampled rows.

    Attributes:
        table: what their order depends on, and the clusters where they live.
        vectors: (s, d) float32.
        found: (s,) float32 scores that the run found; NaN for none.
        around: the clusters that may hold rows within the reach.
    """

    table: pa.Table
    vectors: npt.NDArray[np.float32]
    found: npt.NDArray[np.float32]
    around: Surroundings

    def __len__(self) -> int:
        return len(self.found)

    @cached_property
    def basis(self) -> Basis:
        """The directions of short vectors that suit the rows; none where whole vectors cost less."""
        # Most rows that they meet are of other clusters, and as far from them as they are from each other.
        return fit_basis(self.vectors, np.zeros(len(self), dtype=np.int64), 1 - self.around.reach)

    @cached_property
    def short(self) -> npt.NDArray[np.float32]:
        """The short vectors (s, m + 1)."""
        return self.basis.shorten(self.vectors)


def load(job: Job, file: SampleFile, fitted: FittedKMeans) -> Sample:
    """Reads the sample that was put together."""
    with stored.discarding(job.pairwise):
        batches = segments.read(job.sample, file.segments, job.sample_schema)
    table = pa.Table.from_batches(batches, job.sample_schema)
    vectors = _vectors(job, batches, np.arange(len(table)))
    labels, centroids = table.column("centroid").to_numpy(), fitted.centroids(job.model.options)
    around = Surroundings(vectors, labels, centroids, job.recall_reach)
    return Sample(table.drop_columns(["embedding"]), vectors, table.column("__found").to_numpy(), around)


def _vectors(job: Job, batches: list[pa.RecordBatch], order: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return RankedRows(batches, order)[:] if batches else np.empty((0, job.sizes.dimension), dtype=np.float32)


def _drawn(job: Job, unit: PairwiseResult, fitted: FittedKMeans) -> tuple[Segment, ...]:
    file = job.sample.file(layout.sampled_name(unit.name))
    wanted = UnitId(unit.name.removesuffix(".parquet"), fitted.content_hash, unit.num_rows)
    found = segments.read_index(file, SampleFacts)
    if found is None or found[0].unit != wanted:
        with stored.discarding(job.pairwise):
            raise DamagedFile(file, "the sampled rows of a unit cannot be read")
    return found[1].segments
