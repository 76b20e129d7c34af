"""Ten values of eps in one sweep, and a finished run started again; fit included."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.bench import Bench, Goal, Result
from benchmarks.measure import Run, clear, measure, medians, ratio, raw

SIZE = 250_000
_VALUES = (0.001, 0.003, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1)


def run(bench: Bench) -> Result:
    """One run, the same again, the sweep; in turns."""
    dataset = bench.generated(*bench.sizes([SIZE]) or [min(bench.rows)])
    one = bench.ours("one run", dataset)
    sweep = bench.ours("ten values", dataset, eps=None)
    places = f"hydra.sweep.dir={sweep.output}/hydra"
    sweep = replace(sweep, command=[*sweep.command, "-m", f"eps={','.join(map(str, _VALUES))}", places])
    runs: dict[str, list[Run]] = {"one run": [], "again": [], "ten values": []}
    for _ in range(bench.rounds):
        clear(one.output)
        runs["one run"].append(measure(one.command))
        runs["again"].append(measure(one.command))
        clear(sweep.output)
        runs["ten values"].append(measure(sweep.command))
        print("  " + ", ".join(f"{name}: {measured[-1].seconds:.2f} s" for name, measured in runs.items()), flush=True)
    table = [{"rows": dataset.rows, "what": n, **medians(measured, runs["one run"])} for n, measured in runs.items()]
    again = next(row["seconds"] for row in table if row["what"] == "again")
    goals = [
        Goal("sweep of ten eps values / one run", ratio(runs["ten values"], runs["one run"]), 1.1),
        Goal("a finished run again", again, 5, "s"),
    ]
    return Result(table, goals, runs=raw(runs))
