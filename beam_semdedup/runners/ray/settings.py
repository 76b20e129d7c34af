"""What can be given for workers and other actors on a Ray cluster."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from beam_semdedup.fields import CHECKED, CODE, NotNegative, Number, PositiveOrAuto
from beam_semdedup.runners.base import RunnerConfig


@dataclass(kw_only=True, config=CHECKED)
class ActorConfig:
    """What each actor on a Ray cluster has to itself."""

    num_cpus: Annotated[Number, Field(gt=0)] = 1.0
    """CPUs of an actor"""
    num_gpus: Annotated[Number, Field(ge=0)] = 0.0
    """GPUs of an actor"""
    resources: dict[str, float] = field(default_factory=dict)
    """custom resources of an actor, such as {big_memory: 1}"""


@dataclass(kw_only=True, config=CHECKED)
class RayConfig(ActorConfig, RunnerConfig):
    """A Ray cluster (ray_address), or a Ray of its own on this machine: each worker is an actor."""

    name: Literal["ray"] = "ray"
    num_workers: PositiveOrAuto = "auto"
    """actors; auto: as many as the cluster's CPUs and GPUs allow"""
    max_retries: NotNegative = 3
    runtime_env: Annotated[dict[str, Any], CODE] = field(default_factory=dict, repr=False)
    """Ray's runtime environment of the actors"""
