"""How many workers a run has, and how much memory each may use: the runner and its machines decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beam_semdedup.arrays import cores
from beam_semdedup.settings import FlinkConfig, RayConfig


def num_workers(parameters: Any) -> int:
    """The number of worker processes that the runner's configuration asks for.

    Raises:
        InputError, RunError: `auto` on a cluster that cannot be joined or has no room for one; Flink without Java.
    """
    config = parameters.runner
    if isinstance(config, FlinkConfig):
        from beam_semdedup import flink_jar

        flink_jar.check(config)
    if config.num_workers != "auto":
        return config.num_workers
    if isinstance(config, RayConfig):
        return _ray(parameters).room(config)
    if isinstance(config, FlinkConfig) and not config.embedded:
        from beam_semdedup import flink_cluster

        return flink_cluster.free_slots(config)
    return cores()


def memory_per_worker(parameters: Any) -> int:
    """Bytes that one worker may use: `memory_budget`, else its share of half of what is free where it runs."""
    if parameters.memory_budget is not None:
        return parameters.memory_budget
    number = num_workers(parameters)
    if isinstance(parameters.runner, RayConfig):
        on_nodes = _ray(parameters).memory(parameters.runner, number)
        if on_nodes is not None:
            return on_nodes // 2
    if isinstance(parameters.runner, FlinkConfig) and not parameters.runner.embedded:
        from beam_semdedup import flink_cluster

        on_hosts = flink_cluster.memory_per_slot(parameters.runner)
        if on_hosts is not None:
            return on_hosts // 2
    return _free() // 2 // number


def _ray(parameters: Any) -> Any:
    """The module of the Ray cluster, joined."""
    from beam_semdedup import ray_cluster

    ray_cluster.connect(parameters.ray_address, parameters.verbose)
    return ray_cluster


def _free() -> int:
    """Bytes of memory that this machine or container has left."""
    import psutil

    free = psutil.virtual_memory().available
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            free = min(free, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return free
