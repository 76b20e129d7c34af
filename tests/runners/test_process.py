"""A worker process, with a few lines in the place of a worker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from beam_semdedup.runners import worker
from beam_semdedup.runners.process import WorkerProcess

Start = Callable[..., WorkerProcess]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts these lines of Python as a worker."""

    def call(*lines: str, threads: int = 1) -> WorkerProcess:
        (tmp_path / "lines.py").write_text("\n".join(["import os, signal, sys, time", *lines]))
        return WorkerProcess("lines", threads=threads, environment={"PYTHONPATH": str(tmp_path)})

    return call


def test_its_log_is_passed_on_and_it_says_when_it_has_started(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    process = start("print(f'20|{os.getpid()}')", "print('30|half of it | is done')", "print('started|')")
    process.follow()
    (_, _, pid), said = caplog.record_tuples
    assert said == ("beam_semdedup.runners.process", logging.WARNING, "half of it | is done")
    assert process.started.is_set()
    assert not process.has_failed()
    assert process.how_it_ended().startswith(f"worker process {pid} ended with exit code 0; ")


@pytest.mark.parametrize(
    ("last", "how"),
    [
        ("sys.exit(3)", "ended with exit code 3; finished units are kept\n"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV; finished units are kept\n"),
        (
            "os.kill(os.getpid(), signal.SIGTERM)",
            "was killed by SIGTERM; finished units are kept, the same command goes on\n",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL (the system does that when memory runs out: "),
    ],
)
def test_a_death_is_told_with_the_last_lines_that_may_say_why(start: Start, last: str, how: str) -> None:
    process = start("for i in range(9): print('line', i, flush=True)", last)
    process.follow()
    assert process.has_failed()
    assert process.started.is_set()
    assert how in process.how_it_ended()
    said = "".join(f"\n  line {i}" for i in range(4, 9))
    assert process.how_it_ended().endswith(said) == ("SIGKILL" not in how)


def test_it_is_asked_to_end(start: Start) -> None:
    process = start("print('started|', flush=True)", "sys.stdin.read()")
    threading.Thread(target=process.follow, daemon=True).start()
    process.started.wait()
    process.stop()
    assert not process.has_failed()


def test_it_is_made_to_end(start: Start) -> None:
    process = start("time.sleep(600)")
    process.kill()
    assert "was killed by SIGKILL" in process.how_it_ended()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ["4", "4", "4"]),
        ({"OMP_NUM_THREADS": "2"}, ["2", "2", "2"]),
        ({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "1"}, ["2", "2", "1"]),
    ],
)
def test_it_has_the_threads_that_it_is_given_unless_the_environment_says_another_number(
    start: Start, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], expected: list[str]
) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    for name, number in said.items():
        monkeypatch.setenv(name, number)
    process = start(f"print(*map(os.environ.get, {THREADS}))", "sys.exit(1)", threads=4)
    process.follow()
    assert process.how_it_ended().endswith("\n  " + " ".join(expected))


@pytest.mark.parametrize(("details", "ends"), [("Runner closed connection", True), ("Socket closed", False)])
def test_a_worker_that_the_runner_needs_no_more_has_not_failed(details: str, ends: bool) -> None:
    class Cancelled(grpc.RpcError):
        def details(self) -> str:
            return details

    assert worker.is_closed_by_runner(Cancelled()) is ends
    assert not worker.is_closed_by_runner(ValueError("Runner closed connection"))
