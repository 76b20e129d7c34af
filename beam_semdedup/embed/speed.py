"""How fast a model embeds the texts of an input, tried on a few of them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa

from beam_semdedup.config.parameters import ForecastParameters
from beam_semdedup.embed.encoder import Encoder
from beam_semdedup.embed.models import find_text_model
from beam_semdedup.embed.torch_model import TorchEncoder
from beam_semdedup.inputs.dataset import InputFacts
from beam_semdedup.inputs.rows import read
from beam_semdedup.storage.folder import File

_TEXTS, _PIECES = 256, 8
_FIRST = 8  # which are not timed: the first batches of a session are slower


@dataclass(frozen=True)
class _Settings:
    batch_tokens: int
    device: str = "auto"


def load(p: ForecastParameters) -> Encoder | TorchEncoder:
    """Returns the model of a run that is planned; InputError where it cannot be loaded."""
    model = find_text_model(p)
    model.check("auto")
    return model.load(_Settings(p.batch_tokens))


def texts_per_second(p: ForecastParameters, encoder: Encoder | TorchEncoder, facts: InputFacts) -> float | None:
    """Returns how many texts of the input this machine embeds in a second; None where it finds none."""
    schema = pa.schema([(p.text_field, pa.string())])
    parts = [part for file in facts.files for part in file.parts]
    texts: list[str] = []
    for part in parts[:: -(-len(parts) // _PIECES)]:
        rows = next(read(facts.format, File(part.path, p.read_options), part, schema), None)
        texts += rows.table.column(0).drop_null().slice(0, _TEXTS // _PIECES).to_pylist() if rows else []
    if not texts:
        return None
    encoder.encode(texts[:_FIRST])
    started = time.perf_counter()
    encoder.encode(texts)
    return len(texts) / max(1e-9, time.perf_counter() - started)
