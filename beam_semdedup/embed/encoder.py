"""A model of sentences in a directory: `model.onnx`, `tokenizer.json`, and what it says of how tokens are pooled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.compute.threads import threads
from beam_semdedup.embed import hub
from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.storage.folder import Folder

_MODELS = ("model.onnx", "onnx/model.onnx")
_TOKENIZER = "tokenizer.json"
_MAX_TOKENS = 512
_MOST_BYTES = 1 << 20  # of a configuration
_GPU = "CUDAExecutionProvider"


class Settings(Protocol):
    """The parameters that a model is loaded with."""

    @property
    def device(self) -> str: ...
    @property
    def batch_tokens(self) -> int: ...


@dataclass(frozen=True)
class ModelFiles:
    """A model, and what its configuration says.

    Attributes:
        pooling: `mean` of the tokens' vectors, or that of the first one, `cls`.
        max_tokens: of a text; what is longer is cut.
        normalize: whether a vector is divided by its length, as sentence-transformers does for some models.
        hub: the name of the model on the hub and the commit, where it is from there.
    """

    directory: Path
    onnx: Path
    pooling: str
    max_tokens: int
    normalize: bool
    hub: tuple[str, str] | None = None

    @classmethod
    def find(
        cls, directory: str, pooling: str | None = None, max_tokens: int | None = None, revision: str | None = None
    ) -> ModelFiles:
        """Reads what the directory says, or a model of that name on the hub; what is given goes before.

        Raises:
            InputError: it is neither, a file is missing, or its configuration asks for what is not here.
        """
        place, commit = Path(directory), None
        if place.is_dir():
            if revision is not None:
                raise InputError(f"model_revision={revision} is of the hub, and model={directory} is a directory")
        elif hub.is_name(directory):
            check_installed()
            place = hub.fetch(directory, revision)
            commit = (directory, place.name)
        else:
            raise InputError(
                f"model={directory} is no directory; give one with model.onnx and tokenizer.json, or a name such as "
                "sentence-transformers/all-MiniLM-L6-v2"
            )
        onnx = next((place / name for name in _MODELS if (place / name).is_file()), None)
        if onnx is None or not (place / _TOKENIZER).is_file():
            missing = _TOKENIZER if onnx else _MODELS[0]
            raise InputError(f"model={directory}: no {missing} there; `optimum-cli export onnx` writes both of a model")
        said = read_json(place / "1_Pooling/config.json")
        sentences = read_json(place / "sentence_bert_config.json")
        modules = read_json(place / "modules.json") or []
        with as_input_error(f"model={directory}: its configuration cannot be understood"):
            normalize = any(str(module["type"]).endswith("Normalize") for module in modules)
            found = max_tokens or int((sentences or {}).get("max_seq_length") or _MAX_TOKENS)
            return cls(place, onnx, pooling or _pooling(directory, said or {}), found, normalize, commit)

    @property
    def version(self) -> list[Any]:
        """Describes what the embeddings depend on: the sizes and times of the files, and what was read of them."""
        if self.hub is not None:
            return [*self.hub, self.pooling, self.max_tokens, self.normalize]
        files = [self.onnx, self.directory / _TOKENIZER]
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return [str(self.directory.resolve()), stats, self.pooling, self.max_tokens, self.normalize]

    @staticmethod
    def are_in(directory: str) -> bool:
        """Says whether a directory has an ONNX model."""
        return any((Path(directory) / name).is_file() for name in _MODELS)

    def check(self, device: str) -> None:
        """Raises InputError where the extra is not installed, or there is no GPU and one is asked for."""
        check_installed()
        providers(device)

    def load(self, p: Settings) -> Encoder:
        """Returns the loaded model; see `Encoder`."""
        return Encoder(self, p.device, p.batch_tokens)

    def here(self) -> ModelFiles:
        """Returns the model with its files on this machine, which one of the hub may not have on a worker yet."""
        if self.hub is None or self.onnx.is_file():
            return self
        place = hub.fetch(*self.hub)
        return replace(self, directory=place, onnx=place / self.onnx.relative_to(self.directory))


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of n rows.

    Attributes:
        column: n lists of float32, null where there is none.
        broken: of rows that have something which cannot be read, their numbers, and why.
    """

    column: pa.ListArray
    broken: tuple[tuple[int, str], ...] = ()

    @classmethod
    def of_texts(cls, texts: pa.ChunkedArray, encode: Callable[[list[str]], npt.NDArray[np.float32]]) -> Embeddings:
        """Makes them of a column of texts by a function that gives vectors (m, d) of m of them; of equal ones once."""
        different = texts.unique().drop_null()
        which = pc.index_in(texts, value_set=different)
        return cls.of(encode(different.to_pylist())[which.drop_null().to_numpy()], texts.is_valid().to_numpy())

    @classmethod
    def of(
        cls, vectors: npt.NDArray[np.float32], there: npt.NDArray[np.bool_], broken: Sequence[tuple[int, str]] = ()
    ) -> Embeddings:
        """Makes them of the vectors (m, d) of those of n rows that are `there` (n,)."""
        ends = np.cumsum(there) * vectors.shape[1]
        offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32), mask=np.append(~there, False))
        return cls(pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1), pa.float32())), tuple(broken))


class Encoder:
    """Embeds texts by a loaded model."""

    def __init__(self, files: ModelFiles, device: str, batch_tokens: int) -> None:
        """Loads the model.

        Args:
            device: `cpu`, `gpu`, or `auto`: a GPU where there is one.
            batch_tokens: how many tokens, with those that fill shorter texts up, are computed together.

        Raises:
            InputError: the model cannot be loaded, is none of sentences, or there is no GPU where one is asked for.
        """
        from tokenizers import Tokenizer

        files = files.here()
        self._files, self._batch_tokens = files, batch_tokens
        with as_input_error(f"{files.directory / _TOKENIZER}: not a readable tokenizer"):
            self._tokenizer = Tokenizer.from_file(str(files.directory / _TOKENIZER))
            self._pad = int((self._tokenizer.padding or {}).get("pad_id", 0))
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(files.max_tokens)
        self._session = open_session(files.onnx, device)
        self._inputs = [given.name for given in self._session.get_inputs()]
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise InputError(f"{files.onnx}: a model with the input {min(unknown)!r}, and no model of texts alone")
        names = [output.name for output in self._session.get_outputs()]
        self._output = "sentence_embedding" if "sentence_embedding" in names else names[0]

    @property
    def dimension(self) -> int:
        """The number of values of an embedding."""
        return self.encode([""]).shape[1]

    def embed(self, texts: pa.ChunkedArray, folder: Folder) -> Embeddings:
        """Returns the embeddings of a column of texts."""
        return Embeddings.of_texts(texts, self.encode)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns the embeddings of texts, (n, d); those of about one length are computed together."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors: npt.NDArray[np.float32] | None = None
        for batch in _batches([len(ids) for ids in tokens], self._batch_tokens):
            found = self._embed([tokens[number] for number in batch])
            if vectors is None:
                vectors = np.empty((len(texts), found.shape[1]), dtype=np.float32)
            vectors[batch] = found
        return np.empty((0, 0), dtype=np.float32) if vectors is None else vectors

    def _embed(self, tokens: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        ids = np.full((len(tokens), max(1, *map(len, tokens))), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, found in enumerate(tokens):
            ids[row, : len(found)], mask[row, : len(found)] = found, 1
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (output,) = self._session.run([self._output], {name: values[name] for name in self._inputs})
        vectors = output.astype(np.float32, copy=False)
        if vectors.ndim == 3:
            vectors = vectors[:, 0] if self._files.pooling == "cls" else _mean(vectors, mask)
        if self._files.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return np.asarray(vectors, dtype=np.float32)


def open_session(model: Path, device: str) -> Any:
    """Returns a loaded ONNX model; InputError where it cannot be loaded, or there is no GPU and one is asked for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3
    with as_input_error(f"{model}: not a readable ONNX model"):
        return onnxruntime.InferenceSession(str(model), options, providers=providers(device))


def providers(device: str) -> list[str]:
    """Returns what ONNX Runtime computes with; InputError where a GPU is asked for and there is none."""
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if device == "gpu" and _GPU not in there:
        raise InputError(f"device=gpu: ONNX Runtime has {', '.join(there)}; install onnxruntime-gpu")
    return [name for name in (_GPU, "CPUExecutionProvider") if name in there and (name != _GPU or device != "cpu")]


def check_installed() -> None:
    """Raises InputError where the extra is not installed."""
    try:
        import onnxruntime  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; `make install EXTRAS=embed` does") from error


def _mean(vectors: npt.NDArray[np.float32], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Returns the means of the vectors of tokens that are there."""
    weights = mask[:, :, None].astype(np.float32)
    means: npt.NDArray[np.float32] = (vectors * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
    return means


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yields the numbers of texts, the longest first, so many that filled up they have at most that many tokens."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _pooling(directory: str, said: dict[str, Any]) -> str:
    """Returns how the configuration of sentence-transformers pools; the mean where there is none."""
    modes = [name for name, value in said.items() if name.startswith("pooling_mode_") and value is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if not modes:
        return "mean"
    if len(modes) > 1 or modes[0] not in known:
        raise InputError(f"model={directory}: it pools by {' and '.join(modes)}; give pooling=mean or pooling=cls")
    return known[modes[0]]


def read_json(file: Path) -> Any:
    """Returns what a file of the configuration holds; None where there is none."""
    if not file.is_file():
        return None
    with as_input_error(f"{file}: not JSON"):
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError("too large for a configuration")
        return json.loads(file.read_bytes())
