"""The embedding of texts as a Beam transform: its inference, of whole units; what one does stands in `unit`."""
# Without `from __future__ import annotations`: Beam reads the type hints of transforms.

import dataclasses
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.pvalue import PBegin, PCollection

from beam_semdedup.coders import register
from beam_semdedup.embed import unit
from beam_semdedup.embed.encoder import Encoder
from beam_semdedup.embed.plan import EmbeddedUnit, EmbedJob
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.transforms import Finish

register(EmbeddedUnit)


@dataclasses.dataclass
class EmbedTexts(beam.PTransform):
    """Writes the files of all units, then the manifest; a root transform."""

    job: EmbedJob
    units: list[AssignUnit]

    def expand(self, root: PBegin) -> PCollection[EmbeddedUnit]:
        """From the root of the pipeline."""
        embedded = (
            root
            | "List units" >> beam.Create(self.units)
            | "Spread units" >> beam.Reshuffle()
            | "Embed texts" >> RunInference(_Handler(self.job)).with_output_types(EmbeddedUnit)
        )
        _ = embedded | "Finish embedding" >> Finish(unit.finish, self.job)
        return embedded


class _Handler(ModelHandler[AssignUnit, EmbeddedUnit, Encoder]):
    """Loads the model once for a process, and has it embed a unit at a time."""

    def __init__(self, job: EmbedJob) -> None:
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._job = job

    def load_model(self) -> Encoder:
        p = self._job.parameters
        return Encoder(self._job.model, p.device, p.batch_tokens)

    def run_inference(
        self, batch: Sequence[AssignUnit], model: Encoder, inference_args: dict[str, Any] | None = None
    ) -> list[EmbeddedUnit]:
        return [unit.embed_unit(self._job, element, model) for element in batch]

    def get_metrics_namespace(self) -> str:
        return "embed"
