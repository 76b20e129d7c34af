"""Flink for the tests: Beam's job server, where its jar is here, and what stands in for parts of a cluster.

`SessionCluster` is the real thing, started by the scripts of `launch/flink`. `rest_api` answers as the REST API of one,
and `job_service_that_fails` as a job server, with what no cluster of one machine would say.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc
from apache_beam.runners.portability import local_job_service
from runs import wait

from beam_semdedup.runners.flink import job_server

needs_the_jar = pytest.mark.skipif(
    job_server.local("1.20") is None,
    reason="there is no job server for Flink 1.20 on this machine: make install EXTRAS=flink fetches or builds it",
)
_LAUNCH = Path(__file__).parents[1] / "launch" / "flink"


@dataclass(frozen=True)
class SessionCluster:
    """A cluster of two task managers with a slot each, and one worker pool for both; their files are in `directory`."""

    directory: Path
    port: int
    pool_port: int

    @property
    def settings(self) -> dict[str, Any]:
        """What `runner.…` says for it."""
        return {
            "name": "flink",
            "flink_master": f"localhost:{self.port}",
            "worker_pool": f"localhost:{self.pool_port}",
        }

    def ask(self, path: str) -> Any:
        """What its REST API answers."""
        with urllib.request.urlopen(f"http://localhost:{self.port}{path}") as answer:
            return json.load(answer)

    def jobs(self) -> list[dict[str, Any]]:
        """Its jobs, the latest last."""
        return sorted(self.ask("/jobs/overview")["jobs"], key=lambda job: job["start-time"])

    def process(self, name: str) -> psutil.Process:
        """One of its processes: jobmanager, taskmanager-1, taskmanager-2, worker-pool."""
        return psutil.Process(int((self.directory / f"{name}.pid").read_text()))

    def workers(self) -> list[psutil.Process]:
        """The workers that its pool has now."""
        return self.process("worker-pool").children()

    def log(self, name: str) -> str:
        """What one of its processes said."""
        return (self.directory / f"{name}.log").read_text()


@contextmanager
def session_cluster(directory: Path) -> Iterator[SessionCluster]:
    """Starts a cluster as the README of `launch` says, and ends it, however what is done with it ends."""
    port, rpc_port, pool_port = _free_ports(3)
    settings = {"FLINK_RUN": directory, "FLINK_PORT": port, "FLINK_RPC_PORT": rpc_port, "POOL_PORT": pool_port}
    environment = {**os.environ, "PYTHON": sys.executable, "SLOTS": "1", **{k: str(v) for k, v in settings.items()}}
    try:
        for script in (["start-cluster.sh", "2"], ["worker-pool.sh"]):
            subprocess.run([_LAUNCH / script[0], *script[1:]], env=environment, check=True)
        yield SessionCluster(directory, port, pool_port)
    finally:
        subprocess.run([_LAUNCH / "stop.sh"], env=environment, check=True)
    left = [p for p in psutil.process_iter(["cmdline"]) if str(directory) in " ".join(p.info["cmdline"] or [])]
    assert left == []


@contextmanager
def pool(directory: Path, *before: str) -> Iterator[int]:
    """Runs a worker pool of its own, after these lines of Python, and yields its port."""
    main = "from beam_semdedup.runners.flink import worker_pool; worker_pool.main()"
    log = directory / "pool.log"
    with log.open("w") as target:
        command = [sys.executable, "-c", "\n".join([*before, main]), "port=0"]
        process = subprocess.Popen(command, stderr=target, text=True)
    try:
        said = wait(lambda: re.search(r"listening on port (\d+)", log.read_text()))
        yield int(said[1])
    finally:
        process.terminate()
        process.wait()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(number)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def rest_api() -> Iterator[dict[str, Any]]:
    """Answers with what is in the dictionary; `address` is where, `asked` what was asked of it."""
    state: dict[str, Any] = {"asked": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state["asked"].append(f"{self.command} {self.path}")
            answer = state.get(self.path)
            answer = answer() if callable(answer) else answer
            self.send_response(200 if answer is not None else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_PATCH = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state["address"] = f"localhost:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def job_service_that_fails(text: str) -> Iterator[beam_job_api_pb2_grpc.JobServiceStub]:
    """A job service in this process, whose jobs fail and say this."""

    class Job(local_job_service.BeamJob):
        def _run_job(self) -> None:
            importance = api.JobMessage.JOB_MESSAGE_ERROR
            self._log_queues.put(api.JobMessage(message_id="1", time="", importance=importance, message_text=text))
            self.set_state(api.JobState.FAILED)

    service = local_job_service.LocalJobServicer(beam_job_type=Job)
    with grpc.insecure_channel(f"localhost:{service.start_grpc_server()}") as channel:
        yield beam_job_api_pb2_grpc.JobServiceStub(channel)
    service.stop()
