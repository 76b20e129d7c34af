"""What the runner on Flink consists of: the jar, the cluster's REST API, the worker pool, messages, options."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc
import psutil
import pytest
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
)
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.transforms.environments import ExternalEnvironment
from apache_beam.utils.subprocess_server import JavaJarServer
from flink_on_this_machine import job_service_that_fails, rest_api

from beam_semdedup import SemanticDedup, SemanticDeduplicationWorkflow
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, RunError, WorkerLost, known_cause
from beam_semdedup.runners import resources
from beam_semdedup.runners.base import Runner
from beam_semdedup.runners.flink import job, worker_pool
from beam_semdedup.runners.flink import job_server as flink_jar
from beam_semdedup.runners.flink.cluster import FlinkCluster
from beam_semdedup.runners.flink.worker_pool import MEMORY_OF_MACHINE, WorkerPool
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.resources import memory_per_worker
from beam_semdedup.runners.submission import JobFailed, JobRunner

JAVA = """
	at org.apache.beam.sdk.util.MoreFutures.get(MoreFutures.java:61)
	at java.base/java.lang.Thread.run(Thread.java:840)
Caused by: java.lang.RuntimeException: Error received from SDK harness
	... 7 more
"""
OPENED = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in ("lang", "nio", "util")]
TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in process\n'


@pytest.fixture
def cluster() -> Iterator[dict[str, Any]]:
    """See `rest_api`."""
    with rest_api() as state:
        yield state


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without any jar, and a PATH with a `java` only."""
    for name in ("home", "bin"):
        (tmp_path / name).mkdir()
    _script(tmp_path / "bin" / "java", "exit 1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(JavaJarServer, "JAR_CACHE", str(tmp_path / "home" / "cache"))
    monkeypatch.setattr(JavaJarServer, "MAVEN_CENTRAL_REPOSITORY", (tmp_path / "nowhere").as_uri())
    return tmp_path / "home"


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _runner(**settings: Any) -> Runner[Any]:
    values = {"input_path": "in", "output_path": "out", "runner": {"name": "flink", **settings}}
    return make_runner(resolve(values))


def _config(**settings: Any) -> Any:
    return _runner(**settings).config


def test_the_versions_are_those_that_beam_publishes_a_job_server_for() -> None:
    for version in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS:
        assert _config(flink_version=version).flink_version == version
    with pytest.raises(InputError, match=r"runner.flink_version='1.18' is not known; it is one of: 1.19, 1.20"):
        _config(flink_version="1.18")


def test_the_given_jar_comes_first(home: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.jar"
    given.touch()
    assert flink_jar.find(_config(flink_job_server_jar=str(given))) == str(given)
    assert flink_jar.find(_config(flink_job_server_jar=given.as_uri())) == str(home / "cache" / "given.jar")
    with pytest.raises(InputError, match=r"runner.flink_job_server_jar=\S+none.jar: there is no such file"):
        flink_jar.find(_config(flink_job_server_jar=str(tmp_path / "none.jar")))


def test_the_jar_is_looked_for_in_the_local_places_and_only_then_fetched(home: Path, tmp_path: Path) -> None:
    name = f"beam-runners-flink-1.20-job-server-{beam.__version__}.jar"
    maven = f"{home}/.m2/repository/org/apache/beam/beam-runners-flink-1.20-job-server/{beam.__version__}"
    _script(
        tmp_path / "bin" / "mvn",
        f'echo "$@" >> {tmp_path}/calls; /bin/mkdir -p {maven}; : > {maven}/{name}; echo noise',
    )
    assert flink_jar.local("1.20") is None
    assert flink_jar.find(_config()) == f"{maven}/{name}"
    asked = f"dependency:get -Dartifact=org.apache.beam:beam-runners-flink-1.20-job-server:{beam.__version__}"
    assert f"{asked} -Dtransitive=false" in (tmp_path / "calls").read_text()
    assert flink_jar.find(_config()) == f"{maven}/{name}"
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    (home / "cache").mkdir()
    (home / "cache" / name).touch()
    assert flink_jar.find(_config()) == str(home / "cache" / name)


def test_beam_downloads_the_jar_where_maven_does_not(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "nowhere/org/apache/beam/beam-runners-flink-2.0-job-server" / beam.__version__
    source.mkdir(parents=True)
    (source / f"beam-runners-flink-2.0-job-server-{beam.__version__}.jar").write_text("jar")
    found = Path(flink_jar.find(_config(flink_version="2.0")))
    assert (found.parent, found.read_text()) == (home / "cache", "jar")


def test_a_jar_that_cannot_be_had_is_an_error_that_names_what_was_tried(home: Path, tmp_path: Path) -> None:
    _script(tmp_path / "bin" / "mvn", "echo '[ERROR] Could not find artifact' >&2; exit 1")
    with pytest.raises(InputError) as error:
        flink_jar.find(_config())
    for tried in (str(home / "cache"), str(home / ".m2"), "exit code 1", "[ERROR] Could not find", "nowhere"):
        assert tried in str(error.value)
    (tmp_path / "bin" / "mvn").unlink()
    with pytest.raises(InputError, match="Maven: there is no mvn in PATH"):
        flink_jar.find(_config())


def test_a_jar_is_built_where_none_is_published_and_then_found(home: Path, tmp_path: Path) -> None:
    _script(
        tmp_path / "bin" / "mvn",
        f'echo "$@" >> {tmp_path}/calls; [ "$3" = package ] || exit 1\n'
        'exec 3<"$5/pom.xml"; /bin/mkdir "$5/target"; echo jar > "$5/target/job-server.jar"',
    )
    found = Path(flink_jar.find(_config()))
    assert (found.parent, found.read_text(), list(found.parent.iterdir())) == (home / "cache", "jar\n", [found])
    official, built = (tmp_path / "calls").read_text().splitlines()
    assert ("dependency:get" in official, "package -f" in built) == (True, True)
    assert flink_jar.local("1.20") == found
    assert flink_jar.find(_config()) == str(found)
    with pytest.raises(InputError, match=r"a build of our own: it is for Flink 1\.20"):
        flink_jar.find(_config(flink_version="2.0"))


def test_the_build_is_for_the_flink_that_the_scripts_start() -> None:
    launch = Path(__file__).parents[2] / "launch" / "flink"
    version = re.search(r"<flink>(.*)</flink>", (launch / "job-server" / "pom.xml").read_text())[1]
    assert f"FLINK_VERSION:-{version}}}" in (launch / "common.sh").read_text()
    assert version.startswith(f"{_config().flink_version}.")


@pytest.mark.slow
def test_the_jar_can_be_fetched_ahead(tmp_path: Path) -> None:
    def fetch(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "beam_semdedup.runners.flink.job_server", *arguments]
        environment = {**os.environ, "HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}
        environment.pop("JAVA_HOME", None)
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    (tmp_path / "bin").mkdir()
    _script(tmp_path / "bin" / "java", "exit 1")
    cache = tmp_path / ".apache_beam" / "cache" / "jars"
    cache.mkdir(parents=True)
    jar = cache / f"beam-runners-flink-2.1-job-server-{beam.__version__}.jar"
    jar.touch()
    assert fetch("2.1").stdout == f"{jar}\n"
    (tmp_path / "bin" / "java").unlink()
    ended = fetch("2.1")
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    assert "needs Java 11 or 17: there is no java in PATH" in ended.stderr


def test_java_is_missed_before_anything_is_done(home: Path, tmp_path: Path, make_dataset: Callable[..., Any]) -> None:
    make_dataset(tmp_path / "data", rows=60, copies=10)
    (tmp_path / "bin" / "java").unlink()
    workflow = SemanticDeduplicationWorkflow(input_path=tmp_path / "data", output_path=tmp_path / "out", n_clusters=2)
    with pytest.raises(InputError, match="needs Java 11 or 17: there is no java in PATH"):
        workflow.run(runner={"name": "flink", "num_workers": 2})
    assert not (tmp_path / "out").exists()


def test_a_job_server_that_does_not_start_says_why(home: Path, tmp_path: Path) -> None:
    _script(tmp_path / "bin" / "java", "echo Error: Unable to access jarfile; exit 1")
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
    (tmp_path / "job-server.jar").touch()
    said = r"the Flink job server did not start \(it ended with exit code 1\)\n  Error: Unable to access jarfile$"
    with pytest.raises(RunError, match=said):
        _runner(flink_job_server_jar=str(tmp_path / "job-server.jar")).run(lambda pipeline: pipeline | beam.Create([1]))


def test_options_are_those_of_the_runner_and_over_them_the_given(home: Path, cluster: dict[str, Any]) -> None:
    cluster["/taskmanagers"] = {"taskmanagers": [{"slotsNumber": 3}]}
    flink = FlinkCluster(cluster["address"])

    def options(embedded: bool = False, **settings: Any) -> dict[str, Any]:
        config = _config(flink_master="[local]" if embedded else cluster["address"], **settings)
        environment = {"environment_type": "EXTERNAL"}
        made = job._options(config, 2, None if embedded else flink, "a.jar", "/scratch", environment)
        return made.get_all_options(retain_unknown_options=True)

    usual = options(flink_version="2.0")
    expected = {
        "flink_master": f"http://{cluster['address']}",
        "parallelism": 2,
        "sdk_worker_parallelism": 3,
        "number_of_execution_retries": 0,
        "max_cache_memory_usage_mb": 100,
        "state_backend": "rocksdb",
        "environment_type": "EXTERNAL",
        "job_server_jvm_properties": ["-Djava.io.tmpdir=/scratch", *OPENED],
    }
    assert {name: usual[name] for name in expected} == expected
    assert "state_backend" not in options()
    assert options(embedded=True)["sdk_worker_parallelism"] == 2
    given = {"sdk_worker_parallelism": 7, "job_name": "mine", "execution_mode_for_batch": "BATCH_FORCED"}
    found = options(options={**given, "job_server_jvm_properties": ["-Xmx1g"]})
    assert {name: found[name] for name in given} == given
    assert found["job_server_jvm_properties"] == ["-Djava.io.tmpdir=/scratch", *OPENED, "-Xmx1g"]


def test_slots_and_memory_come_from_the_cluster(cluster: dict[str, Any]) -> None:
    hosts = {"10.0.0.1:1-a": 4, "10.0.0.2:1-b": 8, "10.0.0.2:2-c": 8}
    cluster["/taskmanagers"] = {
        "taskmanagers": [
            {"id": name, "slotsNumber": number, "hardware": {"physicalMemory": 64 << 30}}
            for name, number in hosts.items()
        ]
    }
    cluster["/overview"] = {"slots-available": 5, "slots-total": 12}
    runner = _runner(flink_master=cluster["address"])
    assert runner.num_workers() == 5
    assert runner.memory(5) == 4 << 30
    assert memory_per_worker(runner, 5, None) == 2 << 30
    assert FlinkCluster(cluster["address"]).slots_per_host(1) == 8


def test_where_no_slot_is_free_all_are_taken_and_no_slot_is_an_error(cluster: dict[str, Any]) -> None:
    flink = FlinkCluster(cluster["address"], free_seconds=0)
    cluster["/overview"] = {"slots-available": 0, "slots-total": 12}
    assert flink.free_slots() == 12
    cluster["/overview"] = {"slots-available": 0, "slots-total": 0}
    with pytest.raises(InputError, match="has no task slots; start task managers"):
        flink.free_slots()


def test_slots_that_become_free_are_waited_for(cluster: dict[str, Any]) -> None:
    free = iter([2, 2, 4])
    cluster["/overview"] = lambda: {"slots-available": next(free), "slots-total": 4}
    assert FlinkCluster(cluster["address"]).free_slots() == 4


def test_no_cluster_is_an_error() -> None:
    with pytest.raises(InputError, match=r"flink_master=localhost:1: no Flink REST API answers there: .*refused"):
        _runner(flink_master="localhost:1").num_workers()


def test_only_the_own_job_is_cancelled(cluster: dict[str, Any]) -> None:
    own, other = (
        {"jid": "a1", "name": "semdedup-1", "state": "RUNNING"},
        {"jid": "b2", "name": "other", "state": "RUNNING"},
    )
    cluster["/jobs/overview"] = {"jobs": [own, other]}
    cluster["/jobs/a1?mode=cancel"] = lambda: own.update(state="CANCELED") or {}
    FlinkCluster(cluster["address"]).cancel("semdedup-1")
    assert [asked for asked in cluster["asked"] if "PATCH" in asked] == ["PATCH /jobs/a1?mode=cancel"]


def test_no_source_of_the_pipeline_is_read_in_one_subtask(make_dataset: Callable[..., Any], tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", rows=60, copies=10)
    plan = SemanticDeduplicationWorkflow(
        input_path=tmp_path / "data", output_path=tmp_path / "out", n_clusters=2, eps=0.1, assign_unit_bytes=1
    ).plan()
    pipeline = beam.Pipeline(runner=PortableRunner())
    _ = pipeline | SemanticDedup(plan)
    proto = PortableRunner._optimize_pipeline(
        pipeline.to_runner_api(default_environment=ExternalEnvironment("localhost:1")), PipelineOptions(flags=[])
    )
    transforms = proto.components.transforms.values()
    assert not [t.unique_name for t in transforms if "sdf" in t.spec.urn.lower()]
    spread = [t for t in transforms if t.spec.urn == common_urns.composites.RESHUFFLE.urn]
    produced = {pcollection for t in spread for pcollection in t.outputs.values()}
    work = [t for t in transforms if t.unique_name.endswith(("/Assign nearest centroid", "/Compare within clusters"))]
    assert len(work) == 2
    for transform in work:
        assert produced & set(transform.inputs.values()), transform


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{TRACEBACK}beam_semdedup.errors.UnitError: bad row [while running 'Assign']\n{JAVA}", RunError("bad row")),
        (f"java.lang.E: {TRACEBACK}beam_semdedup.errors.InputError: no file{JAVA}", InputError("no file")),
        (
            f"{TRACEBACK}beam_semdedup.errors.UnitError: two\nlines at once (a b){JAVA}",
            RunError("two\nlines at once (a b)"),
        ),
        (f"{TRACEBACK}beam_semdedup.errors.UnitError: at once{JAVA}", RunError("at once")),
    ],
)
def test_the_cause_is_found_in_a_stack_trace_of_java(text: str, expected: Exception) -> None:
    found = known_cause(RuntimeError(text))
    assert (type(found), str(found)) == (type(expected), str(expected))


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", WorkerLost, "the job on Flink ended as FAILED: "),
        (
            f"java.util.concurrent.TimeoutException: Heartbeat of TaskManager 1 timed out.{JAVA}",
            WorkerLost,
            "the job on Flink ended as FAILED: java.util.concurrent.TimeoutException: Heartbeat of TaskManager 1 timed",
        ),
        (f"{TRACEBACK}grpc._channel._MultiThreadedRendezvous: unavailable\n", WorkerLost, "the job on Flink ended as"),
        (f"{TRACEBACK}TypeError: not a number{JAVA}", JobFailed, TRACEBACK),
        (f"{TRACEBACK}beam_semdedup.errors.InputError: no file{JAVA}", InputError, "no file"),
        (
            "java.net.ConnectException: java.net.ConnectException: finishConnect(..) failed: Connection refused",
            WorkerLost,
            "the job on Flink ended as FAILED: java.net.ConnectException: finishConnect(..) failed: Connection refused",
        ),
        (
            f"io.grpc.StatusRuntimeException: io.grpc.StatusRuntimeException: CANCELLED: client cancelled{JAVA}",
            WorkerLost,
            "the job on Flink ended as FAILED: the connection to a worker broke; the log of its worker pool may say "
            "why (io.grpc.StatusRuntimeException: CANCELLED: client cancelled)",
        ),
        (
            "java.lang.Exception: io.grpc.StatusRuntimeException: UNAVAILABLE: io exception\n"
            "\tat org.apache.beam.ExternalEnvironmentFactory.createEnvironment(ExternalEnvironmentFactory.java:113)\n",
            InputError,
            "runner.worker_pool=pool:50000: no worker pool answers there, as a task manager sees it; start one on the "
            "host of each task manager: semdedup-worker port=50000",
        ),
    ],
)
def test_a_failure_is_one_of_the_run_or_a_loss(text: str, kind: type, message: str) -> None:
    with (
        job_service_that_fails(text) as service,
        pytest.raises(kind) as error,
        beam.Pipeline(runner=JobRunner(service, "Flink", "pool:50000"), options=PipelineOptions(flags=[])) as pipeline,
    ):
        _ = pipeline | beam.Create([1])
    assert type(error.value) is kind
    assert str(error.value).startswith(message)


@pytest.fixture
def provision() -> Iterator[str]:
    """The address of a service that tells workers where to connect to, where nobody listens."""

    class Service(beam_provision_api_pb2_grpc.ProvisionServiceServicer):
        def GetProvisionInfo(self, request: Any, context: Any) -> Any:
            info = beam_provision_api_pb2.ProvisionInfo()
            info.control_endpoint.url = info.logging_endpoint.url = "localhost:1"
            return beam_provision_api_pb2.GetProvisionInfoResponse(info=info)

    server = grpc.server(ThreadPoolExecutor())
    beam_provision_api_pb2_grpc.add_ProvisionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(None)


@contextlib.contextmanager
def _asked(pool: WorkerPool) -> Iterator[tuple[Any, Callable[[str, str], str]]]:
    """A client of the pool, and how it starts a worker; returns the error."""
    # Channels to the same place share a connection unless their options say otherwise.
    with grpc.insecure_channel(f"localhost:{pool.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)

        def start(name: str, address: str) -> str:
            request = beam_fn_api_pb2.StartWorkerRequest(worker_id=name)
            request.provision_endpoint.url = address
            return stub.StartWorker(request, wait_for_ready=True).error

        yield stub, start


def _workers(provision: str) -> list[psutil.Process]:
    """The workers that serve a runner."""
    return [p for p in psutil.Process().children() if f"--provision_endpoint={provision}" in p.cmdline()]


def test_a_pool_starts_workers_in_this_interpreter_and_ends_them(provision: str) -> None:
    lost: list[str] = []
    with WorkerPool("localhost:0", 1, lost.append) as pool, _asked(pool) as (stub, start):
        assert [start("one", provision), start("two", provision)] == ["", ""]
        workers = _workers(provision)
        assert {(p.cmdline()[0], p.cmdline()[4]) for p in workers} == {
            (sys.executable, "--id=one"),
            (sys.executable, "--id=two"),
        }
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="one"))
        assert len([p for p in workers if p.is_running()]) == 1
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="unknown"))
    assert not [p for p in workers if p.is_running()]
    assert lost == []


def test_task_managers_of_one_host_share_a_pool_though_each_counts_its_workers_from_1(provision: str) -> None:
    with WorkerPool("localhost:0", 1) as pool, _asked(pool) as (stub, start), _asked(pool) as (other, start_other):
        assert start("1-1", provision) == ""
        (first,) = _workers(provision)
        assert start_other("1-1", provision) == ""
        (second,) = [worker for worker in _workers(provision) if worker != first]
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"))
        assert [first.is_running(), second.is_running()] == [False, True]
        other.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"))
        assert not second.is_running()


def test_a_pool_says_what_a_worker_died_of_that_the_runner_stops_at_once(provision: str) -> None:
    lost: list[str] = []
    with WorkerPool("localhost:0", 1, lost.append) as pool, _asked(pool) as (stub, start):
        assert start("one", provision) == ""
        (worker,) = _workers(provision)
        worker.kill()
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="one"))
    assert [f"worker process {worker.pid} was killed by SIGKILL" in said for said in lost] == [True]


def test_a_pool_says_that_a_worker_did_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _script(tmp_path / "python", "echo no module named beam; exit 3")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    lost: list[str] = []
    with WorkerPool("localhost:0", 1, lost.append) as pool, _asked(pool) as (_, start):
        assert "no module named beam" in start("one", "localhost:1")
    assert "ended with exit code 3" in lost[0]


def test_a_pool_in_a_container_refuses_a_run_that_took_its_machines_memory(
    provision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_CGROUPS", [(tmp_path, "memory.max", "memory.current", "file")])
    (tmp_path / "memory.max").write_text(str(3 << 30))
    with WorkerPool("localhost:0", 1) as pool, _asked(pool) as (stub, start):
        request = beam_fn_api_pb2.StartWorkerRequest(worker_id="one", params=MEMORY_OF_MACHINE)
        request.provision_endpoint.url = provision
        said = known_cause(RuntimeError(stub.StartWorker(request, wait_for_ready=True).error))
        assert isinstance(said, InputError)
        assert "memory_budget must be given: the worker pool is in a container of 3.0 GiB" in str(said)
        assert start("two", provision) == ""
        for unlimited in ("max", str(1 << 62)):
            (tmp_path / "memory.max").write_text(unlimited)
            assert stub.StartWorker(request).error == ""


def test_a_pool_says_what_it_does_not_understand() -> None:
    for argument in ("prot=1", "port=many", "port", "port=1 threads", "port=1 host="):
        with pytest.raises(InputError, match=f"cannot understand {argument.split()[-1]!r}: what can be given is port="):
            worker_pool._given(argument.split())
    command = [sys.executable, "-m", "beam_semdedup.runners.flink.worker_pool", "port=1", "threads"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "Error: cannot understand 'threads': what can be given is port=50000" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("given", "hosts"),
    [([], {"127.0.0.1", "::1", "::ffff:127.0.0.1"}), (["host=0.0.0.0"], {"0.0.0.0", "::"})],
)
def test_a_pool_listens_on_this_machine_alone_unless_it_is_given_a_host(given: list[str], hosts: set[str]) -> None:
    command = [sys.executable, "-m", "beam_semdedup.runners.flink.worker_pool", "port=0", *given]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as pool:
        assert pool.stderr is not None
        said = []
        for line in pool.stderr:
            said.append(line)
            if "listening on port" in line:
                break
        listening = {c.laddr.ip for c in psutil.Process(pool.pid).net_connections("tcp") if c.status == "LISTEN"}
        pool.terminate()
    assert listening
    assert listening <= hosts
    assert ("The worker pool listens on 0.0.0.0, and serves whoever reaches it" in "".join(said)) == bool(given)


def test_a_pool_has_a_help() -> None:
    command = [sys.executable, "-m", "beam_semdedup.runners.flink.worker_pool", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert ended.stdout.startswith("semdedup-worker [port=50000] [threads=1] [host=localhost]\n")
