"""What a runner is, and how a pipeline is run on one: again where a worker was lost.

A new runner is one class with its settings, and a line in `registry.RUNNERS`. That module is imported by all that reads
the parameters, so that Beam, and whatever else is slow to import, is imported in a runner's methods.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from pydantic.dataclasses import dataclass

from beam_semdedup.errors import InputError, WorkerLost, is_interrupt, known_cause
from beam_semdedup.fields import CHECKED, NotNegative, PositiveOrAuto

_LOG = logging.getLogger(__name__)
Build: TypeAlias = Callable[[Any], Any]
"""Adds transforms to the `beam.Pipeline` that it is given."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """How a streaming pipeline ends, which does not end by itself.

    Attributes:
        enough: says whether it is to end now; asked about twice a second.
        name: of its job on a cluster, which has one of that name at most: what a killed process left there is ended
            when the next one starts.
    """

    enough: Callable[[], bool]
    name: str


@dataclass(kw_only=True, config=CHECKED)
class RunnerConfig:
    """Where the pipeline runs: `name` chooses the runner, the other fields belong to it."""

    name: str
    num_workers: PositiveOrAuto = 1
    """worker processes"""
    max_retries: NotNegative = 0
    """how often a run is started again after a worker was lost"""


Settings = TypeVar("Settings", bound=RunnerConfig)


class ClusterParameters(Protocol):
    """The parameters that a runner is made from: `runner` holds the settings of its own."""

    runner: Any
    ray_address: str | None
    ray_timeout: float
    memory_budget: int | None
    verbose: bool


class Runner(abc.ABC, Generic[Settings]):
    """Where pipelines run. Whatever asks a cluster raises InputError or RunError where it does not answer."""

    settings: ClassVar[type[RunnerConfig]]
    """What `runner.…` can be given; its docstring and fields are this runner's part of `--help`."""
    workers_are_here: ClassVar[bool] = False
    """Whether workers are known to see this machine's devices, so that what they need of them is checked here."""

    def __init__(self, parameters: ClusterParameters) -> None:
        self.parameters = parameters
        self.config: Settings = parameters.runner

    def check_device(self, device: str) -> None:
        """Raises InputError where the settings do not give the workers the device (auto, cpu or gpu) asked for."""

    def check(self, device: str) -> None:
        """Raises InputError, before anything is done, where this machine lacks what the runner or the device needs."""

    @abc.abstractmethod
    def room(self) -> int:
        """Returns how many workers there is room for, at least one, which is what `num_workers=auto` stands for."""

    def num_workers(self) -> int:
        """Returns the number of workers that the settings ask for."""
        return self.room() if self.config.num_workers == "auto" else self.config.num_workers

    def memory(self, number: int) -> int | None:
        """Returns the bytes that each of `number` workers has on its machine; None: its share of this machine's."""
        return None

    @abc.abstractmethod
    def run(self, build: Build) -> None:
        """Runs a pipeline once, to its end.

        Raises:
            WorkerLost: a worker died or went away; what units raise is raised as Beam words it.
        """

    def check_streams(self) -> None:
        """Raises InputError where this runner has no streaming pipelines."""
        raise InputError(
            f"runner={self.config.name} cannot run streams: give runner=prism (make install EXTRAS=prism builds it, "
            "with Go), or runner=flink (make install EXTRAS=flink)"
        )

    def stream(self, build: Build, stream: Stream) -> None:
        """Runs a streaming pipeline until it is enough, or has ended by itself; then nothing of it is running.

        Raises:
            InputError: as `check_streams`; else as `run`, and what `stream.enough` raises.
        """
        self.check_streams()

    @classmethod
    def leave(cls) -> None:
        """Leaves the cluster of this kind that the process is in, if any, or ends the one that it started."""


def run(build: Build, runner: Runner[Any], stream: Stream | None = None) -> None:
    """Runs the pipeline that `build` puts together, and returns when it is done.

    Where a worker is lost it runs again, up to `runner.max_retries` times; finished units are found and kept.

    Args:
        stream: None where the pipeline ends by itself.

    Raises:
        InputError, RunError: with the message of the unit or worker that failed; any other error is raised as it is.
    """
    retries = runner.config.max_retries
    for attempt in range(retries + 1):
        try:
            if stream:
                runner.stream(functools.partial(_build, build), stream)
            else:
                runner.run(functools.partial(_build, build))
            return
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            cause = known_cause(error)
            if isinstance(cause, WorkerLost) and attempt < retries:
                _LOG.warning("Trying again, %s of %s: %s", attempt + 1, retries, cause)
            elif cause is None or cause is error:
                raise
            else:
                raise cause from error


def _build(build: Build, pipeline: Any) -> None:
    """Adds the transforms; in a notebook without their labels being changed, as Beam does there.

    For that it would import what it shows pipelines with, which needs packages that nobody asked for, and versions of
    them that may not be there.
    """
    from apache_beam import pipeline as module

    altered, module.alter_label_if_ipython = module.alter_label_if_ipython, lambda *_: None
    try:
        build(pipeline)
    finally:
        module.alter_label_if_ipython = altered
