"""The fit in actors of a Ray cluster, and the fitted model in Ray's object store."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup

from beam_semdedup.compute.arrays import library
from beam_semdedup.config.groups import RayKMeansConfig
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import RunError
from beam_semdedup.fit.lloyd import Fit, Sample, fit_shards, where_computed
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.fit.shard import Shard
from beam_semdedup.runners.ray import cluster as ray_cluster
from beam_semdedup.storage.filesystems import Options

_LOG = logging.getLogger(__name__)
_MOST_LOST = 3
_RESOLVE_SECONDS = 60.0


class RayEngine:
    """One shard in each of `kmeans.num_actors` actors, which reads its share of the rows from storage.

    With `kmeans.num_gpus` above 0 the rows lie on the first GPU that Ray gives the actor, as CuPy arrays (not yet tried
    on a GPU).
    """

    def fit(self, sample: Sample, initial: np.ndarray | None, parameters: Parameters) -> Fit:
        """See `Engine.fit`. An actor that dies is replaced, three times at most.

        Args:
            sample: can be pickled.

        Raises:
            RunError: no room for the actors in the cluster, or too many died.
        """
        config = parameters.kmeans
        assert isinstance(config, RayKMeansConfig)
        ray_cluster.connect(parameters.ray_address, parameters.verbose)
        with ray_cluster.reserved(config.num_actors, config, parameters.ray_timeout) as group:
            actors = _Actors(sample, parameters, config, group)
            try:
                return fit_shards(actors.run, initial, parameters)
            finally:
                actors.kill()


class _ShardActor:
    """Holds one shard, read when it is first needed."""

    def __init__(self, sample: Sample, number: int, parts: int, config: RayKMeansConfig, batch: int) -> None:
        self._sample, self._number, self._parts = sample, number, parts
        self._config, self._batch = config, batch
        self._shard: Shard | None = None

    def node(self) -> str:
        return ray.util.get_node_ip_address()

    def call(self, operation: str, *arguments: Any) -> Any:
        if self._shard is None:
            rows: Any = self._sample(self._number, self._parts)
            if self._config.num_gpus:
                rows = where_computed(rows, library("gpu"))
            self._shard = Shard(rows, self._batch, self._number)
        return getattr(self._shard, operation)(*arguments)


class _Actors:
    """Runs operations on the shards of all actors; a lost shard is made anew, by what made it what it was."""

    def __init__(self, sample: Sample, parameters: Parameters, config: RayKMeansConfig, group: PlacementGroup) -> None:
        self._config, self._group, self._seconds = config, group, parameters.ray_timeout
        self._arguments = [
            (sample, number, group.bundle_count, config, parameters.max_samples_per_batch)
            for number in range(group.bundle_count)
        ]
        self._lost = 0
        self._history: list[tuple[str, list[Any]]] = []
        self._actors = [self._started(number) for number in range(group.bundle_count)]
        self._nodes = [actor.node.remote() for actor in self._actors]

    def run(self, operation: str, *arguments: Any) -> list[Any]:
        """See `fitting.Run`."""
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

    def _started(self, number: int) -> Any:
        actor: Any = ray.remote(_ShardActor)
        options = ray_cluster.actor_options(self._config, self._group, number)
        return actor.options(**options).remote(*self._arguments[number])

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
        self._actors[number] = self._started(number)
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


@contextmanager
def published(fitted: FittedKMeans, options: Options) -> Iterator[FittedKMeans]:
    """A handle that the processes of this Ray cluster load from its object store, while the context lasts."""
    actor: Any = ray.remote(_Holder)
    name = f"centroids-{fitted.content_hash}-{uuid.uuid4().hex[:8]}"
    holder = actor.options(name=name, namespace=ray_cluster.NAMESPACE, num_cpus=0).remote(fitted, options)
    try:
        yield dataclasses.replace(fitted, actor=name)
    finally:
        ray.kill(holder)


class _Holder:
    """Owns the centroids in the object store, which has them as long as this actor lives."""

    def __init__(self, fitted: FittedKMeans, options: Options) -> None:
        self._stored = ray.put(fitted.centroids(options))

    def centroids(self) -> list[Any]:
        return [self._stored]


def find_published(name: str) -> np.ndarray | None:
    """The centroids behind a name that `published` gave, read-only; None, with a warning, if they are gone."""
    try:
        holder = ray.get_actor(name, namespace=ray_cluster.NAMESPACE)
        held: list[Any] = ray.get(holder.centroids.remote(), timeout=_RESOLVE_SECONDS)
        return ray.get(held[0], timeout=_RESOLVE_SECONDS)
    except (ValueError, RayError) as error:
        _LOG.warning("The centroids are read from storage, as Ray no longer has them: %s", str(error).splitlines()[0])
        return None
