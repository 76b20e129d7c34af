"""How fast a model embeds the texts of an input, tried on a few of them."""

from __future__ import annotations

import time

import pyarrow as pa

from beam_semdedup.config.parameters import ForecastParameters
from beam_semdedup.embed.encoder import Encoder, ModelFiles, check_installed
from beam_semdedup.inputs.dataset import InputFacts
from beam_semdedup.inputs.rows import read
from beam_semdedup.storage.folder import File

_TEXTS, _PIECES = 256, 8
_FIRST = 8  # which are not timed: the first batches of a session are slower


def load(p: ForecastParameters) -> Encoder:
    """Returns the model of a run that is planned; InputError where it cannot be loaded."""
    check_installed()
    return Encoder(ModelFiles.find(str(p.model), p.pooling, p.max_tokens, p.model_revision), "auto", p.batch_tokens)


def texts_per_second(p: ForecastParameters, encoder: Encoder, facts: InputFacts) -> float | None:
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
