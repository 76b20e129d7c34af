"""`runner=direct`: Beam's local runner, in this process or with worker processes of its own."""

from __future__ import annotations

from beam_semdedup.compute.threads import cores
from beam_semdedup.config.groups import DirectConfig
from beam_semdedup.runners.base import Build, Runner


class DirectRunner(Runner[DirectConfig]):
    """Runs pipelines on this machine; a single worker is this process, and `auto` is one per core."""

    settings = DirectConfig
    workers_are_here = True

    def check(self, device: str) -> None:
        if device == "gpu":
            from beam_semdedup.compute import arrays

            arrays.library(device)

    def room(self) -> int:
        return cores()

    def run(self, build: Build) -> None:
        from beam_semdedup.runners import harness

        number = self.num_workers()
        if number == 1:
            harness.execute(build, None)
            return
        with harness.Workers(harness.ProcessHandler, number) as workers:
            harness.execute(build, workers)
