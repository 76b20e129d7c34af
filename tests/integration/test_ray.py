"""The job on Ray, with real actors: the same results, nothing left claimed, and deaths noticed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import COMMAND, DEMO, SIZES, comparisons, dedup, duplicates, finish, start, unit_files, wait

from beam_semdedup import InputError, RunError, Summary

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from beam_semdedup.runners.ray import cluster as ray_cluster  # noqa: E402

FIXED = {"n_clusters": 100, "max_iter": 0, "eps": 0.05, "recall_sample": 500}
TWO = {"name": "ray", "num_workers": 2}


@pytest.fixture(scope="module")
def direct(init: str, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return dedup(DEMO, tmp_path_factory.mktemp("direct"), **FIXED, **SIZES, init=init)


@pytest.fixture
def in_background() -> Iterator[Callable[[Callable[[], Any]], Callable[[], Any]]]:
    """Starts a function in a thread, and returns what waits for its result or raises its error."""
    threads = []

    def call(function: Callable[[], Any]) -> Callable[[], Any]:
        outcome: dict[str, Any] = {}

        def work() -> None:
            try:
                outcome["result"] = function()
            except Exception as error:
                outcome["error"] = error

        thread = threading.Thread(target=work)
        threads.append(thread)
        thread.start()

        def result() -> Any:
            thread.join(120)
            assert not thread.is_alive()
            if "error" in outcome:
                raise outcome["error"]
            return outcome["result"]

        return result

    yield call
    for thread in threads:
        thread.join(60)


def _actors() -> list[psutil.Process]:
    """The processes in which actors serve a pipeline now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[:1] == ["ray::RayWorker.serve"] and os.getpid() in map(_pid, process.parents()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _pid(process: psutil.Process) -> int:
    return process.pid


def _assert_nothing_claimed() -> None:
    wait(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_an_address_without_a_cluster_is_an_error(address: str, init: str, tmp_path: Path) -> None:
    assert not ray.is_initialized()
    with pytest.raises(InputError, match=f"^ray_address={address}: "):
        dedup(DEMO, tmp_path / "out", TWO, init=init, ray_address=address, **FIXED)


@pytest.mark.parametrize("asked", ["same", "localhost", "auto", "local", None])
def test_the_cluster_that_the_process_is_in_is_used(local_ray: Any, asked: str | None) -> None:
    joined = local_ray.get_runtime_context().gcs_address
    ray_cluster.connect({"same": joined, "localhost": f"localhost:{joined.split(':')[1]}"}.get(asked, asked))
    assert local_ray.get_runtime_context().gcs_address == joined


@pytest.mark.parametrize("host", ["localhost", "10.255.255.1", "nowhere.invalid"])
def test_another_cluster_than_the_one_that_the_process_is_in_is_an_error(
    local_ray: Any, init: str, tmp_path: Path, host: str
) -> None:
    joined = local_ray.get_runtime_context().gcs_address
    other = f"{host}:1" if host == "localhost" else f"{host}:{joined.split(':')[1]}"
    said = f"^ray_address={other}: this process is in the Ray cluster at {joined} already.*ray.shutdown"
    with pytest.raises(InputError, match=said):
        dedup(DEMO, tmp_path / "out", {"name": "ray"}, init=init, ray_address=other, **FIXED)


@pytest.mark.slow
def test_two_jobs_in_a_row_find_the_same_and_leave_nothing_claimed(
    local_ray: None, init: str, direct: Summary, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        found = dedup(DEMO, tmp_path / name, TWO, init=init, **FIXED, **SIZES)
        assert found.runner == "ray"
        assert comparisons(found).equals(comparisons(direct))
        assert duplicates(found).equals(duplicates(direct))
        _assert_nothing_claimed()


@pytest.mark.slow
def test_a_killed_actor_ends_the_run_with_its_cause_and_it_can_be_gone_on_with(
    local_ray: None, in_background: Any, init: str, direct: Summary, tmp_path: Path
) -> None:
    once = {**TWO, "max_retries": 0}
    running = in_background(lambda: dedup(DEMO, tmp_path / "out", once, init=init, **FIXED, **SIZES))
    wait(lambda: len(unit_files(tmp_path / "out")) >= 3)
    _actors()[1].kill()
    with pytest.raises(
        RunError, match=r"a worker on [\d.]+ was lost \(.*[Ww]orker.*; finished units are kept"
    ) as raised:
        running()
    assert "\n" not in str(raised.value)
    _assert_nothing_claimed()
    before = unit_files(tmp_path / "out")
    resumed = dedup(DEMO, tmp_path / "out", once, init=init, **FIXED, **SIZES)
    assert {name: unit_files(tmp_path / "out")[name] for name in before} == before
    assert comparisons(resumed).equals(comparisons(direct))


@pytest.mark.slow
def test_a_run_is_tried_again_from_its_finished_units(
    local_ray: None, in_background: Any, init: str, direct: Summary, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = in_background(
        lambda: dedup(DEMO, tmp_path / "out", {**TWO, "max_retries": 1}, init=init, **FIXED, **SIZES)
    )
    wait(lambda: len(unit_files(tmp_path / "out")) >= 3)
    _actors()[0].kill()
    found = running()
    assert found.stages["assign"].units_reused > 0
    assert comparisons(found).equals(comparisons(direct))
    assert "Trying again, 1 of 1" in caplog.text


def test_actors_that_the_cluster_has_no_room_for_are_an_error_that_says_what_is_missing(
    local_ray: None, init: str, tmp_path: Path
) -> None:
    runner = {"name": "ray", "num_workers": 2, "num_cpus": 1, "num_gpus": 1, "resources": {"big_memory": 2}}
    said = r"did not schedule 2 actors with 1 CPU, 1 GPU, 2 big_memory each within 1 s: free are 2 CPU.*of 2 CPU"
    with pytest.raises(RunError, match=said):
        dedup(DEMO, tmp_path / "out", runner, init=init, ray_timeout=1, memory_budget="1GB", **FIXED)
    with pytest.raises(InputError, match="no node of the Ray cluster has 9 CPU for an actor; the cluster has 2 CPU"):
        dedup(DEMO, tmp_path / "out", {"name": "ray", "num_cpus": 9}, init=init, **FIXED)
    _assert_nothing_claimed()


def test_a_failing_unit_is_named_and_not_tried_again(local_ray: None, tmp_path: Path, parquet_dataset: Any) -> None:
    copied = tmp_path / "in" / "part.parquet"
    copied.parent.mkdir()
    for file in Path(parquet_dataset.path).glob("*.parquet"):
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    broken = min((tmp_path / "in").glob("*.parquet"))
    data = bytearray(broken.read_bytes())
    data[4:200] = bytes(196)
    broken.write_bytes(data)
    with pytest.raises(InputError, match=broken.name):
        dedup(tmp_path / "in", tmp_path / "out", TWO)


def _second_node(cluster: Cluster) -> Any:
    """Ray gives a node half a minute to start, which a busy machine may exceed: then it is tried once more."""
    try:
        return cluster.add_node(num_cpus=1)
    except Exception:
        return cluster.add_node(num_cpus=1)


@pytest.mark.slow
def test_a_node_that_is_killed_in_the_middle(
    in_background: Any, init: str, direct: Summary, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = _second_node(cluster)
        ray.init(address=cluster.address, namespace="semdedup", log_to_driver=False)
        assert len(ray.nodes()) == 2
        # Actors outlive their node for a while, in which they must not finish the job.
        many = {"comparison_rows": 25, "assign_unit_bytes": SIZES["assign_unit_bytes"] // 8}
        running = in_background(lambda: dedup(DEMO, tmp_path / "out", TWO, init=init, **FIXED, **many))
        wait(lambda: len(unit_files(tmp_path / "out")) >= 3)
        cluster.remove_node(second, allow_graceful=False)
        found = running()
        assert comparisons(found).equals(comparisons(direct))
        assert "Trying again, 1 of 3" in caplog.text
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [("SIGINT", 130, "Interrupted"), ("SIGTERM", 143, "Terminated")],
)
def test_an_interrupted_command_ends_its_ray(name: str, code: int, said: str, init: str, tmp_path: Path) -> None:
    given = {**FIXED, **SIZES, "init": init, "runner": "ray", "runner.num_workers": 2}
    process = start(
        [f"input_path={DEMO}", f"output_path={tmp_path}/out", *(f"{k}={v}" for k, v in given.items())], tmp_path
    )
    wait(lambda: len(unit_files(tmp_path / "out")) >= 3)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(getattr(signal, name))
    ended = finish(process)
    assert ended.code == code
    assert f"{said}. Finished units are kept" in ended.err
    assert "SIGTERM received" not in ended.err
    assert "Traceback" not in ended.err
    _, alive = psutil.wait_procs(children, timeout=30)
    assert [child.cmdline() for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
def test_a_killed_head_ends_the_command_within_seconds(init: str, tmp_path: Path) -> None:
    given = {**FIXED, **SIZES, "init": init, "runner": "ray", "runner.num_workers": 2, "comparison_rows": 20}
    process = start(
        [f"input_path={DEMO}", f"output_path={tmp_path}/out", *(f"{k}={v}" for k, v in given.items())], tmp_path
    )
    wait(lambda: len(unit_files(tmp_path / "out")) >= 3)
    (head,) = [child for child in psutil.Process(process.pid).children() if child.name() == "gcs_server"]
    head.kill()
    ended = finish(process, 30)
    assert ended.code == 1
    assert "Failed to connect to GCS within 5 seconds" in ended.err


@pytest.mark.slow
def test_a_sweep_uses_one_ray(init: str, direct: Summary, tmp_path: Path) -> None:
    given = {**FIXED, "init": init, "runner": "ray", "runner.num_workers": 2, "eps": "0.01,0.05"}
    process = start(
        ["-m", f"input_path={DEMO}", f"output_path={tmp_path}/out", *(f"{k}={v}" for k, v in given.items())], tmp_path
    )
    ended = finish(process)
    assert ended.code == 0, ended.err
    assert ended.err.count("Ray: 1 node") == 1
    assert f"{direct.num_duplicates:,}" in ended.out
    assert COMMAND.exists()
