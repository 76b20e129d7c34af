"""`runner=flink` with Flink in Beam's job server, where its jar is on this machine."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import psutil
import pytest
from apache_beam.transforms import window
from flink_on_this_machine import needs_the_jar
from runs import DEMO, SIZES, Ended, comparisons, dedup, duplicates, finish, starting, unit_files, wait

from beam_semdedup import Summary
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, RunError, UnitError
from beam_semdedup.runners import base as runners
from beam_semdedup.runners.direct import DirectRunner
from beam_semdedup.runners.flink import job, job_server
from beam_semdedup.runners.registry import make_runner

EMBEDDED = {"name": "flink", "num_workers": 2}


@pytest.fixture(scope="module")
def fixed(init: str) -> dict[str, Any]:
    """Parameters with given centroids."""
    return {"n_clusters": 100, "init": init, "max_iter": 0, "eps": 0.05, **SIZES}


@pytest.fixture(scope="module")
def expected(fixed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """The same job on the local runner."""
    summary = dedup(DEMO, tmp_path_factory.mktemp("expected"), **fixed)
    assert summary.num_duplicates > 100
    return summary


@pytest.fixture
def started(fixed: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command on the demo data with two workers, with its results in `out`."""
    with starting(tmp_path, {"input_path": DEMO, **fixed, "runner": "flink", "runner.num_workers": 2}) as call:
        yield call


def _assert_same(summary: Summary, expected: Summary) -> None:
    assert comparisons(summary).equals(comparisons(expected))
    assert duplicates(summary).equals(duplicates(expected))


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in _family(process) if "beam_semdedup.runners.flink.worker_pool" in p.cmdline()]


def _assert_gone(processes: list[psutil.Process]) -> None:
    wait(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes))


def _working(process: subprocess.Popen[str], out: Path) -> list[psutil.Process]:
    """The job server and the workers, as soon as they have finished some units."""
    wait(lambda: len(unit_files(out)) >= 3 or process.poll() is not None, 200)
    assert process.poll() is None, finish(process)
    family = _family(process)
    assert len(_workers(process)) == 2
    return family


@needs_the_jar
@pytest.mark.slow
def test_the_command_finds_the_same_as_on_the_local_runner_and_is_as_quiet(
    started: Callable[..., subprocess.Popen[str]], expected: Summary, fixed: dict[str, Any], tmp_path: Path
) -> None:
    process = started()
    family = _working(process, tmp_path / "out")
    ended = finish(process)
    assert ended.code == 0, ended
    assert f"Duplicates  {expected.num_duplicates:>14,}" in ended.out
    assert "runner flink with 2 workers" in ended.err
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in ended.err.splitlines()), ended.err
    _assert_gone(family)
    again = dedup(DEMO, tmp_path / "out", **fixed)
    assert again.stages["pairwise"].units_done == 0
    _assert_same(again, expected)


def test_what_is_left_of_a_finished_comparison_starts_no_flink(
    fixed: dict[str, Any], expected: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_server, "check", lambda config: None)  # of Java, which not every machine has
    monkeypatch.delattr(job, "run")
    cache = Path(expected.paths["output"])
    for eps in (0.05, 0.02, None):
        values = {**fixed, "eps": eps, "cache_path": cache}
        found = dedup(DEMO, tmp_path / f"{eps}", EMBEDDED, **values)
        assert found.runner == "flink"
        assert comparisons(found).equals(comparisons(expected))
    with pytest.raises(AttributeError):
        dedup(DEMO, tmp_path / "easy", EMBEDDED, **{**fixed, "cache_path": cache, "which_to_keep": "easy"})


def test_the_start_of_the_runner_is_booked_to_no_stage(
    fixed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(DirectRunner):
        def run(self, build: runners.Build) -> None:
            time.sleep(2)
            super().run(build)

    monkeypatch.setattr("beam_semdedup.workflow.run.make_runner", Slow)
    found = dedup(DEMO, tmp_path / "out", **fixed)
    assert found.startup_time >= 2
    assert found.kmeans_time < found.total_time - 2
    assert found.stages["assign"].seconds < found.total_time - 2


@needs_the_jar
@pytest.mark.slow
def test_a_killed_worker_is_said_and_the_run_can_be_gone_on_with(
    started: Callable[..., subprocess.Popen[str]], expected: Summary, fixed: dict[str, Any], tmp_path: Path
) -> None:
    process = started(**{"runner.max_retries": 0})
    family = _working(process, tmp_path / "out")
    worker = _workers(process)[1]
    worker.kill()
    ended = finish(process)
    assert ended.code == 1
    assert re.search(rf"^Failed: worker process {worker.pid} was killed by SIGKILL", ended.err, re.MULTILINE), ended
    assert "Traceback" not in ended.err
    _assert_gone(family)
    before = unit_files(tmp_path / "out")
    _assert_same(dedup(DEMO, tmp_path / "out", **fixed), expected)
    after = unit_files(tmp_path / "out")
    assert {name: after[name] for name in before} == before


@needs_the_jar
@pytest.mark.slow
@pytest.mark.parametrize("whom", ["worker", "job server"])
def test_a_run_that_lost_a_process_is_started_again_and_goes_on(
    whom: str,
    started: Callable[..., subprocess.Popen[str]],
    expected: Summary,
    fixed: dict[str, Any],
    tmp_path: Path,
) -> None:
    process = started()
    family = _working(process, tmp_path / "out")
    (victim, *_) = _workers(process) if whom == "worker" else [p for p in family if p.name() == "java"]
    victim.kill()
    ended = finish(process, 200)
    assert ended.code == 0, ended
    reason = {
        "worker": "was killed by SIGKILL",
        "job server": r"the connection to the Flink job server broke \(it was killed by signal 9\)",
    }[whom]
    assert re.search(rf"Trying again, 1 of 3: .*{reason}", ended.err), ended.err
    assert "Traceback" not in ended.err
    _assert_gone(family)
    again = dedup(DEMO, tmp_path / "out", **fixed)
    assert again.stages["pairwise"].units_done == 0
    _assert_same(again, expected)


@needs_the_jar
@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing_running(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = started()
    family = _working(process, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert ended.code == 130
    assert "Interrupted. Finished units are kept" in ended.err
    assert "Traceback" not in ended.err
    _assert_gone(family)


@needs_the_jar
@pytest.mark.slow
def test_the_job_server_and_the_workers_end_with_a_killed_driver(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = started()
    family = _working(process, tmp_path / "out")
    process.kill()
    process.wait()
    _assert_gone(family)


@needs_the_jar
@pytest.mark.slow
@pytest.mark.parametrize("kind", [UnitError, InputError, ArithmeticError])
def test_what_a_unit_says_comes_back_and_is_not_tried_again(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        raise kind(f"file.parquet: {number} is wrong")

    attempts: list[int] = []
    usual = job.run
    monkeypatch.setattr(job, "run", lambda *arguments: attempts.append(1) or usual(*arguments))
    raised = {UnitError: RunError, InputError: InputError, ArithmeticError: RuntimeError}[kind]
    runner = make_runner(resolve({"input_path": "in", "output_path": "out", "runner": EMBEDDED}))
    with pytest.raises(raised, match=r"file\.parquet: 7 is wrong") as error:
        runners.run(lambda p: p | beam.Create([7]) | beam.Map(fail), runner)
    if kind is not ArithmeticError:
        assert str(error.value) == "file.parquet: 7 is wrong"
    assert len(attempts) == 1


@needs_the_jar
@pytest.mark.slow
def test_a_streaming_pipeline_runs(tmp_path: Path) -> None:
    settings = {**EMBEDDED, "options": {"streaming": True}}
    runner = make_runner(resolve({"input_path": "in", "output_path": "out", "runner": settings}))
    place = tmp_path / "sums"
    place.mkdir()

    def write(key: int, values: Any, factor: int) -> None:
        (place / f"{key}-{factor * sum(values)}").touch()

    def build(pipeline: beam.Pipeline) -> None:
        factor = pipeline | "Factor" >> beam.Create([10])
        _ = (
            pipeline
            | beam.Create([(1, 2), (1, 3), (2, 4)])
            | beam.Map(lambda pair: window.TimestampedValue(pair, 10 * pair[1]))
            | beam.WindowInto(window.FixedWindows(1000))
            | beam.GroupByKey()
            | beam.Map(lambda pair, times: write(*pair, times), beam.pvalue.AsSingleton(factor))
        )

    runner.run(build)
    assert {file.name for file in place.iterdir()} == {"1-50", "2-40"}


def test_a_cluster_that_is_not_there_is_bad_input(semdedup: Callable[..., Ended], tmp_path: Path) -> None:
    ended = semdedup(
        f"input_path={DEMO}", f"output_path={tmp_path}/out", "runner=flink", "runner.flink_master=localhost:1"
    )
    assert ended.code == 2
    assert "runner.flink_master=localhost:1: no Flink REST API answers there" in ended.err
