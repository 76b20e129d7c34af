"""The fitted model: its handle, its fit where there is none, and the centroids that a fit starts from."""

from __future__ import annotations

import hashlib
import io
import logging
import sys
import threading
import time
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError
from beam_semdedup.fit.lloyd import ENGINES, Fit, Sample
from beam_semdedup.storage import layout
from beam_semdedup.storage.filesystems import Options
from beam_semdedup.storage.folder import File, Folder
from beam_semdedup.storage.records import Record

_LOG = logging.getLogger(__name__)
_LOADED: dict[str, np.ndarray] = {}
_LOADING = threading.Lock()


@dataclass(frozen=True)
class FittedKMeans:
    """A handle of fitted centroids: where they are stored, the hash of their content, a Ray actor that shares them."""

    uri: str
    content_hash: str
    actor: str = ""

    def centroids(self, options: Options) -> np.ndarray:
        """The centroids, (k, d) float32; loaded once a process and shared by its threads.

        From Ray's object store where an actor holds them and this process belongs to the cluster, else from storage.

        Raises:
            RuntimeError: the file has other content than when the handle was made.
        """
        with _LOADING:
            if self.content_hash not in _LOADED:
                centroids = self._shared()
                if centroids is None:
                    centroids = self._stored(options)
                _LOADED.clear()  # a process works on one model at a time
                _LOADED[self.content_hash] = centroids
            return _LOADED[self.content_hash]

    def _shared(self) -> np.ndarray | None:
        ray = sys.modules.get("ray")
        if not self.actor or ray is None or not ray.is_initialized():
            return None
        return import_module("beam_semdedup.fit.ray").find_published(self.actor)

    def _stored(self, options: Options) -> np.ndarray:
        data = File(self.uri, options).read_bytes()
        if content_hash(data) != self.content_hash:
            raise RuntimeError(f"{self.uri} was replaced during the run; run again")
        return np.load(io.BytesIO(data), allow_pickle=False)


@dataclass(frozen=True)
class ModelInfo(Record):
    """How a model was fitted; `inertia` is None where the centroids were given, `finished` seconds since the epoch."""

    centroids: str
    engine: str
    rows: int
    inertia: float | None
    iterations: int
    seconds: float
    finished: float


def fit_or_load(folder: Folder, sample: Sample, dimension: int, parameters: Parameters) -> FittedKMeans:
    """Returns the fitted model that stands in `folder`, after fitting it where there is none.

    Two attempts at the same time end with the same centroids: the first to store them wins.

    Args:
        sample: reads the unit rows to fit on; not called where it is not needed.
        dimension: d.
        parameters: with `n_clusters` set.

    Raises:
        InputError: fewer rows in the sample than clusters, or initial centroids of another shape.
    """
    file = folder.file(layout.CENTROIDS)
    if file.exists():
        return FittedKMeans(file.url, content_hash(file.read_bytes()))
    started = time.time()
    initial = load_init(parameters, dimension) if parameters.centroids_given else None
    if parameters.max_iter == 0 and initial is not None:
        fit = Fit(initial, float("nan"), 0, 0)
    else:
        fit = ENGINES[parameters.kmeans.name]().fit(sample, initial, parameters)
        _LOG.info("Fitted in %s iterations and %.1f s", fit.iterations, time.time() - started)
    buffer = io.BytesIO()
    np.save(buffer, fit.centroids)
    data = file.create_if_absent(buffer.getvalue())
    model = ModelInfo(
        centroids=content_hash(buffer.getvalue()),
        engine=parameters.kmeans.name,
        rows=fit.rows,
        inertia=None if np.isnan(fit.inertia) else fit.inertia,
        iterations=fit.iterations,
        seconds=round(time.time() - started, 3),
        finished=time.time(),
    )
    folder.file(layout.MODEL).create_if_absent(model.to_json())
    return FittedKMeans(file.url, content_hash(data))


def load_init(parameters: Parameters, dimension: int | None) -> np.ndarray:
    """The initial centroids at `parameters.init`, (k, d) float32.

    Raises:
        InputError: no such file, not an array, or another shape than (n_clusters, dimension).
    """
    path, data = parameters.init, init_bytes(parameters)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"init={path}: not an .npy array: {error}") from error
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise InputError(f"init={path}: expected finite floats of shape (k, d), found {array.dtype} {array.shape}")
    if dimension is not None and array.shape[1] != dimension:
        raise InputError(f"init={path}: centroids of dimension {array.shape[1]}, the embeddings have {dimension}")
    if parameters.n_clusters is not None and len(array) != parameters.n_clusters:
        raise InputError(f"init={path}: {len(array)} centroids, n_clusters={parameters.n_clusters}")
    return np.ascontiguousarray(array, dtype=np.float32)


def init_bytes(parameters: Parameters) -> bytes:
    """Returns the content of the file at `parameters.init`; InputError where there is none."""
    try:
        return init_file(parameters).read_bytes()
    except OSError as error:
        raise InputError(f"init={parameters.init}: cannot be read: {error}") from error


def init_file(parameters: Parameters) -> File:
    """Returns the file at `parameters.init`, by the options of the cache if it lies there, else of the input."""
    file = File.at(parameters.init, parameters.read_options)
    cache = Folder.at(parameters.cache_root, parameters.cache_options)
    return File(file.url, cache.options) if file.is_inside(cache) else file


def content_hash(data: bytes) -> str:
    """What identifies centroids: 16 hexadecimal digits of a hash of their file."""
    return hashlib.sha256(data).hexdigest()[:16]
