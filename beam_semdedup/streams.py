"""Streams of generations as Beam transforms: what arrives at an input while it is watched."""
# Without `from __future__ import annotations`: Beam reads the type hints of transforms.

import dataclasses
from collections.abc import Iterator
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
from beam_semdedup.inputs.arrivals import Arrivals, Position


@dataclasses.dataclass
class ReadNewFiles(beam.PTransform):
    """Gives the numbers of arrivals, recorded files of an input, as they come; a root transform that does not end.

    Each is an element with that number of seconds as its event time, in a fixed window of its own of one second. The
    watermark passes it once it is given; so what is grouped downstream is whole for each arrival when its window ends.
    An arrival is given again after a restart, until its generation is finished.
    """

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
