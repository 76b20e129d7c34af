"""What a runner is, and how a pipeline is run on one: again where a worker was lost.

A new runner is one class with its settings, and a line in `registry.RUNNERS`. That module imports it, as does all that
reads the parameters, so that Beam, and whatever else is slow to import, is imported in its methods.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeAlias, TypeVar

from beam_semdedup.config.groups import RunnerConfig
from beam_semdedup.errors import WorkerLost, is_interrupt, known_cause

_LOG = logging.getLogger(__name__)
Build: TypeAlias = Callable[[Any], Any]
"""Adds transforms to the `beam.Pipeline` that it is given."""
Settings = TypeVar("Settings", bound=RunnerConfig)


class RunnerParameters(Protocol):
    """The parameters that a runner is made from: `runner` holds its settings."""

    runner: Any
    ray_address: str | None
    ray_timeout: float
    verbose: bool


@dataclass(frozen=True)
class Cluster:
    """What the parameters say of a cluster for whoever uses one, runners and fits.

    Attributes:
        address: of the Ray cluster; None: one on this machine.
        timeout: seconds to wait until it has room.
        verbose: whether what its actors print is shown.
    """

    address: str | None = None
    timeout: float = 60.0
    verbose: bool = True


class Runner(abc.ABC, Generic[Settings]):
    """Where pipelines run."""

    settings: ClassVar[type[RunnerConfig]]
    """What `runner.…` can be given; its docstring and fields are the runner's part of `--help`."""
    workers_are_here: ClassVar[bool] = False
    """Whether workers are known to see this machine's devices, so that what they need of them is checked here."""

    def __init__(self, config: Settings, cluster: Cluster = Cluster()) -> None:
        self.config, self.cluster = config, cluster

    @classmethod
    def of(cls, parameters: RunnerParameters) -> Self:
        """The runner with the settings of these parameters."""
        cluster = Cluster(parameters.ray_address, parameters.ray_timeout, parameters.verbose)
        return cls(parameters.runner, cluster)

    def check_device(self, device: str) -> None:
        """Checks that the settings give the workers the device that is asked for: auto, cpu or gpu.

        Raises:
            InputError: they do not.
        """

    def check(self, device: str) -> None:
        """Checks, before anything is done, that this machine has what the runner needs.

        Raises:
            InputError: something is not installed or not there; the message says what to do.
        """

    @abc.abstractmethod
    def room(self) -> int:
        """How many workers there is room for, which is what `num_workers=auto` stands for.

        Raises:
            InputError, RunError: the cluster cannot be reached or joined, or has no room for one.
        """

    def num_workers(self) -> int:
        """The number of workers that the settings ask for; raises what `room` raises."""
        return self.room() if self.config.num_workers == "auto" else self.config.num_workers

    def memory(self, number: int) -> int | None:
        """Bytes that each of `number` workers has on the machines of the runner; None: those of this machine.

        Raises:
            InputError, RunError: the cluster cannot be reached or joined.
        """
        return None

    @abc.abstractmethod
    def run(self, build: Build) -> None:
        """Runs a pipeline once, and returns when it is done.

        Raises:
            WorkerLost: a worker died or went away; what its units raise is raised as Beam words it.
        """

    @classmethod
    def leave(cls) -> None:
        """Leaves the cluster that this process is in, if it is in one of this kind."""


def run(build: Build, runner: Runner[Any]) -> None:
    """Runs the pipeline that `build` puts together, and returns when it is done.

    Where a worker is lost it runs again, up to `runner.max_retries` times; finished units are found and kept.

    Raises:
        InputError, RunError: with the message of the unit or worker that failed; any other error is raised as it is.
    """
    retries = runner.config.max_retries
    for attempt in range(retries + 1):
        try:
            runner.run(build)
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
