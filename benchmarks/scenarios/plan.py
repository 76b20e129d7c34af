"""What `semdedup-plan` predicts for the runs of `growth` and `exact`, calibrated in this run, and what they took."""

from __future__ import annotations

import subprocess
from typing import Any

from beam_semdedup.compute.threads import cores
from beam_semdedup.config.parameters import ForecastParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.forecast.model import Data, Machines, forecast
from beam_semdedup.forecast.rates import load_rates
from beam_semdedup.forecast.report import input_data
from beam_semdedup.forecast.spread import measure
from beam_semdedup.plan.probes import choose_clusters
from beam_semdedup.plan.rates import Rates
from benchmarks.bench import Bench, Goal, Result, semdedup
from benchmarks.scenarios import exact, growth

_DIMENSION = 384


def run(bench: Bench) -> Result:
    """Their times are taken from the same report; those of `growth` are measured where they are not there."""
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
    result.table += _across_clusters(bench, rates)
    for series in dict.fromkeys(row["series"] for row in result.table):
        ratios = [row["ratio"] for row in result.table if row["series"] == series]
        worst = max(abs(ratio - 1) for ratio in ratios)
        result.goals.append(Goal(f"plan, {series}: worst |predicted / measured - 1|", worst, 0.3, ""))
    return result


def _across_clusters(bench: Bench, rates: Rates) -> list[dict[str, Any]]:
    """Predicts the runs of `exact` on real rows, whose visits are counted on a sample of these, fit included."""
    real, table = bench.real(), []
    if real is None:
        return []
    for measured in bench.stored("exact"):
        if measured["rows"] != real.rows or measured["who"] not in (exact.ONE, exact.EXACT):
            continue
        n_probes = "exact" if measured["who"] == exact.EXACT else 1
        values = {"input_path": str(real.path), "eps": measured["eps"], "n_probes": n_probes}
        p = resolve(values, ForecastParameters)
        data = input_data(p)
        clusters = choose_clusters(p, data.rows, data.dimension, n_probes, p.matching_reach)
        spread = None if n_probes == 1 else measure(p, data.input, clusters)
        made = forecast(p, data, clusters, Machines(cores=cores(), memory=8 << 30), rates, spread)
        table.append(
            {
                "series": f"n_probes={n_probes}",
                "rows": real.rows,
                "clusters": clusters,
                "eps": measured["eps"],
                "measured": measured["seconds"],
                "predicted": made.seconds,
                "ratio": made.seconds / measured["seconds"],
                **{stage.name: stage.seconds for stage in made.stages},
                "bottleneck": made.bottleneck,
            }
        )
    return table
