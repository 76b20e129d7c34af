"""The runners by name."""

from __future__ import annotations

from typing import Any

from beam_semdedup.runners.base import ClusterParameters, Runner
from beam_semdedup.runners.direct import DirectRunner
from beam_semdedup.runners.flink.runner import FlinkRunner
from beam_semdedup.runners.prism import PrismRunner
from beam_semdedup.runners.ray.runner import RayRunner

RUNNERS: dict[str, type[Runner[Any]]] = {
    "direct": DirectRunner,
    "ray": RayRunner,
    "flink": FlinkRunner,
    "prism": PrismRunner,
}
"""The choices of `runner=`; the first is the default."""


def make_runner(parameters: ClusterParameters) -> Runner[Any]:
    """Returns the runner that the parameters name, with its settings."""
    return RUNNERS[parameters.runner.name](parameters)
