"""The pipeline as Beam transforms. They wire; what a unit does stands in `stages`.

No vector crosses an edge: the elements are small frozen dataclasses that say where vectors are, each with the
coder registered here.
"""

import dataclasses
import functools
import json
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsIter, AsSingleton, PBegin, PCollection

from beam_semdedup import kmeans, stages, storage
from beam_semdedup.formats import InputUnit
from beam_semdedup.kmeans import FittedKMeans
from beam_semdedup.plan import Job, Plan
from beam_semdedup.segments import Segment
from beam_semdedup.stages import AssignedUnit, ComparedUnit, DuplicatesFile, PairwiseUnit


class ReferenceCoder(coders.Coder):
    """Encodes a frozen dataclass of plain values, tuples and such dataclasses as a JSON list."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    @classmethod
    def from_type_hint(cls, typehint: Any, registry: Any) -> typing.Self:
        """How Beam's registry makes the coder of an element type."""
        return cls(typehint)

    def encode(self, value: Any) -> bytes:
        """The element as bytes; equal elements have equal bytes."""
        return json.dumps(_to_list(value), separators=(",", ":")).encode()

    def decode(self, encoded: bytes) -> Any:
        """The element that `encode` was given."""
        return _from_list(self._kind, json.loads(encoded))

    def is_deterministic(self) -> bool:
        """Always, so that elements can be keys."""
        return True

    def to_type_hint(self) -> type:
        """The element type."""
        return self._kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReferenceCoder) and other._kind is self._kind

    def __hash__(self) -> int:
        return hash(self._kind)


ELEMENTS = (InputUnit, FittedKMeans, Segment, AssignedUnit, PairwiseUnit, ComparedUnit, DuplicatesFile)
"""Every type that crosses a Beam edge, besides integers and pairs."""

for _element in ELEMENTS:
    coders.registry.register_coder(_element, ReferenceCoder)


@dataclasses.dataclass
class FitKMeans(beam.PTransform):
    """Fits the centroids, once; a PCollection of one `FittedKMeans`, to be used as a side input."""

    job: Job

    def expand(self, root: PBegin) -> PCollection[FittedKMeans]:
        """From the root of the pipeline."""
        job = self.job
        return (
            root
            | "Start" >> beam.Create([0])
            | "Fit KMeans" >> beam.Map(lambda _: stages.fit(job)).with_output_types(FittedKMeans)
            | "Fit once" >> beam.Reshuffle()
        )


@dataclasses.dataclass
class AssignCentroids(beam.PTransform):
    """From `InputUnit`s to the `Segment`s that their rows are written to, each row with its nearest centroid."""

    job: Job
    fitted: PCollection[FittedKMeans]

    def expand(self, units: PCollection[InputUnit]) -> PCollection[Segment]:
        """See the class."""
        assigned = units | "Assign nearest centroid" >> beam.ParDo(_Assign(self.job), AsSingleton(self.fitted))
        without = assigned | "Drop references" >> beam.Map(
            lambda unit: dataclasses.replace(unit, segments=())
        ).with_output_types(AssignedUnit)
        _ = without | "Finish assignment" >> _Finish(_write_assigned, self.job, self.fitted)
        addressed = beam.FlatMap(lambda unit: _largest_first(unit.segments)).with_output_types(Segment)
        return assigned | "Address segments" >> addressed


@dataclasses.dataclass
class FindAssigned(beam.PTransform):
    """The `Segment`s of a finished assign stage, from the manifest's files."""

    job: Job
    files: list[str]

    def expand(self, root: PBegin) -> PCollection[Segment]:
        """From the root of the pipeline."""
        job = self.job
        return (
            root
            | "List segment files" >> beam.Create(self.files)
            | "Spread segment files" >> beam.Reshuffle()
            | "Read references"
            >> beam.FlatMap(lambda path: _largest_first(stages.find_assigned(job, path))).with_output_types(Segment)
        )


@dataclasses.dataclass
class PairwiseSimilarity(beam.PTransform):
    """From `Segment`s to `ComparedUnit`s: files with the most similar earlier-ranked row of each row."""

    job: Job
    fitted: PCollection[FittedKMeans]

    def expand(self, references: PCollection[Segment]) -> PCollection[ComparedUnit]:
        """See the class."""
        job = self.job
        compared = (
            references
            | "Key by centroid" >> beam.Map(lambda s: (s.key, s)).with_output_types(tuple[int, Segment])
            | "Group by centroid" >> beam.GroupByKey()
            | "Plan comparisons"
            >> beam.FlatMapTuple(lambda key, parts: stages.pairwise_units(job, key, list(parts))).with_output_types(
                PairwiseUnit
            )
            | "Spread comparisons" >> beam.Reshuffle()
            | "Compare within clusters" >> beam.ParDo(_Compare(job), AsSingleton(self.fitted))
        )
        _ = compared | "Finish comparison" >> _Finish(_write_compared, job, self.fitted)
        return compared


@dataclasses.dataclass
class IdentifyDuplicates(beam.PTransform):
    """From `ComparedUnit`s to the `DuplicatesFile`s with the rows whose score reaches 1 - eps."""

    job: Job

    def expand(self, compared: PCollection[ComparedUnit]) -> PCollection[DuplicatesFile]:
        """See the class."""
        job = self.job
        return (
            compared
            | "Key by output file"
            >> beam.Map(lambda unit: (unit.key // job.keys_per_file, unit)).with_output_types(tuple[int, ComparedUnit])
            | "Group by output file" >> beam.GroupByKey()
            | "Apply eps"
            >> beam.MapTuple(
                lambda number, parts: stages.select_duplicates(job, number, list(parts))
            ).with_output_types(DuplicatesFile)
        )


@dataclasses.dataclass
class SemanticDedup(beam.PTransform):
    """The whole pipeline of a plan, without the stages that the cache holds; a root transform.

    It writes into the plan's cache and into `duplicates/`. Clearing an earlier run's results, the check that
    no row was lost, and `summary.json` are the part of `SemanticDeduplicationWorkflow.run`.

    Returns the `DuplicatesFile`s, or the `ComparedUnit`s where `eps` is null.
    """

    plan: Plan

    def expand(self, root: PBegin) -> PCollection[Any]:
        """From the root of the pipeline."""
        job, plan = self.plan.job, self.plan
        if plan.compared:
            units = [_from_list(ComparedUnit, unit) for unit in plan.compared["units"]]
            finished = [dataclasses.replace(u, path=storage.join(job.pairwise_dir, u.path), reused=True) for u in units]
            compared = root | "Find comparisons" >> beam.Create(finished)
        else:
            if plan.assigned:
                handle = FittedKMeans(kmeans.centroids_uri(job.kmeans_dir), plan.assigned["centroids"])
                fitted = root | "Find centroids" >> beam.Create([handle])
                found = root | "Find assigned rows" >> FindAssigned(
                    job, [storage.join(job.kmeans_dir, "segments", name) for name in plan.assigned["files"]]
                )
            else:
                units = root | "List input" >> beam.Create(plan.units) | "Spread input" >> beam.Reshuffle()
                fitted = root | "Fit" >> (beam.Create([plan.fitted]) if plan.fitted else FitKMeans(job))
                found = units | "Assign" >> AssignCentroids(job, fitted)
            compared = found | "Compare" >> PairwiseSimilarity(job, fitted)
        if job.parameters.eps is None:
            return compared
        return compared | "Identify duplicates" >> IdentifyDuplicates(job)


class _Assign(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job
        self._read = Metrics.counter("semdedup", "rows-read")
        self._rejected = Metrics.counter("semdedup", "rows-rejected")

    def process(self, unit: InputUnit, fitted: FittedKMeans) -> Iterator[AssignedUnit]:
        assigned = stages.assign_unit(self._job, unit, fitted)
        self._read.inc(assigned.num_rows)
        self._rejected.inc(assigned.rejected)
        yield assigned


class _Compare(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job
        self._compared = Metrics.counter("semdedup", "rows-compared")

    def process(self, unit: PairwiseUnit, fitted: FittedKMeans) -> Iterator[ComparedUnit]:
        compared = stages.compare_unit(self._job, unit, fitted)
        self._compared.inc(compared.num_rows)
        yield compared


class _Finish(beam.PTransform):
    """Writes the manifest of a stage when all of its units are there, even where there are none."""

    def __init__(self, write: Any, job: Job, fitted: PCollection[FittedKMeans]) -> None:
        super().__init__()
        self._write, self._job, self._fitted = write, job, fitted

    def expand(self, units: PCollection[Any]) -> PCollection[None]:
        write, job = self._write, self._job
        return (
            units.pipeline
            | "End" >> beam.Create([0])
            | "Write manifest"
            >> beam.Map(lambda _, found, fitted: write(job, found, fitted), AsIter(units), AsSingleton(self._fitted))
        )


def _largest_first(found: Iterable[Segment]) -> list[Segment]:
    """In the order in which a runner that deals keys out to its workers in turn gives each about the same work."""
    return sorted(found, key=lambda segment: -segment.num_rows)


def _write_assigned(job: Job, units: Iterable[AssignedUnit], fitted: FittedKMeans) -> None:
    units = sorted(units, key=lambda u: u.path)
    manifest = {
        "centroids": fitted.content_hash,
        "width": job.width,
        "files": [_name(u.path) for u in units],
        "num_rows": sum(u.num_rows for u in units),
        "rejected": sum(u.rejected for u in units),
        **_done(units),
    }
    stages.write_manifest(job.kmeans_dir, manifest, job.cache_options)


def _write_compared(job: Job, units: Iterable[ComparedUnit], fitted: FittedKMeans) -> None:
    units = sorted(units, key=lambda u: u.path)
    manifest = {
        "centroids": fitted.content_hash,
        "units": [dataclasses.astuple(dataclasses.replace(u, path=_name(u.path))) for u in units],
        "num_rows": sum(u.num_rows for u in units),
        "largest_cluster": max((u.largest_cluster for u in units), default=0),
        "repeated_ids": sum(u.repeated_ids for u in units),
        "examples": [example for u in units for example in u.examples][:5],
        "pairs_done": sum(u.pairs for u in units if not u.reused),
        **_done(units),
    }
    stages.write_manifest(job.pairwise_dir, manifest, job.cache_options)


def _done(units: Iterable[Any]) -> dict[str, int]:
    """How much of a stage was computed, and how much found."""
    fresh = [u.num_rows for u in units if not u.reused]
    return {"units_done": len(fresh), "units_reused": sum(u.reused for u in units), "rows_done": sum(fresh)}


def _name(path: str) -> str:
    """The last part of a path: a manifest names its files so, and its directory may be moved."""
    return path.rsplit("/", 1)[-1]


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    """The names and types of a dataclass's fields; empty for any other type. There are millions of references."""
    return typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}


def _to_list(value: Any) -> Any:
    """A dataclass as a list of its values, with lists in place of the dataclasses and tuples within."""
    if isinstance(value, tuple):
        return [_to_list(item) for item in value]
    kind: Any = type(value)
    names = _fields(kind)
    return [_to_list(getattr(value, name)) for name in names] if names else value


def _from_list(kind: Any, values: Any) -> Any:
    """`values`, as JSON gives it back, as an instance of a dataclass, a tuple of them, or itself."""
    fields = _fields(kind)
    if fields:
        return kind(*(_from_list(hint, value) for hint, value in zip(fields.values(), values, strict=True)))
    if typing.get_origin(kind) is tuple:
        return tuple(_from_list(typing.get_args(kind)[0], value) for value in values)
    return values
