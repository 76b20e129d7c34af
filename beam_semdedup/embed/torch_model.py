"""A model of sentence-transformers in a directory, with weights as safetensors; PyTorch computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from beam_semdedup.compute.threads import threads
from beam_semdedup.embed.encoder import Embeddings, Settings, read_json
from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.storage.folder import Folder

_WEIGHTS, _MODULES, _PACKAGE = "model.safetensors", "modules.json", "sentence_transformers."
_BATCH = 32


@dataclass(frozen=True)
class TorchFiles:
    """A model, and after how many tokens a text is cut where that is not as the model says."""

    directory: Path
    max_tokens: int | None = None

    @staticmethod
    def are_in(directory: str) -> bool:
        """Says whether a directory has such a model."""
        return all((Path(directory) / name).is_file() for name in (_WEIGHTS, _MODULES))

    @classmethod
    def find(cls, directory: str, pooling: str | None = None, max_tokens: int | None = None) -> TorchFiles:
        """Reads what the directory says; InputError where it asks for code of its own, or for another pooling."""
        place = Path(directory)
        if pooling is not None:
            raise InputError(f"pooling={pooling}: model={directory} says itself how it pools; leave it out")
        with as_input_error(f"{place / _MODULES}: cannot be understood"):
            kinds = [str(module["type"]) for module in read_json(place / _MODULES)]
        if foreign := [kind for kind in kinds if not kind.startswith(_PACKAGE)]:
            raise InputError(f"model={directory}: {foreign[0]} is code of its own, which is not run")
        return cls(place, max_tokens)

    @property
    def version(self) -> list[Any]:
        """Describes what the embeddings depend on."""
        files = sorted(file for file in self.directory.rglob("*") if file.suffix in (".safetensors", ".json"))
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return ["torch", str(self.directory.resolve()), stats, self.max_tokens]

    def check(self, device: str) -> None:
        """Raises InputError where the extra is not installed, or there is no GPU and one is asked for."""
        try:
            import torch
        except ImportError as error:
            raise InputError(f"{error.name} is not installed; `make install EXTRAS=embed-torch` does") from error
        if device == "gpu" and not torch.cuda.is_available():
            raise InputError("device=gpu: PyTorch sees none")

    def load(self, p: Settings) -> TorchEncoder:
        """Returns the loaded model; InputError where it cannot be loaded."""
        return TorchEncoder(self, p.device)


class TorchEncoder:
    """Embeds texts by a loaded model."""

    def __init__(self, files: TorchFiles, device: str) -> None:
        """Loads the model; InputError where it cannot be loaded."""
        files.check(device)
        with as_input_error(f"model={files.directory}: cannot be loaded"):
            import torch
            from sentence_transformers import SentenceTransformer

            torch.set_num_threads(threads())
            self._model = SentenceTransformer(
                str(files.directory),
                device="cuda" if device != "cpu" and torch.cuda.is_available() else "cpu",
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
            if files.max_tokens is not None:
                self._model.max_seq_length = files.max_tokens

    @property
    def dimension(self) -> int:
        """The number of values of an embedding."""
        return self.encode([""]).shape[1]

    def embed(self, texts: pa.ChunkedArray, folder: Folder) -> Embeddings:
        """Returns the embeddings of a column of texts."""
        return Embeddings.of_texts(texts, self.encode)

    def encode(self, texts: list[str]) -> np.ndarray:
        """Returns the embeddings of texts, (n, d) float32."""
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        found = self._model.encode(texts, batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, dtype=np.float32)
