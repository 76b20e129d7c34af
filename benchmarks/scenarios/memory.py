"""Peak memory of the whole job, fit included, above that of an interpreter with Beam."""

from __future__ import annotations

from benchmarks.bench import Bench, Goal, Result
from benchmarks.measure import interleaved, medians, raw

SIZES = ((1_000_000, 1000), (2_000_000, 2000))
_ITERATIONS = 3


def run(bench: Bench) -> Result:
    """A short fit: each iteration needs the same memory."""
    own = bench.interpreter.peak_bytes
    result = Result(notes=[f"The interpreter with Beam imported: {own / 1e6:,.0f} MB"])
    result.notes.append(f"max_iter={_ITERATIONS}: iterations take time, not memory")
    for rows, clusters in SIZES:
        if not bench.sizes([rows]):
            continue
        dataset = bench.generated(rows, clusters)
        contender = bench.ours("ours, fit included", dataset, f"n_clusters={clusters}", f"max_iter={_ITERATIONS}")
        runs = interleaved([contender], 1)
        result.runs[str(rows)] = raw(runs)
        (measured,) = runs[contender.name]
        above = (measured.peak_bytes - own) / 1e9
        result.table.append(
            {
                "rows": rows,
                "clusters": clusters,
                **medians([measured]),
                "above interpreter MB": 1000 * above,
                "private MB": measured.private_bytes / 1e6,
            }
        )
        result.goals.append(Goal(f"{rows:,} rows, {clusters} clusters: peak above interpreter", above, 1.2, "GB"))
    return result
