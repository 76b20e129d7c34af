"""Models on the Hugging Face hub: which names are such, and what of them is fetched."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from beam_semdedup.errors import as_input_error

FILES = (
    "model.onnx",
    "onnx/model.onnx",
    "tokenizer.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "modules.json",
)
"""All that is fetched of a model: data alone, and never code."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LOG = logging.getLogger(__name__)


def is_name(model: str) -> bool:
    """Says whether a text can be the name of a model there."""
    return bool(_NAME.fullmatch(model))


def fetch(model: str, revision: str | None) -> Path:
    """Returns the directory with a model's files at a revision, fetched unless they are there already.

    The name of the directory is the commit.

    Raises:
        InputError: there is no such model or revision, or the hub cannot be reached.
    """
    with as_input_error(f"model={model} is no directory, and cannot be fetched from the hub"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        shown = not are_progress_bars_disabled()
        disable_progress_bars()
        try:
            place = Path(snapshot_download(model, revision=revision, allow_patterns=list(FILES)))
        finally:
            if shown:
                enable_progress_bars()
    _LOG.info("model=%s is at commit %s of the hub", model, place.name)
    return place
