"""Watched inputs as Beam transforms: what arrives, and its comparison with all that arrived before."""
# Without `from __future__ import annotations`: Beam reads the type hints of transforms.

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PBegin, PCollection
from apache_beam.transforms import window
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.utils.timestamp import Duration, Timestamp

from beam_semdedup.coders import ReferenceCoder
from beam_semdedup.embed import unit
from beam_semdedup.embed.models import AnyEncoder
from beam_semdedup.embed.plan import EmbeddedUnit, InputJob
from beam_semdedup.embed.transform import Embed
from beam_semdedup.errors import naming_unit
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.stages.duplicates import DuplicatesFile
from beam_semdedup.streams.arrivals import Arrivals, Position
from beam_semdedup.streams.generation import Generation, Watched
from beam_semdedup.transforms import (
    AssignCentroids,
    FindAssigned,
    IdentifyDuplicates,
    MatchAcrossClusters,
    OfWindow,
    PairwiseSimilarity,
    Together,
)


@dataclasses.dataclass
class ReadNewFiles(beam.PTransform):
    """Gives the generations that files become which arrive at a watched input; a root transform that does not end.

    Each is an element with the number of its arrival, in seconds, as its event time, in a window of its own of one
    second. The watermark passes it once it is given, so that what is grouped downstream is whole when the window ends.
    A generation is given again after a restart until it is finished, and the next one only then.
    """

    watched: Watched
    poll_interval: float

    def expand(self, root: PBegin) -> PCollection[Generation]:
        """Starts at the root of the pipeline."""
        watched = self.watched
        return (
            root
            | "Read new files" >> ReadArrivals(watched.arrivals, self.poll_interval)
            | "Plan" >> beam.Map(_plan, watched).with_output_types(Generation)
            | "Plan once" >> beam.Reshuffle()
        )


@dataclasses.dataclass
class ReadArrivals(beam.PTransform):
    """Gives the numbers of the arrivals alone, as `ReadNewFiles` does."""

    arrivals: Arrivals
    poll_interval: float

    def expand(self, root: PBegin) -> PCollection[int]:
        """Starts at the root of the pipeline."""
        return (
            root
            | "Start" >> beam.Create([self.arrivals.first_unfinished()])
            | "Look for new files" >> beam.ParDo(_Look(self.arrivals, self.poll_interval)).with_output_types(int)
            | "A window each" >> beam.WindowInto(window.FixedWindows(1))
        )


@dataclasses.dataclass
class DeduplicateGenerations(beam.PTransform):
    """Finds the duplicates in generations: the rows that are similar to one of an earlier generation, or before them.

    Gives a `DuplicatesFile` for each, in `duplicates/generation=NNNN/`, when all results of it are written.
    """

    watched: Watched

    def expand(self, generations: PCollection[Generation]) -> PCollection[DuplicatesFile]:
        """Wires what the class says."""
        watched = self.watched
        if watched.texts:
            generations = generations | "Texts" >> EmbedGenerations(watched)
        begun = generations | "Fit" >> beam.Map(_begin, watched).with_output_types(Generation)
        begun = begun | "Fit once" >> beam.Reshuffle()
        jobs = OfWindow(lambda window: watched.job(_number(window)), begun)
        fitted = OfWindow(lambda window: watched.fitted(_number(window)), begun)
        units = (
            begun
            | "List input" >> beam.FlatMap(lambda g: g.plan.units).with_output_types(AssignUnit)
            | "Spread input" >> beam.Reshuffle()
        )
        assign = AssignCentroids(jobs, fitted)
        new = units | "Assign" >> assign
        found, finished = [new], [assign.finished]
        if watched.parameters.against is not None:
            theirs = OfWindow(lambda window: watched.references(_number(window)), begun)
            assign_theirs = AssignCentroids(theirs, fitted)
            found.append(
                begun
                | "List references" >> beam.FlatMap(_references).with_output_types(AssignUnit)
                | "Spread references" >> beam.Reshuffle()
                | "Assign references" >> assign_theirs
            )
            finished.append(assign_theirs.finished)
        earlier = (
            begun
            | "List earlier generations" >> beam.FlatMap(lambda g: g.plan.earlier).with_output_types(tuple[int, str])
            | "Find earlier generations" >> FindAssigned(jobs, fitted)
        )
        kind = PairwiseSimilarity if watched.parameters.n_probes == 1 else MatchAcrossClusters
        compare: Any = kind(jobs, fitted)
        compared = (*found, earlier) | "With earlier generations" >> beam.Flatten() | "Compare" >> compare
        files = compared | "Identify duplicates" >> IdentifyDuplicates(jobs)
        whole = begun | "When all is compared" >> Together(files, *finished, compare.finished)
        return whole | "Finish generation" >> beam.ParDo(_Finish(watched)).with_output_types(DuplicatesFile)


@dataclasses.dataclass
class EmbedGenerations(beam.PTransform):
    """Gives generations when the vectors of their texts are there, and of those of `against`."""

    watched: Watched

    def expand(self, generations: PCollection[Generation]) -> PCollection[Generation]:
        """Wires what the class says."""
        watched = self.watched
        embedded = (
            generations
            | "List texts" >> beam.FlatMap(watched.to_embed)
            | "Spread texts" >> beam.Reshuffle()
            | "Embed texts" >> beam.ParDo(Embed(watched, _embed)).with_output_types(EmbeddedUnit)
        )
        whole = generations | "When all is embedded" >> Together(embedded)
        return whole | "Embedded" >> beam.FlatMap(lambda found: found).with_output_types(Generation)


def _embed(_: Watched, given: tuple[InputJob, AssignUnit], encoder: AnyEncoder) -> EmbeddedUnit:
    return unit.embed_input(*given, encoder)


def _references(generation: Generation) -> Iterable[AssignUnit]:
    """Returns all units of the references, as what is finished is found then."""
    assert generation.plan.references
    return generation.plan.references.units


def _number(window: Any) -> int:
    """Returns the number of the arrival that a window is of."""
    return int(window.start)


def _plan(number: int, watched: Watched) -> Generation:
    with naming_unit(f"arrival {number}"):
        return watched.plan(number)


def _begin(generation: Generation, watched: Watched) -> Generation:
    with naming_unit(f"the fit of arrival {generation.number}"):
        return watched.begin(generation)


class _Finish(beam.DoFn):
    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        names = ("generations", "rows", "duplicates", "rows-kept", "rows-removed")
        self._counters = {name: Metrics.counter("semdedup", f"finished-{name}") for name in names}

    def process(self, generations: list[Generation]) -> Iterator[DuplicatesFile]:
        (generation,) = generations
        with naming_unit(f"the end of arrival {generation.number}"):
            found, files = self._watched.finish(generation)
        values = (1, found.rows, found.duplicates, found.kept, found.removed or 0)
        for counter, value in zip(self._counters.values(), values, strict=True):
            counter.inc(value)
        yield from (DuplicatesFile(found.duplicates, found.kept, file.url) for file in files)


class _Tracker(RestrictionTracker):
    """Holds the `Position` that a look came to, of which nothing can be split off but all that comes after it."""

    def __init__(self, position: Position) -> None:
        self._position = position
        self._left = False

    def current_restriction(self) -> Position:
        return self._position

    def try_claim(self, position: Position) -> bool:
        if self._left:
            return False
        self._position = position
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Position, Position] | None:
        if fraction_of_remainder or self._left:
            return None
        self._left = True
        return self._position, self._position

    def check_done(self) -> None:
        if not self._left:
            raise ValueError("a look ended without leaving the next one for later")

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(completed=0, remaining=1)

    def is_bounded(self) -> bool:
        return False


class _Positions(RestrictionProvider):
    def initial_restriction(self, element: int) -> Position:
        return Position(element)

    def create_tracker(self, restriction: Position) -> _Tracker:
        return _Tracker(restriction)

    def restriction_size(self, element: int, restriction: Position) -> int:
        return 1

    def restriction_coder(self) -> ReferenceCoder:
        return ReferenceCoder(Position)

    def truncate(self, element: int, restriction: Position) -> None:
        return None


class _Look(beam.DoFn):
    def __init__(self, arrivals: Arrivals, poll_interval: float) -> None:
        self._arrivals, self._poll_interval = arrivals, poll_interval
        self._given = Metrics.counter("semdedup", "arrivals")

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: int,
        tracker: Any = beam.DoFn.RestrictionParam(_Positions()),
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),
    ) -> Iterator[window.TimestampedValue]:
        position = tracker.current_restriction()
        watermark.set_watermark(Timestamp(position.number))
        number, after = self._arrivals.next(position)
        if not tracker.try_claim(after):
            return
        if number is not None:
            self._given.inc()
            yield window.TimestampedValue(number, Timestamp(number))
            watermark.set_watermark(Timestamp(after.number))
        tracker.defer_remainder(Duration(self._poll_interval))
