"""`runner=prism`: Prism, Beam's portable local runner, a program in Go that runs as long as the run does."""

from __future__ import annotations

import logging
import shutil
import sys
from contextlib import ExitStack
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from beam_semdedup.compute.threads import cores
from beam_semdedup.errors import InputError
from beam_semdedup.fields import CHECKED, PositiveOrAuto
from beam_semdedup.runners.base import Build, Runner, RunnerConfig, Stream

_LOG = logging.getLogger(__name__)


@dataclass(kw_only=True, config=CHECKED)
class PrismConfig(RunnerConfig):
    """This machine, through Prism, which runs streaming pipelines too; its one worker has all cores."""

    name: Literal["prism"] = "prism"
    num_workers: PositiveOrAuto = 1
    """1 or auto: Prism starts one worker process, which has all cores"""
    prism_location: str | None = None
    """path or URL of the program; null: what make install EXTRAS=prism built, else Beam's download"""
    options: dict[str, Any] = field(default_factory=dict)
    """further options of Beam"""


class PrismRunner(Runner[PrismConfig]):
    """Runs pipelines on this machine, with a Prism and a worker process that this process starts and ends."""

    settings = PrismConfig
    workers_are_here = True

    def check(self, device: str) -> None:
        if self.num_workers() != 1:
            raise InputError(f"runner.num_workers={self.num_workers()}: Prism starts one worker, which has all cores")
        place = self.config.prism_location
        if place and "://" not in place and not Path(place).is_file():
            raise InputError(f"runner.prism_location={place}: there is no such file")
        if device == "gpu":
            from beam_semdedup.compute import arrays

            arrays.library(device)

    def room(self) -> int:
        return 1

    def check_streams(self) -> None:
        """Raises nothing."""

    def stream(self, build: Build, stream: Stream) -> None:
        from beam_semdedup.runners.submission import STREAMING

        self._run(build, STREAMING, stream)

    def run(self, build: Build) -> None:
        self._run(build, {})

    def _run(self, build: Build, more: dict[str, Any], stream: Stream | None = None) -> None:
        from apache_beam.utils.subprocess_server import pick_port

        from beam_semdedup.runners import harness
        from beam_semdedup.runners.construction import Options
        from beam_semdedup.runners.flink.worker_pool import WorkerPool
        from beam_semdedup.runners.submission import Deaths, JobServer, submit

        deaths, (port,) = Deaths(), pick_port(None)
        command = [self._program(), f"--job_port={port}", "--serve_http=false", "--log_kind=text"]
        with ExitStack() as stack:
            pool = stack.enter_context(WorkerPool("localhost:0", cores(), deaths.add))
            environment = {"environment_type": "EXTERNAL", "environment_config": f"localhost:{pool.port}"}
            options = {**harness.OPTIONS, **environment, **more, **self.config.options}
            server = stack.enter_context(JobServer("Prism", command, f"localhost:{port}"))
            submit(build, server, Options(**options), deaths, stream=stream)

    def _program(self) -> str:
        """Returns the path of the program: that of the configuration, the one beside this Python, or Beam's."""
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.portability.prism_runner import PrismJobServer

        place = self.config.prism_location
        built = shutil.which("prism", path=str(Path(sys.executable).parent))
        if place is None and built:
            return built
        try:
            return str(PrismJobServer(PipelineOptions(flags=[], prism_location=place)).path_to_binary())
        except (OSError, RuntimeError, ValueError) as error:
            what = f"runner.prism_location={place}" if place else "Prism is neither built nor fetched"
            raise InputError(f"{what}: {error}; make install EXTRAS=prism builds it, with Go") from error
