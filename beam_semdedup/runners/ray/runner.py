"""`runner=ray`: Beam's local runner in the driver, with actors of a Ray cluster as its workers.

Every actor runs Beam's full SDK harness. The driver plans the stages and keeps the references that are shuffled; the
vectors go from storage to the actors and back. Actors connect to the driver on ports that the system chooses, so that
driver and nodes must reach each other.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
import ray
from ray.exceptions import GetTimeoutError, RayError

from beam_semdedup.config.groups import RayConfig
from beam_semdedup.config.parameters import ClusterParameters
from beam_semdedup.runners import harness
from beam_semdedup.runners.ray import cluster as ray_cluster
from beam_semdedup.runners.resources import num_workers
from beam_semdedup.runners.worker import RayWorker

_LOG = logging.getLogger(__name__)
_CAUSE_SECONDS = 5.0


def run(build: Callable[[beam.Pipeline], Any], parameters: ClusterParameters) -> None:
    """See `runners.run`."""
    with actors(parameters) as workers:
        harness.execute(build, workers)


@contextmanager
def actors(parameters: ClusterParameters, others: int = logging.CRITICAL) -> Iterator[harness.Workers]:
    """The workers of a run that takes place within it; afterwards nothing of the cluster stays claimed.

    Args:
        others: the level from which on the log of other packages than this one is shown.
    """
    ray_cluster.connect(parameters.ray_address, parameters.verbose)
    config = parameters.runner
    assert isinstance(config, RayConfig)
    with ray_cluster.reserved(num_workers(parameters), config, parameters.ray_timeout) as group:
        bundles = itertools.count()

        def handler(*arguments: Any) -> _Actor:
            options = ray_cluster.actor_options(config, group, next(bundles))
            return _Actor({**options, "runtime_env": config.runtime_env or None}, others, *arguments)

        with harness.watched(handler, group.bundle_count) as workers:
            yield workers


class _Actor(harness.Handler):
    """Starts one actor, and fails the run when it, its node or its connection is gone."""

    def __init__(self, options: dict[str, Any], others: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._options, self._others = options, others
        self._node = "a node not yet known"

    def host_from_worker(self) -> str:
        return ray.util.get_node_ip_address()

    def start(self) -> None:
        worker: Any = ray.remote(RayWorker)
        self._actor = worker.options(**self._options).remote()
        self._where = self._actor.node.remote()
        self._served = self._actor.serve.remote(self.environment(), self._others)

    def watch(self) -> None:
        try:
            self._node = ray.get(self._where)
            while not ray.wait([self._served], timeout=0.2)[0]:
                if self.is_disconnected() and not self.closing.wait(1):
                    ray.get(self._served, timeout=_CAUSE_SECONDS)
            ray.get(self._served)
            cause = "it ended before the run"
        except GetTimeoutError:
            cause = "its connection broke"
        except RayError as error:
            cause = ray_cluster.cause_of(error)
        if not self.closing.is_set():
            self.lost(f"a worker on {self._node} was lost ({cause}); finished units are kept")

    def kill(self) -> None:
        ray.kill(self._actor)

    def stop_worker(self) -> None:
        ray.wait([self._served], timeout=5)
        ray.kill(self._actor)
