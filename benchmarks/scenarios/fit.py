"""The fit alone: the same rows, initial centroids and iterations as faiss, and our default against convergence."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench, Goal, Result, found, probe
from benchmarks.data import Dataset
from benchmarks.measure import measure
from benchmarks.peers.vectors import load
from benchmarks.scenarios.given import REAL_CLUSTERS

_ITERATIONS = 20
_SAMPLE = 128_000
_TO_THE_END = {"tol": 0.0, "min_moved": 0.0}


def run(bench: Bench) -> Result:
    """On the real set, and on a sample of the generated one."""
    result = Result()
    real = bench.real()
    if real and real.rows in bench.sizes([real.rows]):
        _compare(bench, real, REAL_CLUSTERS, result)
    if bench.sizes([250_000]):
        dataset = bench.generated(250_000)
        _compare(bench, dataset, dataset.clusters, result)
    return result


def _compare(bench: Bench, dataset: Dataset, clusters: int, result: Result) -> None:
    sample, initial = _sample(bench, dataset, clusters)
    rows = len(np.load(sample, mmap_mode="r"))
    given = ["--initial", initial, "--parameters", json.dumps({"max_iter": _ITERATIONS, **_TO_THE_END})]
    fits: dict[str, tuple[str, ...]] = {
        "faiss": ("faiss", sample, clusters, *given),
        "ours": ("ours", sample, clusters, *given),
        "ours, defaults": ("ours", sample, clusters),
        "ours, converged": ("ours", sample, clusters, "--parameters", json.dumps({"max_iter": 300, **_TO_THE_END})),
    }
    print(f"  {dataset.name}: {rows:,} rows, {clusters} centroids", flush=True)
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in fits}
    for number in range(bench.rounds):
        for name, arguments in fits.items():
            if name == "ours, converged" and number:
                continue
            measured[name].append(probe("fit", *arguments, "--centroids", _fitted(bench, name)))
            print(f"  {name}: {measured[name][-1]}", flush=True)
    result.runs[f"{dataset.rows}"] = measured
    seconds = {name: statistics.median(m["seconds"] for m in runs) for name, runs in measured.items()}
    inertia = {name: runs[0]["inertia"] for name, runs in measured.items()}
    for name, runs in measured.items():
        contender = bench.peer("bare", dataset, "--centroids", _fitted(bench, name))
        measure(contender.command)
        result.table.append(
            {
                "rows": rows,
                "clusters": clusters,
                "who": name,
                "iterations": runs[0]["iterations"],
                "seconds": seconds[name],
                "CPU seconds": statistics.median(run["cpu_seconds"] for run in runs),
                "inertia": inertia[name],
                "duplicates": len(found(contender.output)),
            }
        )
    times = [a["seconds"] / b["seconds"] for a, b in zip(measured["ours"], measured["faiss"], strict=True)]
    label = f"fit, {rows:,} rows, {clusters} clusters"
    result.goals += [
        Goal(f"{label}: time, ours / faiss", statistics.median(times), 1.1),
        Goal(f"{label}: inertia, ours / faiss", inertia["ours"] / inertia["faiss"], 1.01),
        Goal(f"{label}: time, default / converged", seconds["ours, defaults"] / seconds["ours, converged"], 1 / 3),
        Goal(f"{label}: inertia, default / converged", inertia["ours, defaults"] / inertia["ours, converged"], 1.01),
    ]
    gflop, rate = 2e-9 * rows * clusters * 384 * _ITERATIONS, bench.rates["gflops"]
    result.notes.append(
        f"{label}: floor of {_ITERATIONS} plain Lloyd iterations {gflop / rate:.1f} s ({gflop:,.0f} GFLOP at "
        f"{rate:.0f} GFLOP/s)"
    )


def _fitted(bench: Bench, name: str) -> Path:
    return bench.work / f"fitted-{name.replace(', ', '-')}.npy"


def _sample(bench: Bench, dataset: Dataset, clusters: int) -> tuple[Path, Path]:
    """Files with the unit rows that all fit on, and with random ones of them to start from."""
    sample, initial = (bench.work / f"{what}-{dataset.name}-{clusters}.npy" for what in ("sample", "initial"))
    if not initial.exists():
        rng = np.random.default_rng(0)
        rows = load(dataset.path)[1]
        if len(rows) > _SAMPLE:
            rows = rows[np.sort(rng.choice(len(rows), _SAMPLE, replace=False))]
        np.save(sample, rows)
        np.save(initial, rows[rng.choice(len(rows), clusters, replace=False)])
    return sample, initial
