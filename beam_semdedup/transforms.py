"""The pipeline as Beam transforms. They wire; what a unit does stands in `stages`.

No vector crosses an edge: the elements are small frozen dataclasses that say where vectors are, each with the
coder registered here.
"""
# Without `from __future__ import annotations`: Beam reads the type hints of transforms.

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeAlias, TypeVar

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsIter, AsSingleton, PBegin, PCollection
from apache_beam.transforms.window import BoundedWindow
from apache_beam.typehints import typehints

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
from beam_semdedup.stages.index import IndexUnit
from beam_semdedup.stages.matches import MatchUnit
from beam_semdedup.stages.pairwise import PairwiseUnit
from beam_semdedup.stages.recall import RecallUnit
from beam_semdedup.stages.refit import RefitJob
from beam_semdedup.stages.sample import Sample, SampleFile
from beam_semdedup.storage.layout import CENTROIDS
from beam_semdedup.storage.segments import ROWS, Segment, SegmentFile

ELEMENTS = (
    AssignUnit,
    FittedKMeans,
    AssignResult,
    SegmentFile,
    IndexUnit,
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

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class OfWindow(Generic[_T]):
    """Something that each window of a stream has its own of.

    It is no side input, as Flink holds the watermark back behind those of windows: what is grouped downstream would
    wait for ever.

    Attributes:
        find: returns that of a window; called for each element.
        windows: has an element in each window.
    """

    find: Callable[[BoundedWindow], _T]
    windows: PCollection[Any]


Jobs: TypeAlias = Job | OfWindow[Job]
"""The job of the run; in a stream, whose windows are generations, the job of each."""
Fitted: TypeAlias = PCollection[FittedKMeans] | OfWindow[FittedKMeans]
"""The handle of the centroids, once they are fitted."""


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
    fitted: Fitted
    finished: PCollection[None] = dataclasses.field(init=False)

    def expand(self, units: PCollection[AssignUnit]) -> PCollection[SegmentFile]:
        """Wires what the class says."""
        given = self.job, self.fitted
        assigned = units | "Assign nearest centroid" >> _each(_assign, *given).with_output_types(AssignResult)
        self.finished = assigned | "Finish assignment" >> Finish(assign.finish, self.job, self.fitted)
        return assigned | "Visit clusters" >> _each(_visit, *given).with_output_types(SegmentFile)


@dataclasses.dataclass
class FindAssigned(beam.PTransform):
    """Gives what `AssignCentroids` does from the files that the manifests of finished assign stages name.

    Each with the number of the generation that it is of, the job's own or an earlier one.
    """

    job: Jobs
    fitted: Fitted

    def expand(self, files: PCollection[tuple[int, str]]) -> PCollection[SegmentFile]:
        """Wires what the class says."""
        return (
            files
            | "Spread segment files" >> beam.Reshuffle()
            | "Find segment files" >> _each(_find_assigned, self.job, self.fitted).with_output_types(SegmentFile)
        )


@dataclasses.dataclass
class IndexByKey(beam.PTransform):
    """Turns `SegmentFile`s into a `Segment` for each key: where an index says what the files have of it."""

    job: Jobs

    def expand(self, files: PCollection[SegmentFile]) -> PCollection[Segment]:
        """Wires what the class says."""
        return (
            files
            | "Files" >> Together(_once(self.job, files))
            | "Plan index" >> _each(_plan_index, self.job).with_output_types(IndexUnit)
            | "Spread index" >> beam.Reshuffle()
            | "Index segments" >> _each(_index_keys, self.job).with_output_types(Segment)
        )


@dataclasses.dataclass
class PairwiseSimilarity(beam.PTransform):
    """Turns `SegmentFile`s into `PairwiseResult`s: files with the most similar earlier-ranked row of each row.

    Attributes:
        keys: where the rows of each key lie.
        finished: has an element when the manifest is written.
    """

    job: Jobs
    fitted: Fitted
    keys: PCollection[Segment] = dataclasses.field(init=False)
    finished: PCollection[None] = dataclasses.field(init=False)

    def expand(self, files: PCollection[SegmentFile]) -> PCollection[PairwiseResult]:
        """Wires what the class says."""
        self.keys = files | "Index" >> IndexByKey(self.job)
        compared = (
            self.keys
            | "Plan comparisons" >> _each(_plan_comparisons, self.job).with_output_types(PairwiseUnit)
            | "Spread comparisons" >> beam.Reshuffle()
            | "Compare within clusters" >> _each(_compare, self.job, self.fitted).with_output_types(PairwiseResult)
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
    fitted: Fitted
    keys: PCollection[Segment] = dataclasses.field(init=False)
    finished: PCollection[None] = dataclasses.field(init=False)

    def expand(self, files: PCollection[SegmentFile]) -> PCollection[PairwiseResult]:
        """Wires what the class says."""
        given = self.job, self.fitted
        self.keys = files | "Index" >> IndexByKey(self.job)
        matched = (
            self.keys
            | "Plan comparisons" >> _each(_plan_matches, self.job).with_output_types(MatchUnit)
            | "Spread comparisons" >> beam.Reshuffle()
            | "Compare with visitors" >> _each(_match, *given).with_output_types(SegmentFile)
        )
        rows = files | "Rows alone" >> beam.Filter(lambda file: file.kind == ROWS).with_output_types(SegmentFile)
        merged = (
            (rows, matched)
            | "Rows and matches" >> beam.Flatten()
            | "Index matches" >> IndexByKey(self.job)
            | "Spread keys" >> beam.Reshuffle()
            | "Merge matches" >> _each(_merge, *given).with_output_types(PairwiseResult)
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
        return (
            compared
            | "Key by output file"
            >> _each(lambda unit, job: [(duplicates.number_of_file(job, unit), unit)], self.job).with_output_types(
                tuple[int, PairwiseResult]
            )
            | "Group by output file" >> beam.GroupByKey()
            | "Apply eps"
            >> _each(
                lambda group, job: [duplicates.select_duplicates(job, group[0], list(group[1]))], self.job
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
            if plan.references:
                references = _assigned(root, plan.references, fitted, "references")
                found = (found, references) | "With references" >> beam.Flatten()
            if plan.earlier:
                listed = root | "List earlier generations" >> beam.Create(plan.earlier, reshuffle=False)
                earlier = listed | "Find earlier generations" >> FindAssigned(job, fitted)
                found = (found, earlier) | "With earlier generations" >> beam.Flatten()
        if plan.comparisons:
            compared = root | "Find comparisons" >> beam.Create(plan.comparisons.units)
        else:
            compare: Any = (MatchAcrossClusters if job.has_visits else PairwiseSimilarity)(job, fitted)
            compared = found | "Compare" >> compare
        if not plan.has_recall:
            keys = found | "Index" >> IndexByKey(job) if plan.comparisons else compare.keys
            _ = keys | "Estimate recall" >> EstimateRecall(job, fitted, compared)
        if job.parameters.eps is None:
            return compared
        return compared | "Identify duplicates" >> IdentifyDuplicates(job)


@dataclasses.dataclass
class Refit(beam.PTransform):
    """Assigns the rows of a corpus to other centroids; a root transform.

    Gives the names of the segment files that it wrote.

    Attributes:
        units: the generation and the name of each segment file.
    """

    job: RefitJob
    units: list[tuple[int, str]]

    def expand(self, root: PBegin) -> PCollection[str]:
        """Starts at the root of the pipeline."""
        listed = root | "List segment files" >> beam.Create(self.units, reshuffle=False)
        spread = listed | "Spread segment files" >> beam.Reshuffle()
        return spread | "Assign anew" >> beam.MapTuple(self.job.assign_anew).with_output_types(str)


def _assigned(root: PBegin, plan: Plan, fitted: PCollection[FittedKMeans], rows: str = "") -> PCollection[SegmentFile]:
    """Assigns the rows of a plan, or finds them assigned; `rows` is what they are if not the input's."""
    if plan.assign_manifest:
        files = [(plan.job.generation, name) for name in plan.assign_manifest.files]
        named = root | f"List assigned {rows or 'rows'}" >> beam.Create(files, reshuffle=False)
        return named | f"Find assigned {rows or 'rows'}" >> FindAssigned(plan.job, fitted)
    listed = root | f"List {rows or 'input'}" >> beam.Create(plan.units, reshuffle=False)
    units = listed | f"Spread {rows or 'input'}" >> beam.Reshuffle()
    return units | f"Assign {rows}".rstrip() >> AssignCentroids(plan.job, fitted)


def _assign(unit: AssignUnit, job: Job, fitted: FittedKMeans) -> Iterator[AssignResult]:
    assigned = assign.assign_unit(job, unit, fitted)
    _count("rows-read", assigned.num_rows)
    _count("rows-rejected", assigned.rejected)
    yield assigned


def _visit(assigned: AssignResult, job: Job, fitted: FittedKMeans) -> Iterator[SegmentFile]:
    yield from _with_visits(job, assigned.file, fitted)


def _find_assigned(file: tuple[int, str], job: Job, fitted: FittedKMeans) -> Iterator[SegmentFile]:
    generation, name = file
    at = job.at(generation)
    yield from _with_visits(at, assign.find_assigned(at, name).file, fitted)


def _with_visits(job: Job, rows: SegmentFile, fitted: FittedKMeans) -> Iterator[SegmentFile]:
    """Yields a file of rows, and those with their visits where they make some."""
    yield rows
    if job.has_visits:
        yield from visits.visit_clusters(job, rows, fitted)


def _plan_index(files: list[SegmentFile], job: Job) -> Iterable[IndexUnit]:
    return index.plan_index(job, files)


def _index_keys(unit: IndexUnit, job: Job) -> Iterable[Segment]:
    return index.index_keys(job, unit)


def _plan_comparisons(key: Segment, job: Job) -> Iterable[PairwiseUnit]:
    return pairwise.pairwise_units(job, key)


def _plan_matches(key: Segment, job: Job) -> Iterable[MatchUnit]:
    return matches.match_units(job, key)


def _compare(unit: PairwiseUnit, job: Job, fitted: FittedKMeans) -> Iterator[PairwiseResult]:
    compared = pairwise.compare_unit(job, unit, fitted)
    _count("rows-compared", compared.num_rows)
    yield compared


def _match(unit: MatchUnit, job: Job, fitted: FittedKMeans) -> Iterator[SegmentFile]:
    yield matches.find_matches(job, unit, fitted)


def _merge(key: Segment, job: Job, fitted: FittedKMeans) -> Iterator[PairwiseResult]:
    merged = matches.merge_matches(job, key, fitted)
    if merged is not None:
        _count("rows-compared", merged.num_rows)
        yield merged


class _Search(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job
        self._sample: tuple[SampleFile, Sample] | None = None

    def process(self, key: Segment, drawn: SampleFile, fitted: FittedKMeans) -> Iterator[RecallUnit]:
        if self._sample is None or self._sample[0] != drawn:
            self._sample = drawn, sample.load(self._job, drawn, fitted)
        yield recall.search_key(self._job, key, *self._sample, fitted)


class Together(beam.PTransform):
    """Gives the elements as one list, once they and those of `others` are all there; in a stream those of a window.

    Where there are no elements the list is empty, if there is any of `others`.
    """

    def __init__(self, *others: PCollection[Any]) -> None:
        super().__init__()
        self._others = others

    def expand(self, elements: PCollection[Any]) -> PCollection[list[Any]]:
        """See the class."""
        many = typehints.List[elements.element_type]
        kind = typehints.Tuple[int, many]
        keyed = [elements | "Elements" >> beam.Map(lambda element: (0, [element])).with_output_types(kind)]
        for number, other in enumerate(self._others):
            keyed.append(other | f"Others {number}" >> beam.Map(lambda _: (0, [])).with_output_types(kind))
        return (
            keyed
            | beam.Flatten()
            | "Gather" >> beam.GroupByKey()
            | "List" >> beam.MapTuple(lambda _, lists: list(itertools.chain(*lists))).with_output_types(many)
        )


class Finish(beam.PTransform):
    """Writes the manifest of a stage when all of its units are there, even where there are none.

    Args:
        write: takes the job, the units, and what `others` are, each of one element or of a window.
        job: in a stream that of each window.
    """

    def __init__(self, write: Callable[..., None], job: Any, *others: Any) -> None:
        super().__init__()
        self._write, self._job, self._others = write, job, others

    def expand(self, units: PCollection[Any]) -> PCollection[None]:
        """See the class."""
        write, job = self._write, self._job

        def finish(found: list[Any], job: Any, *given: Any) -> Iterator[None]:
            with naming_unit("the end of the stage"):
                write(job, found, *given)
            yield None

        return units | "Units" >> Together(_once(job, units)) | "Write manifest" >> _each(finish, job, *self._others)


def _each(function: Callable[..., Iterable[Any]], *given: Any) -> beam.ParDo:
    """Gives the results of a function of each element and of what is given.

    That is a constant, the element of a PCollection that has one, or what there is of the window.
    """
    if any(isinstance(value, OfWindow) for value in given):
        return beam.ParDo(_InWindow(function, [value.find for value in given]))
    return beam.ParDo(function, *(AsSingleton(g) if isinstance(g, PCollection) else g for g in given))


class _InWindow(beam.DoFn):
    def __init__(self, function: Callable[..., Iterable[Any]], given: list[Callable[[BoundedWindow], Any]]) -> None:
        self._function, self._given = function, given

    def process(self, element: Any, window: Any = beam.DoFn.WindowParam) -> Iterable[Any]:
        return self._function(element, *(find(window) for find in self._given))


def _count(name: str, number: int) -> None:
    Metrics.counter("semdedup", name).inc(number)


def _once(job: Any, others: PCollection[Any]) -> PCollection[Any]:
    """Returns one element; in a stream one in each window."""
    return job.windows if isinstance(job, OfWindow) else others.pipeline | "Once" >> beam.Create([0])
