"""The runners by name: the first is the default."""

from __future__ import annotations

from typing import Any

from beam_semdedup.runners.base import Runner, RunnerParameters
from beam_semdedup.runners.direct import DirectRunner
from beam_semdedup.runners.flink.runner import FlinkRunner
from beam_semdedup.runners.ray.runner import RayRunner

RUNNERS: dict[str, type[Runner[Any]]] = {
    "direct": DirectRunner,
    "ray": RayRunner,
    "flink": FlinkRunner,
}


def make_runner(parameters: RunnerParameters) -> Runner[Any]:
    """The runner that the parameters name, with its settings."""
    return RUNNERS[parameters.runner.name].of(parameters)


def leave_clusters() -> None:
    """Leaves the clusters that this process is in, or ends those that it started."""
    for runner in RUNNERS.values():
        runner.leave()
