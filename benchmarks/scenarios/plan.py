"""What `semdedup-plan` predicts for the runs of `growth`, calibrated in the same run, against what they took."""

from __future__ import annotations

import subprocess

from beam_semdedup.compute.threads import cores
from beam_semdedup.config.parameters import ForecastParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.forecast.model import Data, Machines, forecast
from beam_semdedup.forecast.rates import load_rates
from benchmarks.bench import Bench, Goal, Result, semdedup
from benchmarks.scenarios import growth

_DIMENSION = 384


def run(bench: Bench) -> Result:
    """The times of `growth` are taken from the same report where it is there, and measured where not."""
    path = bench.work / "calibration.json"
    command = semdedup().with_name("semdedup-plan")
    asked = ["rows=1000000", f"dimension={_DIMENSION}", "calibrate=true", f"calibration={path}"]
    subprocess.run([command, *asked], check=True, stdout=subprocess.DEVNULL)
    rates = load_rates(str(path))
    result = Result(runs={"rates": rates})
    for measured in bench.stored("growth") or growth.run(bench).table:
        rows, clusters = measured["rows"], measured["clusters"]
        p = resolve(
            {"rows": rows, "dimension": _DIMENSION, "skew": measured["skew"], "fit_iterations": 0}, ForecastParameters
        )
        data = Data(rows, _DIMENSION, stored_bytes=4 * _DIMENSION)
        made = forecast(p, data, clusters, Machines(cores=cores(), memory=8 << 30), rates)
        result.table.append(
            {
                "series": measured["series"],
                "rows": rows,
                "clusters": clusters,
                "measured": measured["seconds"],
                "predicted": made.seconds,
                "ratio": made.seconds / measured["seconds"],
                **{stage.name: stage.seconds for stage in made.stages},
                "bottleneck": made.bottleneck,
            }
        )
    for series in dict.fromkeys(row["series"] for row in result.table):
        ratios = [row["ratio"] for row in result.table if row["series"] == series]
        worst = max(abs(ratio - 1) for ratio in ratios)
        result.goals.append(Goal(f"growth with {series}: worst |predicted / measured - 1|", worst, 0.3, ""))
    return result
