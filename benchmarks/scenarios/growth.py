"""Time against rows at fixed rows per cluster, and against clusters at fixed rows; given centroids."""

from __future__ import annotations

import numpy as np

from benchmarks.bench import Bench, Goal, Result, cluster_sizes
from benchmarks.measure import Contender, interleaved, medians, raw

SIZES = (125_000, 250_000, 500_000, 1_000_000, 2_000_000)
ROWS_PER_CLUSTER = 1000
_CLUSTERS = (125, 250, 500, 1000, 2000)
_CLUSTERS_SIZE = 250_000


def run(bench: Bench) -> Result:
    """The exponent is fitted by least squares to the logarithms."""
    result = Result()
    sizes = bench.sizes(SIZES)
    contenders = []
    for size in sizes:
        dataset = bench.generated(size, size // ROWS_PER_CLUSTER)
        contenders.append(bench.ours(f"{size}", dataset, f"init={bench.centroids(dataset)}", "max_iter=0"))
    runs = interleaved(contenders, bench.rounds)
    skews = {c.name: _skew(c) for c in contenders}
    for size in sizes:
        columns = {"series": "rows", "rows": size, "clusters": size // ROWS_PER_CLUSTER}
        result.table.append({**columns, **medians(runs[f"{size}"]), "skew": skews[f"{size}"]})
    if len(sizes) > 1:
        seconds = [row["seconds"] for row in result.table]
        exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        label = f"{sizes[0]:,} to {sizes[-1]:,} rows: exponent of time"
        result.goals.append(Goal(label, exponent, 1.05, ""))
    if bench.sizes([_CLUSTERS_SIZE]):
        dataset = bench.generated(_CLUSTERS_SIZE)
        contenders = [
            bench.ours(f"{k} clusters", dataset, f"init={bench.centroids(dataset, k)}", "max_iter=0") for k in _CLUSTERS
        ]
        runs |= interleaved(contenders, bench.rounds)
        skews = {c.name: _skew(c) for c in contenders}
        for k in _CLUSTERS:
            columns = {"series": "clusters", "rows": dataset.rows, "clusters": k}
            result.table.append({**columns, **medians(runs[f"{k} clusters"]), "skew": skews[f"{k} clusters"]})
    result.runs = raw(runs)
    return result


def _skew(contender: Contender) -> float:
    """The pairs within the clusters that a run found, as a multiple of those in clusters of one size."""
    sizes = cluster_sizes(contender.output).astype(np.float64)
    return float(len(sizes) * (sizes @ sizes) / sizes.sum() ** 2)
