"""One fit of centroids on a sample that is in memory: seconds, iterations, and the inertia computed alike for all."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.bare import assign


def ours(sample: np.ndarray, initial: Path | None, clusters: int, parameters: dict[str, Any]) -> tuple[np.ndarray, int]:
    """The project's own engine."""
    from beam_semdedup.config.validation import resolve
    from beam_semdedup.fit.local import LocalEngine

    given = {"init": str(initial)} if initial else {}
    p = resolve({"input_path": "-", "output_path": "-", "n_clusters": clusters, **given, **parameters})
    fit = LocalEngine(p).fit(lambda: sample, np.load(initial) if initial else None, p)
    return fit.centroids, fit.iterations


def faiss(
    sample: np.ndarray, initial: Path | None, clusters: int, parameters: dict[str, Any]
) -> tuple[np.ndarray, int]:
    """faiss's Kmeans, on all rows."""
    import faiss

    iterations = parameters["max_iter"]
    model = faiss.Kmeans(sample.shape[1], clusters, niter=iterations, max_points_per_centroid=len(sample))
    model.train(sample, init_centroids=np.load(initial) if initial else None)
    return model.centroids, iterations


def inertia(sample: np.ndarray, centroids: np.ndarray) -> float:
    """The sum of squared distances of the rows to their nearest centroids."""
    labels = assign(sample, centroids)
    total = 0.0
    for start in range(0, len(sample), 8192):
        part = slice(start, start + 8192)
        total += float(np.square(sample[part] - centroids[labels[part]], dtype=np.float64).sum())
    return total


def main() -> None:
    """Fits, prints JSON and writes the centroids."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=["ours", "faiss"])
    parser.add_argument("sample", type=Path, help=".npy file (m, d) of unit rows")
    parser.add_argument("clusters", type=int)
    parser.add_argument("--initial", type=Path, help=".npy file (k, d); without it the engine's own start")
    parser.add_argument("--parameters", type=json.loads, default={}, help="of our command, as JSON")
    parser.add_argument("--centroids", type=Path, help="where to write them")
    options = parser.parse_args()
    sample = np.load(options.sample)
    started, worked = time.perf_counter(), time.process_time()
    fit = {"ours": ours, "faiss": faiss}[options.engine]
    centroids, iterations = fit(sample, options.initial, options.clusters, options.parameters)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    if options.centroids:
        np.save(options.centroids, centroids)
    result = {"seconds": seconds, "cpu_seconds": cpu_seconds, "iterations": iterations}
    print(json.dumps({**result, "inertia": inertia(sample, centroids)}))


if __name__ == "__main__":
    main()
