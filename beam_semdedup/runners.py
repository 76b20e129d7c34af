"""How a pipeline is launched: `run` hands it to the runner that the configuration names.

The multi-process local runner is Beam's `FnApiRunner` with this project's own worker handler, because Beam's
does not notice a dead worker and waits for ever.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, ClassVar

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.transforms import environments
from google.protobuf import json_format, text_format

from beam_semdedup.arrays import cores
from beam_semdedup.config import DirectConfig, InputError, RunnerConfig
from beam_semdedup.inputs import UnitError
from beam_semdedup.plan import num_workers

_LOG = logging.getLogger(__name__)
_PROCESS_URN = "beam_semdedup:environment:process:v1"
_READERS = ("beam_control_read", "read_grpc_client_inputs")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class RunError(RuntimeError):
    """A run failed; what was finished is kept, and the same command goes on from there."""


def run(build: Callable[[beam.Pipeline], Any], parameters: Any) -> None:
    """Runs the pipeline that `build` puts together, and returns when it is done.

    Args:
        build: adds the transforms to the pipeline that it is given.
        parameters: its `runner` says where.

    Raises:
        InputError, RunError: with the message of the unit or worker that failed; any other error is raised as it is.
    """
    try:
        RUNNERS[parameters.runner.name](build, parameters)
    except RunError:
        raise
    except Exception as error:
        if _is_interrupt(error):
            raise KeyboardInterrupt from error
        known = _known_cause(error)
        if known is None:
            raise
        raise known from error


def _run_direct(build: Callable[[beam.Pipeline], Any], parameters: Any) -> None:
    config: RunnerConfig = parameters.runner
    assert isinstance(config, DirectConfig)
    workers = num_workers(parameters)
    options = PipelineOptions(flags=[], direct_num_workers=workers)
    environment = _WatchedProcesses(uuid.uuid4().bytes) if workers > 1 else None
    pipeline = beam.Pipeline(runner=FnApiRunner(default_environment=environment), options=options)
    build(pipeline)
    if environment:
        _expect_lost_connections()
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        if environment and _ProcessHandler.deaths[environment.run]:
            raise RunError(_ProcessHandler.deaths[environment.run][0]) from error
        raise
    finally:
        if environment:
            _ProcessHandler.deaths.pop(environment.run, None)


RUNNERS: dict[str, Callable[[Callable[[beam.Pipeline], Any], Any], None]] = {"direct": _run_direct}


def _expect_lost_connections() -> None:
    """No traceback from the threads of Beam that read from a worker when it is gone: its watcher says so."""
    usual = threading.excepthook
    if usual.__module__ == __name__:
        return

    def hook(failure: Any) -> None:
        if not (failure.thread and failure.thread.name in _READERS and issubclass(failure.exc_type, grpc.RpcError)):
            usual(failure)

    threading.excepthook = hook


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: where it strikes inside a transform, Beam raises another in its place."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _known_cause(error: Exception) -> InputError | RunError | None:
    """The error that a unit or a worker raised for people, or None for any other kind.

    Beam hands it on as a text with its own traceback around it.
    """
    text = f"{type(error).__module__}.{type(error).__name__}: {error}"
    for kind in (InputError, UnitError, RunError):
        names = f"{kind.__module__}.{kind.__name__}: "
        start = text.rfind(names)
        if start >= 0:
            message = re.split(r"\n(?=\S*(?:During handling|The above|Traceback))", text[start + len(names) :])[0]
            message = re.sub(r" \[while running '[^']*'\]\s*$", "", message.strip())
            return InputError(message) if kind is InputError else RunError(message)
    return None


@environments.Environment.register_urn(_PROCESS_URN, None)
class _WatchedProcesses(environments.Environment):
    """SDK harnesses as child processes of the driver, which belong to one `run`."""

    def __init__(self, run: bytes, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.run = run

    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return _PROCESS_URN, self.run

    @staticmethod
    def from_runner_api_parameter(
        payload: Any, capabilities: Any, artifacts: Any, resource_hints: Any, context: Any
    ) -> _WatchedProcesses:
        return _WatchedProcesses(payload, capabilities, artifacts, resource_hints)

    @classmethod
    def from_options(cls, options: Any) -> _WatchedProcesses:
        return cls(uuid.uuid4().bytes)


@worker_handlers.WorkerHandler.register_environment(_PROCESS_URN, None)
class _ProcessHandler(worker_handlers.GrpcWorkerHandler):
    """Starts one `beam_semdedup.worker`, passes its log on, and fails the run when it dies.

    The worker ends when the pipe to its standard input closes, which the operating system does however the
    driver ends, so that no worker writes anything after that.
    """

    deaths: ClassVar[defaultdict[bytes, list[str]]] = defaultdict(list)
    """What the workers of each run died of."""

    def __init__(self, payload: bytes, state: Any, provision_info: Any, grpc_server: Any) -> None:
        super().__init__(state, provision_info, grpc_server)
        self._run = payload
        self._closing = threading.Event()
        self._noticed = threading.Event()
        self._last_lines: deque[str] = deque(maxlen=5)

    def start_worker(self) -> None:
        control = text_format.MessageToString(self.control_api_service_descriptor())
        options = json_format.MessageToJson(self.provision_info.provision_info.pipeline_options)
        # Each worker has its share of the cores; the fit takes all of them, since the others wait for it.
        workers = max(1, json.loads(options or "{}").get("beam:option:direct_num_workers:v1", 1))
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // int(workers)))
        environment = {
            **os.environ,
            **dict.fromkeys(_THREADS, threads),
            "CONTROL_API_SERVICE_DESCRIPTOR": control,
            "PIPELINE_OPTIONS": options,
            "WORKER_ID": self.worker_id,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "beam_semdedup.worker"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is the driver's to handle
        )
        threading.Thread(target=self._watch, name=f"watch-{self.worker_id}", daemon=True).start()

    def stop_worker(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        if self.control_conn._futures_by_id:  # it has not answered: this or another worker died, or an interrupt
            self._noticed.wait(0.5)
            self._closing.set()
            self._process.kill()
            self._fail("the run ended")
        self._closing.set()
        super().close()

    def _watch(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            level, _, message = line.rstrip().partition("|")
            if level.isdigit():
                _LOG.log(int(level), message)
            else:
                self._last_lines.append(line.rstrip())
        code = self._process.wait()
        if self._closing.is_set():
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        why = " (the system does that when memory runs out: try a smaller memory_budget)" if code == -9 else ""
        said = "".join(f"\n  {line}" for line in self._last_lines)
        message = (
            f"worker process {self._process.pid} {how}{why}; finished units are kept, the same command goes on{said}"
        )
        self.deaths[self._run].append(message)
        self._noticed.set()
        while not self._closing.wait(0.2):
            self._fail(message)

    def _fail(self, message: str) -> None:
        """Answers what every worker of the run was asked, since Beam collects their answers in order."""
        for connection in list(self._grpc_server.control_handler._connections_by_worker_id.values()):
            for instruction_id, future in list(connection._futures_by_id.items()):
                future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=instruction_id, error=message))
