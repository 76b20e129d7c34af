"""The fitted model: its handle, its fit where there is none, and the centroids that a fit starts from."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import threading
import time
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit.base import Engine, Fit, FitParameters, Sample
from beam_semdedup.fit.published import find_published, publish
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
        """Returns the centroids, (k, d) float32; loaded once a process and shared by its threads.

        They come from Ray's object store where they are published and this process is in the cluster, else from
        storage.

        Raises:
            RuntimeError: the file has other content than when the handle was made.
        """
        with _LOADING:
            if self.content_hash not in _LOADED:
                centroids = find_published(self.actor)
                if centroids is None:
                    centroids = self._stored(options)
                _LOADED.clear()  # a process works on one model at a time
                _LOADED[self.content_hash] = centroids
            return _LOADED[self.content_hash]

    @contextmanager
    def published(self, options: Options) -> Iterator[FittedKMeans]:
        """Yields a handle whose centroids this process's Ray cluster, if any, holds in its memory while within it."""
        with publish(f"centroids-{self.content_hash}", partial(self.centroids, options)) as actor:
            yield replace(self, actor=actor)

    def _stored(self, options: Options) -> np.ndarray:
        data = File(self.uri, options).read_bytes()
        if content_hash(data) != self.content_hash:
            raise RuntimeError(f"{self.uri} was replaced during the run; run again")
        return from_npy(data)


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


def fit_or_load(
    folder: Folder, init: File | None, engine: Engine[Any], sample: Sample, dimension: int, parameters: FitParameters
) -> FittedKMeans:
    """Returns the fitted model that stands in `folder`, after fitting it where there is none.

    Two attempts at the same time end with the same centroids: the first to store them wins.

    Args:
        init: the file of the initial centroids, where they are given; with `max_iter` 0 they are the model.
        sample: reads the unit rows to fit on; not called where it is not needed.
        dimension: d.
        parameters: with `n_clusters` set.

    Raises:
        InputError: fewer rows in the sample than clusters, or initial centroids of another shape.
    """
    file = folder.file(layout.CENTROIDS)
    fitted = _found(folder, parameters.n_clusters, dimension)
    if fitted:
        return fitted
    started = time.time()
    initial = load_init(init, parameters.n_clusters, dimension) if init else None
    if parameters.max_iter == 0 and initial is not None:
        fit = Fit(initial, float("nan"), 0, 0)
    else:
        fit = engine.fit(sample, initial, parameters)
        _LOG.info("Fitted in %s iterations and %.1f s", fit.iterations, time.time() - started)
    stored = file.create_if_absent(to_npy(fit.centroids))
    model = ModelInfo(
        centroids=content_hash(stored),
        engine=engine.config.name,
        rows=fit.rows,
        inertia=None if np.isnan(fit.inertia) else fit.inertia,
        iterations=fit.iterations,
        seconds=round(time.time() - started, 3),
        finished=time.time(),
    )
    folder.file(layout.MODEL).create_if_absent(model.to_json())
    return FittedKMeans(file.url, content_hash(stored))


def load(folder: Folder, n_clusters: int, dimension: int) -> FittedKMeans | None:
    """Returns the model in a folder, which others depend on; None where there is none.

    Raises:
        RunError: it is damaged.
    """
    file = folder.file(layout.CENTROIDS)
    if not file.exists():
        return None
    try:
        return _checked(folder, n_clusters, dimension)
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}; restore it") from error


def one_for_all(folder: Folder, dimension: int) -> FittedKMeans:
    """Stores a centroid for rows that are all compared with the same ones, so that it does not matter where it is."""
    file, data = folder.file(layout.CENTROIDS), to_npy(np.eye(1, dimension))
    if file.create_if_absent(data) != data:  # it was damaged
        file.write_bytes(data)
    return FittedKMeans(file.url, content_hash(data))


def _found(folder: Folder, n_clusters: int | None, dimension: int) -> FittedKMeans | None:
    """Returns the model in a folder; None where there is none, or a damaged one, which is removed."""
    file, info = folder.file(layout.CENTROIDS), folder.file(layout.MODEL)
    try:
        return _checked(folder, n_clusters, dimension)
    except FileNotFoundError:
        return None
    except ValueError as error:
        _LOG.warning("%s is damaged: %s; it is fitted again", file, error)
        file.delete()
        info.delete()
        return None


def _checked(folder: Folder, n_clusters: int | None, dimension: int) -> FittedKMeans:
    """Returns the model in a folder; ValueError where it is damaged."""
    file, model = folder.file(layout.CENTROIDS), ModelInfo.read(folder.file(layout.MODEL))
    data = file.read_bytes()
    found, array = content_hash(data), from_npy(data)
    if model and model.centroids != found:
        raise ValueError("it has another content than was written")
    if array.shape != (n_clusters, dimension) or array.dtype != np.float32 or not np.isfinite(array).all():
        raise ValueError(f"{array.dtype} {array.shape}, expected finite float32 ({n_clusters}, {dimension})")
    return FittedKMeans(file.url, found)


def load_init(file: File, n_clusters: int | None, dimension: int | None) -> np.ndarray:
    """Returns the initial centroids of an .npy file, (k, d) float32.

    Args:
        n_clusters, dimension: the k and d that they must have; None: any.

    Raises:
        InputError: no such file, not an array, or another shape.
        StorageError: it cannot be read.
    """
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"init={file}: cannot be read: {error}") from error
    try:
        array = from_npy(data)
    except ValueError as error:
        raise InputError(f"init={file}: not an .npy array: {error}") from error
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise InputError(f"init={file}: expected finite floats of shape (k, d), found {array.dtype} {array.shape}")
    if dimension is not None and array.shape[1] != dimension:
        raise InputError(f"init={file}: centroids of dimension {array.shape[1]}, the embeddings have {dimension}")
    if n_clusters is not None and len(array) != n_clusters:
        raise InputError(f"init={file}: {len(array)} centroids, n_clusters={n_clusters}")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(result).all():
        raise InputError(f"init={file}: values beyond float32, up to {np.abs(array).max():g}")
    return result


def from_npy(data: bytes) -> np.ndarray:
    """Returns the array of an .npy file; ValueError where it is none, or has not the size that its header says."""
    stream = io.BytesIO(data)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in read:
        raise ValueError(f"version {version}")
    try:
        shape, _, dtype = read[version](stream)
    except (SyntaxError, tokenize.TokenError, TypeError, RecursionError) as error:  # the header is a Python expression
        raise ValueError("its header is damaged") from error
    size = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and size != len(data) - stream.tell():  # before as much memory is asked for
        raise ValueError(f"{len(data) - stream.tell():,} bytes of values, where its header says {size:,}")
    return np.load(io.BytesIO(data), allow_pickle=False)


def to_npy(centroids: np.ndarray) -> bytes:
    """Returns the .npy file of centroids, as float32."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(centroids, dtype=np.float32))
    return buffer.getvalue()


def content_hash(data: bytes) -> str:
    """Returns what identifies centroids: 16 hexadecimal digits of a hash of their file."""
    return hashlib.sha256(data).hexdigest()[:16]
