"""k-means|| and Lloyd's iterations over shards of the rows, wherever these are.

A `Shard` does what needs the rows. The functions here decide what is done next, with results of all shards together,
and reach the shards only by `Run`: in this process there is one, on Ray each is in an actor.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from beam_semdedup.compute.arrays import row_dot
from beam_semdedup.compute.threads import in_threads
from beam_semdedup.errors import InputError
from beam_semdedup.fit.base import Fit, FitParameters
from beam_semdedup.fit.shard import Shard, nearest

_LOG = logging.getLogger(__name__)
_LOG_SECONDS = 5.0
_ROUNDS = 3
_INIT_ROWS, _INIT_ROWS_PER_CLUSTER = 10_000, 32
_DRAWS = 1024

Run: TypeAlias = Callable[..., list[Any]]
"""`run(operation, *arguments)` calls a method of every shard and returns the results in the order of the shards."""


def in_this_process(*shards: Shard) -> Run:
    """Returns a `Run` that reaches shards of this process, one after another."""

    def run(operation: str, *arguments: Any) -> list[Any]:
        return [getattr(shard, operation)(*arguments) for shard in shards]

    return run


def fit_shards(
    run: Run, initial: np.ndarray | None, parameters: FitParameters, log_seconds: float = _LOG_SECONDS
) -> Fit:
    """Returns the best of `n_init` fits; the only one where the initial centroids are given.

    Args:
        run: reaches the shards.
        initial: (k, d) float32, or None for what `parameters.init` says.
        parameters: with `n_clusters` set.
        log_seconds: how often a long fit logs how far it is.

    Raises:
        InputError: the shards have fewer rows than `n_clusters` together.
    """
    p = parameters
    assert p.n_clusters is not None
    shapes, squares = zip(*run("size"), strict=True)
    counts = [shape[0] for shape in shapes]
    rows, square = sum(counts), sum(squares)
    check_enough_rows(p.n_clusters, rows)
    _LOG.info("Fitting %s centroids on %s rows of %s values", p.n_clusters, f"{rows:,}", shapes[0][1])
    repeats = 1 if initial is not None else p.n_init
    if repeats == "auto":
        repeats = 10 if p.init == "random" else 1
    fits = []
    for seed in np.random.SeedSequence(p.random_state).spawn(repeats):
        rng = np.random.default_rng(seed)
        if initial is not None:
            start = initial
        elif p.init == "random":
            drawn = _shares(counts, rng.choice(rows, p.n_clusters, replace=False))
            start = _take(run, run("start_init", drawn), np.arange(p.n_clusters))
        else:
            start = scalable_init(run, counts, p.n_clusters, p.oversampling_factor, rng)
        fits.append(lloyd(run, start, rows, square, p.tol, p.min_moved, p.max_iter, log_seconds))
    return min(fits, key=lambda fit: fit.inertia)


def check_enough_rows(n_clusters: int, rows: int) -> None:
    """Raises InputError where there are fewer rows to fit on than clusters."""
    if not rows:
        raise InputError("no row to fit on can be used: their vectors are null, zero, not finite or of another length")
    if rows < n_clusters:
        raise InputError(
            f"n_clusters={n_clusters} is more than the {rows} usable rows that it is fitted on; give fewer, or a "
            "larger fit_data_fraction"
        )


def lloyd(
    run: Run,
    centroids: np.ndarray,
    rows: int,
    square: float,
    tol: float,
    min_moved: float,
    max_iter: int,
    log_seconds: float = _LOG_SECONDS,
) -> Fit:
    """Fits by Lloyd's iterations from given centroids.

    An empty cluster is given one of the rows farthest from their centroids, as scikit-learn does.

    Args:
        centroids: (k, d) float32.
        rows: how many all shards have.
        square: the sum of the rows' squared norms.
        tol: the squared movement of all centroids together at which to stop, relative to the rows' variance.
        min_moved: the share of rows with another centroid than before at which to stop; at 0 always.

    Returns:
        As centroids the means of the rows that were nearest to the last ones; as inertia the sum of the squared
        distances of these rows to them.
    """
    inertia, tolerance, logged = float("nan"), 0.0, time.monotonic()
    for iteration in range(1, max_iter + 1):
        parts = run("step", centroids)
        sums, counts, moved = (sum(part[i] for part in parts) for i in range(3))
        if iteration == 1:
            mean = sums.sum(axis=0) / rows
            tolerance = tol * max(0.0, square / rows - float(mean @ mean)) / len(mean)
        reseeded = _reseed(run, centroids, sums, counts)
        means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids).astype(np.float32)
        inertia = max(0.0, square - float((np.einsum("ij,ij->i", sums, sums) / np.maximum(counts, 1)).sum()))
        movement = float(np.square(means - centroids, dtype=np.float64).sum())
        centroids = means
        if time.monotonic() - logged > log_seconds:
            logged = time.monotonic()
            _LOG.info(
                "Fit: iteration %s, inertia %s, %.1f%% of the rows moved",
                iteration,
                f"{inertia:,.0f}",
                100 * moved / rows,
            )
        if moved == 0 or (not reseeded and (moved < min_moved * rows or movement <= tolerance)):
            break
    return Fit(centroids, inertia, iteration, rows)


def scalable_init(
    run: Run, counts: Sequence[int], n_clusters: int, oversampling_factor: float, rng: np.random.Generator
) -> np.ndarray:
    """Chooses different rows as initial centroids, (k, d) float32, by k-means||.

    Bahmani et al., "Scalable K-Means++", 2012: a few rounds each add about `oversampling_factor * n_clusters`
    rows, drawn with probability proportional to their squared distance to the candidates so far; then k-means++
    over the candidates, weighted by the rows that are nearest to each. Of many rows a random part takes part.

    Args:
        counts: the rows of each shard, at least `n_clusters` together.
    """
    enough = max(_INIT_ROWS, _INIT_ROWS_PER_CLUSTER * n_clusters)
    rows, seed = sum(counts), int(rng.integers(2**63))
    part = _shares(counts, rng.choice(rows, enough, replace=False)) if enough < rows else None
    counts = run("start_init", part)
    rows, firsts = sum(counts), np.cumsum([0, *counts])
    chosen = rng.integers(rows, size=1)
    candidates = _take(run, counts, chosen)
    potential = sum(run("approach", candidates, _shares(counts, chosen), 0))
    for number in range(_ROUNDS):
        if potential <= 0:
            break
        drawn = run("draw", oversampling_factor * n_clusters / potential, [seed, number])
        fresh = np.concatenate([first + positions for first, positions in zip(firsts[:-1], drawn, strict=True)])
        if len(fresh):
            added = _take(run, counts, fresh)
            potential = sum(run("approach", added, drawn, len(chosen)))
            chosen, candidates = np.concatenate([chosen, fresh]), np.concatenate([candidates, added])
    weights: np.ndarray = np.sum(run("owned", len(chosen)), axis=0)
    if len(chosen) < n_clusters:
        others = rng.choice(np.setdiff1d(np.arange(rows), chosen), n_clusters - len(chosen), replace=False)
        candidates = np.concatenate([candidates, _take(run, counts, others)])
        weights = np.concatenate([weights, np.zeros(len(others))])
    return plus_plus(candidates, weights, n_clusters, rng)


def plus_plus(points: np.ndarray, weights: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Draws `n_clusters` different points, (k, d), by k-means++.

    Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007. Many are drawn at once, each with
    probability proportional to its squared distance to the points taken before, and taken with the share of it that
    the ones taken meanwhile have left: the same distribution, by matrix products (rejection sampling, as in
    Cohen-Addad et al., "Fast and Accurate k-means++ via Rejection Sampling", 2020).

    Args:
        points: (n, d) float32, n >= n_clusters.
        weights: (n,) how many rows each point stands for.
    """
    square = row_dot(points, points)
    free = np.ones(len(points), dtype=bool)
    distance = np.ones(len(points))
    chosen: list[int] = []
    while len(chosen) < n_clusters:
        chance = np.where(free, weights * distance, 0)
        if not chance.any():
            chance = free.astype(np.float64)
        number = min(_DRAWS, max(1, len(chosen)))
        cumulative = np.cumsum(chance)
        picks = np.searchsorted(cumulative, rng.random(number) * cumulative[-1], side="right")
        picks = np.minimum(picks, np.flatnonzero(chance)[-1])
        (products,) = in_threads(lambda some: points[some] @ points[some].T, [picks])
        between = np.maximum(square[picks, None] + square[picks] - 2 * products, 0)
        left, threshold = distance[picks], distance[picks] * rng.random(number)
        fresh: list[int] = []
        for pick, others, i in zip(picks.tolist(), between, range(number), strict=True):
            if free[pick] and threshold[i] <= left[i] and len(chosen) + len(fresh) < n_clusters:
                free[pick] = False
                fresh.append(pick)
                np.minimum(left, others, out=left)
        closeness, _ = nearest(points, points[fresh], len(points))
        reached = np.maximum(square - 2 * closeness, 0)
        distance = np.minimum(distance, reached) if chosen else reached
        chosen += fresh
    return points[chosen]


def _take(run: Run, counts: Sequence[int], positions: np.ndarray) -> np.ndarray:
    """Returns rows by their positions over all shards, in ascending order of these."""
    return np.concatenate(run("take", _shares(counts, positions)))


def _shares(counts: Sequence[int], positions: np.ndarray) -> list[np.ndarray]:
    """Returns positions over all shards as positions in each, ascending."""
    positions, bounds = np.sort(positions), np.cumsum([0, *counts])
    cuts = np.searchsorted(positions, bounds)
    return [positions[a:b] - first for a, b, first in zip(cuts[:-1], cuts[1:], bounds[:-1], strict=True)]


def _reseed(run: Run, centroids: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> bool:
    """Moves rows that are far from their centroids into empty clusters, in place; says whether it moved any."""
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return False
    distances, rows, labels = map(np.concatenate, zip(*run("farthest", centroids, len(empty)), strict=True))
    far = np.argsort(-distances, kind="stable")[: len(empty)]
    far = far[distances[far] > 0]
    for cluster, row, label in zip(empty, rows[far], labels[far], strict=False):
        sums[cluster], counts[cluster] = row, 1
        sums[label] -= row
        counts[label] -= 1
    return len(far) > 0
