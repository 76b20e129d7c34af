"""`runner=direct`: Beam's local runner, in this process or with worker processes of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam

from beam_semdedup.compute.threads import cores
from beam_semdedup.config.parameters import ClusterParameters
from beam_semdedup.runners import harness
from beam_semdedup.runners.process import WorkerProcess
from beam_semdedup.runners.resources import num_workers


def run(build: Callable[[beam.Pipeline], Any], parameters: ClusterParameters) -> None:
    """See `runners.run`."""
    number = num_workers(parameters)
    if number == 1:
        harness.execute(build, None)
        return
    with harness.watched(_Process, number) as workers:
        harness.execute(build, workers)


class _Process(harness.Handler):
    """Starts one `beam_semdedup.runners.worker`, and fails the run when it dies."""

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
