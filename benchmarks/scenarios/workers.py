"""Two worker processes on two cores against one process with one thread."""

from __future__ import annotations

from benchmarks.bench import ONE_THREAD, Bench, Goal, Result
from benchmarks.measure import interleaved, medians, ratio, raw

SIZE = 1_000_000


def run(bench: Bench) -> Result:
    """One process with one and with all threads, two processes with one thread each and as they choose."""
    dataset = bench.generated(*bench.sizes([SIZE]) or [min(bench.rows)])
    given, two = [f"init={bench.centroids(dataset)}", "max_iter=0"], "runner.num_workers=2"
    contenders = [
        bench.ours("1 process, 1 thread", dataset, *given, env=ONE_THREAD),
        bench.ours("1 process, all threads", dataset, *given),
        bench.ours("2 processes, 1 thread each", dataset, *given, two, env=ONE_THREAD),
        bench.ours("2 processes", dataset, *given, two),
    ]
    runs = interleaved(contenders, bench.rounds)
    single = runs["1 process, 1 thread"]
    result = Result(runs=raw(runs))
    result.table = [{"rows": dataset.rows, "who": name, **medians(r, single)} for name, r in runs.items()]
    speedup = 1 / ratio(runs["2 processes"], single)
    result.goals.append(Goal("two processes, speed / one with one thread", speedup, 1.6, at_most=False))
    return result
