"""The parameters of the commands: each is declared, documented and defaulted once, here or in `settings`.

`Parameters` is the structured configuration that Hydra composes for the command and that
`SemanticDeduplicationWorkflow(**parameters)` builds from keywords; `validation.resolve` checks either one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from beam_semdedup.config.groups import (
    DirectConfig,
    KMeansConfig,
    LocalKMeansConfig,
    RayConfig,
    RunnerConfig,
    default,
    parameter,
)
from beam_semdedup.inputs.registry import FORMATS

COMPRESSIONS = ("zstd", "snappy", "gzip", "brotli", "lz4", "none")
"""What parquet files can be compressed with; the first is the default."""

_WHERE = "Where things are"
_COLUMNS = "What is in the files"
_KMEANS = "KMeans"
_SIMILARITY = "Similarity and duplicates"
_EXECUTION = "Cache, memory and execution"
_GROUPS = "Groups"
_SIZE, _MACHINES = "What to plan for", "The machines"
HEADINGS = (_SIZE, _WHERE, _COLUMNS, _KMEANS, _SIMILARITY, _MACHINES, _EXECUTION, _GROUPS)
"""The parts of `--help`, in their order."""


def _storage_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return kwargs.get("storage_options", {})


def _compression(kwargs: dict[str, Any]) -> str:
    return kwargs.get("compression", COMPRESSIONS[0])


@dataclass
class ClusterParameters:
    """Where whatever runs a pipeline runs it."""

    ray_address: str | None = parameter(
        None,
        "the Ray cluster of runner=ray and kmeans=ray: auto, or host:port; null: one on this machine",
        group=_EXECUTION,
    )
    ray_timeout: float = parameter(
        60.0, "seconds to wait until the Ray cluster has room for the actors", above=0, group=_EXECUTION
    )
    verbose: bool = parameter(True, "false: only warnings, errors and the result", group=_EXECUTION)
    runner: RunnerConfig = field(default_factory=DirectConfig, metadata={"group": _GROUPS})


@dataclass
class InputParameters:
    """What runs and removals take."""

    input_path: Any = parameter(
        MISSING, "file, directory (searched recursively), glob, fsspec URL, or a list of them", group=_WHERE
    )
    output_path: str = parameter(MISSING, "directory or fsspec URL for the results", group=_WHERE)
    input_filetype: str = parameter("parquet", "", choices=FORMATS, group=_WHERE)
    input_file_extensions: list[str] | None = parameter(
        None, "which files of a directory are read; null: those of input_filetype", group=_WHERE
    )
    read_kwargs: dict[str, Any] = parameter(
        {}, "{storage_options: {…}} for fsspec when reading the input", keys=["storage_options"], group=_WHERE
    )
    id_field: str = parameter("id", "column with a unique id: integer, string or binary (a UUID too)", group=_COLUMNS)
    memory_budget: Any = parameter(
        None,
        "memory per worker, such as 4GiB; null: half of what is free, divided by the workers",
        at_least=1,
        bytes=True,
        group=_EXECUTION,
    )

    @property
    def read_options(self) -> dict[str, Any]:
        """Storage options of `input_path`."""
        return _storage_options(self.read_kwargs)


@dataclass
class Parameters(ClusterParameters, InputParameters):
    """Everything that a run depends on; see `semdedup --help`."""

    cache_path: str | None = parameter(
        None, "directory or URL for what later runs reuse; null: output_path", group=_WHERE
    )
    write_kwargs: dict[str, Any] = parameter(
        {},
        "{storage_options: {…}, compression: zstd} for what is written to output_path; files in deduplicated/ keep the "
        "compression of the input's",
        keys=["storage_options", "compression"],
        group=_WHERE,
    )
    cache_kwargs: dict[str, Any] | None = parameter(
        None,
        "the same for cache_path; null: write_kwargs",
        keys=["storage_options", "compression"],
        group=_WHERE,
    )
    clear_output: bool = parameter(
        True, "remove an earlier run's results from output_path first (never foreign files)", group=_WHERE
    )

    embedding_field: str = parameter(
        "embeddings", "column with the vectors: a list of floats or integers", group=_COLUMNS
    )
    embedding_dim: int | None = parameter(
        None, "length of the vectors; null: found out; checked when given", at_least=1, group=_COLUMNS
    )
    metadata_fields: list[str] = parameter([], "columns carried through to the results", group=_COLUMNS)
    assume_normalized: bool = parameter(
        False, "true: the vectors have length 1 already and are not divided by it", group=_COLUMNS
    )

    n_clusters: int | None = parameter(
        None, "number of centroids; null: the square root of the number of rows", at_least=1, group=_KMEANS
    )
    init: str = parameter(
        "k-means||", "initial centroids: k-means||, random, or the path of an .npy (k, d)", group=_KMEANS
    )
    n_init: Any = parameter(
        1,
        "fits from different initial centroids, of which the best is kept; auto: 10 for random, else 1",
        at_least=1,
        words=["auto"],
        group=_KMEANS,
    )
    max_iter: int = parameter(
        300,
        "most Lloyd iterations; 0 with an .npy init: use its centroids as they are",
        at_least=0,
        group=_KMEANS,
    )
    tol: float = parameter(
        1e-4, "stop when the centroids move less (relative to the variance)", at_least=0, group=_KMEANS
    )
    min_moved: float = parameter(
        0.02,
        "stop when less than this share of the rows changed their centroid; 0: only tol and max_iter stop",
        at_least=0,
        at_most=1,
        group=_KMEANS,
    )
    random_state: int = parameter(
        42,
        "seed of the sample, of the fit and of which_to_keep=random",
        at_least=0,
        at_most=2**32 - 1,
        group=_KMEANS,
    )
    oversampling_factor: float = parameter(
        2.0, "k-means||: candidates per round, as a multiple of n_clusters", above=0, group=_KMEANS
    )
    max_samples_per_batch: int = parameter(
        32768, "rows per tile of row-to-centroid products", at_least=1, group=_KMEANS
    )
    fit_data_fraction: float | None = parameter(
        None,
        "share of the rows to fit on; null: max(100000, 256 x n_clusters) rows at most",
        above=0,
        at_most=1,
        group=_KMEANS,
    )

    eps: float | None = parameter(
        None,
        "a row is a duplicate if its cosine similarity to a row ranked before it in its cluster is at least "
        "1 - eps; null: stop after the similarities",
        at_least=0,
        below=2,
        group=_SIMILARITY,
    )
    which_to_keep: str = parameter(
        "hard",
        "of similar rows keep the one farthest from its centroid (hard), nearest to it (easy), or any (random)",
        choices=["hard", "easy", "random"],
        group=_SIMILARITY,
    )
    distance_metric: str = parameter(
        "cosine",
        "the distance to the centroid that ranks; with vectors of length 1 both order alike",
        choices=["cosine", "l2"],
        group=_SIMILARITY,
    )
    ranking_strategy: Any = parameter(
        None,
        "{metadata_cols: [col, …], ascending: true}: keep what sorts first by these columns; overrides which_to_keep",
        group=_SIMILARITY,
    )
    pairwise_batch_size: int = parameter(
        1024, "rows per tile of similarities; on a GPU its cache and memory decide", at_least=1, group=_SIMILARITY
    )
    precision: str = parameter(
        "exact",
        "exact: float32 products; screened: float16 ones, and float64 where these do not settle which rows are "
        "duplicates at eps (the same ones; other rows' max_id may be another row about as similar)",
        choices=["exact", "screened"],
        group=_SIMILARITY,
    )
    remove: bool = parameter(
        False, "also write the input without its duplicates to output_path/deduplicated", group=_SIMILARITY
    )
    repeated_ids: str = parameter(
        "error",
        "what a removal does when ids repeat; allow: all rows of a duplicate's id go, the kept one included",
        choices=["error", "allow"],
        group=_SIMILARITY,
    )
    duplicates_num_row_groups_hint: int | None = parameter(
        None, "row groups per file in duplicates/; null: one per 65536 rows", at_least=1, group=_SIMILARITY
    )

    reuse_cache: bool = parameter(True, "false: compute everything again", group=_EXECUTION)
    max_cluster_rows: int | None = parameter(
        None, "split clusters above this into blocks; null: from the memory", at_least=1, group=_EXECUTION
    )
    unit_rows: int | None = parameter(
        None,
        "rows of neighbouring clusters that are compared as one unit of work; null: 16384, more for very many rows",
        at_least=1,
        group=_EXECUTION,
    )
    assign_unit_bytes: Any = parameter(
        None,
        "float32 bytes of the rows that are assigned as one unit of work; null: 64MiB, more for more clusters",
        at_least=1,
        bytes=True,
        group=_EXECUTION,
    )
    device: str = parameter(
        "auto",
        "what computes: cpu, gpu (NVIDIA, with CuPy), or auto: a GPU where a worker sees one",
        choices=["auto", "cpu", "gpu"],
        group=_EXECUTION,
    )
    kmeans: KMeansConfig = field(default_factory=LocalKMeansConfig, metadata={"group": _GROUPS})

    @property
    def screening_threshold(self) -> float | None:
        """1 - eps with precision=screened, else None."""
        return None if self.precision == "exact" or self.eps is None else 1 - self.eps

    @property
    def centroids_given(self) -> bool:
        """Whether `init` is a file of centroids and not the name of a method."""
        return self.init not in ("k-means||", "random")

    @property
    def write_options(self) -> dict[str, Any]:
        """Storage options of `output_path`."""
        return _storage_options(self.write_kwargs)

    @property
    def write_compression(self) -> str:
        """What files in `output_path` are compressed with."""
        return _compression(self.write_kwargs)

    @property
    def cache_options(self) -> dict[str, Any]:
        """Storage options of the cache."""
        return _storage_options(self._cache_kwargs)

    @property
    def cache_compression(self) -> str:
        """What parquet files in the cache are compressed with."""
        return _compression(self._cache_kwargs)

    @property
    def _cache_kwargs(self) -> dict[str, Any]:
        return self.write_kwargs if self.cache_kwargs is None else self.cache_kwargs

    @property
    def cache_root(self) -> str:
        """`cache_path`, or what stands in for it."""
        return self.cache_path or self.output_path


@dataclass
class EndpointParameters(ClusterParameters):
    """What `python -m beam_semdedup.cli.ray_endpoint` depends on."""

    ray_address: str | None = parameter("auto", "the Ray cluster: auto, or host:port; local: one on this machine")
    port: int = parameter(8099, "where Beam pipelines are submitted to; 0: any free port", at_least=0, at_most=65535)
    runner: RunnerConfig = field(default_factory=RayConfig)


@dataclass
class RemovalParameters(ClusterParameters, InputParameters):
    """What `semdedup-remove` depends on; see `semdedup-remove --help`."""

    duplicates_path: str = parameter(
        MISSING, "the output_path of a finished run, or its duplicates directory", group=_WHERE
    )
    output_path: str = parameter(MISSING, "directory or URL for the dataset without its duplicates", group=_WHERE)
    partial: str = parameter(
        "error",
        "allow: accept a list that no finished run stands behind",
        choices=["error", "allow"],
        group=_SIMILARITY,
    )
    repeated_ids: str = parameter(
        "error",
        "allow: remove although ids repeat: all rows of a listed id go, the kept one included",
        choices=["error", "allow"],
        group=_SIMILARITY,
    )
    duplicates_kwargs: dict[str, Any] | None = parameter(
        None, "the same for duplicates_path; null: read_kwargs", keys=["storage_options"], group=_WHERE
    )
    write_kwargs: dict[str, Any] = parameter({}, "the same for output_path", keys=["storage_options"], group=_WHERE)
    clear_output: bool = parameter(
        True, "remove an earlier removal's files from output_path first (never foreign files)", group=_WHERE
    )

    @property
    def write_options(self) -> dict[str, Any]:
        """Storage options of `output_path`."""
        return _storage_options(self.write_kwargs)

    @property
    def duplicates_options(self) -> dict[str, Any]:
        """Storage options of `duplicates_path`."""
        return _storage_options(self.read_kwargs if self.duplicates_kwargs is None else self.duplicates_kwargs)


def _of_a_run(name: str, **changes: Any) -> Any:
    """The field of that name of `Parameters`, with another `default` or other metadata where given."""
    f = next(f for f in dataclasses.fields(Parameters) if f.name == name)
    return parameter(**{"default": default(f), **f.metadata, **changes})


@dataclass
class PlanParameters:
    """What `semdedup-plan` depends on; see `semdedup-plan --help`."""

    input_path: Any = _of_a_run("input_path", default=None)
    rows: int | None = parameter(None, "rows of embeddings, in place of input_path", at_least=1, group=_SIZE)
    dimension: int | None = parameter(None, "values of each, in place of input_path", at_least=1, group=_SIZE)
    carried_bytes: int = parameter(
        0, "bytes of a row in the metadata_fields, in place of input_path", at_least=0, group=_SIZE
    )
    skew: float = parameter(
        1.4,
        "pairs to compare as a multiple of what clusters of one size have; 1.1 to 1.4 where the centroids were fitted",
        at_least=1,
        group=_SIZE,
    )
    input_filetype: str = _of_a_run("input_filetype")
    input_file_extensions: list[str] | None = _of_a_run("input_file_extensions")
    read_kwargs: dict[str, Any] = _of_a_run("read_kwargs")
    id_field: str = _of_a_run("id_field")
    embedding_field: str = _of_a_run("embedding_field")
    metadata_fields: list[str] = _of_a_run("metadata_fields")

    n_clusters: int | None = _of_a_run("n_clusters", help="number of centroids; null: what is recommended")
    fit_data_fraction: float | None = _of_a_run("fit_data_fraction")
    fit_iterations: int = parameter(
        12, "Lloyd iterations to expect; 0: centroids are given, no fit", at_least=0, group=_KMEANS
    )
    pairwise_batch_size: int = _of_a_run("pairwise_batch_size")

    workers: int = parameter(1, "worker processes", at_least=1, group=_MACHINES)
    cores: int | None = parameter(
        None, "cores of each; null: those of this machine, shared by the workers", at_least=1, group=_MACHINES
    )
    gpus: int = parameter(0, "GPUs of all workers together; they compute the products", at_least=0, group=_MACHINES)
    fit_workers: int = parameter(
        1, "1: the fit is in one process (kmeans=local); n: actors of kmeans=ray", at_least=1, group=_MACHINES
    )
    storage_bandwidth: Any = parameter(
        None,
        "bytes per second between each worker and an object store, such as 1GB; null: a disk as calibrated",
        at_least=1,
        bytes=True,
        group=_MACHINES,
    )
    memory_budget: Any = _of_a_run("memory_budget", group=_MACHINES)
    calibrate: bool = parameter(False, "true: measure how fast this machine is, in about 20 s", group=_MACHINES)
    calibration: str | None = parameter(
        None, "file that calibrate=true writes, and that is read without; null: rates of 2 cores", group=_MACHINES
    )

    max_cluster_rows: int | None = _of_a_run("max_cluster_rows")
    unit_rows: int | None = _of_a_run("unit_rows")
    assign_unit_bytes: Any = _of_a_run("assign_unit_bytes")
    verbose: bool = _of_a_run("verbose")

    def run(self, n_clusters: int | None) -> Parameters:
        """The parameters of the run that is planned, as far as its sizes depend on them."""
        shared = {f.name for f in dataclasses.fields(self)} & {f.name for f in dataclasses.fields(Parameters)}
        values = {name: getattr(self, name) for name in shared}
        runner = DirectConfig(num_workers=self.workers)
        return Parameters(**{**values, "output_path": "", "n_clusters": n_clusters, "runner": runner})
