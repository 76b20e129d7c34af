"""`runner=ray`: Beam's local runner in the driver, with actors of a Ray cluster as its workers.

Every actor runs Beam's full SDK harness. The driver plans the stages and keeps the references that are shuffled; the
vectors go from storage to the actors and back. Actors connect to the driver, on ports that the system chooses of its
address in the cluster; a Ray of this machine alone listens, as the driver then does, on loopback.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

from beam_semdedup.errors import InputError
from beam_semdedup.runners.base import Build, Runner
from beam_semdedup.runners.ray.settings import RayConfig


class RayRunner(Runner[RayConfig]):
    """Runs pipelines on a Ray cluster, or on a Ray of its own on this machine; each worker is an actor."""

    settings = RayConfig

    def check_device(self, device: str) -> None:
        if device == "gpu" and not self.config.num_gpus:
            raise InputError("device=gpu with runner=ray needs runner.num_gpus, the share of a GPU that a worker has")

    def check(self, device: str) -> None:
        if find_spec("ray") is None:
            raise InputError("runner=ray: Ray is not installed: pip install 'beam-semdedup[ray]'")

    def room(self) -> int:
        return self.joined().room(self.config)

    def memory(self, number: int) -> int | None:
        return self.joined().memory(self.config, number)

    def joined(self) -> Any:
        """Returns the module `cluster`, after this process has joined the cluster."""
        from beam_semdedup.runners.ray import cluster

        cluster.connect(self.parameters.ray_address, self.parameters.verbose)
        return cluster

    def workers(self, others: int = logging.CRITICAL) -> AbstractContextManager[Any]:
        """Returns the actors of a run that takes place within them; see `actors`."""
        from beam_semdedup.runners.ray.actors import actors

        self.joined()
        return actors(self.num_workers(), self.config, self.parameters.ray_timeout, others)

    def run(self, build: Build) -> None:
        from beam_semdedup.runners import harness

        with self.workers() as workers:
            harness.execute(build, workers)

    @classmethod
    def leave(cls) -> None:
        if "ray" in sys.modules:  # where a fit may have joined the cluster, whatever the runner
            from beam_semdedup.runners.ray import cluster

            cluster.disconnect()
