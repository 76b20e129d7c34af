"""How many workers a run has, and how much memory each may use: the runner and its machines decide."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from beam_semdedup.compute.threads import cores
from beam_semdedup.config.groups import FlinkConfig, RayConfig
from beam_semdedup.config.parameters import ClusterParameters, Parameters, RemovalParameters

_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where a container's limit stands, what it uses, and in memory.stat what of that counts as free: versions 2 and 1."""
_LEAST = 64 << 20


def num_workers(parameters: ClusterParameters) -> int:
    """The number of worker processes that the runner's configuration asks for.

    Raises:
        InputError, RunError: `auto` on a cluster that cannot be joined or has no room for one; Flink without Java.
    """
    config = parameters.runner
    if isinstance(config, FlinkConfig):
        from beam_semdedup.runners.flink import job_server as flink_jar

        flink_jar.check(config)
    if config.num_workers != "auto":
        return config.num_workers
    if isinstance(config, RayConfig):
        return _ray(parameters).room(config)
    if isinstance(config, FlinkConfig) and not config.embedded:
        from beam_semdedup.runners.flink import cluster as flink_cluster

        return flink_cluster.free_slots(config)
    return cores()


def memory_per_worker(parameters: Parameters | RemovalParameters, number: int) -> int:
    """Bytes that each of `number` workers may use: `memory_budget`, else its share of half of what is free there."""
    if parameters.memory_budget is not None:
        return parameters.memory_budget
    if isinstance(parameters.runner, RayConfig):
        on_nodes = _ray(parameters).memory(parameters.runner, number)
        if on_nodes is not None:
            return on_nodes // 2
    if isinstance(parameters.runner, FlinkConfig) and not parameters.runner.embedded:
        from beam_semdedup.runners.flink import cluster as flink_cluster

        on_hosts = flink_cluster.memory_per_slot(parameters.runner)
        if on_hosts is not None:
            return on_hosts // 2
    return _free() // 2 // number


def _ray(parameters: ClusterParameters) -> Any:
    """The module of the Ray cluster, joined."""
    from beam_semdedup.runners.ray import cluster as ray_cluster

    ray_cluster.connect(parameters.ray_address, parameters.verbose)
    return ray_cluster


def _free() -> int:
    """Bytes of memory that this machine has left, or its container where that has less; at least `_LEAST`."""
    import psutil

    free = psutil.virtual_memory().available
    for directory, limit, used, unneeded in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # another version, or no limit
            # What is used includes the page cache: files that were read, and are kept in memory as long as nobody needs
            # it. The system drops those first that were not read again ("inactive"), so that they count as free.
            cache = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
            in_use = int((directory / used).read_text()) - int(cache.get(unneeded, 0))
            free = min(free, int((directory / limit).read_text()) - in_use)
    return max(free, _LEAST)
