"""Dense groups: many rows that resemble few texts, and lie in many clusters, with `n_probes=exact` and 1."""

from __future__ import annotations

from benchmarks.bench import Bench, Goal, Result, found
from benchmarks.dense import Groups, generate
from benchmarks.measure import interleaved, medians, raw

SETS = {
    "a third near 5 texts": Groups(40_000, 13_333, 5, 0.97),
    "half near one text": Groups(40_000, 20_000, 1, 0.98),
    "half the same": Groups(40_000, 20_000, 1, 1),
    "all near one text": Groups(20_000, 20_000, 1, 0.98),
}
EPS, CLUSTERS = 0.05, 140
ONE, EXACT = "n_probes=1", "n_probes=exact"


def run(bench: Bench) -> Result:
    """Both on each set, in turns."""
    result = Result()
    for name, groups in SETS.items():
        print(f"  {groups.rows:,} rows, {name}", flush=True)
        dataset = generate(bench.work, groups, bench.source)
        contenders = [bench.ours(who, dataset, who, f"n_clusters={CLUSTERS}", eps=EPS) for who in (ONE, EXACT)]
        runs = interleaved(contenders, bench.rounds)
        for contender in contenders:
            columns = {"rows": groups.rows, "set": name, "who": contender.name}
            columns |= medians(runs[contender.name], runs[ONE])
            result.table.append({**columns, "duplicates": len(found(contender.output))})
        result.runs[name] = raw(runs)
        one, exact = result.table[-2:]
        label = f"{groups.rows:,} rows, {name}: exact / n_probes=1"
        result.goals.append(Goal(f"{label} (CPU)", exact["CPU ratio"], 2))
        result.goals.append(Goal(f"{label} (memory)", exact["peak MB"] / one["peak MB"], 2))
    return result
