"""`runner=flink` on a session cluster of this machine, where the jar of Beam's job server is."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from flink_on_this_machine import SessionCluster, needs_the_jar, pool, session_cluster
from runs import DEMO, SIZES, comparisons, dedup, duplicates, finish, starting, unit_files, wait

from beam_semdedup import Summary
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, WorkerLost
from beam_semdedup.runners import base as runners
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.submission import JobFailed

pytestmark = [needs_the_jar, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionCluster]:
    """See `SessionCluster`."""
    with session_cluster(tmp_path_factory.mktemp("flink")) as running:
        yield running


@pytest.fixture(scope="module")
def fixed(init: str) -> dict[str, Any]:
    """Parameters with given centroids."""
    return {"n_clusters": 100, "init": init, "max_iter": 0, "eps": 0.05, **SIZES}


@pytest.fixture(scope="module")
def expected(fixed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """The same job on the local runner."""
    return dedup(DEMO, tmp_path_factory.mktemp("expected"), **fixed)


@pytest.fixture
def started(
    cluster: SessionCluster, fixed: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command on the cluster, with its results in `out`."""
    settings = {f"runner.{name}": value for name, value in cluster.settings.items() if name != "name"}
    with starting(tmp_path, {"input_path": DEMO, "runner": "flink", **fixed, **settings}) as call:
        yield call


def _run(cluster: SessionCluster, work: Callable[[int], Any], memory: str | None = None, **settings: Any) -> None:
    """Runs a small pipeline in which both workers have something to do."""
    runner = {**cluster.settings, "max_retries": 0, **settings}
    values = {"input_path": "in", "output_path": "out", "runner": runner, "memory_budget": memory}
    runners.run(
        lambda p: p | beam.Create(range(4)) | beam.Reshuffle() | beam.Map(work),
        make_runner(resolve(values)),
    )


def test_two_task_managers_share_a_pool_and_find_the_same(
    cluster: SessionCluster,
    started: Callable[..., subprocess.Popen[str]],
    expected: Summary,
    fixed: dict[str, Any],
    tmp_path: Path,
) -> None:
    ended = finish(started(**{"runner.max_retries": 0}), 300)
    assert ended.code == 0, ended
    assert f"Duplicates  {expected.num_duplicates:>14,}" in ended.out
    assert "runner flink with 2 workers, " in ended.err
    again = dedup(DEMO, tmp_path / "out", **fixed)
    assert again.stages["pairwise"].units_done == 0
    assert comparisons(again).equals(comparisons(expected))
    assert duplicates(again).equals(duplicates(expected))
    wait(lambda: not cluster.workers())
    (job,) = cluster.jobs()
    options = cluster.ask(f"/jobs/{job['jid']}/config")["execution-config"]
    assert options["job-parallelism"] == 2


def test_options_survive_on_the_way_to_the_job_server(cluster: SessionCluster) -> None:
    _run(cluster, lambda number: number, options={"job_name": "mine", "parallelism": "1"})
    job = cluster.jobs()[-1]
    assert job["name"] == "mine"
    assert cluster.ask(f"/jobs/{job['jid']}/config")["execution-config"]["job-parallelism"] == 1


def _classes(cluster: SessionCluster) -> dict[str, int]:
    """How many classes each task manager has loaded."""
    metric = "Status.JVM.ClassLoader.ClassesLoaded"
    names = [manager["id"] for manager in cluster.ask("/taskmanagers")["taskmanagers"]]

    def ask() -> dict[str, int]:
        return {n: int(v[0]["value"]) for n in names if (v := cluster.ask(f"/taskmanagers/{n}/metrics?get={metric}"))}

    ask()
    time.sleep(11)  # Flink asks its task managers every 10 s
    return wait(ask)


def test_a_job_leaves_no_classes_behind(cluster: SessionCluster) -> None:
    before = _classes(cluster)
    for _ in range(2):
        _run(cluster, lambda number: number)
    after = _classes(cluster)
    assert max(after[name] - before[name] for name in before) < 2000


def test_what_workers_say_is_in_the_log_of_their_pool(cluster: SessionCluster) -> None:
    def fail(number: int) -> None:
        raise ArithmeticError(f"file.parquet: {number} is wrong")

    with pytest.raises(JobFailed, match=r"file\.parquet: \d is wrong"):
        _run(cluster, fail)
    assert "ArithmeticError: file.parquet:" in cluster.log("worker-pool")


def test_a_killed_worker_is_in_the_log_of_its_pool_and_the_message_says_so(cluster: SessionCluster) -> None:
    def die(number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLost, match="the connection to a worker broke; the log of its worker pool may say why"):
        _run(cluster, die)
    assert "was killed by SIGKILL" in cluster.log("worker-pool")


@pytest.mark.parametrize("address", ["localhost:1", "nowhere.invalid:50000"])
def test_a_pool_that_is_not_there_is_named_at_once(cluster: SessionCluster, address: str) -> None:
    port = address.rpartition(":")[2]
    said = rf"^runner\.worker_pool={address}: no worker pool answers there.*: semdedup-worker port={port}$"
    with pytest.raises(InputError, match=said):
        _run(cluster, lambda number: number, worker_pool=address, max_retries=3)
    assert cluster.jobs()[-1]["state"] in ("FAILED", "CANCELED")


def test_a_pool_in_a_container_has_less_memory_than_flink_says(cluster: SessionCluster, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(str(1 << 30))
    limited = (
        "from pathlib import Path; from beam_semdedup.runners import resources",
        f"resources._CGROUPS = [(Path({str(tmp_path)!r}), 'memory.max', '', '')]",
    )
    with pool(tmp_path, *limited) as port:
        place = {"worker_pool": f"localhost:{port}"}
        with pytest.raises(InputError, match=r"^memory_budget must be given: .* container of 1\.0 GiB"):
            _run(cluster, lambda number: number, **place)
        _run(cluster, lambda number: number, memory="256MiB", **place)


def test_flink_starts_the_workers_where_it_is_asked_to(cluster: SessionCluster) -> None:
    _run(cluster, lambda number: number, environment="process", worker_pool="localhost:1")


def test_the_job_of_an_interrupted_run_is_cancelled(
    cluster: SessionCluster, started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = started()
    wait(lambda: len(unit_files(tmp_path / "out")) >= 3, 200)
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130
    assert cluster.jobs()[-1]["state"] in ("CANCELLING", "CANCELED")
    wait(lambda: not cluster.workers())


def test_a_run_goes_on_when_a_task_manager_is_killed(
    cluster: SessionCluster,
    started: Callable[..., subprocess.Popen[str]],
    expected: Summary,
    fixed: dict[str, Any],
    tmp_path: Path,
) -> None:
    process = started()
    wait(lambda: len(unit_files(tmp_path / "out")) >= 3, 200)
    cluster.process("taskmanager-1").kill()
    ended = finish(process, 300)
    assert ended.code == 0, ended
    again = dedup(DEMO, tmp_path / "out", **fixed)
    assert again.stages["pairwise"].units_done == 0
    assert comparisons(again).equals(comparisons(expected))
    assert not [job for job in cluster.jobs() if job["state"] == "RUNNING"]
