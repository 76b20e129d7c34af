"""`runner=ray`: Beam's local runner in the driver, with actors of a Ray cluster as its workers.

Every actor runs Beam's full SDK harness. The driver plans the stages and keeps the references that are shuffled; the
vectors go from storage to the actors and back. Actors connect to the driver on ports that the system chooses, so that
driver and nodes must reach each other.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from beam_semdedup.config.groups import RayConfig
from beam_semdedup.errors import InputError
from beam_semdedup.runners.base import Build, Runner


class RayRunner(Runner[RayConfig]):
    """Runs pipelines on a Ray cluster."""

    settings = RayConfig

    def check_device(self, device: str) -> None:
        """Checks that workers have a share of a GPU where `device` asks for one; see `Runner.check_device`."""
        if device == "gpu" and not self.config.num_gpus:
            raise InputError("device=gpu with runner=ray needs runner.num_gpus, the share of a GPU that a worker has")

    def check(self, device: str) -> None:
        """Checks that Ray is installed; see `Runner.check`."""
        if find_spec("ray") is None:
            raise InputError("runner=ray: Ray is not installed: pip install 'beam-semdedup[ray]'")

    def room(self) -> int:
        """The actors that the cluster's nodes hold when they are idle; see `Runner.room`."""
        from beam_semdedup.runners.ray import cluster

        cluster.connect(self.cluster.address, self.cluster.verbose)
        return cluster.room(self.config)

    def memory(self, number: int) -> int | None:
        """Bytes that each actor has on its node; see `Runner.memory`."""
        from beam_semdedup.runners.ray import cluster

        cluster.connect(self.cluster.address, self.cluster.verbose)
        return cluster.memory(self.config, number)

    def run(self, build: Build) -> None:
        """See `Runner.run`."""
        from beam_semdedup.runners import harness
        from beam_semdedup.runners.ray.actors import actors

        with actors(self) as workers:
            harness.execute(build, workers)

    @classmethod
    def leave(cls) -> None:
        """Leaves the cluster, or ends the one that was started here, which a fit may have done too."""
        if "ray" in sys.modules:
            from beam_semdedup.runners.ray import cluster

            cluster.disconnect()
