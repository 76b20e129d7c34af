"""What an engine is, and what it fits centroids with.

A new engine is one class with its settings, and a line in `registry.ENGINES`. That module is imported by all that reads
the parameters, so that NumPy, and whatever else is slow to import, is imported in an engine's methods.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from beam_semdedup.fields import CHECKED, EXECUTION, KMEANS, NotNegative, Number, Positive, PositiveOrAuto

if TYPE_CHECKING:
    import numpy as np

Centroids: TypeAlias = "np.ndarray"
"""(k, d) float32."""
Sample: TypeAlias = "Callable[..., np.ndarray]"
"""`sample()` reads the unit rows to fit on, (m, d) float32; `sample(part, parts)` one of `parts` shares of them."""
FitDataFraction: TypeAlias = Annotated[
    Annotated[Number, Field(gt=0, le=1)] | None,
    Field(description="share of the rows to fit on; null: max(100000, 256 x n_clusters) rows at most"),
    KMEANS,
]


@checked_dataclass(kw_only=True, config=CHECKED)
class KMeansConfig:
    """Which engine fits the centroids: `name` chooses it."""

    name: str


Settings = TypeVar("Settings", bound=KMeansConfig)


@checked_dataclass(kw_only=True, config=CHECKED)
class FitParameters:
    """What the centroids depend on besides the rows, and where they are fitted."""

    heading: ClassVar[str] = KMEANS

    n_clusters: Positive | None = None
    """number of centroids; null: the square root of the number of rows, with n_probes above 1 a quarter to four times
    that"""
    init: str = "k-means||"
    """initial centroids: k-means||, random, or the path of an .npy (k, d)"""
    n_init: PositiveOrAuto = 1
    """fits from different initial centroids, of which the best is kept; auto: 10 for random, else 1"""
    max_iter: NotNegative = 300
    """most Lloyd iterations; 0 with an .npy init: use its centroids as they are"""
    tol: Annotated[Number, Field(ge=0)] = 1e-4
    """stop when the centroids move less (relative to the variance)"""
    min_moved: Annotated[Number, Field(ge=0, le=1)] = 0.02
    """stop when less than this share of the rows changed their centroid; 0: only tol and max_iter stop"""
    random_state: Annotated[NotNegative, Field(le=2**32 - 1)] = 42
    """seed of the sample, of the fit and of which_to_keep=random"""
    oversampling_factor: Annotated[Number, Field(gt=0)] = 2.0
    """k-means||: candidates per round, as a multiple of n_clusters"""
    max_samples_per_batch: Positive = 32768
    """rows per tile of row-to-centroid products"""
    fit_data_fraction: FitDataFraction = None
    device: Annotated[Literal["auto", "cpu", "gpu"], EXECUTION] = "auto"
    """what computes: cpu, gpu (NVIDIA, with CuPy), or auto: a GPU where a worker sees one"""

    @property
    def centroids_given(self) -> bool:
        """Whether `init` is a file of centroids and not the name of a method."""
        return self.init not in ("k-means||", "random")


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
    def depends_on(self) -> list[Any]:
        """Returns, as JSON holds it, what the centroids depend on besides the rows and the `FitParameters`."""

    @abc.abstractmethod
    def fit(self, sample: Sample, initial: Centroids | None, parameters: FitParameters) -> Fit:
        """Returns the centroids of a sample, from `initial` or as `parameters.init` says.

        Raises:
            InputError: fewer rows than `n_clusters`.
        """
