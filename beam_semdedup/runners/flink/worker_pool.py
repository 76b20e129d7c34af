"""Worker processes for a runner that asks for them over Beam's worker pool protocol, as Flink's task managers do.

`semdedup-worker port=50000` on every host of a task manager starts a pool (`environment=external`). Started by Flink
itself (`environment=process`), `semdedup-worker --id=… --provision_endpoint=…` is one worker.

Unlike Beam's own pool, which starts a bare harness with whatever `python` is in PATH, the workers run in this
interpreter, know the pipeline's options, send their logs to the runner, and end with the pool.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import grpc
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
)
from google.protobuf import json_format, text_format

from beam_semdedup.errors import InputError
from beam_semdedup.runners import ports, worker
from beam_semdedup.runners.process import WorkerProcess
from beam_semdedup.runners.resources import container_limit
from beam_semdedup.text import in_bytes

_LOG = logging.getLogger(__name__)
_MODULE = "beam_semdedup.runners.flink.worker_pool"  # __name__ is __main__ in a pool of its own
_START_SECONDS = 60
MEMORY_OF_MACHINE = {"memory": "of-machine"}
"""What a run asks of the pool, whose workers it gives a share of the memory that Flink says the machine has."""
_HELP = """semdedup-worker [port=50000] [threads=1] [host=localhost]

Starts worker processes for the task manager of Flink on this host (runner=flink, runner.environment=external) until it
is interrupted or terminated.

 port     where it listens, as runner.worker_pool=HOST:PORT says; 0: any free port (50000)
 threads  that each worker uses: the cores of a slot (1)
 host     the address of this machine that it listens on. It takes work from whoever reaches it: leave it alone where
          the task manager is on the same host or in the same pod (localhost)

Exit codes: 0 ended, 2 bad parameters, or a port that is taken."""


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts and stops worker processes, and says when one has died; within it, it listens.

    Args:
        address: host and port to listen on; port 0 takes any that is free, which `port` then is.
        threads: that BLAS may use in each worker.
        lost: called with a message when a worker died that nobody stopped.
    """

    def __init__(self, address: str, threads: int, lost: Callable[[str], None] = _LOG.error) -> None:
        self._threads, self._lost = threads, lost
        self._workers: dict[tuple[str, str], WorkerProcess] = {}  # each task manager counts its workers from 1
        self._server = grpc.server(ThreadPoolExecutor(), options=[("grpc.so_reuseport", 0)])
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(address)

    def __enter__(self) -> WorkerPool:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None)
        for key in list(self._workers):
            self._stop(key)

    def StartWorker(self, request: Any, context: Any) -> Any:
        """Starts a worker, and returns when it has started; Flink calls it."""
        limit = container_limit()
        if limit and dict(request.params) == MEMORY_OF_MACHINE:
            error = InputError(
                f"memory_budget must be given: the worker pool is in a container of {in_bytes(limit)}, and Flink knows "
                "its machine's memory only; divide them by the task slots of a host, and leave some for the "
                "interpreters"
            )
            return beam_fn_api_pb2.StartWorkerResponse(error=f"{InputError.__module__}.InputError: {error}")
        identity = f"--id={request.worker_id}", f"--provision_endpoint={request.provision_endpoint.url}"
        try:
            process = WorkerProcess(_MODULE, *identity, threads=self._threads)
        except OSError as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=str(error))
        key = context.peer(), request.worker_id
        self._workers[key] = process
        threading.Thread(target=self._watch, args=(key, process), daemon=True).start()
        process.started.wait(_START_SECONDS)  # Flink would wait for ever for a worker that does not come
        if process.has_failed():
            return beam_fn_api_pb2.StartWorkerResponse(error=f"the worker did not start: {process.how_it_ended()}")
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:
        """Ends a worker; Flink calls it over the connection by which the worker was started.

        A worker of a connection that broke ends by itself, as the task manager that it serves is gone.
        """
        self._stop((context.peer(), request.worker_id))
        return beam_fn_api_pb2.StopWorkerResponse()

    def _stop(self, key: tuple[str, str]) -> None:
        process = self._workers.pop(key, None)
        if process and (process.has_failed() or not process.stop()):  # the runner noticed it before this pool did
            self._lost(process.how_it_ended())

    def _watch(self, key: tuple[str, str], process: WorkerProcess) -> None:
        process.follow()
        if self._workers.pop(key, None) and process.has_failed():
            self._lost(process.how_it_ended())


def main() -> None:
    """Runs a pool until it is interrupted or terminated; or one worker, where Beam's `--id` is given."""
    if any(argument.startswith("--id") for argument in sys.argv[1:]):
        _work()
        return
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(_HELP)
        return
    if "--version" in sys.argv[1:]:
        print(version("beam-semdedup"))
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger(WorkerProcess.__module__).setLevel(logging.DEBUG)  # all that workers print
    try:
        port, threads, host = _given(sys.argv[1:])
        pool = WorkerPool(f"{ports.checked(host, 'The worker pool')}:{port}", threads)
    except (InputError, RuntimeError) as error:  # the latter where the port is taken
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    with pool:
        _LOG.info("Worker pool listening on port %s, with %s", pool.port, sys.executable)
        ended.wait()


def _given(arguments: Sequence[str]) -> tuple[int, int, str]:
    """Returns the port, the number of threads and the host."""
    given = {"port": "50000", "threads": "1", "host": ports.LOOPBACK}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in given or not (value if name == "host" else value.isdecimal()):
            raise InputError(
                f"cannot understand {argument!r}: what can be given is port=50000 threads=1 host=localhost; see --help"
            )
        given[name] = value
    return int(given["port"]), int(given["threads"]), given["host"]


def _work() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    given, _ = parser.parse_known_args()
    with grpc.insecure_channel(given.provision_endpoint) as channel:
        answer = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel).GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            metadata=[("worker_id", given.id)],
            wait_for_ready=True,
            timeout=60,
        )
    os.environ |= {
        "WORKER_ID": given.id,
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(answer.info.control_endpoint),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(answer.info.logging_endpoint),
        "PIPELINE_OPTIONS": json_format.MessageToJson(answer.info.pipeline_options),
    }
    sys.argv[1:] = []
    worker.main()


if __name__ == "__main__":
    main()
