"""What it takes before the work begins."""

from __future__ import annotations

import statistics
import sys

from benchmarks.bench import Bench, Goal, Result, semdedup
from benchmarks.measure import Contender, interleaved, medians, raw

_ROWS, _CLUSTERS = 2000, 20
_ROUNDS = 5


def run(bench: Bench) -> Result:
    """Imports, `--help`, and whole jobs on so few rows that only the start counts."""
    tiny = bench.generated(_ROWS, _CLUSTERS)
    centroids = bench.centroids(tiny)
    given = [f"init={centroids}", "max_iter=0"]
    contenders = [
        Contender("python", [sys.executable, "-c", ""]),
        Contender("import beam_semdedup", [sys.executable, "-c", "import beam_semdedup"]),
        Contender("import apache_beam", [sys.executable, "-c", "import apache_beam"]),
        Contender("import beam_semdedup.transforms", [sys.executable, "-c", "import beam_semdedup.transforms"]),
        Contender("import beam_semdedup.workflow.run", [sys.executable, "-c", "import beam_semdedup.workflow.run"]),
        Contender("semdedup --help", [semdedup(), "--help"]),
        bench.peer("bare", tiny, "--centroids", centroids),
        bench.ours("ours", tiny, *given),
        bench.ours("ours, 2 workers", tiny, *given, "runner.num_workers=2"),
    ]
    runs = interleaved(contenders, max(_ROUNDS, bench.rounds))
    result = Result([{"what": name, **medians(measured)} for name, measured in runs.items()], runs=raw(runs))
    extra = statistics.median(a.seconds - b.seconds for a, b in zip(runs["ours"], runs["bare"], strict=True))
    result.goals += [
        Goal("semdedup --help", medians(runs["semdedup --help"])["seconds"], 1.5, "s"),
        Goal(f"start-up: ours - bare on {_ROWS:,} rows", extra, 4, "s"),
    ]
    return result
