"""Shards in actors of a Ray cluster: started, reached, and made anew where an actor dies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from beam_semdedup.compute.arrays import library
from beam_semdedup.errors import RunError
from beam_semdedup.fit.base import Sample
from beam_semdedup.fit.lloyd import Run
from beam_semdedup.fit.ray.settings import RayKMeansConfig
from beam_semdedup.fit.shard import Shard, where_computed
from beam_semdedup.runners.ray import cluster as ray_cluster
from beam_semdedup.storage.options import Carried

_LOG = logging.getLogger(__name__)
_MOST_LOST = 3


@contextmanager
def shards_in_actors(sample: Sample, batch: int, config: RayKMeansConfig, seconds: float) -> Iterator[Run]:
    """Yields what reaches the shards of `config.num_actors` actors, which end with it.

    Args:
        sample: reads the rows of each shard, in its actor; can be pickled.
        batch: most rows of a tile.
        seconds: to wait until the cluster, which this process has joined, has room for the actors.

    Raises:
        RunError: it has none in that time, or more than three actors died.
    """
    with ray_cluster.reserved(config.num_actors, config, seconds) as group:

        def start(number: int) -> Any:
            actor: Any = ray.remote(_ShardActor)
            placed = actor.options(**ray_cluster.actor_options(config, group, number))
            return placed.remote(Carried(sample), number, group.bundle_count, config.num_gpus > 0, batch)

        actors = _Actors(start, group.bundle_count, seconds)
        try:
            yield actors.run
        finally:
            actors.kill()


class _ShardActor:
    """Holds one shard, read when it is first needed."""

    def __init__(self, sample: Sample, number: int, parts: int, on_gpu: bool, batch: int) -> None:
        self._sample, self._number, self._parts = sample, number, parts
        self._on_gpu, self._batch = on_gpu, batch
        self._shard: Shard | None = None

    def node(self) -> str:
        return ray.util.get_node_ip_address()

    def call(self, operation: str, *arguments: Any) -> Any:
        if self._shard is None:
            rows: Any = self._sample(self._number, self._parts)
            if self._on_gpu:
                rows = where_computed(rows, library("gpu"))
            self._shard = Shard(rows, self._batch, self._number)
        return getattr(self._shard, operation)(*arguments)


class _Actors:
    """Runs operations on the shards of all actors; a lost shard is made anew, by what made it what it was."""

    def __init__(self, start: Callable[[int], Any], number: int, seconds: float) -> None:
        self._start, self._seconds, self._lost = start, seconds, 0
        self._history: list[tuple[str, list[Any]]] = []
        self._actors = list(map(start, range(number)))
        self._nodes = [actor.node.remote() for actor in self._actors]

    def run(self, operation: str, *arguments: Any) -> list[Any]:
        """See `lloyd.Run`."""
        stored = [ray.put(a) if isinstance(a, np.ndarray) else a for a in arguments]
        calls = [actor.call.remote(operation, *stored) for actor in self._actors]
        results = [self._result(number, call, operation, stored) for number, call in enumerate(calls)]
        if operation in ("start_init", "step"):
            self._history = [(operation, stored)]
        elif operation == "approach":
            self._history.append((operation, stored))
        return results

    def kill(self) -> None:
        """Ends all actors."""
        for actor in self._actors:
            ray.kill(actor)

    def _result(self, number: int, call: Any, operation: str, arguments: list[Any]) -> Any:
        while True:
            try:
                if call is None:
                    self._replace(number)
                    call = self._actors[number].call.remote(operation, *arguments)
                return ray.get(call)
            except RayTaskError as error:
                raise error.cause from error
            except RayError as error:
                self._lost += 1
                what = f"the fit lost actor {number + 1} of {len(self._actors)} on {self._node(number)}"
                if self._lost > _MOST_LOST:
                    raise RunError(
                        f"{what}, after {_MOST_LOST} that were replaced: {ray_cluster.cause_of(error)}"
                    ) from error
                _LOG.warning("Again from storage, as %s: %s", what, ray_cluster.cause_of(error))
                call = None

    def _node(self, number: int) -> str:
        try:
            return ray.get(self._nodes[number], timeout=1)
        except RayError:
            return "a node not yet known"

    def _replace(self, number: int) -> None:
        ray.kill(self._actors[number])
        self._actors[number] = self._start(number)
        self._nodes[number] = self._actors[number].node.remote()
        try:
            ray.get(self._nodes[number], timeout=self._seconds)
        except GetTimeoutError as error:
            raise RunError(
                f"the fit lost actor {number + 1} of {len(self._actors)}, and Ray did not start another one within "
                f"{self._seconds:.0f} s: no node has room for it"
            ) from error
        for operation, arguments in self._history:
            ray.get(self._actors[number].call.remote(operation, *arguments))
