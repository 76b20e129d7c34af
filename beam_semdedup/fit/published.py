"""Centroids in the object store of the Ray cluster that this process is in, if it is in one."""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from beam_semdedup.storage.options import Carried

_LOG = logging.getLogger(__name__)
_RESOLVE_SECONDS = 60.0


@contextmanager
def publish(label: str, load: Callable[[], np.ndarray]) -> Iterator[str]:
    """Yields the name by which the processes that this one starts on its cluster find what `load` returns on it.

    It begins with `label`, and holds while within it; it is empty where this process is in no cluster.
    """
    ray = _joined()
    if ray is None:
        yield ""
        return
    name = f"{label}-{uuid.uuid4().hex[:8]}"
    holder = ray.remote(_Holder).options(name=name, num_cpus=0).remote(Carried(load))
    try:
        yield name
    finally:
        ray.kill(holder)


def find_published(name: str) -> np.ndarray | None:
    """Returns what was published by a name, read-only; None where there is none, with a warning if it is gone."""
    ray = _joined()
    if not name or ray is None:
        return None
    try:
        holder = ray.get_actor(name)
        held: list[Any] = ray.get(holder.held.remote(), timeout=_RESOLVE_SECONDS)
        return ray.get(held[0], timeout=_RESOLVE_SECONDS)
    except (ValueError, ray.exceptions.RayError) as error:
        _LOG.warning("The centroids are read from storage, as Ray no longer has them: %s", str(error).splitlines()[0])
        return None


class _Holder:
    """Owns the centroids in the object store, which has them as long as this actor lives."""

    def __init__(self, load: Callable[[], np.ndarray]) -> None:
        import ray

        self._stored = ray.put(load())

    def held(self) -> list[Any]:
        return [self._stored]


def _joined() -> Any:
    """Returns the module `ray` where this process is in a cluster, else None."""
    ray = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() else None
