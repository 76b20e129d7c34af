"""`python -m benchmarks`: runs scenarios and writes their results as JSON, a Markdown report and a plot."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.mixed import EXAMPLES

SCENARIOS = (
    "start",
    "kernel",
    "given",
    "exact",
    "dense",
    "fit",
    "workers",
    "sweep",
    "memory",
    "growth",
    "corpus",
    "files",
    "plan",
    "semhash",
    "texts",
    "shuffle",
    "scale",
)


def main() -> None:
    """Runs scenarios and writes their results; what other scenarios found before stays in the same files."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--work", type=Path, default=here / "work", help="directory for generated sets (about 8 GB)")
    parser.add_argument(
        "--descriptions",
        type=Path,
        default=here.parents[1] / "shared/data/descriptions",
        help="directory of real embeddings; left out where it is missing",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender runs")
    parser.add_argument("--rows", type=int, nargs="+", default=[], help="only sets of these sizes")
    parser.add_argument("--eps", type=float, nargs="+", default=[], help="only these values, where there are several")
    parser.add_argument("--source", type=Path, default=EXAMPLES, help="directory of real embeddings to mix others from")
    parser.add_argument("--part", action="store_true", help="brute force for some of the rows only, whatever the size")
    parser.add_argument("--peers", nargs="+", default=[], help="only these contenders, where several compete")
    parser.add_argument("--results", type=Path, default=here / "results", help="directory of the reports")
    parser.add_argument("--name", default="cpu", help="of the report")
    options = parser.parse_args()
    unknown = sorted(set(options.scenarios) - set(SCENARIOS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    results = options.results / f"{options.name}.json"
    bench = Bench(
        work,
        options.descriptions.resolve(),
        options.rounds,
        options.rows,
        options.peers,
        results,
        options.eps,
        options.source.resolve(),
        options.part,
    )
    for name in options.scenarios or SCENARIOS:
        print(name, flush=True)
        started = time.time()
        result = importlib.import_module(f"benchmarks.scenarios.{name}").run(bench)
        report.update(results, name, result, time.time() - started)
        for goal in result.goals:
            print(f"  {goal.what}: {report.number(goal.measured)} {goal.unit}, {goal.verdict}", flush=True)
    print(report.write(results))


if __name__ == "__main__":
    main()
