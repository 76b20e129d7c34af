import os
from pathlib import Path

import psutil
import pytest

from beam_semdedup.config.validation import resolve
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.resources import memory_per_worker


def runner(num_workers):
    settings = {"name": "direct", "num_workers": num_workers}
    return make_runner(resolve({"input_path": "in", "output_path": "out", "runner": settings}))


def test_auto_is_a_worker_for_each_core(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5}, raising=False)
    assert runner("auto").num_workers() == 3
    assert runner(2).num_workers() == 2


def test_a_memory_budget_is_taken_as_it_is():
    assert memory_per_worker(runner(2), 2, 12345) == 12345


GB = 1 << 30


def cgroup(version, limit, used, inactive_file):
    """The files that tell of a container's memory."""
    if version == 2:
        stat = f"anon 5\ninactive_file {inactive_file}\nactive_file 7"
        files = {"memory.max": limit, "memory.current": used, "memory.stat": stat}
    else:
        stat = f"cache 5\ninactive_file 0\ntotal_inactive_file {inactive_file}"
        files = {
            "memory/memory.limit_in_bytes": limit,
            "memory/memory.usage_in_bytes": used,
            "memory/memory.stat": stat,
        }
    return {f"/sys/fs/cgroup/{name}": f"{content}\n" for name, content in files.items()}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 16 * GB),
        (cgroup(2, "max", 3 * GB, 0), 16 * GB),
        (cgroup(1, 9223372036854771712, 3 * GB, 0), 16 * GB),
        (cgroup(2, 4 * GB, 3 * GB, 0), GB),
        (cgroup(2, 4 * GB, 3 * GB, 2 * GB), 3 * GB),
        (cgroup(1, 4 * GB, 3 * GB, 2 * GB), 3 * GB),
        (cgroup(2, 64 * GB, 3 * GB, 2 * GB), 16 * GB),
        (cgroup(2, 4 * GB, 4 * GB, 0), 64 << 20),
    ],
    ids=["no cgroup", "max", "unlimited in version 1", "limited", "cached", "version 1", "larger", "full"],
)
def test_without_a_budget_half_of_what_is_free_is_shared_by_the_workers(monkeypatch, files, free):
    def read_text(path):
        try:
            return files[str(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 16 * GB}))
    monkeypatch.setattr(Path, "read_text", read_text)
    assert memory_per_worker(runner(2), 2, None) == free // 4
