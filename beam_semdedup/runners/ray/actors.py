"""Actors of a Ray cluster as the workers of Beam pipelines: started, watched and ended."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from beam_semdedup.runners import harness
from beam_semdedup.runners.ray import cluster as ray_cluster
from beam_semdedup.runners.ray.settings import RayConfig
from beam_semdedup.runners.ray.worker import RayWorker
from beam_semdedup.storage import options

_CAUSE_SECONDS = 5.0


@contextmanager
def actors(number: int, config: RayConfig, seconds: float, others: int) -> Iterator[harness.Workers]:
    """Yields the workers of a run that takes place within it; afterwards nothing of the cluster stays claimed.

    Args:
        seconds: to wait until the cluster, which this process has joined, has room for them.
        others: the level from which on the log of other packages than this one is shown.

    Raises:
        RunError: it has none in that time.
        WorkerLost: one of them died.
    """
    with ray_cluster.reserved(number, config, seconds) as group:
        bundles = itertools.count()

        def handler(*arguments: Any) -> _Actor:
            placed = ray_cluster.actor_options(config, group, next(bundles))
            return _Actor({**placed, "runtime_env": config.runtime_env or None}, others, *arguments)

        with harness.Workers(handler, group.bundle_count, ray.util.get_node_ip_address()) as workers:
            yield workers


class _Actor(harness.Handler):
    """Starts one actor, and fails the run when it, its node or its connection is gone."""

    def __init__(self, placed: dict[str, Any], others: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._placed, self._others = placed, others
        self._node = "a node not yet known"

    def start(self) -> None:
        worker: Any = ray.remote(RayWorker)
        self._actor = worker.options(**self._placed).remote()
        self._where = self._actor.node.remote()
        self._served = self._actor.serve.remote({**self.environment(), **options.told()}, self._others)

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
