"""The embedding of texts as a Beam transform; what a unit does stands in `unit`."""
# Without `from __future__ import annotations`: Beam reads the type hints of transforms.

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection
from apache_beam.utils.shared import Shared

from beam_semdedup.coders import register
from beam_semdedup.embed import unit
from beam_semdedup.embed.encoder import Settings
from beam_semdedup.embed.models import AnyEncoder, Model
from beam_semdedup.embed.plan import EmbeddedUnit, EmbedJob
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.transforms import Finish

register(EmbeddedUnit)


class Job(Protocol):
    """What is done to each unit, as far as it says how the model is loaded."""

    @property
    def model(self) -> Model: ...
    @property
    def parameters(self) -> Settings: ...


EmbedUnit: TypeAlias = Callable[[Any, Any, AnyEncoder], EmbeddedUnit]
"""Embeds an element, given the job and the loaded model."""


@dataclasses.dataclass
class EmbedUnits(beam.PTransform):
    """Writes the files of all units; a root transform.

    Attributes:
        embed: does one.
    """

    job: Job
    units: list[AssignUnit]
    embed: EmbedUnit

    def expand(self, root: PBegin) -> PCollection[EmbeddedUnit]:
        """From the root of the pipeline."""
        return (
            root
            | "List units" >> beam.Create(self.units)
            | "Spread units" >> beam.Reshuffle()
            | "Embed texts" >> beam.ParDo(Embed(self.job, self.embed)).with_output_types(EmbeddedUnit)
        )


@dataclasses.dataclass
class EmbedTexts(beam.PTransform):
    """Writes a dataset of embeddings, then its manifest; a root transform."""

    job: EmbedJob
    units: list[AssignUnit]

    def expand(self, root: PBegin) -> PCollection[EmbeddedUnit]:
        """From the root of the pipeline."""
        embedded = root | "Embed units" >> EmbedUnits(self.job, self.units, unit.embed_unit)
        _ = embedded | "Finish embedding" >> Finish(unit.finish, self.job)
        return embedded


class Embed(beam.DoFn):
    """Embeds a unit at a time, or what says which, by a model that is loaded once for a process.

    Not by Beam's `RunInference`, whose import takes seconds, and where PyTorch is installed 600 MB.
    """

    def __init__(self, job: Job, embed: EmbedUnit) -> None:
        super().__init__()
        self._job, self._embed, self._shared = job, embed, Shared()

    def setup(self) -> None:
        self._model = self._shared.acquire(lambda: self._job.model.load(self._job.parameters))

    def process(self, element: Any) -> Iterator[EmbeddedUnit]:
        yield self._embed(self._job, element, self._model)
