"""A pipeline as a job of a Beam job server that this process starts: the server, the job, and what a failure says."""

from __future__ import annotations

import logging
import re
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc
from apache_beam.runners.portability.portable_runner import JobServiceHandle, PortableRunner
from apache_beam.runners.runner import PipelineResult, PipelineState

from beam_semdedup.errors import InputError, RunError, WorkerLost, known_cause
from beam_semdedup.runners.base import Build, Stream
from beam_semdedup.runners.process import start

_LOG = logging.getLogger(__name__)
_GRACE_SECONDS = 5.0
_NOTICE_SECONDS = 2.0
_ASK_SECONDS = 0.5
STREAMING = {"streaming": True}
"""Beam's options of a pipeline that does not end by itself."""
_THERE = "it is still there"
_WORRYING = re.compile(r"\b(WARN|WARNING|ERROR|SEVERE|FATAL)\b|Exception|Error: ")
_REPEATED = re.compile(r"((?:[\w$]+\.)+[\w$]+: )\1+")
"""The name of a Java class that is written more than once."""
_NO_POOL = re.compile(r"\bUNAVAILABLE: (?s:.*)\bExternalEnvironmentFactory\.createEnvironment\b")
_BROKEN = re.compile(r"StatusRuntimeException: (CANCELLED|UNAVAILABLE): ")
# Ends the command when standard input closes, which the operating system does however this process ends.
_TIED = 'exec 3<&0; "$@" </dev/null & pid=$!; { read -r _ <&3; kill -9 $pid; } >/dev/null 2>&1 & wait $pid'


class Deaths:
    """Collects what workers of a job died of; the job's server ends soon after, if the job does not end by itself."""

    def __init__(self) -> None:
        self.server: JobServer | None = None
        self._messages: list[str] = []
        self._noticed = threading.Event()

    def add(self, message: str) -> None:
        """Notes that a worker died."""
        self._messages.append(message)
        self._noticed.set()
        if self.server:
            timer = threading.Timer(_GRACE_SECONDS, self.server.end)
            timer.daemon = True
            timer.start()

    def first(self) -> str | None:
        """Returns what the first died of; a runner may say that a connection broke before it is seen why."""
        self._noticed.wait(_NOTICE_SECONDS)
        return next(iter(self._messages), None)


def submit(
    build: Build,
    server: JobServer,
    options: PipelineOptions,
    deaths: Deaths,
    cancel: Callable[[], None] = lambda: None,
    worker_pool: str = "",
    stream: Stream | None = None,
) -> None:
    """Runs a pipeline on a server, to its end.

    Args:
        cancel: called where it ended otherwise than done.
        worker_pool: where workers come from, if not from this process.
        stream: says when a streaming pipeline ends, and the server with it; what that raises is raised.

    Raises:
        InputError: there is no worker pool.
        WorkerLost: a worker, the server or the runner's part of the job was lost.
        RunError: the server does not start; what units raise is raised as the runner words it.
    """
    deaths.server = server
    try:
        runner = JobRunner(server.connected(), server.name, worker_pool)
        with _until(stream, server, cancel), beam.Pipeline(runner=runner, options=options) as pipeline:
            build(pipeline)
    except BaseException as error:
        cancel()
        if not isinstance(error, Exception):
            raise
        if isinstance(error, grpc.RpcError) and server.is_lost():  # and its workers after it
            raise _broken(server) from error
        cause = known_cause(error)
        # Where Python code failed, workers end after it.
        is_told = isinstance(error, JobFailed) or not (cause is None or isinstance(cause, WorkerLost))
        death = None if is_told else deaths.first()
        if death:
            raise WorkerLost(death) from error
        if cause:
            raise
        server.show_worries()
        if isinstance(error, grpc.RpcError):
            raise _broken(server) from error
        raise


@contextmanager
def _until(stream: Stream | None, server: JobServer, cancel: Callable[[], None]) -> Iterator[None]:
    """Ends the server, and so what is run on it within, as soon as it is enough of a stream, which is no failure.

    Args:
        cancel: called before the server is ended.
    """
    ended, left = threading.Event(), threading.Event()
    raised: list[Exception] = []

    def ask() -> None:
        assert stream
        try:
            while not stream.enough():
                if left.wait(_ASK_SECONDS):
                    return
        except Exception as error:
            raised.append(error)
        ended.set()
        cancel()
        server.end()

    if stream:
        threading.Thread(target=ask, name="ask-for-the-end", daemon=True).start()
    try:
        yield
    except Exception:
        if not ended.is_set():
            raise
    finally:
        left.set()
    if raised:
        raise raised[0]


def _broken(server: JobServer) -> WorkerLost:
    return WorkerLost(f"the connection to the {server.name} job server broke ({server.how_it_is()})")


class JobFailed(RuntimeError):
    """Holds what Flink says of a job that failed in Python code."""


class JobRunner(PortableRunner):
    """Submits a pipeline to the service of a job server, and waits for its end.

    Args:
        service: of the job server.
        name: what the runner is called in messages.
        worker_pool: where workers come from, for the message where nobody is there.

    Raises:
        InputError, RunError: in Beam's `run`, what a unit of the pipeline raised for people, or that there is no pool.
        WorkerLost: something beside the units' Python code failed.
        JobFailed: the Python code failed otherwise.
    """

    def __init__(self, service: beam_job_api_pb2_grpc.JobServiceStub, name: str, worker_pool: str = "") -> None:
        super().__init__()
        self._service, self._name, self._worker_pool = service, name, worker_pool

    def run_portable_pipeline(self, pipeline: Any, options: PipelineOptions) -> PipelineResult:
        """Returns when the job is done; Beam calls it."""
        service = self._service
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
            raise _failure(api.JobState.Enum.Name(state), said, self._name, self._worker_pool)
        return _Done(PipelineState.DONE)


class _Done(PipelineResult):
    def wait_until_finish(self, duration: int | None = None) -> str:
        return self._state


def _failure(state: str, said: list[Any], name: str, worker_pool: str) -> Exception:
    """Returns why a job failed: an error with a message for people, one of Python code, or a loss to recover from."""
    texts = [message.message_text for message in said]
    errors = [m.message_text for m in said if m.importance == api.JobMessage.JOB_MESSAGE_ERROR]
    cause = known_cause(JobFailed("\n".join(texts)))
    if cause:
        return cause
    if worker_pool and any(_NO_POOL.search(text) for text in texts):
        return InputError(
            f"runner.worker_pool={worker_pool}: no worker pool answers there, as a task manager sees it; start one on "
            f"the host of each task manager: semdedup-worker port={worker_pool.rpartition(':')[2]}"
        )
    text = next((text.strip() for text in reversed([*texts, *errors]) if text.strip()), "it does not say why")
    connection = re.search(r"^grpc\..*", text, re.MULTILINE)
    if "Traceback (most recent call last)" in text and not connection:
        return JobFailed(text)
    said_first = _REPEATED.sub(r"\1", connection[0] if connection else text.splitlines()[0])
    if _BROKEN.search(said_first):
        said_first = f"the connection to a worker broke; the log of its worker pool may say why ({said_first})"
    return WorkerLost(f"the job on {name} ended as {state}: {said_first}")


class JobServer:
    """Runs a job server, within it, in a process.

    Args:
        name: what it is called in messages.
        command: that starts it.
        endpoint: where it listens then.
    """

    def __init__(self, name: str, command: Sequence[object], endpoint: str) -> None:
        self.name = name
        self._process = start(["sh", "-c", _TIED, "sh", *map(str, command)])
        self._ended = False
        self._lines: deque[str] = deque(maxlen=1000)
        self._reader = threading.Thread(target=self._read, name="read-job-server", daemon=True)
        self._channel = grpc.insecure_channel(endpoint, options=[("grpc.max_receive_message_length", -1)])

    def __enter__(self) -> JobServer:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self.end()

    def connected(self) -> beam_job_api_pb2_grpc.JobServiceStub:
        """Returns the service as soon as it answers.

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
                    raise RunError(f"the {self.name} job server did not start ({self.how_it_is()}){said}") from None

    def end(self) -> None:
        """Ends the process, in whatever state it is."""
        assert self._process.stdin is not None
        self._ended = True
        self._process.stdin.close()
        self._process.wait()

    def is_lost(self) -> bool:
        """Returns whether the process ended, and not by `end`."""
        return not self._ended and self.how_it_is() != _THERE

    def how_it_is(self) -> str:
        """Says how the process ended."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return _THERE
        return f"it was killed by signal {code - 128}" if code > 128 else f"it ended with exit code {code}"

    def show_worries(self) -> None:
        """Logs the last warnings and errors that the process printed."""
        for line in [line for line in self._lines if _WORRYING.search(line)][-10:]:
            _LOG.warning("job server: %s", line)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
