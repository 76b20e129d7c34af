"""The pipeline as Beam transforms. They wire; what a unit does stands in `stages`.

No vector crosses an edge: the elements are small frozen dataclasses that say where vectors are, each with the
coder registered here.
"""
# Without `from __future__ import annotations`: Beam reads the type hints of transforms.

import dataclasses
from collections.abc import Callable, Iterable, Iterator
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
from beam_semdedup.stages import assign, duplicates, fit, matches, pairwise, recall, sample, visits
from beam_semdedup.stages.assign import AssignResult
from beam_semdedup.stages.duplicates import DuplicatesFile
from beam_semdedup.stages.matches import MatchUnit
from beam_semdedup.stages.pairwise import PairwiseUnit
from beam_semdedup.stages.recall import RecallUnit
from beam_semdedup.stages.sample import Sample, SampleFile
from beam_semdedup.storage.layout import CENTROIDS
from beam_semdedup.storage.segments import ROWS, Segment

ELEMENTS = (
    AssignUnit,
    FittedKMeans,
    Segment,
    AssignResult,
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
    """Turns `AssignUnit`s into the `Segment`s that their rows are written to, each row with its nearest centroid.

    With `n_probes` above 1, also into those of the rows' visits.

    Attributes:
        finished: has an element when the manifest is written.
    """

    job: Jobs
    fitted: PCollection[FittedKMeans]
    finished: PCollection[None] = dataclasses.field(init=False)

    def expand(self, units: PCollection[AssignUnit]) -> PCollection[Segment]:
        """Wires what the class says."""
        given = _side(self.job), AsSingleton(self.fitted)
        assigned = units | "Assign nearest centroid" >> beam.ParDo(_Assign(), *given)
        without = assigned | "Drop references" >> beam.Map(
            lambda unit: dataclasses.replace(unit, segments=())
        ).with_output_types(AssignResult)
        self.finished = without | "Finish assignment" >> Finish(assign.finish, self.job, self.fitted)
        return assigned | "Address segments" >> beam.ParDo(_Address(), *given)


@dataclasses.dataclass
class FindAssigned(beam.PTransform):
    """Gives what `AssignCentroids` does from the files that the manifests of finished assign stages name.

    Each with the number of the generation that it is of, the job's own or an earlier one.
    """

    job: Jobs
    fitted: PCollection[FittedKMeans]

    def expand(self, files: PCollection[tuple[int, str]]) -> PCollection[Segment]:
        """Wires what the class says."""
        return (
            files
            | "Spread segment files" >> beam.Reshuffle()
            | "Read references" >> beam.ParDo(_FindAssigned(), _side(self.job), AsSingleton(self.fitted))
        )


@dataclasses.dataclass
class PairwiseSimilarity(beam.PTransform):
    """Turns `Segment`s into `PairwiseResult`s: files with the most similar earlier-ranked row of each row.

    Attributes:
        finished: has an element when the manifest is written.
    """

    job: Jobs
    fitted: PCollection[FittedKMeans]
    finished: PCollection[None] = dataclasses.field(init=False)

    def expand(self, references: PCollection[Segment]) -> PCollection[PairwiseResult]:
        """Wires what the class says."""
        job = _side(self.job)
        compared = (
            references
            | "Key by centroid" >> beam.Map(lambda s: (s.key, s)).with_output_types(tuple[int, Segment])
            | "Group by centroid" >> beam.GroupByKey()
            | "Plan comparisons"
            >> beam.FlatMap(
                lambda group, job: pairwise.pairwise_units(job, group[0], list(group[1])), job
            ).with_output_types(PairwiseUnit)
            | "Spread comparisons" >> beam.Reshuffle()
            | "Compare within clusters" >> beam.ParDo(_Compare(), job, AsSingleton(self.fitted))
        )
        self.finished = compared | "Finish comparison" >> Finish(pairwise.finish, self.job, self.fitted)
        return compared


@dataclasses.dataclass
class MatchAcrossClusters(beam.PTransform):
    """Turns `Segment`s of rows and of visits into `PairwiseResult`s: the most similar earlier row of the dataset.

    Attributes:
        finished: has an element when the manifest is written.
    """

    job: Jobs
    fitted: PCollection[FittedKMeans]
    finished: PCollection[None] = dataclasses.field(init=False)

    def expand(self, references: PCollection[Segment]) -> PCollection[PairwiseResult]:
        """Wires what the class says."""
        given = _side(self.job), AsSingleton(self.fitted)
        matched = (
            references
            | "Key by visited centroid" >> beam.Map(lambda s: (s.key, s)).with_output_types(tuple[int, Segment])
            | "Group by visited centroid" >> beam.GroupByKey()
            | "Plan comparisons"
            >> beam.FlatMap(lambda group, job: matches.match_units(job, *group), given[0]).with_output_types(MatchUnit)
            | "Spread comparisons" >> beam.Reshuffle()
            | "Compare with visitors" >> beam.ParDo(_Match(), *given)
        )
        rows = references | "Rows alone" >> beam.Filter(lambda s: s.kind == ROWS).with_output_types(Segment)
        merged = (
            (rows, matched)
            | beam.Flatten()
            | "Key by centroid" >> beam.Map(lambda s: (s.key, s)).with_output_types(tuple[int, Segment])
            | "Group by centroid" >> beam.GroupByKey()
            | "Merge matches" >> beam.ParDo(_Merge(), *given)
        )
        self.finished = merged | "Finish comparison" >> Finish(pairwise.finish, self.job, self.fitted)
        return merged


@dataclasses.dataclass
class EstimateRecall(beam.PTransform):
    """Turns `Segment`s into `RecallUnit`s: what a sample of the `compared` rows has in the whole dataset."""

    job: Job
    fitted: PCollection[FittedKMeans]
    compared: PCollection[PairwiseResult]

    def expand(self, references: PCollection[Segment]) -> PCollection[RecallUnit]:
        """Wires what the class says."""
        job = self.job
        drawn = (
            references.pipeline
            | "Sample" >> beam.Create([0])
            | "Collect sample"
            >> beam.Map(
                lambda _, units, fitted: sample.collect(job, units, fitted),
                AsIter(self.compared),
                AsSingleton(self.fitted),
            ).with_output_types(SampleFile)
        )
        searched = (
            references
            | "Rows alone" >> beam.Filter(lambda s: s.kind == ROWS).with_output_types(Segment)
            | "Key by centroid" >> beam.Map(lambda s: (s.key, s)).with_output_types(tuple[int, Segment])
            | "Group by centroid" >> beam.GroupByKey()
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
                listed = root | "List earlier generations" >> beam.Create(plan.earlier, reshuffle=False)
                earlier = listed | "Find earlier generations" >> FindAssigned(job, fitted)
                found = (found, earlier) | "With earlier generations" >> beam.Flatten()
            compare = MatchAcrossClusters if job.has_visits else PairwiseSimilarity
            compared = found | "Compare" >> compare(job, fitted)
        if not plan.has_recall:
            _ = found | "Estimate recall" >> EstimateRecall(job, fitted, compared)
        if job.parameters.eps is None:
            return compared
        return compared | "Identify duplicates" >> IdentifyDuplicates(job)


def _assigned(root: PBegin, plan: Plan, fitted: PCollection[FittedKMeans], rows: str = "") -> PCollection[Segment]:
    """Assigns the rows of a plan, or finds them assigned; `rows` is what they are if not the input's."""
    if plan.assign_manifest:
        files = [(plan.job.generation, name) for name in plan.assign_manifest.files]
        named = root | f"List assigned {rows or 'rows'}" >> beam.Create(files, reshuffle=False)
        return named | f"Find assigned {rows or 'rows'}" >> FindAssigned(plan.job, fitted)
    listed = root | f"List {rows or 'input'}" >> beam.Create(plan.units, reshuffle=False)
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


class _Address(beam.DoFn):
    def process(self, assigned: AssignResult, job: Job, fitted: FittedKMeans) -> Iterator[Segment]:
        yield from _addressed(job, assigned.segments, fitted)


class _FindAssigned(beam.DoFn):
    def process(self, file: tuple[int, str], job: Job, fitted: FittedKMeans) -> Iterator[Segment]:
        generation, name = file
        at = job.at(generation)
        yield from _addressed(at, assign.find_assigned(at, name), fitted)


class _Match(beam.DoFn):
    def process(self, unit: MatchUnit, job: Job, fitted: FittedKMeans) -> Iterator[Segment]:
        yield from matches.find_matches(job, unit, fitted)


class _Merge(beam.DoFn):
    def __init__(self) -> None:
        self._compared = Metrics.counter("semdedup", "rows-compared")

    def process(self, parts: tuple[int, Iterable[Segment]], job: Job, fitted: FittedKMeans) -> Iterator[PairwiseResult]:
        merged = matches.merge_matches(job, *parts, fitted)
        if merged is not None:
            self._compared.inc(merged.num_rows)
            yield merged


class _Search(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job
        self._sample: tuple[SampleFile, Sample] | None = None

    def process(
        self, parts: tuple[int, Iterable[Segment]], drawn: SampleFile, fitted: FittedKMeans
    ) -> Iterator[RecallUnit]:
        key, rows = parts
        if self._sample is None or self._sample[0] != drawn:
            self._sample = drawn, sample.load(self._job, drawn, fitted)
        yield recall.search_key(self._job, key, list(rows), *self._sample, fitted)


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
        once = self._job if isinstance(self._job, PCollection) else units.pipeline | "End" >> beam.Create([0])
        return once | "Write manifest" >> beam.Map(finish, *given)


def _side(job: Any) -> Any:
    """Returns what a transform is given for its functions to get the job, or that of the window of an element."""
    return AsSingleton(job) if isinstance(job, PCollection) else job


def _addressed(job: Job, rows: tuple[Segment, ...], fitted: FittedKMeans) -> Iterator[Segment]:
    """Yields the references of an assign unit, and those of the visits of its rows where they make some."""
    yield from _largest_first(rows)
    if job.has_visits:
        yield from _largest_first(visits.visit_clusters(job, rows, fitted))


def _largest_first(found: Iterable[Segment]) -> list[Segment]:
    """Sorts the largest first: runners deal keys out to their workers in turn, so that each has about as much to do."""
    return sorted(found, key=lambda segment: -segment.num_rows)
