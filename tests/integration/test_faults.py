"""Processes that are killed at any moment, and what the next run makes of what they left."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import psutil
import pytest
from runs import DEMO, comparisons, dedup, duplicates, finish, segments, start, unit_files, wait

from beam_semdedup import RunError, Summary
from beam_semdedup.cli import commands as cli
from beam_semdedup.config.validation import resolve
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.runners.registry import make_runner

SIZES = {"comparison_rows": 200, "assign_unit_bytes": 300 * 4 * 384}
"""Small units, so that there are many moments between them."""


@pytest.fixture(scope="module")
def undisturbed(init: str, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return dedup(DEMO, tmp_path_factory.mktemp("undisturbed"), **_fixed(init), **SIZES)


@pytest.fixture
def started(init: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command on the demo data, with its results in `out`."""
    processes = []

    def call(**parameters: Any) -> subprocess.Popen[str]:
        given = {**_fixed(init), **SIZES, **parameters}
        paths = [f"input_path={DEMO}", f"output_path={tmp_path}/out"]
        processes.append(start([*paths, *(f"{name}={value}" for name, value in given.items())], tmp_path))
        return processes[-1]

    yield call
    for process in processes:
        process.kill()
        process.communicate()


def _fixed(init: str) -> dict[str, Any]:
    return {"n_clusters": 100, "init": init, "max_iter": 0, "eps": 0.05, "recall_sample": 0}


def _workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.Process(driver.pid).children() if "beam_semdedup.runners.worker" in p.cmdline()]


def _assert_resumes(summary: Summary, before: dict[str, tuple[int, int]], out: Path, undisturbed: Summary) -> None:
    """The run found what an undisturbed one finds, and left the finished units alone."""
    assert comparisons(summary).equals(comparisons(undisturbed))
    assert duplicates(summary).equals(duplicates(undisturbed))
    after = unit_files(out)
    assert {name: after[name] for name in before} == before
    for stage, what in (("assign", "/segments/"), ("pairwise", ".parquet")):
        expected = undisturbed.stages[stage].units_done
        finished = sum(what in name for name in before)
        assert summary.stages[stage].units_reused == finished
        if finished:  # else it is planned anew, for the memory and the blocks of the last attempt
            assert summary.stages[stage].units_done == expected - finished
    assert segments(summary).num_rows == 5000  # every file under a final name is whole
    assert not list(out.rglob(".*.tmp"))  # of what the dead process was writing


def test_a_killed_run_is_gone_on_with(
    started: Callable[..., subprocess.Popen[str]], undisturbed: Summary, init: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = started()
    wait(lambda: len(unit_files(out)) >= 20)
    process.kill()
    process.wait()
    before = unit_files(out)
    assert 20 <= len(before) < len(unit_files(Path(undisturbed.paths["output"])))
    assert not (out / "summary.json").exists()
    _assert_resumes(dedup(DEMO, out, **_fixed(init), **SIZES), before, out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_runs_killed_at_any_moments_end_as_an_undisturbed_one(
    seed: int, started: Callable[..., subprocess.Popen[str]], undisturbed: Summary, init: str, tmp_path: Path
) -> None:
    out, rng = tmp_path / "out", random.Random(seed)
    settings = [
        {},
        {"memory_budget": "100MB", "pairwise_batch_size": 100},
        {"runner.num_workers": 2},
        {"comparison_rows": 5000, "assign_unit_bytes": "1MB", "max_cluster_rows": 40},
    ]
    total = len(unit_files(Path(undisturbed.paths["output"])))
    before: dict[str, tuple[int, int]] = {}
    for number, finished in enumerate(sorted(rng.sample(range(total), 2))):
        # The first attempt makes the plan, which later ones keep whatever their sizes.
        process = started(**(settings[0] if number == 0 else rng.choice(settings)))
        wait(lambda goal=finished, driver=process: len(unit_files(out)) >= goal or driver.poll() is not None)
        time.sleep(rng.random() / 20)
        workers = _workers(process) if process.poll() is None else []
        process.kill()
        process.wait()
        wait(lambda gone=workers: not any(worker.is_running() for worker in gone))
        after = unit_files(out)
        assert {name: after[name] for name in before} == before
        before = after
    last = rng.choice(settings)
    num_workers = last.pop("runner.num_workers", 1)
    runner = {"name": "direct", "num_workers": num_workers}
    _assert_resumes(dedup(DEMO, out, runner, **{**_fixed(init), **SIZES, **last}), before, out, undisturbed)


@pytest.mark.slow
def test_a_run_killed_during_the_fit_fits_again(tmp_path: Path) -> None:
    fit = {"n_clusters": 60, "eps": 0.05, "tol": 0, "min_moved": 0, "n_init": 40}
    arguments = [f"{name}={value}" for name, value in fit.items()]
    process = start([f"input_path={DEMO}", f"output_path={tmp_path}/out", *arguments], tmp_path)
    wait(lambda: list((tmp_path / "out").glob("kmeans_results/*/plan.json")))
    time.sleep(1)
    process.kill()
    process.communicate()
    assert not list((tmp_path / "out").glob("kmeans_results/*/centroids.npy"))
    killed = dedup(DEMO, tmp_path / "out", **fit)
    assert duplicates(killed).equals(duplicates(dedup(DEMO, tmp_path / "other", **fit)))


def test_workers_end_with_their_driver_and_write_nothing_more(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = started(**{"runner.num_workers": 2})
    wait(lambda: len(unit_files(out)) >= 3)
    workers = _workers(process)
    assert len(workers) == 2
    process.kill()
    process.wait()
    wait(lambda: not any(worker.is_running() for worker in workers))
    before = unit_files(out)
    time.sleep(0.5)
    assert unit_files(out) == before


@pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_killed_worker_ends_the_run_with_a_message_and_it_can_be_gone_on_with(
    name: str, started: Callable[..., subprocess.Popen[str]], undisturbed: Summary, init: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = started(**{"runner.num_workers": 2})
    wait(lambda: len(unit_files(out)) >= 3)
    worker = _workers(process)[1]
    worker.send_signal(getattr(signal, name))
    ended = finish(process)
    assert ended.code == 1
    assert re.search(rf"^Failed: worker process {worker.pid} was killed by {name}.*goes on", ended.err, re.MULTILINE)
    assert "Traceback" not in ended.err
    before = unit_files(out)
    _assert_resumes(dedup(DEMO, out, **_fixed(init), **SIZES), before, out, undisturbed)


@pytest.mark.parametrize(
    ("num_workers", "name", "code", "said"),
    [
        pytest.param(1, "SIGINT", 130, "Interrupted", marks=pytest.mark.slow),
        (1, "SIGTERM", 143, "Terminated"),
        (2, "SIGINT", 130, "Interrupted"),
        pytest.param(2, "SIGTERM", 143, "Terminated", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_says_so_and_can_be_gone_on_with(
    num_workers: int,
    name: str,
    code: int,
    said: str,
    started: Callable[..., subprocess.Popen[str]],
    undisturbed: Summary,
    init: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    process = started(**{"runner.num_workers": num_workers})
    wait(lambda: len(unit_files(out)) >= 3)
    workers = _workers(process)
    process.send_signal(getattr(signal, name))
    ended = finish(process)
    assert ended.code == code
    assert ended.err.count(f"{said}. Finished units are kept: the same command goes on from there.") == 1
    assert "Traceback" not in ended.err
    wait(lambda: not any(worker.is_running() for worker in workers))
    assert list(scratch.glob("semdedup-*")) == []
    before = unit_files(out)
    _assert_resumes(dedup(DEMO, out, **_fixed(init), **SIZES), before, out, undisturbed)


def test_units_of_other_centroids_are_computed_again(parquet_dataset: Any, tmp_path: Path) -> None:
    """What is left where the centroids were lost after a part of the units was assigned to them."""
    out = tmp_path / "out"
    first = dedup(parquet_dataset.path, out)
    for lost in (
        *out.glob("*_results/*/manifest.json"),
        *out.glob("kmeans_results/*/centroids.npy"),
        *out.glob("kmeans_results/*/model.json"),
        *itertools.islice(sorted(out.glob("kmeans_results/*/segments/*")), 1),
    ):
        lost.unlink()
    stale = unit_files(out)
    other = parquet_dataset.embeddings[5:10] / np.linalg.norm(parquet_dataset.embeddings[5:10], axis=1, keepdims=True)
    np.save(Path(first.paths["kmeans_results"], "centroids.npy"), other.astype(np.float32))
    second = dedup(parquet_dataset.path, out)
    assert second.stages["assign"].units_reused == second.stages["pairwise"].units_reused == 0
    assert all(unit_files(out)[name] != place for name, place in stale.items())
    expected = dedup(parquet_dataset.path, tmp_path / "other", init=other.astype(np.float32), max_iter=0)
    assert comparisons(second).equals(comparisons(expected))


def test_a_file_that_is_not_whole_is_not_taken_for_a_unit(parquet_dataset: Any, tmp_path: Path) -> None:
    """No program of ours leaves half a file, but a disk that fills up or a copy of a cache may."""
    out = tmp_path / "out"
    first = dedup(parquet_dataset.path, out)
    expected = comparisons(first)
    for lost in out.glob("*_results/*/manifest.json"):
        lost.unlink()
    segment = min(out.glob("kmeans_results/*/segments/*"))
    attempt = segment.with_name(f".{segment.name}.{os.getpid()}.tmp")
    segment.rename(attempt)
    attempt.write_bytes(attempt.read_bytes()[:-100])
    second = dedup(parquet_dataset.path, out)
    assert second.stages["assign"].units_done == 1
    assert comparisons(second).equals(expected)


def _runner(num_workers: int) -> Any:
    paths = {"input_path": "unread", "output_path": "unwritten"}
    return make_runner(resolve({**paths, "runner": {"name": "direct", "num_workers": num_workers}}))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_that_nobody_foresaw_keeps_its_traceback(num_workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    def divide(number: int) -> float:
        return 1 / number

    def run() -> int:
        runners.run(lambda p: p | beam.Create([0]) | beam.Map(divide), _runner(num_workers))
        return 0

    assert cli._guarded(run) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "in divide" in said
    assert "ZeroDivisionError: division by zero" in said


@pytest.mark.slow
def test_a_worker_that_dies_is_told_of_in_its_own_run_only(tmp_path: Path) -> None:
    running, died = tmp_path / "running", tmp_path / "died"

    def fail(_: int) -> None:
        running.touch()
        while not died.exists():
            time.sleep(0.01)
        raise ValueError("this run's own")

    def die(_: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    failures: list[BaseException] = []

    def fail_beside() -> None:
        try:
            runners.run(lambda p: p | beam.Create([0]) | beam.Map(fail), _runner(2))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=fail_beside)
    thread.start()
    try:
        wait(running.exists)
        with pytest.raises(RunError, match="was killed by SIGKILL"):
            runners.run(lambda p: p | beam.Create([0]) | beam.Map(die), _runner(2))
    finally:
        died.touch()
        thread.join(60)
    (failure,) = failures
    assert "this run's own" in str(failure)
    assert "SIGKILL" not in str(failure)


def test_a_storage_that_raises_anything_does_not_end_the_progress() -> None:
    asked: list[int] = []

    def done() -> int:
        asked.append(1)
        raise RuntimeError("a client library's own kind of error")

    with progress.shown([progress.StageProgress("Stage", 2, done)], True, 0.01):
        wait(lambda: len(asked) > 1)


def test_a_local_disk_is_looked_at_more_often_than_a_remote_store() -> None:
    assert progress.interval("/data/out") < progress.interval("s3://bucket/out")
