"""What can be given for a fit in actors of Ray."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from beam_semdedup.fields import CHECKED, Positive
from beam_semdedup.fit.base import KMeansConfig
from beam_semdedup.runners.ray.settings import ActorConfig


@dataclass(kw_only=True, config=CHECKED)
class RayKMeansConfig(ActorConfig, KMeansConfig):
    """Lloyd iterations in actors of a Ray cluster (ray_address), or of a Ray of its own on this machine."""

    name: Literal["ray"] = "ray"
    num_actors: Positive = 1
    """actors; each holds a share of the rows to fit on"""
