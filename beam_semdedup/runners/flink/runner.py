"""`runner=flink`: Flink, through Beam's job server for it, which runs as long as the run does.

Flink is embedded in the job server, whose workers this process starts, or it is a cluster with a worker pool beside
each task manager. The finished units are the checkpoints: a job that fails ends at once, and is started again with the
slots that are there then, so that Flink itself neither restarts tasks nor takes checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_semdedup.compute.threads import cores
from beam_semdedup.config.groups import FlinkConfig
from beam_semdedup.runners.base import Build, Runner

if TYPE_CHECKING:
    from beam_semdedup.runners.flink.cluster import FlinkCluster


class FlinkRunner(Runner[FlinkConfig]):
    """Runs pipelines on Flink, with one worker process per slot."""

    settings = FlinkConfig

    def check(self, device: str) -> None:
        """Checks that there are Java and the jar that is given; see `Runner.check`."""
        from beam_semdedup.runners.flink import job_server

        job_server.check(self.config)

    def room(self) -> int:
        """The cores of this machine, or the free slots of the cluster; see `Runner.room`."""
        cluster = self._flink()
        return cluster.free_slots() if cluster else cores()

    def memory(self, number: int) -> int | None:
        """Bytes that come to each slot of the cluster; see `Runner.memory`."""
        cluster = self._flink()
        return cluster.memory_per_slot() if cluster else None

    def run(self, build: Build) -> None:
        """See `Runner.run`."""
        from beam_semdedup.runners.flink import job

        job.run(build, self.config, self.num_workers(), self._flink())

    def _flink(self) -> FlinkCluster | None:
        """The cluster; None where Flink runs inside the job server on this machine."""
        if self.config.embedded:
            return None
        from beam_semdedup.runners.flink.cluster import FlinkCluster

        return FlinkCluster(self.config.flink_master)
