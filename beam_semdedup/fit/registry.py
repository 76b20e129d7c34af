"""The engines by name."""

from __future__ import annotations

from typing import Any

from beam_semdedup.fit.base import Engine, EngineParameters
from beam_semdedup.fit.cuml import CumlEngine
from beam_semdedup.fit.local import LocalEngine
from beam_semdedup.fit.ray.engine import RayEngine

ENGINES: dict[str, type[Engine[Any]]] = {"local": LocalEngine, "ray": RayEngine, "cuml": CumlEngine}
"""The choices of `kmeans=`; the first is the default."""


def make_engine(parameters: EngineParameters) -> Engine[Any]:
    """Returns the engine that the parameters name, with its settings."""
    return ENGINES[parameters.kmeans.name](parameters)
