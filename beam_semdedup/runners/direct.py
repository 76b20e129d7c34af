"""`runner=direct`: Beam's local runner, in this process or with worker processes of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import apache_beam as beam

from beam_semdedup.arrays import cores
from beam_semdedup.capacity import num_workers
from beam_semdedup.runners import harness

_LOG = logging.getLogger(__name__)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run(build: Callable[[beam.Pipeline], Any], parameters: Any) -> None:
    """See `runners.run`."""
    number = num_workers(parameters)
    if number == 1:
        harness.execute(build, None)
        return
    with harness.watched(_Process, number) as workers:
        harness.execute(build, workers)


class _Process(harness.Handler):
    """Starts one `beam_semdedup.worker`, passes its log on, and fails the run when it dies.

    The worker ends when the pipe to its standard input closes, which the operating system does however the
    driver ends, so that no worker writes anything after that.
    """

    def start(self) -> None:
        # Each worker has its share of the cores; the fit takes all of them, since the others wait for it.
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // self.workers.number))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "beam_semdedup.worker"],
            env={**os.environ, **dict.fromkeys(_THREADS, threads), **self.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is the driver's to handle
        )

    def watch(self) -> None:
        assert self._process.stdout is not None
        last_lines: deque[str] = deque(maxlen=5)
        for line in self._process.stdout:
            level, _, message = line.rstrip().partition("|")
            if level.isdigit():
                _LOG.log(int(level), message)
            else:
                last_lines.append(line.rstrip())
        code = self._process.wait()
        if self.closing.is_set():
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        why = " (the system does that when memory runs out: try a smaller memory_budget)" if code == -9 else ""
        said = "".join(f"\n  {line}" for line in last_lines)
        self.lost(
            f"worker process {self._process.pid} {how}{why}; finished units are kept, the same command goes on{said}"
        )

    def kill(self) -> None:
        self._process.kill()

    def stop_worker(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
