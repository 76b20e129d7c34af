"""SemHash against the whole of our job, fit included."""

from __future__ import annotations

from benchmarks.bench import Bench, Goal, Result, found
from benchmarks.measure import interleaved, medians, raw
from benchmarks.recall import recall, similar_pairs

SIZE = 250_000


def run(bench: Bench) -> Result:
    """Both on the same generated set; SemHash once, since it takes minutes."""
    dataset = bench.generated(*bench.sizes([SIZE]) or [min(bench.rows)])
    theirs, ours = bench.peer("semhash_peer", dataset), bench.ours("ours, fit included", dataset)
    runs = {**interleaved([theirs], 1), **interleaved([ours], bench.rounds)}
    result = Result(runs=raw(runs))
    pairs = similar_pairs(bench, dataset)
    recalls = {}
    for contender in (theirs, ours):
        ids = found(contender.output)
        recalls[contender.name] = recall(pairs, ids)
        columns = {"rows": dataset.rows, "who": contender.name, **medians(runs[contender.name])}
        result.table.append({**columns, "duplicates": len(ids), "recall": recalls[contender.name]})
    seconds = {row["who"]: row["seconds"] for row in result.table}
    label = f"{dataset.rows:,} rows"
    speed = seconds[theirs.name] / seconds[ours.name]
    result.goals += [
        Goal(f"{label}: speed, ours / SemHash", speed, 10, at_most=False),
        Goal(f"{label}: recall, ours - SemHash", recalls[ours.name] - recalls[theirs.name], 0, "", at_most=False),
    ]
    result.notes.append(f"Planted: {dataset.rows // 10:,} redundant rows in {len(pairs[0]):,} similar pairs")
    return result
