"""Beam SDK harnesses that are watched: a run whose worker dies fails at once, with the cause.

Beam's `FnApiRunner` does not notice a dead worker and waits for ever. A `Workers` belongs to one run of a pipeline. It
makes a `Handler` for each worker, which starts a harness, watches it, and calls `lost` when it is gone.
"""

from __future__ import annotations

import abc
import threading
import traceback
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.transforms import environments
from google.protobuf import json_format, text_format

from beam_semdedup.compute.threads import cores
from beam_semdedup.errors import WorkerLost
from beam_semdedup.runners import ports, worker
from beam_semdedup.runners.base import Build
from beam_semdedup.runners.construction import Options
from beam_semdedup.runners.process import WorkerProcess

URN = "beam_semdedup:environment:workers:v1"
OPTIONS = {"max_cache_memory_usage_mb": 100}
"""Beam's options that hold on every runner."""
_CAUSE_SECONDS = 10.0
_READERS = ("beam_control_read", "read_grpc_client_inputs")
_SERVING = {"grpc", "apache_beam"}
_RUNS: dict[bytes, Workers] = {}
_HOST: ContextVar[str | None] = ContextVar("_HOST", default=None)
"""Where the servers of the run listen that this thread is in; None outside of one."""


class Workers:
    """Holds the workers of one run, which takes place within it.

    Attributes:
        make: is called for each worker, as `Handler` is.
        host: the address of this machine that the workers reach, and alone is listened on.
        deaths: what workers died of.
        unserved: whether a thread died that served them, so that no connection ends any more.

    Raises:
        WorkerLost: when it ends, instead of whatever the run raises, where one of them died.
    """

    def __init__(self, make: Callable[..., Handler], number: int, host: str = ports.LOOPBACK) -> None:
        self.make, self.number, self.host = make, number, ports.checked(host, "This run")
        self.token = uuid.uuid4().bytes
        self.deaths: list[str] = []
        self.unserved = False
        self.handlers: list[Handler] = []
        self._ended = threading.Event()

    def __enter__(self) -> Workers:
        _RUNS[self.token] = self
        self._outside = _HOST.set(self.host)
        _follow_threads()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._ended.set()
        _HOST.reset(self._outside)
        del _RUNS[self.token]
        if isinstance(error, Exception) and self.deaths:
            raise WorkerLost(self.deaths[0]) from error

    def end(self, message: str) -> None:
        """Ends the run with a message, from another thread than its own."""
        threading.Thread(target=self.lost, args=(message,), daemon=True).start()

    def lost(self, message: str) -> None:
        """Does the same in the thread that calls it; returns when the run has ended."""
        while not self.handlers:
            if self._ended.wait(0.2):
                return
        self.handlers[0].lost(message)


def execute(build: Build, workers: Workers | None) -> None:
    """Runs the pipeline that `build` puts together on some workers, or in this process, to its end."""
    options = Options(**OPTIONS, direct_num_workers=workers.number if workers else 1)
    environment, provided = None, None
    if workers:
        environment = Environment(workers.token)
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options(drop_default=True))
        provided = ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded))
    runner = FnApiRunner(default_environment=environment, provision_info=provided)
    pipeline = beam.Pipeline(runner=runner, options=options)
    build(pipeline)
    pipeline.run().wait_until_finish()


@environments.Environment.register_urn(URN, None)
class Environment(environments.Environment):
    """Says where the units of a pipeline execute: in the run's workers, whose `Workers` have this `token`."""

    def __init__(self, token: bytes, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.token = token

    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        """Returns what names the environment in a pipeline's proto; Beam calls it."""
        return URN, self.token

    @staticmethod
    def from_runner_api_parameter(
        payload: Any, capabilities: Any, artifacts: Any, resource_hints: Any, context: Any
    ) -> Environment:
        """Makes the environment that a pipeline's proto names; Beam calls it."""
        return Environment(payload, capabilities, artifacts, resource_hints)


@worker_handlers.WorkerHandler.register_environment(URN, None)
def _make_handler(key: bytes, state: Any, provision_info: Any, grpc_server: Any) -> Handler:
    workers = _RUNS[key]
    workers.handlers.append(workers.make(workers, state, provision_info, grpc_server))
    return workers.handlers[-1]


class Handler(worker_handlers.GrpcWorkerHandler, abc.ABC):
    """Starts one worker and notices its death; subclasses say what kind of worker."""

    def __init__(self, workers: Workers, state: Any, provision_info: Any, grpc_server: Any) -> None:
        self.workers = workers
        super().__init__(state, provision_info, grpc_server)
        self.closing = threading.Event()
        self._noticed = threading.Event()

    def start_worker(self) -> None:
        """Starts the worker and its watch, without waiting for it."""
        self.start()
        threading.Thread(target=self.watch, name=f"watch-{self.worker_id}", daemon=True).start()

    @abc.abstractmethod
    def start(self) -> None:
        """Starts the worker."""

    @abc.abstractmethod
    def watch(self) -> None:
        """Returns when the worker has ended; calls `lost` unless the run is closing."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Ends a worker that does not answer."""

    def environment(self) -> dict[str, str]:
        """Returns what Beam's harness reads from its environment variables."""
        return {
            "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(self.control_api_service_descriptor()),
            "PIPELINE_OPTIONS": json_format.MessageToJson(self.provision_info.provision_info.pipeline_options),
            "WORKER_ID": self.worker_id,
        }

    def host_from_worker(self) -> str:
        """Names this machine as the worker reaches it; Beam calls it."""
        return self.workers.host

    def is_disconnected(self) -> bool:
        """Says whether the worker was connected and is no longer."""
        reader = self.control_conn._read_thread
        return reader.ident is not None and not reader.is_alive()

    def lost(self, message: str) -> None:
        """Ends the run with a message; returns when it has ended."""
        self.workers.deaths.append(message)
        self._noticed.set()
        while not self.closing.wait(0.2):
            self._fail(message)

    def close(self) -> None:
        """Ends the worker; at once where it still owes an answer: a worker died, or the run was interrupted."""
        if self.workers.unserved:
            self.closing.set()
            self.kill()
            self._grpc_server.close = _nothing  # which would wait for the thread that died
            return
        if self.control_conn._futures_by_id:
            self._noticed.wait(0.5)
            if self.is_disconnected():
                self._noticed.wait(_CAUSE_SECONDS)
            self.closing.set()
            self.kill()
            self._fail("the run ended")
        self.closing.set()
        super().close()

    def _fail(self, message: str) -> None:
        """Answers what every worker of the run was asked, since Beam collects their answers in order."""
        for connection in list(self._grpc_server.control_handler._connections_by_worker_id.values()):
            for instruction_id, future in list(connection._futures_by_id.items()):
                future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=instruction_id, error=message))


def _nothing() -> None:
    pass


class _ListeningInside:
    """The module `grpc`, whose servers listen within a run where that says, not on all interfaces as Beam asks."""

    def __getattr__(self, name: str) -> Any:
        return getattr(grpc, name)

    def server(self, *arguments: Any, **options: Any) -> Any:
        server, host = grpc.server(*arguments, **options), _HOST.get()
        if host is not None:
            add = server.add_insecure_port
            server.add_insecure_port = lambda address: add(address.replace("[::]", host))
        return server


worker_handlers.grpc = _ListeningInside()


class ProcessHandler(Handler):
    """Starts one `beam_semdedup.runners.worker` in a process, and fails the run when it dies."""

    def start(self) -> None:
        # Each worker has its share of the cores; the fit takes all of them, since the others wait for it.
        threads = max(1, cores() // self.workers.number)
        self._process = WorkerProcess("beam_semdedup.runners.worker", threads=threads, environment=self.environment())

    def watch(self) -> None:
        self._process.follow()
        if not self.closing.is_set():
            self.lost(self._process.how_it_ended())

    def kill(self) -> None:
        self._process.kill()

    def stop_worker(self) -> None:
        self._process.stop()


def _follow_threads() -> None:
    """Has a thread of Beam or gRPC that dies end the runs of this process, which would wait for it for ever.

    Except for Beam's threads that read from a worker: when it is gone, its watcher says so, and they print nothing.
    """
    usual = threading.excepthook
    if usual.__module__ == __name__:
        return

    def hook(failure: Any) -> None:
        name = failure.thread.name if failure.thread else ""
        if worker.is_broken_connection(failure.exc_type):
            if name not in _READERS:
                usual(failure)
            return
        usual(failure)
        if _SERVING & {frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in _frames(failure)}:
            for workers in list(_RUNS.values()):
                workers.unserved = True
                workers.lost(f"the thread {name}, which served the workers, died: {failure.exc_value}")

    threading.excepthook = hook


def _frames(failure: Any) -> Any:
    return traceback.walk_tb(failure.exc_traceback)
