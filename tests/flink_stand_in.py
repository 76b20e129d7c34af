"""Stands in for Beam's job server for Flink, whose jar not every machine can have: the same command line and job API.

It runs pipelines with Beam's local runner on the workers that the pipeline names, and words failures as Java does.
`install` puts it in the place of `java`; what it was given appears in `seen`. `rest_api` stands in for a cluster's.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

SEEN = "SEMDEDUP_TEST_JOB_SERVER"


def install(monkeypatch: pytest.MonkeyPatch, directory: Path) -> tuple[Path, Path]:
    """Puts it in PATH as `java`; returns the path of a jar, and of the directory `seen`."""
    (directory / "bin").mkdir()
    (directory / "seen").mkdir()
    java, jar = directory / "bin" / "java", directory / "job-server.jar"
    java.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} "$@"\n')
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    jar.write_bytes(b"")
    monkeypatch.setenv("PATH", f"{java.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv(SEEN, str(directory / "seen"))
    return jar, directory / "seen"


def seen(directory: Path) -> list[dict[str, Any]]:
    """The command line, process and pipeline options of each job, in their order."""
    return [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]


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


class _Job(local_job_service.BeamJob):
    """Runs a pipeline with Beam's local runner; what it was given appears in `seen`."""

    def _run_job(self) -> None:
        options = {k.split(":")[2]: v for k, v in dict(self._pipeline_options).items() if not hasattr(v, "values")}
        told = {"argv": sys.argv[1:], "pid": os.getpid(), "options": options}
        Path(os.environ[SEEN], f"{time.time_ns()}.json").write_text(json.dumps(told, default=list))
        self.set_state(api.JobState.RUNNING)
        try:
            runner = FnApiRunner(provision_info=self._provision_info)
            runner._num_workers = int(options["parallelism"])
            runner.run_via_runner_api(self._pipeline_proto, self.pipeline_options()).wait_until_finish()
        except Exception:
            said = f"Error received from SDK harness for instruction 4: {traceback.format_exc()}"
            self.say(api.JobMessage.JOB_MESSAGE_DEBUG, _in_java(f"java.lang.RuntimeException: {said}"))
            self.say(api.JobMessage.JOB_MESSAGE_ERROR, f"java.lang.RuntimeException: {said}")
            print("SEVERE: Error during job invocation", flush=True)
            self.set_state(api.JobState.FAILED)
        else:
            self.set_state(api.JobState.DONE)

    def say(self, importance: Any, text: str) -> None:
        self._log_queues.put(api.JobMessage(message_id="1", time="", importance=importance, message_text=text))


@contextmanager
def job_service_that_fails(text: str) -> Iterator[beam_job_api_pb2_grpc.JobServiceStub]:
    """A job service in this process, whose jobs fail and say this."""

    class Job(_Job):
        def _run_job(self) -> None:
            self.say(api.JobMessage.JOB_MESSAGE_ERROR, text)
            self.set_state(api.JobState.FAILED)

    service = local_job_service.LocalJobServicer(beam_job_type=Job)
    with grpc.insecure_channel(f"localhost:{service.start_grpc_server()}") as channel:
        yield beam_job_api_pb2_grpc.JobServiceStub(channel)
    service.stop()


def _serve() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-jar", required=True)
    for name in ("--flink-master", "--job-port", "--artifacts-dir", "--artifact-port", "--expansion-port"):
        parser.add_argument(name, required=True)
    given = parser.parse_args([argument for argument in sys.argv[1:] if not argument.startswith(("-D", "-X"))])
    service = local_job_service.LocalJobServicer(given.artifacts_dir, beam_job_type=_Job)
    service.start_grpc_server(int(given.job_port))
    print("INFO: JobService started", flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()


def _in_java(text: str) -> str:
    lines = "\n".join(f"\tat org.apache.beam.runners.Some.method(Some.java:{number})" for number in range(3))
    return f"java.util.concurrent.ExecutionException: {text}\n{lines}\nCaused by: {text}\n{lines}\n\t... 3 more\n"


if __name__ == "__main__":
    _serve()
