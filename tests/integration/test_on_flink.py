"""`runner=flink` with a job server in the place of Beam's, and with Beam's own where its jar is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import flink_stand_in
import psutil
import pytest
from runs import DEMO, SIZES, Ended, comparisons, dedup, duplicates, finish, start, unit_files, wait

from beam_semdedup import Summary
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, RunError, UnitError
from beam_semdedup.runners import base as runners
from beam_semdedup.runners.base import Runner
from beam_semdedup.runners.flink import job_server as flink_jar
from beam_semdedup.runners.flink.job import JobFailed
from beam_semdedup.runners.flink.worker_pool import WorkerPool
from beam_semdedup.runners.registry import make_runner

LAUNCH = Path(__file__).parents[2] / "launch" / "flink"

needs_the_jar = pytest.mark.skipif(
    flink_jar.local("1.20") is None,
    reason="Beam's job server for Flink 1.20 is not on this machine: make install EXTRAS=flink fetches it",
)


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
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, Path]:
    """The path of a jar that the `java` in PATH runs, and the directory of what the job servers saw."""
    return flink_stand_in.install(monkeypatch, tmp_path)


@pytest.fixture
def started(
    stand_in: tuple[Path, Path], fixed: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command on the demo data with two workers, with its results in `out`."""
    processes = []

    def call(**parameters: Any) -> subprocess.Popen[str]:
        settings = {"runner": "flink", "runner.num_workers": 2, "runner.flink_job_server_jar": stand_in[0]}
        paths = {"input_path": DEMO, "output_path": tmp_path / "out"}
        given = {**paths, **fixed, **settings, **parameters}
        processes.append(start([f"{name}={value}" for name, value in given.items()], tmp_path))
        return processes[-1]

    yield call
    for process in processes:
        process.kill()
        process.communicate()


def _settings(stand_in: tuple[Path, Path], **settings: Any) -> dict[str, Any]:
    return {"name": "flink", "num_workers": 2, "flink_job_server_jar": str(stand_in[0]), **settings}


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
    wait(lambda: len(unit_files(out)) >= 3 or process.poll() is not None)
    assert process.poll() is None, finish(process)
    family = _family(process)
    assert len(_workers(process)) == 2
    return family


def test_the_result_is_that_of_the_local_runner(
    stand_in: tuple[Path, Path], fixed: dict[str, Any], expected: Summary, tmp_path: Path
) -> None:
    before = psutil.Process().children(recursive=True)
    options = {"execution_mode_for_batch": "BATCH_FORCED"}
    for attempt in range(2):
        summary = dedup(DEMO, tmp_path / f"out{attempt}", _settings(stand_in, options=options), **fixed)
        _assert_same(summary, expected)
    assert psutil.Process().children(recursive=True) == before
    first, second = flink_stand_in.seen(stand_in[1])
    assert first["pid"] != second["pid"]
    assert re.search(rf"-jar {stand_in[0]} --flink-master \[local\] .*--job-port \d+", " ".join(first["argv"]))
    arrived = {
        "parallelism": "2",
        "sdk_worker_parallelism": "2",
        "number_of_execution_retries": "0",
        "max_cache_memory_usage_mb": "100",
        "environment_type": "EXTERNAL",
        **options,
    }
    assert {name: first["options"][name] for name in arrived} == arrived


@pytest.fixture
def cluster() -> Iterator[dict[str, Any]]:
    """See `rest_api`; a cluster of task managers with three slots each."""
    with flink_stand_in.rest_api() as state:
        state["/taskmanagers"] = {"taskmanagers": [{"slotsNumber": 3}]}
        yield state


def _runner(stand_in: tuple[Path, Path], **settings: Any) -> Runner[Any]:
    return make_runner(resolve({"input_path": "in", "output_path": "out", "runner": _settings(stand_in, **settings)}))


def test_options_survive_on_the_way_to_the_job_server(stand_in: tuple[Path, Path], cluster: dict[str, Any]) -> None:
    given = {"execution_mode_for_batch": "BATCH_FORCED", "sdk_worker_parallelism": "7", "job_name": "mine"}
    with WorkerPool("localhost:0", 1) as pool:
        _runner(
            stand_in,
            flink_master=cluster["address"],
            flink_version="2.0",
            worker_pool=f"localhost:{pool.port}",
            options={**given, "job_server_jvm_properties": ["-Xmx1g"]},
        ).run(lambda pipeline: pipeline | beam.Create([1]))
    (job,) = flink_stand_in.seen(stand_in[1])
    arrived = {
        **given,
        "parallelism": "2",
        "number_of_execution_retries": "0",
        "state_backend": "rocksdb",
        "environment_type": "EXTERNAL",
        "environment_config": f"localhost:{pool.port}",
    }
    assert {name: job["options"][name] for name in arrived} == arrived
    command = rf"^-Djava.io.tmpdir=(\S+) -Xmx1g -jar \S+ --flink-master http://{cluster['address']} --artifacts-dir \1 "
    assert re.match(command, " ".join(job["argv"]))


def test_flink_is_asked_to_start_the_workers_and_a_job_that_failed_is_cancelled(
    stand_in: tuple[Path, Path], cluster: dict[str, Any]
) -> None:
    running = {"jid": "a1", "name": "mine", "state": "RUNNING"}
    cluster["/jobs/overview"] = {"jobs": [running]}
    cluster["/jobs/a1?mode=cancel"] = lambda: running.update(state="CANCELED") or {}
    runner = _runner(
        stand_in, flink_master=cluster["address"], environment="process", options={"job_name": running["name"]}
    )
    with pytest.raises(JobFailed, match="beam:env:process"):  # which the job server of the tests does not know
        runner.run(lambda pipeline: pipeline | beam.Create([1]))
    (job,) = flink_stand_in.seen(stand_in[1])
    assert (job["options"]["sdk_worker_parallelism"], job["options"]["environment_type"]) == ("3", "PROCESS")
    assert json.loads(job["options"]["environment_config"])["command"].endswith("/semdedup-worker")
    assert "state_backend" not in job["options"]
    assert running["state"] == "CANCELED"


@pytest.mark.slow
def test_the_command_is_as_quiet_as_on_the_local_runner(
    started: Callable[..., subprocess.Popen[str]], expected: Summary
) -> None:
    ended = finish(started())
    assert ended.code == 0, ended
    assert f"Duplicates  {expected.num_duplicates:>14,}" in ended.out
    assert "runner flink with 2 workers" in ended.err
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in ended.err.splitlines()), ended.err


@pytest.mark.parametrize("kind", [UnitError, InputError, ArithmeticError])
def test_what_a_unit_says_comes_back_and_is_not_tried_again(kind: type[Exception], stand_in: tuple[Path, Path]) -> None:
    def fail(number: int) -> None:
        raise kind(f"file.parquet: {number} is wrong")

    raised = {UnitError: RunError, InputError: InputError, ArithmeticError: RuntimeError}[kind]
    with pytest.raises(raised, match=r"file\.parquet: 7 is wrong") as error:
        runners.run(lambda p: p | beam.Create([7]) | beam.Map(fail), _runner(stand_in))
    if kind is not ArithmeticError:
        assert str(error.value) == "file.parquet: 7 is wrong"
    assert len(flink_stand_in.seen(stand_in[1])) == 1


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
    assert re.search(rf"^Failed: worker process {worker.pid} was killed by SIGKILL", ended.err, re.MULTILINE)
    assert "Traceback" not in ended.err
    _assert_gone(family)
    before = unit_files(tmp_path / "out")
    _assert_same(dedup(DEMO, tmp_path / "out", **fixed), expected)
    after = unit_files(tmp_path / "out")
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["worker", "job server"])
def test_a_run_that_lost_a_process_is_started_again_and_goes_on(
    whom: str,
    started: Callable[..., subprocess.Popen[str]],
    stand_in: tuple[Path, Path],
    expected: Summary,
    fixed: dict[str, Any],
    tmp_path: Path,
) -> None:
    process = started()
    family = _working(process, tmp_path / "out")
    if whom == "worker":
        _workers(process)[0].kill()
    else:
        os.kill(flink_stand_in.seen(stand_in[1])[0]["pid"], signal.SIGKILL)
    ended = finish(process)
    assert ended.code == 0, ended
    reason = {
        "worker": "was killed by SIGKILL",
        "job server": r"the connection to the Flink job server broke \(it was killed by signal 9\)",
    }[whom]
    assert re.search(rf"Trying again, 1 of 3: .*{reason}", ended.err), ended.err
    assert "Traceback" not in ended.err
    _assert_gone(family)
    assert len(flink_stand_in.seen(stand_in[1])) == 2
    again = dedup(DEMO, tmp_path / "out", **fixed)
    assert again.stages["pairwise"].units_done == 0
    _assert_same(again, expected)


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


def test_the_job_server_and_the_workers_end_with_a_killed_driver(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = started()
    family = _working(process, tmp_path / "out")
    process.kill()
    process.wait()
    _assert_gone(family)


def test_a_job_server_that_does_not_start_says_why(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "bin" / "java").write_text("#!/bin/sh\necho Error: Unable to access jarfile; exit 1\n")
    ended = finish(started())
    assert ended.code == 1
    said = "Failed: the Flink job server did not start (it ended with exit code 1)\n  Error: Unable to access jarfile"
    assert said in ended.err
    assert "Traceback" not in ended.err


@contextlib.contextmanager
def _pool(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A worker pool of its own, as on the host of a task manager, and its port."""
    log = directory / "pool.log"
    with log.open("w") as target:
        pool = subprocess.Popen(
            [sys.executable, "-m", "beam_semdedup.runners.flink.worker_pool", "port=0"], stderr=target, text=True
        )
    try:
        said = wait(lambda: re.search(r"listening on port (\d+)", log.read_text()))
        yield pool, int(said[1])
    finally:
        pool.terminate()
        pool.wait()


@pytest.mark.slow
def test_on_a_cluster_the_workers_come_from_a_pool_and_the_slots_from_its_rest_api(
    started: Callable[..., subprocess.Popen[str]], stand_in: tuple[Path, Path], expected: Summary, tmp_path: Path
) -> None:
    with flink_stand_in.rest_api() as cluster, _pool(tmp_path) as (pool, port):
        cluster["/overview"] = {"slots-available": 2, "slots-total": 2}
        hardware = {"physicalMemory": 8 << 30}
        hosts = [{"id": f"10.0.0.{n}:1-a", "slotsNumber": 1, "hardware": hardware} for n in range(2)]
        cluster["/taskmanagers"] = {"taskmanagers": hosts}
        cluster["/jobs/overview"] = {"jobs": []}
        on_cluster = {
            "runner.flink_master": cluster["address"],
            "runner.num_workers": "auto",
            "runner.worker_pool": f"localhost:{port}",
        }
        ended = finish(started(**on_cluster))
        assert ended.code == 0, ended
        assert f"Duplicates  {expected.num_duplicates:>14,}" in ended.out
        assert "runner flink with 2 workers, 4.0 GiB of memory each" in ended.err
        job = flink_stand_in.seen(stand_in[1])[0]
        assert f"--flink-master http://{cluster['address']}" in " ".join(job["argv"])
        assert (job["options"]["parallelism"], job["options"]["sdk_worker_parallelism"]) == ("2", "1")
        wait(lambda: not psutil.Process(pool.pid).children())

        interrupted = started(output_path=tmp_path / "again", **on_cluster)
        wait(lambda: len(unit_files(tmp_path / "again")) >= 3)
        name = wait(lambda: flink_stand_in.seen(stand_in[1])[1:])[0]["options"]["job_name"]
        job = {"jid": "a1", "name": name, "state": "RUNNING"}
        cluster["/jobs/overview"] = {"jobs": [job]}
        cluster["/jobs/a1?mode=cancel"] = lambda: job.update(state="CANCELED") or {}
        interrupted.send_signal(signal.SIGINT)
        assert finish(interrupted).code == 130
        assert job["state"] == "CANCELED"


def test_a_cluster_that_is_not_there_is_bad_input(semdedup: Callable[..., Ended], tmp_path: Path) -> None:
    ended = semdedup(
        f"input_path={DEMO}", f"output_path={tmp_path}/out", "runner=flink", "runner.flink_master=localhost:1"
    )
    assert ended.code == 2
    assert "runner.flink_master=localhost:1: no Flink REST API answers there" in ended.err


@needs_the_jar
def test_embedded_flink_finds_the_same(fixed: dict[str, Any], expected: Summary, tmp_path: Path) -> None:
    summary = dedup(DEMO, tmp_path / "out", {"name": "flink", "num_workers": 2}, **fixed)
    _assert_same(summary, expected)


@needs_the_jar
@pytest.mark.slow
def test_a_session_cluster_finds_the_same_when_a_task_manager_is_killed(
    fixed: dict[str, Any], expected: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLINK_RUN", str(tmp_path / "flink"))
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("FLINK_PORT", "18081")
    monkeypatch.setenv("POOL_PORT", "51000")
    try:
        for script in (["start-cluster.sh", "2"], ["worker-pool.sh"]):
            subprocess.run([LAUNCH / script[0], *script[1:]], check=True)
        settings = {
            "runner": "flink",
            "runner.flink_master": "localhost:18081",
            "runner.worker_pool": "localhost:51000",
            "input_path": DEMO,
            "output_path": tmp_path / "out",
        }
        process = start([f"{name}={value}" for name, value in {**fixed, **settings}.items()], tmp_path)
        wait(lambda: len(unit_files(tmp_path / "out")) >= 3)
        killed = int(next(iter(sorted((tmp_path / "flink").glob("taskmanager-*.pid")))).read_text())
        os.kill(killed, signal.SIGKILL)
        ended = finish(process, 280)
        assert ended.code == 0, ended
        _assert_same(dedup(DEMO, tmp_path / "out", **fixed), expected)
        with urllib.request.urlopen("http://localhost:18081/jobs/overview") as answer:
            assert b'"RUNNING"' not in answer.read()
    finally:
        subprocess.run([LAUNCH / "stop.sh"], check=True)
