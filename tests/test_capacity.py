from pathlib import Path

import psutil
import pytest

from beam_semdedup import capacity
from beam_semdedup.validation import resolve


def parameters(**values):
    return resolve({"input_path": "in", "output_path": "out", "runner": {"name": "direct", "num_workers": 2}, **values})


def test_auto_is_a_worker_for_each_core(monkeypatch):
    monkeypatch.setattr(capacity, "cores", lambda: 3)
    assert capacity.num_workers(parameters(runner={"name": "direct", "num_workers": "auto"})) == 3
    assert capacity.num_workers(parameters()) == 2


def test_a_memory_budget_is_taken_as_it_is():
    assert capacity.memory_per_worker(parameters(memory_budget=12345)) == 12345


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [("400\n", 100), ("max\n", 250), ("9223372036854771712", 250), (None, 250)],
    ids=["limited", "max", "unlimited in cgroup v1", "no cgroup"],
)
def test_without_a_budget_half_of_what_is_free_is_shared_by_the_workers(monkeypatch, cgroup, expected):
    def read_text(path):
        if cgroup is None:
            raise FileNotFoundError(path)
        return cgroup

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    monkeypatch.setattr(Path, "read_text", read_text)
    assert capacity.memory_per_worker(parameters()) == expected
