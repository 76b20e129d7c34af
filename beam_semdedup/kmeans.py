"""KMeans: fitting engines, the handle of a fitted model, and the assignment of rows to centroids."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from apache_beam.utils import shared

from beam_semdedup import storage
from beam_semdedup.arrays import core_limit, cores, namespace, rounding_error, row_dot
from beam_semdedup.config import InputError, Parameters

_LOG = logging.getLogger(__name__)
_ROUNDS = 5
_LOADED = shared.Shared()


@dataclass(frozen=True)
class FittedKMeans:
    """A handle of fitted centroids: where they are stored and the hash of their content."""

    uri: str
    content_hash: str

    def centroids(self, options: storage.Options) -> np.ndarray:
        """The centroids, (k, d) float32; loaded once a process and shared by its threads.

        Raises:
            RuntimeError: the file has other content than when the handle was made.
        """
        return _LOADED.acquire(lambda: _Centroids(self, options), tag=self.content_hash).array


class _Centroids:
    """What `Shared` can hold a weak reference to."""

    def __init__(self, handle: FittedKMeans, options: storage.Options) -> None:
        data = storage.read_bytes(handle.uri, options)
        if content_hash(data) != handle.content_hash:
            raise RuntimeError(f"{handle.uri} was replaced during the run; run again")
        self.array = np.load(io.BytesIO(data), allow_pickle=False)


@dataclass(frozen=True)
class Fit:
    """The result of an engine: centroids (k, d) float32, the sum of squared distances, iterations done."""

    centroids: np.ndarray
    inertia: float
    iterations: int


class Engine(Protocol):
    """Fits centroids to a sample; chosen by `kmeans=` in the configuration."""

    def fit(self, sample: np.ndarray, initial: np.ndarray | None, parameters: Parameters) -> Fit:
        """Centroids of `sample` (m, d) float32, from `initial` (k, d) or as `parameters.init` says."""


class LocalEngine:
    """scikit-learn's Lloyd iterations, on all cores, from k-means|| or random initial centroids."""

    def fit(self, sample: np.ndarray, initial: np.ndarray | None, parameters: Parameters) -> Fit:
        """See `Engine.fit`. `sample` is centred in place and back, as scikit-learn does."""
        from sklearn.cluster import KMeans

        p = parameters
        assert p.n_clusters is not None
        starts: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
            "random": lambda rng: sample[rng.choice(len(sample), p.n_clusters, replace=False)],
            "k-means||": lambda rng: scalable_init(
                sample, p.n_clusters or 1, p.oversampling_factor, rng, p.max_samples_per_batch
            ),
        }
        repeats = 1 if initial is not None else p.n_init
        if repeats == "auto":
            repeats = 10 if p.init == "random" else 1
        fits = []
        with core_limit(cores()):
            for seed in np.random.SeedSequence(p.random_state).spawn(repeats):
                start = starts[p.init](np.random.default_rng(seed)) if initial is None else initial
                if p.max_iter == 0:
                    return Fit(np.ascontiguousarray(start, dtype=np.float32), float("nan"), 0)
                model = KMeans(
                    p.n_clusters,
                    init=start,
                    n_init=1,
                    max_iter=p.max_iter,
                    tol=p.tol,
                    copy_x=False,
                    random_state=p.random_state,
                ).fit(sample)
                fits.append(Fit(model.cluster_centers_.astype(np.float32), float(model.inertia_), int(model.n_iter_)))
        return min(fits, key=lambda fit: fit.inertia)


ENGINES: dict[str, Callable[..., Engine]] = {"local": LocalEngine}


def fit_or_load(
    directory: str, sample: Callable[[], np.ndarray], dimension: int, parameters: Parameters
) -> FittedKMeans:
    """The fitted model that stands in `directory`, after fitting it where there is none.

    Two attempts at the same time end with the same centroids: the first to store them wins.

    Args:
        sample: reads the unit rows to fit on, (m, d) float32; not called where it is not needed.
        dimension: d.
        parameters: with `n_clusters` set.

    Raises:
        InputError: fewer rows in the sample than clusters, or initial centroids of another shape.
    """
    options = parameters.cache_options.get("storage_options", {})
    uri = storage.join(directory, "centroids.npy")
    if not storage.exists(uri, options):
        started = time.time()
        initial = None
        if parameters.init not in ("k-means||", "random"):
            initial = load_init(parameters, dimension)
        rows = np.empty((0, dimension), dtype=np.float32) if parameters.max_iter == 0 else sample()
        if parameters.max_iter and len(rows) < (parameters.n_clusters or 1):
            raise InputError(
                f"n_clusters={parameters.n_clusters} is more than the {len(rows)} usable rows that it is fitted on"
            )
        _LOG.info("Fitting %s centroids on %s rows of %s values", parameters.n_clusters, len(rows), dimension)
        fit = ENGINES[parameters.kmeans.name]().fit(rows, initial, parameters)
        buffer = io.BytesIO()
        np.save(buffer, fit.centroids)
        data = storage.create_if_absent(uri, buffer.getvalue(), options)
        model = {
            "engine": parameters.kmeans.name,
            "rows": len(rows),
            "inertia": None if np.isnan(fit.inertia) else fit.inertia,
            "iterations": fit.iterations,
            "seconds": round(time.time() - started, 3),
        }
        storage.create_if_absent(storage.join(directory, "model.json"), json.dumps(model).encode(), options)
        _LOG.info("Fitted in %s iterations and %.1f s", fit.iterations, time.time() - started)
    else:
        data = storage.read_bytes(uri, options)
    return FittedKMeans(uri, content_hash(data))


def load_init(parameters: Parameters, dimension: int | None) -> np.ndarray:
    """The initial centroids at `parameters.init`, (k, d) float32.

    Raises:
        InputError: no such file, not an array, or another shape than (n_clusters, dimension).
    """
    path = parameters.init
    try:
        array = np.load(io.BytesIO(init_bytes(parameters)), allow_pickle=False)
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
    """The content of the file at `parameters.init`; InputError where there is none."""
    in_cache = parameters.init.startswith(parameters.cache_root.rstrip("/") + "/")
    kwargs = parameters.cache_options if in_cache else parameters.read_kwargs
    try:
        return storage.read_bytes(parameters.init, kwargs.get("storage_options", {}))
    except OSError as error:
        raise InputError(f"init={parameters.init}: cannot be read: {error}") from error


def content_hash(data: bytes) -> str:
    """What identifies centroids: 16 hexadecimal digits of a hash of their file."""
    return hashlib.sha256(data).hexdigest()[:16]


def assign(rows: Any, centroids: Any, batch: int) -> Any:
    """The nearest centroid of each row, the first of equally near ones; (n,) int32.

    Float32 products over tiles nominate; where they cannot tell the nearest two apart, float64 decides, so
    that a row's centroid does not depend on the rows beside it.

    Args:
        rows: (n, d) float32.
        centroids: (k, d) float32.
        batch: rows per tile.
    """
    xp = namespace(rows)
    result = xp.empty(len(rows), dtype=xp.int32)
    squares = row_dot(centroids, centroids)
    half, half32 = squares / 2, (squares / 2).astype(xp.float32)
    exact = centroids.astype(xp.float64)
    scale = float(xp.sqrt(squares.max()))
    step = max(1, min(batch, (32 << 20) // (4 * len(centroids))))
    for start in range(0, len(rows), step):
        tile = rows[start : start + step]
        score = tile @ centroids.T
        score -= half32
        at = score.argmax(axis=1)
        each = xp.arange(len(at))
        best = score[each, at]
        score[each, at] = -xp.inf
        longest = float(xp.sqrt(row_dot(tile, tile).max()))
        doubt = 2 * rounding_error(tile.shape[1]) * max(1.0, scale) * max(longest, scale, 1.0)
        unclear = xp.flatnonzero(score.max(axis=1) >= best - xp.float32(doubt))
        if len(unclear):
            at[unclear] = (tile[unclear].astype(xp.float64) @ exact.T - half).argmax(axis=1)
        result[start : start + step] = at
    return result


def distances(rows: Any, centroids: Any, labels: Any) -> tuple[Any, Any]:
    """The distances of each row to its centroid, computed from these two vectors alone.

    Args:
        rows: (n, d) float32 unit rows.
        centroids: (k, d) float32.
        labels: (n,) the centroid of each row.

    Returns:
        l2 (n,) float32, Euclidean, to the raw centroid; cosine (n,) float32, 1 - cosine.
    """
    xp = namespace(rows)
    l2 = xp.empty(len(rows), dtype=xp.float32)
    cosine = xp.empty(len(rows), dtype=xp.float32)
    norms = row_dot(centroids, centroids)
    for start in range(0, len(rows), 8192):
        part = slice(start, start + 8192)
        own = centroids[labels[part]]
        dot, square, norm = row_dot(rows[part], own), row_dot(rows[part], rows[part]), norms[labels[part]]
        l2[part] = xp.sqrt(xp.maximum(square - 2 * dot + norm, 0))
        length = xp.sqrt(square * norm)
        cosine[part] = 1 - dot / xp.where(length > 0, length, 1)
    return l2, cosine


def scalable_init(
    sample: Any, n_clusters: int, oversampling_factor: float, rng: np.random.Generator, batch: int
) -> Any:
    """Initial centroids (k, d) float32 by k-means||.

    Bahmani et al., "Scalable K-Means++", 2012: a few rounds each add about `oversampling_factor * n_clusters`
    rows, drawn with probability proportional to their squared distance to the candidates so far; then k-means++
    over the candidates, weighted by the rows that are nearest to each. All distances are matrix products.

    Args:
        sample: (m, d) float32, m >= n_clusters.
        batch: rows per tile.
    """
    xp = namespace(sample)
    square = row_dot(sample, sample).astype(xp.float32)
    candidates = [int(rng.integers(len(sample)))]
    nearest = _squared_distances(sample, square, sample[candidates], batch)
    for _ in range(_ROUNDS):
        total = float(nearest.sum(dtype=xp.float64))
        if total <= 0:
            break
        chance = nearest * xp.float32(oversampling_factor * n_clusters / total)
        fresh = xp.flatnonzero(xp.asarray(rng.random(len(sample), dtype=np.float32)) < chance).tolist()
        if not fresh:
            continue
        candidates += fresh
        nearest = xp.minimum(nearest, _squared_distances(sample, square, sample[fresh], batch))
    if len(set(candidates)) < n_clusters:
        others = np.setdiff1d(np.arange(len(sample)), candidates)
        candidates += rng.choice(others, n_clusters - len(set(candidates)), replace=False).tolist()
    chosen = sample[sorted(set(candidates))]
    weights = xp.bincount(assign(sample, chosen, batch), minlength=len(chosen)).astype(xp.float64)
    return _weighted_plus_plus(chosen, weights, n_clusters, rng)


def _squared_distances(sample: Any, square: Any, centroids: Any, batch: int) -> Any:
    """The squared distance of each row to the nearest of some centroids; (m,) float32."""
    xp = namespace(sample)
    result = xp.empty(len(sample), dtype=xp.float32)
    own = row_dot(centroids, centroids).astype(xp.float32)
    step = max(1, min(batch, (32 << 20) // (4 * len(centroids))))
    for start in range(0, len(sample), step):
        part = slice(start, start + step)
        products = sample[part] @ centroids.T
        products *= -2
        products += own
        result[part] = xp.maximum(products.min(axis=1) + square[part], 0)
    return result


def _weighted_plus_plus(candidates: Any, weights: Any, n_clusters: int, rng: np.random.Generator) -> Any:
    """k-means++ (Arthur and Vassilvitskii, 2007) over weighted candidates."""
    xp = namespace(candidates)
    square = row_dot(candidates, candidates).astype(xp.float32)
    nearest = xp.full(len(candidates), xp.inf, dtype=xp.float32)
    free = xp.ones(len(candidates), dtype=bool)
    chosen: list[int] = []
    for _ in range(n_clusters):
        chance = xp.where(free, weights * xp.where(xp.isfinite(nearest), nearest, 1), 0)
        if not chance.sum() > 0:
            chance = free.astype(xp.float64)
        cumulative = xp.cumsum(chance)
        pick = int(xp.searchsorted(cumulative, float(rng.random()) * float(cumulative[-1]), side="right"))
        pick = min(pick, int(xp.flatnonzero(free)[-1]))
        chosen.append(pick)
        free[pick] = False
        distance = square - 2 * (candidates @ candidates[pick]) + square[pick]
        nearest = xp.minimum(nearest, xp.maximum(distance, 0))
    return candidates[chosen]
