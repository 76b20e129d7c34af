"""`runner=flink`: Flink, through Beam's job server for it, which runs as long as the run does.

Flink is embedded in the job server, whose workers this process starts, or it is a cluster with a worker pool beside
each task manager. The finished units are the checkpoints: a job that fails ends at once, and is started again with the
slots that are there then, so that Flink itself neither restarts tasks nor takes checkpoints.
"""

from __future__ import annotations

from beam_semdedup.compute.threads import cores
from beam_semdedup.runners.base import Build, ClusterParameters, Runner, Stream
from beam_semdedup.runners.flink.cluster import FlinkCluster
from beam_semdedup.runners.flink.settings import FlinkConfig


class FlinkRunner(Runner[FlinkConfig]):
    """Runs pipelines on Flink: a worker process per slot, or per core of this machine where Flink is embedded."""

    settings = FlinkConfig

    def __init__(self, parameters: ClusterParameters) -> None:
        super().__init__(parameters)
        self._cluster = None if self.config.embedded else FlinkCluster(self.config.flink_master)

    def check(self, device: str) -> None:
        from beam_semdedup.runners.flink import job_server

        job_server.check(self.config)

    def room(self) -> int:
        return self._cluster.free_slots() if self._cluster else cores()

    def memory(self, number: int) -> int | None:
        return self._cluster.memory_per_slot() if self._cluster else None

    def check_streams(self) -> None:
        """Raises nothing."""

    def stream(self, build: Build, stream: Stream) -> None:
        self._run(build, stream)

    def run(self, build: Build) -> None:
        self._run(build)

    def _run(self, build: Build, stream: Stream | None = None) -> None:
        from beam_semdedup.runners.flink import job

        given = self.parameters.memory_budget is not None
        job.run(build, self.config, self.num_workers(), self._cluster, given, stream)
