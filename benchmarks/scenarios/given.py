"""The whole job with given centroids: what Beam, files and exactness cost over one NumPy process."""

from __future__ import annotations

from benchmarks.bench import Bench, Goal, Result, cluster_sizes, found, needed_flops
from benchmarks.data import Dataset
from benchmarks.measure import interleaved, medians, ratio, raw
from benchmarks.recall import recall, similar_pairs

SIZES = (250_000, 1_000_000)
REAL_CLUSTERS = 250


def run(bench: Bench) -> Result:
    """Bare, faiss and ours on the real set and on two generated ones."""
    result = Result()
    real = bench.real()
    if real and real.rows in bench.sizes([real.rows]):
        _compare(bench, real, REAL_CLUSTERS, result)
    for size in bench.sizes(SIZES):
        dataset = bench.generated(size)
        _compare(bench, dataset, dataset.clusters, result)
    return result


def _compare(bench: Bench, dataset: Dataset, clusters: int, result: Result) -> None:
    centroids = bench.centroids(dataset, clusters)
    given = [f"init={centroids}", "max_iter=0"]
    contenders = bench.contenders(
        bench.peer("bare", dataset, "--centroids", centroids),
        bench.peer("faiss_diy", dataset, "--centroids", centroids),
        bench.ours("ours", dataset, *given),
        bench.ours("ours, 2 workers", dataset, *given, "runner.num_workers=2"),
    )
    print(f"  {dataset.name}: {dataset.rows:,} rows, {clusters} centroids", flush=True)
    runs = interleaved(contenders, bench.rounds)
    outputs = {c.name: c.output for c in contenders}
    ids = {name: found(output) for name, output in outputs.items()}
    pairs = similar_pairs(bench, dataset)
    for name, measured in runs.items():
        result.table.append(
            {
                "rows": dataset.rows,
                "clusters": clusters,
                "who": name,
                **medians(measured, runs.get("bare", ())),
                "duplicates": len(ids[name]),
                "other than bare": len(ids[name] ^ ids["bare"]) if "bare" in ids else None,
                "recall": recall(pairs, ids[name]) if pairs else None,
            }
        )
    result.runs[f"{dataset.rows}"] = raw(runs)
    if "ours" in runs:
        sizes = cluster_sizes(outputs["ours"])
        assign, products = needed_flops(dataset.rows, clusters, sizes, 384)
        moved = dataset.num_bytes + 3 * 4 * 384 * dataset.rows
        result.notes.append(
            f"{dataset.rows:,} rows: floor {(assign + products) / 1e9 / bench.rates['gflops']:.1f} s of products "
            f"({assign / 1e9:,.0f} GFLOP to assign, {products / 1e9:,.0f} to compare, at {bench.rates['gflops']:.0f} "
            f"GFLOP/s) and {moved / bench.rates['copy']:.1f} s of bytes ({moved / 1e9:.1f} GB: input read, segments "
            f"written and read, rows gathered, at {bench.rates['copy'] / 1e9:.1f} GB/s); largest cluster "
            f"{sizes.max() / sizes.mean():.0f} times the mean"
        )
    if "ours" in runs and "bare" in runs and dataset.rows >= SIZES[0]:
        goal = Goal(f"given centroids, {dataset.rows:,} rows: ours / bare", ratio(runs["ours"], runs["bare"]), 1.3)
        result.goals.append(goal)
