"""How much memory the workers of a runner may use."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from beam_semdedup.runners.base import Runner

_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where a container's limit stands, what it uses, and in memory.stat what of that counts as free: versions 2 and 1."""
_LEAST = 64 << 20


def memory_per_worker(runner: Runner[Any], number: int, budget: int | None) -> int:
    """Returns the bytes that each of `number` workers may use: `budget`, else half of its share of its machine.

    Raises:
        InputError, RunError: the memory of a cluster is asked for that cannot be reached or joined.
    """
    if budget is not None:
        return budget
    there = runner.memory(number)
    return (free_memory() // number if there is None else there) // 2


def container_limit() -> int | None:
    """Returns the bytes that the container of this process may use; None where it may use all of its machine's."""
    import psutil

    whole = limit = psutil.virtual_memory().total
    for directory, name, *_ in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # another version, or no limit
            limit = min(limit, int((directory / name).read_text()))
    return limit if limit < whole else None


def free_memory() -> int:
    """Returns the bytes that this machine has left, or its container where that has less; at least 64 MiB."""
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
