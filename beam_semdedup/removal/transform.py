"""The removal as a Beam transform; what a unit does stands in `unit`."""
# Without `from __future__ import annotations`: Beam reads the type hints of transforms.

import dataclasses
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection

from beam_semdedup.coders import register
from beam_semdedup.removal import unit
from beam_semdedup.removal.lookup import open_reader
from beam_semdedup.removal.plan import RemovalJob, RemovalUnit
from beam_semdedup.removal.unit import RemovedUnit
from beam_semdedup.transforms import Finish

register(RemovalUnit, RemovedUnit)


@dataclasses.dataclass
class RemoveDuplicates(beam.PTransform):
    """Writes the files of every unit, then the manifest; a root transform."""

    job: RemovalJob
    units: list[RemovalUnit]

    def expand(self, root: PBegin) -> PCollection[RemovedUnit]:
        """From the root of the pipeline."""
        removed = (
            root
            | "List files" >> beam.Create(self.units)
            | "Spread files" >> beam.Reshuffle()
            | "Remove duplicates" >> beam.ParDo(_Remove(self.job))
        )
        _ = removed | "Finish removal" >> Finish(unit.finish, self.job)
        return removed


class _Remove(beam.DoFn):
    def __init__(self, job: RemovalJob) -> None:
        self._job = job

    def setup(self) -> None:
        self._reader = open_reader(self._job.ids)

    def process(self, files: RemovalUnit) -> Iterator[RemovedUnit]:
        yield unit.remove_from_files(self._job, files, self._reader)
