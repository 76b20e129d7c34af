"""What segments cost the driver, the engine and the workers of a run with as many units as 1,000 workers have.

Of next to no data: a row has 8 values, and an assign unit about one row of every key, so that nearly every row is a
segment, which is written, indexed and read like one of a large run. With `n_probes=exact` a row visits about one
other cluster, and segments of visits and matches are indexed too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.config.parameters import ForecastParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.forecast.model import Data, Forecast, Machines, forecast
from beam_semdedup.plan.rates import REFERENCE
from benchmarks.bench import Bench, Result, probe, references
from benchmarks.data import Dataset
from benchmarks.measure import clear, measure_roles

SHAPES = ((1000, 25), (1000, 100), (1000, 250), (1000, 1000))
"""How many assign units and keys; what a segment takes is the difference between the first and the last that ran."""
USUAL = (25_000, 100_000)
"""The rows of the shapes that run unless `--rows` chooses others: a million take a quarter of an hour each."""
MOST_VISITING = 250_000
"""The rows above which nothing visits, as that takes four times as long."""
RUNNERS = {"direct": (), "ray": ("runner.num_cpus=1",), "flink": ()}
FEW = (40, 20)
"""So few that what 2 and 12 workers take differs by the workers alone."""
_DIMENSION, _NOISE, _EPS, _WORKERS, _MORE_WORKERS = 8, 0.15, 0.03, 2, 12


def run(bench: Bench) -> Result:
    """Each runner with two workers, within clusters and across them; `--peers` chooses runners, `--rows` shapes.

    And the local runner, which serves the actors of Ray too, with a dozen; and what the driver does by itself.
    """
    result = Result()
    for runner in RUNNERS:
        if bench.peers and runner not in bench.peers:
            continue
        for probes in ("1", "exact"):
            for units, keys in SHAPES:
                many = probes != "1" and units * keys > MOST_VISITING
                if units * keys in (bench.rows or USUAL) and not many:
                    row, raw = _measured(bench, runner, probes, units, keys)
                    result.table.append(row)
                    result.runs[f"{runner}, {probes}, {units} x {keys}"] = raw
                    print(f"  {row}", flush=True)
    result.table += list(_slopes(result.table))
    if not bench.peers and bench.sizes([math.prod(FEW)]):
        _add_notes(bench, result)
    return result


def _add_notes(bench: Bench, result: Result) -> None:
    few, many = (_measured(bench, "direct", "1", *FEW, workers)[1] for workers in (_WORKERS, _MORE_WORKERS))
    each = {name: (many[name]["driver"] - few[name]["driver"]) / (_MORE_WORKERS - _WORKERS) for name in many}
    by_itself = probe("driver")
    result.runs |= {"2 workers": few, "12 workers": many, "driver by itself": by_itself}
    result.notes.append(
        f"Each of {_MORE_WORKERS} workers instead of {_WORKERS} takes {each['cpu_seconds']:.3f} s of the driver's CPU "
        f"and {each['peak_bytes'] / 1e6:.2f} MB of its memory."
    )
    result.notes += [f"Each {what}: {1e6 * seconds:.3g} µs of the driver's CPU." for what, seconds in by_itself.items()]


def _measured(
    bench: Bench, runner: str, probes: str, units: int, keys: int, workers: int = _WORKERS
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Runs the command once, and returns a row of the table and what each process took."""
    data, centroids = _data(bench.work, units, keys)
    output = bench.work / "out" / "scale"
    clear(output)
    sizes = {"assign_unit_bytes": 4 * _DIMENSION * keys, "comparison_rows": units}
    given = [*RUNNERS[runner], f"init={centroids}", "max_iter=0", *(f"{name}={value}" for name, value in sizes.items())]
    given += [f"runner={runner}", f"runner.num_workers={workers}", f"n_probes={probes}", "verbose=false"]
    took = measure_roles(bench.ours("scale", Dataset(data, units * keys, keys), *given, eps=_EPS).command, _role)
    indexed, indexing = _indexed(output), _index_seconds(output)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["stages"]["assign"]["units_done"] == units
    p = resolve({"rows": units * keys, "dimension": _DIMENSION, "fit_iterations": 0, **sizes}, ForecastParameters)
    planned = forecast(p, Data(units * keys, _DIMENSION), keys, Machines(_WORKERS), REFERENCE)
    row = {
        "runner": runner,
        "n_probes": probes,
        "units × keys": f"{units:,} × {keys:,}",
        "segments indexed": indexed,
        "seconds": took.seconds,
        "between assign and compare, s": indexing if probes == "1" else None,
        **_of_roles(took.cpu_seconds, "CPU s"),
        **_of_roles({role: peak / 1e6 for role, peak in took.peak_bytes.items()}, "MB"),
        **(_planned(planned) if probes == "1" else {}),
    }
    return row, {"cpu_seconds": took.cpu_seconds, "peak_bytes": took.peak_bytes}


def _of_roles(values: dict[str, float], unit: str) -> dict[str, float | None]:
    return {f"{role}, {unit}": values.get(role) for role in ("driver", "engine", "workers")}


def _planned(planned: Forecast) -> dict[str, Any]:
    index = next(stage for stage in planned.stages if stage.name == "index")
    return {
        "planned segments": planned.segments,
        "planned index, s": index.seconds,
        "planned driver, MB": planned.driver_memory / 1e6,
    }


def _slopes(table: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields what one more segment takes: microseconds and bytes, from the smallest to the largest run of a kind."""
    for (runner, probes), group in groupby(list(table), key=lambda row: (row["runner"], row["n_probes"])):
        rows = list(group)
        first, last = rows[0], rows[-1]
        more = last["segments indexed"] - first["segments indexed"]
        if not more:
            continue
        found: dict[str, Any] = {"runner": runner, "n_probes": probes, "units × keys": "each segment, µs and bytes"}
        for name, value in last.items():
            if isinstance(value, float) and isinstance(first.get(name), float):
                found[name] = (value - first[name]) / more * 1e6
        yield found


def _role(name: str, command: str) -> str:
    """Says what a process that the command started is for."""
    if name.startswith("ray::") or "beam_semdedup" in command:
        return "workers"
    return "engine"


def _indexed(output: Path) -> int:
    """Counts the segments that were indexed by key; those of rows twice where there are visits."""
    rows, visits, matches = (sum(1 for _ in references(output, p)) for p in ("segments", "visits", "matches"))
    return rows * (2 if visits else 1) + visits + matches


def _index_seconds(output: Path) -> float:
    """Says how long it took from the end of the assignment to the first comparison."""
    assigned, compared = (
        json.loads(next(output.glob(f"{stage}_results/*/manifest.json")).read_text())
        for stage in ("kmeans", "pairwise")
    )
    return compared["began"] - assigned["finished"]


def _data(work: Path, units: int, keys: int) -> tuple[Path, Path]:
    """Returns a parquet file, and one of centroids: a row group for each unit, with a row near each centroid."""
    data, given = work / f"scale-{units}x{keys}.parquet", work / f"scale-{keys}.npy"
    rng = np.random.default_rng(0)
    centroids = _unit_rows(rng.normal(size=(keys, _DIMENSION)))
    np.save(given, centroids)
    type_ = pa.list_(pa.float32(), _DIMENSION)
    schema = pa.schema([("id", pa.int64()), ("embeddings", type_)])
    with pq.ParquetWriter(data, schema) as writer:
        for unit in range(units):
            rows = _unit_rows(centroids + _NOISE * rng.normal(size=centroids.shape))
            ids = pa.array(np.arange(unit * keys, (unit + 1) * keys))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=type_)
            writer.write_table(pa.table([ids, vectors], schema=schema))
    return data, given


def _unit_rows(matrix: np.ndarray) -> np.ndarray:
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
