"""The embedding of texts as a Beam transform: its inference, of whole units; what one does stands in `unit`."""
# Without `from __future__ import annotations`: Beam reads the type hints of transforms.

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.pvalue import PBegin, PCollection

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


Embed: TypeAlias = Callable[[Any, AssignUnit, AnyEncoder], EmbeddedUnit]


@dataclasses.dataclass
class EmbedUnits(beam.PTransform):
    """Writes the files of all units; a root transform.

    Attributes:
        embed: does one, given the job, the unit and the loaded model.
    """

    job: Job
    units: list[AssignUnit]
    embed: Embed

    def expand(self, root: PBegin) -> PCollection[EmbeddedUnit]:
        """From the root of the pipeline."""
        return (
            root
            | "List units" >> beam.Create(self.units)
            | "Spread units" >> beam.Reshuffle()
            | "Embed texts" >> RunInference(_Handler(self.job, self.embed)).with_output_types(EmbeddedUnit)
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


class _Handler(ModelHandler[AssignUnit, EmbeddedUnit, AnyEncoder]):
    """Loads the model once for a process, and has it embed a unit at a time."""

    def __init__(self, job: Job, embed: Embed) -> None:
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._job, self._embed = job, embed

    def load_model(self) -> AnyEncoder:
        return self._job.model.load(self._job.parameters)

    def run_inference(
        self, batch: Sequence[AssignUnit], model: AnyEncoder, inference_args: dict[str, Any] | None = None
    ) -> list[EmbeddedUnit]:
        return [self._embed(self._job, element, model) for element in batch]

    def get_metrics_namespace(self) -> str:
        return "embed"
