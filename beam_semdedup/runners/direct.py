"""`runner=direct`: Beam's local runner, in this process or with worker processes of its own."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from beam_semdedup.compute.threads import cores
from beam_semdedup.fields import CHECKED, PositiveOrAuto
from beam_semdedup.runners.base import Build, Runner, RunnerConfig


@dataclass(kw_only=True, config=CHECKED)
class DirectConfig(RunnerConfig):
    """This machine, through Beam's local runner."""

    name: Literal["direct"] = "direct"
    # On two cores one process with two threads is faster than two processes up to 250,000 rows, and takes 1.1 times as
    # long at 1,000,000, with half their memory (benchmarks/results/cpu.md: given, workers).
    num_workers: PositiveOrAuto = 1
    """1: in this process, on all cores; n: n worker processes that share them; auto: one per core"""


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
