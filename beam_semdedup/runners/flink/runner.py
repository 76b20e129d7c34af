"""`runner=flink`: Flink, through Beam's job server for it, which runs as long as the run does.

Flink is embedded in the job server, whose workers this process starts, or it is a cluster with a worker pool beside
each task manager. The finished units are the checkpoints: a job that fails ends at once, and is started again with the
slots that are there then, so that Flink itself neither restarts tasks nor takes checkpoints.

Tested here with a job server of Beam's own in Python in the place of the jar, which was not available: what Flink does
with these options is taken from Beam's documentation and source.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc
from apache_beam.runners.portability.flink_runner import FlinkJarJobServer, FlinkRunner
from apache_beam.runners.portability.portable_runner import JobServiceHandle, PortableRunner
from apache_beam.runners.runner import PipelineResult, PipelineState

from beam_semdedup.compute.threads import cores
from beam_semdedup.config.groups import FlinkConfig
from beam_semdedup.config.parameters import ClusterParameters
from beam_semdedup.errors import RunError, WorkerLost, known_cause
from beam_semdedup.runners import harness
from beam_semdedup.runners.flink import cluster as flink_cluster
from beam_semdedup.runners.flink import job_server as flink_jar
from beam_semdedup.runners.flink.worker_pool import WorkerPool
from beam_semdedup.runners.resources import num_workers

_LOG = logging.getLogger(__name__)
_WORRYING = re.compile(r"\b(WARN|WARNING|ERROR|SEVERE|FATAL)\b|Exception|Error: ")
_GRACE_SECONDS = 5.0
# Ends the command when standard input closes, which the operating system does however this process ends.
_TIED = 'exec 3<&0; "$@" </dev/null & pid=$!; { read -r _ <&3; kill -9 $pid; } >/dev/null 2>&1 & wait $pid'


def run(build: Callable[[beam.Pipeline], Any], parameters: ClusterParameters) -> None:
    """See `runners.run`."""
    config = parameters.runner
    assert isinstance(config, FlinkConfig)
    number = num_workers(parameters)
    jar = flink_jar.find(config)
    deaths: list[str] = []
    with ExitStack() as stack:
        environment = stack.enter_context(_environment(config, number, deaths))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="semdedup-", ignore_cleanup_errors=True))
        options = _options(config, number, jar, scratch, environment)
        server = stack.enter_context(_JobServer(options))
        stack.enter_context(_ended_with(deaths, server))
        job = _job_name(options)
        try:
            with beam.Pipeline(runner=_Runner(server), options=options) as pipeline:
                build(pipeline)
        except BaseException as error:
            if not config.embedded:
                flink_cluster.cancel(config, job)
            if not isinstance(error, Exception) or known_cause(error):
                raise
            if deaths:
                raise WorkerLost(deaths[0]) from error
            server.show_worries()
            if isinstance(error, grpc.RpcError):
                raise WorkerLost(f"the connection to the Flink job server broke ({server.how_it_is()})") from error
            raise


class JobFailed(RuntimeError):
    """What Flink says of a job that failed."""


class _Runner(PortableRunner):
    """Submits a pipeline to a job server and waits for its end."""

    def __init__(self, server: _JobServer) -> None:
        super().__init__()
        self._server = server

    def run_portable_pipeline(self, pipeline: Any, options: PipelineOptions) -> PipelineResult:
        """As Beam asks for it; returns when the job is done."""
        service = self._server.connected()
        handle = JobServiceHandle(service, options, retain_unknown_options=True)
        prepared = handle.prepare(self._optimize_pipeline(pipeline, options))
        handle.stage(pipeline, prepared.artifact_staging_endpoint.url, prepared.staging_session_token)
        job_id = service.Run(api.RunJobRequest(preparation_id=prepared.preparation_id)).job_id
        said, state = [], api.JobState.UNSPECIFIED
        for response in service.GetMessageStream(api.JobMessagesRequest(job_id=job_id)):  # ends with the job
            if response.HasField("message_response"):
                said.append(response.message_response)
            else:
                state = response.state_response.state
        if state != api.JobState.DONE:
            raise _failure(api.JobState.Enum.Name(state), said)
        return _Done(PipelineState.DONE)


class _Done(PipelineResult):
    def wait_until_finish(self, duration: int | None = None) -> str:
        return self._state


def _failure(state: str, said: list[Any]) -> Exception:
    """Why a job failed: an error with a message for people, one of Python code, or a loss to recover from."""
    texts = [message.message_text for message in said]
    errors = [m.message_text for m in said if m.importance == api.JobMessage.JOB_MESSAGE_ERROR]
    cause = known_cause(JobFailed("\n".join(texts)))
    if cause:
        return cause
    text = next((text.strip() for text in reversed([*texts, *errors]) if text.strip()), "it does not say why")
    connection = re.search(r"^grpc\..*", text, re.MULTILINE)
    if "Traceback (most recent call last)" in text and not connection:
        return JobFailed(text)
    return WorkerLost(f"the job on Flink ended as {state}: {connection[0] if connection else text.splitlines()[0]}")


def _options(config: FlinkConfig, number: int, jar: str, scratch: str, environment: dict[str, str]) -> PipelineOptions:
    """Beam's options: these, and over them `runner.options`."""
    given = dict(config.options)
    jvm = given.pop("job_server_jvm_properties", [])
    return PipelineOptions(
        flags=[],
        **{
            "flink_master": FlinkRunner.add_http_scheme(config.flink_master),
            "flink_version": config.flink_version,
            "flink_job_server_jar": jar,
            "job_server_java_launcher": flink_jar.java(),
            "job_server_jvm_properties": [f"-Djava.io.tmpdir={scratch}", *jvm],
            "artifacts_dir": scratch,
            "job_name": f"semdedup-{uuid.uuid4().hex[:12]}",
            "parallelism": number,
            "sdk_worker_parallelism": number if config.embedded else flink_cluster.slots_per_host(config, number),
            "number_of_execution_retries": 0,
            **harness.OPTIONS,
            **environment,
            **(_rocksdb() if not config.embedded and config.flink_version >= "2" else {}),
            **given,
        },
    )


def _rocksdb() -> dict[str, str]:
    """Flink 2 keeps the groups of a batch job as state, which by default is on the heap and may not fit there.

    RocksDB is a part of Flink's distribution, not of the job server's jar. Without checkpoints the path is not used.
    """
    return {"state_backend": "rocksdb", "state_backend_storage_path": "file:///tmp/semdedup-flink"}


def _job_name(options: PipelineOptions) -> str:
    return options.get_all_options(retain_unknown_options=True)["job_name"]


@contextmanager
def _environment(config: FlinkConfig, number: int, deaths: list[str]) -> Iterator[dict[str, str]]:
    """Beam's options that say where workers come from; within it the pool is open, where that is this process's."""
    kind = config.environment
    if kind == "auto":
        kind = "loopback" if config.embedded else "external"
    if kind == "process":
        command = json.dumps({"command": str(Path(sys.executable).with_name("semdedup-worker"))})
        yield {"environment_type": "PROCESS", "environment_config": command}
    elif kind == "external":
        yield {"environment_type": "EXTERNAL", "environment_config": config.worker_pool}
    else:
        with WorkerPool("localhost:0", max(1, cores() // number), deaths.append) as pool:
            yield {"environment_type": "EXTERNAL", "environment_config": f"localhost:{pool.port}"}


@contextmanager
def _ended_with(deaths: list[str], server: _JobServer) -> Iterator[None]:
    """Within it, the job server ends soon after a worker, if the job does not end by itself."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            if deaths and not ended.wait(_GRACE_SECONDS):
                server.end()
                return

    thread = threading.Thread(target=watch, name="watch-workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _JobServer:
    """Beam's job server in a process that lives within it."""

    def __init__(self, options: PipelineOptions) -> None:
        command, self._endpoint = FlinkJarJobServer(options).subprocess_cmd_and_endpoint()
        self._process = subprocess.Popen(
            ["sh", "-c", _TIED, "sh", *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        self._lines: deque[str] = deque(maxlen=1000)
        self._reader = threading.Thread(target=self._read, name="read-job-server", daemon=True)
        self._channel = grpc.insecure_channel(self._endpoint, options=[("grpc.max_receive_message_length", -1)])

    def __enter__(self) -> _JobServer:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self.end()

    def connected(self) -> beam_job_api_pb2_grpc.JobServiceStub:
        """The service, as soon as it answers.

        Raises:
            RunError: the process ended before.
        """
        ready = grpc.channel_ready_future(self._channel)
        while True:
            try:
                ready.result(timeout=0.2)
                return beam_job_api_pb2_grpc.JobServiceStub(self._channel)
            except grpc.FutureTimeoutError:
                if self._process.poll() is not None:
                    ready.cancel()
                    self._reader.join(1)
                    said = "".join(f"\n  {line}" for line in list(self._lines)[-5:])
                    raise RunError(f"the Flink job server did not start ({self.how_it_is()}){said}") from None

    def end(self) -> None:
        """Ends the process, in whatever state it is."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def how_it_is(self) -> str:
        """How the process ended, in words."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "it is still there"
        return f"it was killed by signal {code - 128}" if code > 128 else f"it ended with exit code {code}"

    def show_worries(self) -> None:
        """Logs the last warnings and errors that the process printed."""
        for line in [line for line in self._lines if _WORRYING.search(line)][-10:]:
            _LOG.warning("job server: %s", line)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
