"""The pipeline as Beam transforms. They wire; what a unit does stands in `stages`.

No vector crosses an edge: the elements are small frozen dataclasses that say where vectors are, each with the
coder registered here.
"""
# Without `from __future__ import annotations`: Beam reads the type hints of transforms.

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsIter, AsSingleton, PBegin, PCollection

from beam_semdedup.coders import register
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.planning import Plan
from beam_semdedup.plan.stored import PairwiseResult
from beam_semdedup.stages import assign, duplicates, fit, index, matches, pairwise, recall, sample, visits
from beam_semdedup.stages.assign import AssignResult
from beam_semdedup.stages.duplicates import DuplicatesFile
from beam_semdedup.stages.matches import MatchUnit
from beam_semdedup.stages.pairwise import PairwiseUnit
from beam_semdedup.stages.recall import RecallUnit
from beam_semdedup.stages.sample import Sample, SampleFile
from beam_semdedup.storage.layout import CENTROIDS
from beam_semdedup.storage.segments import ROWS, Segment, SegmentFile

ELEMENTS = (
    AssignUnit,
    FittedKMeans,
    SegmentFile,
    AssignResult,
    Segment,
    PairwiseUnit,
    MatchUnit,
    PairwiseResult,
    SampleFile,
    RecallUnit,
    DuplicatesFile,
)
"""Every type that crosses a Beam edge, besides integers and pairs."""

register(*ELEMENTS)

Jobs: TypeAlias = Job | PCollection[Job]
"""The job of the run; in a stream, whose windows are generations, the job of each."""


@dataclasses.dataclass
class FitKMeans(beam.PTransform):
    """Fits the centroids, once; gives a PCollection of one `FittedKMeans`, to be used as a side input."""

    job: Job

    def expand(self, root: PBegin) -> PCollection[FittedKMeans]:
        """Starts at the root of the pipeline."""
        job = self.job
        return (
            root
            | "Start" >> beam.Create([0])
            | "Fit KMeans" >> beam.Map(lambda _: fit.fit_centroids(job)).with_output_types(FittedKMeans)
            | "Fit once" >> beam.Reshuffle()
        )


@dataclasses.dataclass
class AssignCentroids(beam.PTransform):
    """Turns `AssignUnit`s into the `SegmentFile`s that their rows are written to, each with its nearest centroid.

    With `n_probes` above 1, also into those of the rows' visits.

    Attributes:
        finished: has an element when the manifest is written.
    """

    job: Jobs
    fitted: PCollection[FittedKMeans]
    finished: PCollection[None] = dataclasses.field(init=False)

    def expand(self, units: PCollection[AssignUnit]) -> PCollection[SegmentFile]:
        """Wires what the class says."""
        given = _side(self.job), AsSingleton(self.fitted)
        assigned = units | "Assign nearest centroid" >> beam.ParDo(_Assign(), *given)
        self.finished = assigned | "Finish assignment" >> Finish(assign.finish, self.job, self.fitted)
        return assigned | "Visit clusters" >> beam.ParDo(_Visit(), *given)


@dataclasses.dataclass
class FindAssigned(beam.PTransform):
    """Gives what `AssignCentroids` does from the files that the manifests of finished assign stages name.

    Each with the number of the generation that it is of, the job's own or an earlier one.
    """

    job: Jobs
    fitted: PCollection[FittedKMeans]

    def expand(self, files: PCollection[tuple[int, str]]) -> PCollection[SegmentFile]:
        """Wires what the class says."""
        return (
            files
            | "Spread segment files" >> beam.Reshuffle()
            | "Find segment files" >> beam.ParDo(_FindAssigned(), _side(self.job), AsSingleton(self.fitted))
        )


@dataclasses.dataclass
class IndexByKey(beam.PTransform):
    """Turns `SegmentFile`s into a `Segment` for each key: where an index says what the files have of it."""

    job: Jobs

    def expand(self, files: PCollection[SegmentFile]) -> PCollection[Segment]:
        """Wires what the class says."""
        given = _side(self.job), AsIter(files)
        return (
            _once(self.job, files)
            | "Plan index"
            >> beam.FlatMap(lambda _, job, files: index.key_ranges(job, files), *given).with_output_types(
                tuple[int, int]
            )
            | "Spread index" >> beam.Reshuffle()
            | "Index segments"
            >> beam.FlatMap(lambda keys, job, files: index.index_keys(job, keys, files), *given).with_output_types(
                Segment
            )
        )


@dataclasses.dataclass
class PairwiseSimilarity(beam.PTransform):
    """Turns `SegmentFile`s into `PairwiseResult`s: files with the most similar earlier-ranked row of each row.

    Attributes:
        keys: where the rows of each key lie.
        finished: has an element when the manifest is written.
    """

    job: Jobs
    fitted: PCollection[FittedKMeans]
    keys: PCollection[Segment] = dataclasses.field(init=False)
    finished: PCollection[None] = dataclasses.field(init=False)

    def expand(self, files: PCollection[SegmentFile]) -> PCollection[PairwiseResult]:
        """Wires what the class says."""
        job = _side(self.job)
        self.keys = files | "Index" >> IndexByKey(self.job)
        compared = (
            self.keys
            | "Plan comparisons"
            >> beam.FlatMap(lambda key, job: pairwise.pairwise_units(job, key), job).with_output_types(PairwiseUnit)
            | "Spread comparisons" >> beam.Reshuffle()
            | "Compare within clusters" >> beam.ParDo(_Compare(), job, AsSingleton(self.fitted))
        )
        self.finished = compared | "Finish comparison" >> Finish(pairwise.finish, self.job, self.fitted)
        return compared


@dataclasses.dataclass
class MatchAcrossClusters(beam.PTransform):
    """Turns `SegmentFile`s of rows and of visits into `PairwiseResult`s: the most similar earlier row of the dataset.

    Attributes:
        keys: where the rows and the visits of each key lie.
        finished: has an element when the manifest is written.
    """

    job: Jobs
    fitted: PCollection[FittedKMeans]
    keys: PCollection[Segment] = dataclasses.field(init=False)
    finished: PCollection[None] = dataclasses.field(init=False)

    def expand(self, files: PCollection[SegmentFile]) -> PCollection[PairwiseResult]:
        """Wires what the class says."""
        given = _side(self.job), AsSingleton(self.fitted)
        self.keys = files | "Index" >> IndexByKey(self.job)
        matched = (
            self.keys
            | "Plan comparisons"
            >> beam.FlatMap(lambda key, job: matches.match_units(job, key), given[0]).with_output_types(MatchUnit)
            | "Spread comparisons" >> beam.Reshuffle()
            | "Compare with visitors" >> beam.ParDo(_Match(), *given)
        )
        rows = files | "Rows alone" >> beam.Filter(lambda file: file.kind == ROWS).with_output_types(SegmentFile)
        merged = (
            (rows, matched)
            | "Rows and matches" >> beam.Flatten()
            | "Index matches" >> IndexByKey(self.job)
            | "Spread keys" >> beam.Reshuffle()
            | "Merge matches" >> beam.ParDo(_Merge(), *given)
        )
        self.finished = merged | "Finish comparison" >> Finish(pairwise.finish, self.job, self.fitted)
        return merged


@dataclasses.dataclass
class EstimateRecall(beam.PTransform):
    """Turns the `Segment` of each key into a `RecallUnit`: what a sample of the `compared` rows has in the dataset."""

    job: Job
    fitted: PCollection[FittedKMeans]
    compared: PCollection[PairwiseResult]

    def expand(self, keys: PCollection[Segment]) -> PCollection[RecallUnit]:
        """Wires what the class says."""
        job = self.job
        drawn = (
            keys.pipeline
            | "Sample" >> beam.Create([0])
            | "Collect sample"
            >> beam.Map(
                lambda _, units, fitted: sample.collect(job, units, fitted),
                AsIter(self.compared),
                AsSingleton(self.fitted),
            ).with_output_types(SampleFile)
        )
        searched = (
            keys
            | "Spread keys" >> beam.Reshuffle()
            | "Compare with sample" >> beam.ParDo(_Search(job), AsSingleton(drawn), AsSingleton(self.fitted))
        )
        _ = searched | "Finish recall" >> Finish(recall.finish, job, drawn, self.fitted)
        return searched


@dataclasses.dataclass
class IdentifyDuplicates(beam.PTransform):
    """Turns `PairwiseResult`s into the `DuplicatesFile`s with the rows whose score reaches 1 - eps."""

    job: Jobs

    def expand(self, compared: PCollection[PairwiseResult]) -> PCollection[DuplicatesFile]:
        """Wires what the class says."""
        job = _side(self.job)
        return (
            compared
            | "Key by output file"
            >> beam.Map(lambda unit, job: (duplicates.number_of_file(job, unit), unit), job).with_output_types(
                tuple[int, PairwiseResult]
            )
            | "Group by output file" >> beam.GroupByKey()
            | "Apply eps"
            >> beam.Map(
                lambda group, job: duplicates.select_duplicates(job, group[0], list(group[1])), job
            ).with_output_types(DuplicatesFile)
        )


@dataclasses.dataclass
class SemanticDedup(beam.PTransform):
    """Runs the whole pipeline of a plan, without the stages that the cache holds; a root transform.

    It writes into the plan's cache and into `duplicates/`. Clearing an earlier run's results, the check that
    no row was lost, and `summary.json` are the part of `SemanticDeduplicationWorkflow.run`.

    Returns the `DuplicatesFile`s, or the `PairwiseResult`s where `eps` is null.
    """

    plan: Plan

    def expand(self, root: PBegin) -> PCollection[Any]:
        """Starts at the root of the pipeline."""
        job, plan = self.plan.job, self.plan
        if not (plan.comparisons and plan.has_recall):
            if plan.assign_manifest:
                handle = FittedKMeans(job.model.file(CENTROIDS).url, plan.assign_manifest.centroids)
                fitted = root | "Find centroids" >> beam.Create([handle])
            else:
                fitted = root | "Fit" >> (beam.Create([plan.fitted]) if plan.fitted else FitKMeans(job))
            found = _assigned(root, plan, fitted)
        if plan.comparisons:
            compared = root | "Find comparisons" >> beam.Create(plan.comparisons.units)
        else:
            if plan.references:
                references = _assigned(root, plan.references, fitted, "references")
                found = (found, references) | "With references" >> beam.Flatten()
            if plan.earlier:
                listed = root | "List earlier generations" >> beam.Create(plan.earlier)
                earlier = listed | "Find earlier generations" >> FindAssigned(job, fitted)
                found = (found, earlier) | "With earlier generations" >> beam.Flatten()
            compare: Any = (MatchAcrossClusters if job.has_visits else PairwiseSimilarity)(job, fitted)
            compared = found | "Compare" >> compare
        if not plan.has_recall:
            keys = found | "Index" >> IndexByKey(job) if plan.comparisons else compare.keys
            _ = keys | "Estimate recall" >> EstimateRecall(job, fitted, compared)
        if job.parameters.eps is None:
            return compared
        return compared | "Identify duplicates" >> IdentifyDuplicates(job)


def _assigned(root: PBegin, plan: Plan, fitted: PCollection[FittedKMeans], rows: str = "") -> PCollection[SegmentFile]:
    """Assigns the rows of a plan, or finds them assigned; `rows` is what they are if not the input's."""
    if plan.assign_manifest:
        files = [(plan.job.generation, name) for name in plan.assign_manifest.files]
        named = root | f"List assigned {rows or 'rows'}" >> beam.Create(files)
        return named | f"Find assigned {rows or 'rows'}" >> FindAssigned(plan.job, fitted)
    listed = root | f"List {rows or 'input'}" >> beam.Create(plan.units)
    units = listed | f"Spread {rows or 'input'}" >> beam.Reshuffle()
    return units | f"Assign {rows}".rstrip() >> AssignCentroids(plan.job, fitted)


class _Assign(beam.DoFn):
    def __init__(self) -> None:
        self._read = Metrics.counter("semdedup", "rows-read")
        self._rejected = Metrics.counter("semdedup", "rows-rejected")

    def process(self, unit: AssignUnit, job: Job, fitted: FittedKMeans) -> Iterator[AssignResult]:
        assigned = assign.assign_unit(job, unit, fitted)
        self._read.inc(assigned.num_rows)
        self._rejected.inc(assigned.rejected)
        yield assigned


class _Visit(beam.DoFn):
    def process(self, assigned: AssignResult, job: Job, fitted: FittedKMeans) -> Iterator[SegmentFile]:
        yield from _with_visits(job, assigned.file, fitted)


class _FindAssigned(beam.DoFn):
    def process(self, file: tuple[int, str], job: Job, fitted: FittedKMeans) -> Iterator[SegmentFile]:
        generation, name = file
        at = job.at(generation)
        yield from _with_visits(at, assign.find_assigned(at, name).file, fitted)


def _with_visits(job: Job, rows: SegmentFile, fitted: FittedKMeans) -> Iterator[SegmentFile]:
    """Yields a file of rows, and those with their visits where they make some."""
    yield rows
    if job.has_visits:
        yield from visits.visit_clusters(job, rows, fitted)


class _Match(beam.DoFn):
    def process(self, unit: MatchUnit, job: Job, fitted: FittedKMeans) -> Iterator[SegmentFile]:
        yield matches.find_matches(job, unit, fitted)


class _Merge(beam.DoFn):
    def __init__(self) -> None:
        self._compared = Metrics.counter("semdedup", "rows-compared")

    def process(self, key: Segment, job: Job, fitted: FittedKMeans) -> Iterator[PairwiseResult]:
        merged = matches.merge_matches(job, key, fitted)
        self._compared.inc(merged.num_rows)
        yield merged


class _Search(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job
        self._sample: tuple[SampleFile, Sample] | None = None

    def process(self, key: Segment, drawn: SampleFile, fitted: FittedKMeans) -> Iterator[RecallUnit]:
        if self._sample is None or self._sample[0] != drawn:
            self._sample = drawn, sample.load(self._job, drawn, fitted)
        yield recall.search_key(self._job, key, *self._sample, fitted)


class _Compare(beam.DoFn):
    def __init__(self) -> None:
        self._compared = Metrics.counter("semdedup", "rows-compared")

    def process(self, unit: PairwiseUnit, job: Job, fitted: FittedKMeans) -> Iterator[PairwiseResult]:
        compared = pairwise.compare_unit(job, unit, fitted)
        self._compared.inc(compared.num_rows)
        yield compared


class Finish(beam.PTransform):
    """Writes the manifest of a stage when all of its units are there, even where there are none.

    Args:
        write: takes the job, the units, and what the PCollections `others` hold, one element each.
        job: in a stream a PCollection of that of each window.
    """

    def __init__(self, write: Callable[..., None], job: Any, *others: PCollection[Any]) -> None:
        super().__init__()
        self._write, self._job, self._others = write, job, others

    def expand(self, units: PCollection[Any]) -> PCollection[None]:
        """See the class."""
        write = self._write

        def finish(_: Any, *given: Any) -> None:
            with naming_unit("the end of the stage"):
                write(*given)

        given = _side(self._job), AsIter(units), *map(AsSingleton, self._others)
        return _once(self._job, units) | "Write manifest" >> beam.Map(finish, *given)


def _side(job: Any) -> Any:
    """Returns what a transform is given for its functions to get the job, or that of the window of an element."""
    return AsSingleton(job) if isinstance(job, PCollection) else job


def _once(job: Any, others: PCollection[Any]) -> PCollection[Any]:
    """Returns one element; in a stream one in each window."""
    return job if isinstance(job, PCollection) else others.pipeline | "Once" >> beam.Create([0])
