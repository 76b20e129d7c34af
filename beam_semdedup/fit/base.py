"""What an engine is, and what it fits centroids with.

A new engine is one class with its settings, and a line in `registry.ENGINES`. That module is imported by all that reads
the parameters, so that NumPy, and whatever else is slow to import, is imported in an engine's methods.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from beam_semdedup.config.groups import KMeansConfig

if TYPE_CHECKING:
    import numpy as np

Centroids: TypeAlias = "np.ndarray"
"""(k, d) float32."""
Sample: TypeAlias = "Callable[..., np.ndarray]"
"""`sample()` reads the unit rows to fit on, (m, d) float32; `sample(part, parts)` one of `parts` shares of them."""
Settings = TypeVar("Settings", bound=KMeansConfig)


class FitParameters(Protocol):
    """The parameters of a fit, with `n_clusters` set."""

    n_clusters: int | None
    init: str
    n_init: Any
    max_iter: int
    tol: float
    min_moved: float
    random_state: int
    oversampling_factor: float
    max_samples_per_batch: int
    device: str


class EngineParameters(Protocol):
    """The parameters that an engine is made from: `kmeans` holds the settings of its own."""

    kmeans: Any
    ray_address: str | None
    ray_timeout: float
    verbose: bool


@dataclass(frozen=True)
class Fit:
    """The result of an engine: centroids, the sum of squared distances, iterations done, rows seen."""

    centroids: Centroids
    inertia: float
    iterations: int
    rows: int


class Engine(abc.ABC, Generic[Settings]):
    """What fits centroids to a sample of the rows."""

    settings: ClassVar[type[KMeansConfig]]
    """What `kmeans.…` can be given; its docstring and fields are this engine's part of `--help`."""
    fits_ahead: ClassVar[bool] = False
    """Whether it fits in the process that starts the pipeline, before workers claim what it needs, and not in one."""

    def __init__(self, parameters: EngineParameters) -> None:
        self.parameters = parameters
        self.config: Settings = parameters.kmeans

    def check_device(self, device: str) -> None:
        """Raises InputError where the engine cannot compute on the device (auto, cpu or gpu) asked for."""

    def check(self) -> None:
        """Raises InputError where this machine, which is to fit, lacks what the engine needs."""

    @abc.abstractmethod
    def key(self) -> list[Any]:
        """Returns, as JSON holds it, what the centroids depend on besides the rows and the `FitParameters`."""

    @abc.abstractmethod
    def fit(self, sample: Sample, initial: Centroids | None, parameters: FitParameters) -> Fit:
        """Returns the centroids of a sample, from `initial` or as `parameters.init` says.

        Raises:
            InputError: fewer rows than `n_clusters`.
        """
