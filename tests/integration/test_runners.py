"""The same small job on every runner, with the same ids as the result."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from flink_on_this_machine import needs_the_jar
from prism_on_this_machine import PRISM, needs_prism
from pydantic.dataclasses import dataclass
from runs import DEMO, Ended, centroids, comparisons, dedup, duplicates

from beam_semdedup import Summary
from beam_semdedup.fields import CHECKED
from beam_semdedup.runners.base import Build, Runner, RunnerConfig
from beam_semdedup.runners.registry import RUNNERS

FIXED = {
    "n_clusters": 40,
    "max_iter": 0,
    "eps": 0.05,
    "comparison_rows": 500,
    "assign_unit_bytes": "500KB",
    "recall_sample": 1000,
}
PARAMETERS = ("input_path", "n_probes", "against")
"""In which the runs of this file differ."""
ON_RAY = {"name": "ray", "num_workers": 2}


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), "exact"])
def in_process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """A run in this process: within clusters alone, or across them and against some of the rows."""
    init, parameters = np.random.default_rng(0).normal(size=(40, 384)), {"n_probes": request.param}
    root, rows = tmp_path_factory.mktemp("rows"), pq.read_table(DEMO)
    pq.write_table(rows.slice(0, 2000), root / "input.parquet", row_group_size=400)
    if request.param == "exact":
        parameters["against"] = str(root / "references.parquet")
        pq.write_table(rows.slice(1600, 700), parameters["against"])
    summary = dedup(root / "input.parquet", root / "direct", init=init, **parameters, **FIXED)
    assert summary.num_duplicates > 100
    return summary


def _assert_same(runner: dict[str, Any], in_process: Summary, tmp_path: Path) -> None:
    parameters = {name: in_process.configuration[name] for name in PARAMETERS}
    found = dedup(output_path=tmp_path / "out", runner=runner, init=centroids(in_process), **parameters, **FIXED)
    assert found.runner == runner["name"]
    assert comparisons(found).equals(comparisons(in_process))
    assert duplicates(found).equals(duplicates(in_process))
    assert found.references == in_process.references


def test_worker_processes(in_process: Summary, tmp_path: Path) -> None:
    _assert_same({"name": "direct", "num_workers": 2}, in_process, tmp_path)


def test_ray(local_ray: Any, in_process: Summary, tmp_path: Path) -> None:
    _assert_same(ON_RAY, in_process, tmp_path)


@needs_the_jar
def test_flink_embedded(in_process: Summary, tmp_path: Path) -> None:
    options = {"job_server_jvm_properties": ["-XX:TieredStopAtLevel=1"]}  # less to compile in so short a life
    _assert_same({"name": "flink", "num_workers": 2, "options": options}, in_process, tmp_path)


@needs_prism
def test_prism(in_process: Summary, tmp_path: Path) -> None:
    _assert_same({"name": "prism", "prism_location": PRISM}, in_process, tmp_path)


@dataclass(kw_only=True, config=CHECKED)
class ToyConfig(RunnerConfig):
    """A runner of this test."""

    name: Literal["toy"] = "toy"
    greeting: str = "hello"
    """what this runner says"""


class ToyRunner(Runner[ToyConfig]):
    settings = ToyConfig

    def room(self) -> int:
        return 3

    def run(self, build: Build) -> None:
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            build(pipeline)


def test_a_runner_that_is_registered_needs_no_other_line(
    in_process: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, semdedup: Callable[..., Ended]
) -> None:
    monkeypatch.setitem(RUNNERS, "toy", ToyRunner)
    _assert_same({"name": "toy", "num_workers": "auto", "greeting": "good day"}, in_process, tmp_path)
    assert "runner.greeting" in semdedup("--help").out
    given = {
        **FIXED,
        **{name: value for name in PARAMETERS if (value := in_process.configuration[name]) is not None},
        "init": Path(in_process.paths["kmeans_results"], "centroids.npy"),
        "output_path": tmp_path / "command",
    }
    ended = semdedup("runner=toy", "runner.num_workers=auto", *(f"{name}={value}" for name, value in given.items()))
    assert "runner toy with 3 workers" in ended.err
    assert f"Duplicates  {in_process.num_duplicates:>14,}" in ended.out
    assert semdedup("runner=other").err == "Error: runner=other: runner is one of: direct, ray, flink, prism, toy\n"


def test_naming_the_runners_imports_none_of_what_they_run_on() -> None:
    code = "import beam_semdedup.runners.registry, sys; print({'apache_beam', 'grpc', 'ray'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


@pytest.mark.slow
def test_a_fit_and_workers_that_each_take_all_cpus(local_ray: Any, in_process: Summary, tmp_path: Path) -> None:
    fit = {**FIXED, "init": centroids(in_process), "max_iter": 5, "min_moved": 0}
    kmeans = {"name": "ray", "num_actors": 2}
    rows = in_process.configuration["input_path"]
    found = dedup(rows, tmp_path / "ray", ON_RAY, kmeans=kmeans, ray_timeout=20, **fit)
    expected = dedup(rows, tmp_path / "local", **fit)
    np.testing.assert_allclose(centroids(found), centroids(expected), atol=1e-5)
    assert duplicates(found).column("id").equals(duplicates(expected).column("id"))
    assert local_ray.util.list_named_actors(all_namespaces=True) == []
