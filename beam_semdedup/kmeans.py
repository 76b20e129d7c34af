"""KMeans: fitting engines, the handle of a fitted model, and the assignment of rows to centroids."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from beam_semdedup import storage
from beam_semdedup.arrays import core_limit, cores, namespace, rounding_error, row_dot
from beam_semdedup.config import InputError, Parameters

_LOG = logging.getLogger(__name__)
_ROUNDS = 5
_TILE_BYTES = 32 << 20
_EQUALLY_NEAR = 1e-12
_LOADED: dict[str, np.ndarray] = {}
_LOADING = threading.Lock()


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
        with _LOADING:
            if self.content_hash not in _LOADED:
                data = storage.read_bytes(self.uri, options)
                if content_hash(data) != self.content_hash:
                    raise RuntimeError(f"{self.uri} was replaced during the run; run again")
                _LOADED.clear()  # a process works on one model at a time
                _LOADED[self.content_hash] = np.load(io.BytesIO(data), allow_pickle=False)
            return _LOADED[self.content_hash]


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
    uri = centroids_uri(directory)
    if not storage.exists(uri, options):
        started = time.time()
        initial = load_init(parameters, dimension) if parameters.centroids_given else None
        if parameters.max_iter == 0 and initial is not None:
            rows, fit = np.empty((0, dimension), dtype=np.float32), Fit(initial, float("nan"), 0)
        else:
            rows = sample()
            if len(rows) < (parameters.n_clusters or 1):
                raise InputError(
                    f"n_clusters={parameters.n_clusters} is more than the {len(rows)} usable rows that it is fitted on"
                )
            _LOG.info(
                "Fitting %s centroids on %s rows of %s values", parameters.n_clusters, f"{len(rows):,}", dimension
            )
            fit = ENGINES[parameters.kmeans.name]().fit(rows, initial, parameters)
            _LOG.info("Fitted in %s iterations and %.1f s", fit.iterations, time.time() - started)
        buffer = io.BytesIO()
        np.save(buffer, fit.centroids)
        data = storage.create_if_absent(uri, buffer.getvalue(), options)
        model = {
            "centroids": content_hash(buffer.getvalue()),
            "engine": parameters.kmeans.name,
            "rows": len(rows),
            "inertia": None if np.isnan(fit.inertia) else fit.inertia,
            "iterations": fit.iterations,
            "seconds": round(time.time() - started, 3),
        }
        storage.create_if_absent(storage.join(directory, "model.json"), json.dumps(model).encode(), options)
    else:
        data = storage.read_bytes(uri, options)
    return FittedKMeans(uri, content_hash(data))


def centroids_uri(directory: str) -> str:
    """Where the centroids of the assign stage in `directory` are."""
    return storage.join(directory, "centroids.npy")


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
    """The content of the file at `parameters.init`; InputError where there is none."""
    try:
        return storage.read_bytes(parameters.init, init_options(parameters))
    except OSError as error:
        raise InputError(f"init={parameters.init}: cannot be read: {error}") from error


def init_options(parameters: Parameters) -> storage.Options:
    """Storage options of `parameters.init`: the cache's for centroids that were stored there, else the input's."""
    in_cache = storage.is_inside(parameters.init, parameters.cache_root)
    return (parameters.cache_options if in_cache else parameters.read_kwargs).get("storage_options", {})


def content_hash(data: bytes) -> str:
    """What identifies centroids: 16 hexadecimal digits of a hash of their file."""
    return hashlib.sha256(data).hexdigest()[:16]


def assign(rows: Any, centroids: Any, batch: int) -> Any:
    """The nearest centroid of each row, the first of equally near ones; (n,) int32.

    Float32 products over tiles nominate; where they cannot tell the nearest two apart, float64 decides, so
    that a row's centroid does not depend on the rows beside it. Its products too depend on the tile in their
    last bits, so what differs by less than `_EQUALLY_NEAR` is equal.

    Args:
        rows: (n, d) float32.
        centroids: (k, d) float32.
        batch: rows per tile.
    """
    xp = namespace(rows)
    result = xp.empty(len(rows), dtype=xp.int32)
    squares = row_dot(centroids, centroids)
    half, half32 = squares / 2, (squares / 2).astype(xp.float32)
    scale = float(xp.sqrt(squares.max()))
    step = max(1, min(batch, _TILE_BYTES // (4 * len(centroids))))
    for start in range(0, len(rows), step):
        tile = rows[start : start + step]
        score = tile @ centroids.T
        score -= half32
        at = score.argmax(axis=1)
        each = xp.arange(len(at))
        best = score[each, at]
        score[each, at] = -xp.inf
        longest = float(xp.sqrt(xp.einsum("ij,ij->i", tile, tile).max()))
        doubt = 2 * rounding_error(tile.shape[1]) * max(1.0, scale) * max(longest, scale, 1.0)
        unclear = xp.flatnonzero(score.max(axis=1) >= best - xp.float32(doubt))
        if len(unclear):
            score[unclear, at[unclear]] = best[unclear]
            near = score[unclear] >= best[unclear, None] - xp.float32(doubt)
            columns = xp.flatnonzero(near.any(axis=0))
            exact = centroids[columns].astype(xp.float64)
            precise = tile[unclear].astype(xp.float64) @ exact.T - half[columns]
            equal = _EQUALLY_NEAR * max(1.0, scale * scale)
            at[unclear] = columns[(precise >= precise.max(axis=1, keepdims=True) - equal).argmax(axis=1)]
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
    chosen = [int(rng.integers(len(sample)))]
    nearest, owner = _nearest(sample, square, sample[chosen], batch)
    nearest[chosen] = 0
    for _ in range(_ROUNDS):
        total = float(nearest.sum(dtype=xp.float64))
        if total <= 0:
            break
        chance = nearest * xp.float32(oversampling_factor * n_clusters / total)
        fresh = xp.flatnonzero(xp.asarray(rng.random(len(sample), dtype=np.float32)) < chance).tolist()
        if fresh:
            distance, position = _nearest(sample, square, sample[fresh], batch)
            owner = xp.where(distance < nearest, position + len(chosen), owner)
            nearest = xp.minimum(nearest, distance)
            nearest[fresh] = 0  # exactly, so that none is drawn again
            chosen += fresh
    if len(chosen) < n_clusters:
        others = np.setdiff1d(np.arange(len(sample)), chosen)
        chosen += rng.choice(others, n_clusters - len(chosen), replace=False).tolist()
    weights = xp.bincount(owner, minlength=len(chosen)).astype(xp.float64)
    return _weighted_plus_plus(sample[chosen], weights, n_clusters, rng)


def _nearest(sample: Any, square: Any, centroids: Any, batch: int) -> tuple[Any, Any]:
    """The squared distance of each row to the nearest of some centroids, (m,) float32, and which it is."""
    xp = namespace(sample)
    distance = xp.empty(len(sample), dtype=xp.float32)
    position = xp.empty(len(sample), dtype=xp.int64)
    own = row_dot(centroids, centroids).astype(xp.float32)
    step = max(1, min(batch, _TILE_BYTES // (4 * len(centroids))))
    for start in range(0, len(sample), step):
        part = slice(start, start + step)
        products = sample[part] @ centroids.T
        products *= -2
        products += own
        position[part] = at = products.argmin(axis=1)
        distance[part] = xp.maximum(products[xp.arange(len(at)), at] + square[part], 0)
    return distance, position


def _weighted_plus_plus(candidates: Any, weights: Any, n_clusters: int, rng: np.random.Generator) -> Any:
    """Greedy k-means++ over weighted candidates: of a few draws, the one that lowers the inertia most is taken.

    Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007, with the number of draws
    that scikit-learn takes.
    """
    xp = namespace(candidates)
    square = row_dot(candidates, candidates).astype(xp.float32)
    draws = 2 + int(np.log(n_clusters))
    free = xp.ones(len(candidates), dtype=bool)
    chosen = [_draw(weights, rng, 1)[0]]
    nearest = _distances_to(candidates, square, chosen)[0]
    free[chosen] = False
    for _ in range(1, n_clusters):
        chance = weights * nearest * free
        picks = _draw(chance if chance.sum() > 0 else free.astype(xp.float64), rng, draws)
        lowered = xp.minimum(_distances_to(candidates, square, picks), nearest)
        best = int((lowered @ weights).argmin())
        nearest = lowered[best]
        chosen.append(picks[best])
        free[picks[best]] = False
    return candidates[chosen]


def _draw(chance: Any, rng: np.random.Generator, number: int) -> list[int]:
    """Positions drawn with probability proportional to `chance`; never one whose chance is zero."""
    xp = namespace(chance)
    cumulative = xp.cumsum(chance)
    picks = xp.searchsorted(cumulative, xp.asarray(rng.random(number)) * cumulative[-1], side="right")
    return xp.minimum(picks, xp.flatnonzero(chance)[-1]).tolist()


def _distances_to(candidates: Any, square: Any, picks: list[int]) -> Any:
    """Squared distances of all candidates to some of them; (len(picks), m) float32."""
    xp = namespace(candidates)
    products = candidates[picks] @ candidates.T
    return xp.maximum(square - 2 * products + square[picks][:, None], 0)
