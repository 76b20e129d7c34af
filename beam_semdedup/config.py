"""The parameters: each is declared, documented, defaulted and validated here and nowhere else.

`Parameters` is the structured configuration that Hydra composes for the command and that
`SemanticDeduplicationWorkflow(**parameters)` builds from keywords; `resolve` checks either one.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException, ValidationError

from beam_semdedup.failures import InputError


def parameter(default: Any, help: str, **check: Any) -> Any:
    """A dataclass field with its documentation and its check.

    `check` holds any of: `choices` (allowed values), `above`/`at_least`/`below`/`at_most` (bounds of a
    number; strings and nulls pass), `words` (the strings allowed beside numbers), `bytes` (a size such as
    4GiB is allowed), `group` (the heading in `--help`).
    """
    metadata = {"help": help, **check}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def default(f: dataclasses.Field) -> Any:
    """The default of a parameter."""
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


@dataclass
class RunnerConfig:
    """Where the pipeline runs: `name` chooses the runner, the other fields belong to it."""

    name: str = MISSING
    num_workers: Any = parameter(1, "worker processes", at_least=1, words=["auto"])
    max_retries: int = parameter(0, "how often a run is started again after a worker was lost", at_least=0)


@dataclass
class DirectConfig(RunnerConfig):
    """This machine, through Beam's local runner."""

    name: str = "direct"
    # On two cores one process with two threads is faster than two processes up to 250,000 rows, and takes 1.1 times as
    # long at 1,000,000, with half their memory (benchmarks/results/cpu.md: given, workers).
    num_workers: Any = parameter(
        1,
        "1: in this process, on all cores; n: n worker processes that share them; auto: one per core",
        at_least=1,
        words=["auto"],
    )


@dataclass
class ActorConfig:
    """What each actor on a Ray cluster has to itself."""

    num_cpus: float = parameter(1.0, "CPUs of an actor", above=0)
    num_gpus: float = parameter(0.0, "GPUs of an actor", at_least=0)
    resources: dict[str, Any] = parameter({}, "custom resources of an actor, such as {big_memory: 1}")


@dataclass
class RayConfig(ActorConfig, RunnerConfig):
    """A Ray cluster (ray_address), or a Ray of its own on this machine: each worker is an actor."""

    name: str = "ray"
    num_workers: Any = parameter(
        "auto", "actors; auto: as many as the cluster's CPUs and GPUs allow", at_least=1, words=["auto"]
    )
    max_retries: int = parameter(3, "how often a run is started again after a worker was lost", at_least=0)
    runtime_env: dict[str, Any] = parameter({}, "Ray's runtime environment of the actors")


@dataclass
class FlinkConfig(RunnerConfig):
    """A Flink cluster (flink_master), or a Flink in Beam's job server on this machine: one worker process per slot."""

    name: str = "flink"
    flink_master: str = parameter("[local]", "[local]: on this machine; or host:port of the cluster's REST API")
    flink_version: str = parameter("1.20", "Flink's version", choices=["1.19", "1.20", "2.0", "2.1", "2.2"])
    flink_job_server_jar: str | None = parameter(None, "path or URL of Beam's job server; null: found or fetched")
    num_workers: Any = parameter(
        "auto",
        "parallelism; auto: the cores of this machine, or the free slots of the cluster",
        at_least=1,
        words=["auto"],
    )
    max_retries: int = parameter(3, "how often a run is started again after a worker was lost", at_least=0)
    environment: str = parameter(
        "auto",
        "workers are started by this command (loopback), the worker_pool of each host (external), or Flink (process); "
        "auto: loopback where Flink is on this machine, else external",
        choices=["auto", "loopback", "external", "process"],
    )
    worker_pool: str = parameter("localhost:50000", "the worker pool, as a task manager reaches it")
    options: dict[str, Any] = parameter({}, "further options of Beam, such as {job_server_jvm_properties: [-Xmx4g]}")

    @property
    def embedded(self) -> bool:
        """Whether Flink runs inside the job server on this machine."""
        return self.flink_master == "[local]"


@dataclass
class KMeansConfig:
    """Which engine fits the centroids: `name` chooses it."""

    name: str = MISSING


@dataclass
class LocalKMeansConfig(KMeansConfig):
    """Lloyd iterations in the process that runs the fit."""

    name: str = "local"


@dataclass
class RayKMeansConfig(ActorConfig, KMeansConfig):
    """Lloyd iterations in actors of a Ray cluster (ray_address), or of a Ray of its own on this machine."""

    name: str = "ray"
    num_actors: int = parameter(1, "actors; each holds a share of the rows to fit on", at_least=1)


@dataclass
class CumlKMeansConfig(KMeansConfig):
    """cuml.cluster.KMeans on the GPU of the process that runs the fit; parameters of the same names go to it."""

    name: str = "cuml"
    device_buffer_samples: int | None = parameter(
        None, "rows that are on the GPU at a time; 0: all; null: all where they fit, else what fits", at_least=0
    )


GROUPS: dict[str, dict[str, type[Any]]] = {
    "runner": {"direct": DirectConfig, "ray": RayConfig, "flink": FlinkConfig},
    "kmeans": {"local": LocalKMeansConfig, "ray": RayKMeansConfig, "cuml": CumlKMeansConfig},
}
"""The parameters that name a choice with settings of its own; the first is the default."""

COMPRESSIONS = ("zstd", "snappy", "gzip", "brotli", "lz4", "none")
"""What parquet files can be compressed with."""

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
    return kwargs.get("compression", "zstd")


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
    """What both commands take."""

    input_path: Any = parameter(
        MISSING, "file, directory (searched recursively), glob, fsspec URL, or a list of them", group=_WHERE
    )
    output_path: str = parameter(MISSING, "directory or fsspec URL for the results", group=_WHERE)
    input_filetype: str = parameter("parquet", "", choices=["parquet", "jsonl"], group=_WHERE)
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
    def threshold(self) -> float | None:
        """The score of a duplicate, where only the side on which a score is of it must be exact."""
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
    """What `python -m beam_semdedup.runners.ray_endpoint` depends on."""

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


def resolve(values: Any, schema: type = Parameters) -> Any:
    """Checked parameters, as an instance of `schema`.

    Args:
        values: a mapping of parameter names to values; what comes out is taken too, and comes out as it is.
        schema: `Parameters`, or another of the dataclasses above.

    Raises:
        InputError: an unknown parameter, a wrong type, a value out of range; names the parameter.
    """
    values = {name: _without_pathlike(value) for name, value in dict(values).items()}
    groups = {
        name: _group(name, values.pop(name, None), registry)
        for name, registry in GROUPS.items()
        if name in {f.name for f in dataclasses.fields(schema)}
    }
    parameters = _typed(schema, {k: v for k, v in values.items() if v != MISSING}, "")
    for name, group in groups.items():
        setattr(parameters, name, group)
        _check_fields(group, f"{name}.")
    _check_fields(parameters, "")
    if getattr(parameters, "input_path", None) is not None:
        parameters.input_path = _list_of_paths(parameters.input_path)
    if schema is Parameters:
        _check_together(parameters)
    if schema is PlanParameters:
        _check_size(parameters)
    return parameters


def conf_dir() -> Path:
    """Where the Hydra configuration lies: packaged with a wheel, else the checkout's `conf/`."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "semdedup.yaml").is_file():
            return candidate
    raise FileNotFoundError(
        f"no conf/semdedup.yaml in {package} or {package.parent}: the installation of beam-semdedup is incomplete"
    )


def closest(wrong: str, names: Sequence[str]) -> str | None:
    """Which of some names was meant: one spelled much like it, else one that it begins with (`epsilon`: eps)."""
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.75)
    begun = [name for name in names if wrong.startswith(name)]
    return next(iter(near or begun or difflib.get_close_matches(wrong, names, n=1)), None)


def number_of_bytes(value: int | str) -> int:
    """The number of bytes that `1500000`, `512MB` or `4GiB` stand for; ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(value), re.IGNORECASE)
    if not match:
        raise ValueError(f"{value!r} is not a size such as 4GiB")
    number, prefix, binary = match.groups()
    power = " kmgt".index(prefix.lower() or " ")
    return int(float(number) * (1024 if binary else 1000) ** power)


def without_secrets(values: Any) -> Any:
    """A copy of nested `values` for files and logs: `***` for storage_options and for user:password@ in URLs."""
    if isinstance(values, Mapping):
        return {
            k: {name: "***" for name in v} if k == "storage_options" and isinstance(v, Mapping) else without_secrets(v)
            for k, v in values.items()
        }
    if isinstance(values, str):
        return re.sub(r"(?<=://)[^/]*@", "***@", values)
    return [without_secrets(v) for v in values] if isinstance(values, (list, tuple)) else values


def _group(name: str, value: Any, registry: dict[str, type]) -> Any:
    """The dataclass instance of a group given as null, a name, a mapping or an instance."""
    if value is None:
        value = next(iter(registry))
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        value = {"name": value}
    chosen = value.get("name")
    if chosen not in list(registry):
        raise InputError(f"{name}={chosen!r} is not known; it is one of: {', '.join(registry)}")
    return _typed(registry[chosen], dict(value), f"{name}.")


def _typed(schema: type, values: dict[str, Any], prefix: str) -> Any:
    """An instance of `schema` with `values`, converted to its types."""
    known = [f.name for f in dataclasses.fields(schema)]
    for name in values:
        if name not in known:
            close = closest(str(name), known)
            hint = f"did you mean {prefix}{close}?" if close else f"known: {', '.join(known)}"
            raise InputError(f"unknown parameter {prefix}{name}; {hint}")
    merged, name = OmegaConf.structured(schema), "?"
    try:
        for name, value in values.items():
            merged.merge_with({name: value})
        missing = sorted(str(name) for name in OmegaConf.missing_keys(merged))
        if missing:
            raise InputError(f"{prefix}{missing[0]} is required: give {prefix}{missing[0]}=…")
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        declared = next(str(f.type) for f in dataclasses.fields(schema) if f.name == name)
        is_nested = declared.startswith("dict") and isinstance(value, Mapping)
        if isinstance(error, (ValidationError, ConfigTypeError)) and not is_nested:
            raise InputError(f"{prefix}{name}{_wrong(value, declared)}") from error
        name = error.full_key or name
        what = str(error.msg or error).splitlines()[0]
        found = f" (found {values[name]!r})" if name in values else ""
        raise InputError(f"{prefix}{name}: {what}{found}") from error


_TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list[str]": "a list of text",
    "Any": "text, a number, a list or a mapping",
}


def _wrong(value: Any, declared: str) -> str:
    """The end of a message about a `value` that has not the type of its parameter."""
    if declared.startswith("dict"):
        return f": expected a mapping, found {type(value).__name__}"  # not the value, which may hold credentials
    return f"={value!r}: expected {_TYPES[declared.removesuffix(' | None')]}"


def _without_pathlike(value: Any) -> Any:
    """`value` with text in place of paths, also in a list of them."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_without_pathlike(item) for item in value] if isinstance(value, (list, tuple)) else value


def _list_of_paths(value: Any) -> list[str]:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise InputError(f"input_path must be a path or a list of paths, found {value!r}")
    return paths


def _check_fields(instance: Any, prefix: str) -> None:
    for f in dataclasses.fields(instance):
        check, value, name = f.metadata, getattr(instance, f.name), prefix + f.name
        if value is None:
            if default(f) is not None:
                raise InputError(f"{name} must not be null")
            continue
        if value == "":
            raise InputError(f"{name} is empty")
        if isinstance(value, list) and "list[str]" in str(f.type) and not all(isinstance(item, str) for item in value):
            raise InputError(f"{name}{_wrong(value, str(f.type))}")
        if "choices" in check and value not in check["choices"]:
            raise InputError(f"{name}={value!r} is not known; it is one of: {', '.join(check['choices'])}")
        if "keys" in check:
            for key in value:
                if key not in check["keys"]:
                    raise InputError(f"{name} has an unknown key {key!r}; known: {', '.join(check['keys'])}")
            if not isinstance(value.get("storage_options", {}), dict):
                found = type(value["storage_options"]).__name__  # not the value, which may hold credentials
                raise InputError(f"{name}.storage_options must be a mapping, found {found}")
            if value.get("compression", "zstd") not in COMPRESSIONS:
                raise InputError(
                    f"{name}.compression={value['compression']!r} is not known; it is one of: {', '.join(COMPRESSIONS)}"
                )
        if check.get("bytes"):
            try:
                value = number_of_bytes(value)
            except ValueError as error:
                raise InputError(f"{name}: {error}") from error
            setattr(instance, f.name, value)
        if "words" in check and not (isinstance(value, int) and not isinstance(value, bool)):
            if value not in check["words"]:
                raise InputError(f"{name}={value!r}: expected an integer or {' or '.join(check['words'])}")
            continue
        _check_bounds(name, value, check)


def _check_bounds(name: str, value: Any, check: Mapping[str, Any]) -> None:
    outside = {
        "at_least": lambda bound: not value >= bound,
        "above": lambda bound: not value > bound,
        "at_most": lambda bound: not value <= bound,
        "below": lambda bound: not value < bound,
    }
    for word, is_outside in outside.items():
        if word in check and is_outside(check[word]):
            raise InputError(f"{name}={value!r} is out of range: it must be {word.replace('_', ' ')} {check[word]}")


RESULT_COLUMNS = ("id", "max_id", "cosine_sim_score", "centroid")
SEGMENT_COLUMNS = (
    "id",
    "embedding",
    "centroid",
    "l2_dist_to_cent",
    "cosine_dist_to_cent",
    "source_file",
    "source_row",
)


def _check_together(p: Parameters) -> None:
    """What no single parameter can say, and the normal form of those that have several spellings."""
    p.metadata_fields = [name for name in dict.fromkeys(p.metadata_fields) if name != p.id_field]
    _check_carried("metadata_fields", p.metadata_fields, p)
    if p.id_field == p.embedding_field:
        raise InputError(f"id_field and embedding_field are both {p.id_field!r}")
    if p.ranking_strategy is not None:
        from beam_semdedup.ranking import RankingStrategy

        strategy = RankingStrategy.from_value(p.ranking_strategy, p.random_state)
        # The id column is called `id` from the first stage on, so that another one of that name is not carried.
        named = {*strategy.input_columns, *(name for name in strategy.metadata_cols if name == "id")}
        _check_carried("ranking_strategy", sorted(named - {p.id_field}), p)
        p.ranking_strategy = strategy.to_value()
    if p.centroids_given and not p.init.endswith(".npy"):
        raise InputError(f"init={p.init!r} is not known; it is k-means||, random, or the path of an .npy")
    if p.max_iter == 0 and not p.centroids_given:
        raise InputError(f"max_iter=0 fits nothing: it needs init=<path of an .npy>, found init={p.init!r}")
    if p.precision == "screened" and p.eps is None:
        raise InputError("precision=screened needs eps: near it the products are computed again; or precision=exact")
    if p.device == "gpu" and isinstance(p.runner, RayConfig) and not p.runner.num_gpus:
        raise InputError("device=gpu with runner=ray needs runner.num_gpus, the share of a GPU that a worker has")
    if p.device == "cpu" and isinstance(p.kmeans, CumlKMeansConfig):
        raise InputError("kmeans=cuml needs a GPU, found device=cpu")
    if p.remove and p.eps is None:
        raise InputError("remove=true needs eps: without it there are no duplicates to remove")


def _check_size(p: PlanParameters) -> None:
    """That there is one thing to plan for."""
    given = [f"{name}={getattr(p, name)}" for name in ("rows", "dimension", "carried_bytes") if getattr(p, name)]
    if p.input_path is not None and given:
        raise InputError(f"input_path says what {given[0]} would: give either")
    if p.input_path is None and (p.rows is None or p.dimension is None):
        raise InputError("nothing to plan for: give input_path=…, or rows=… and dimension=…")
    if p.n_clusters and p.rows and p.n_clusters > p.rows:
        raise InputError(f"n_clusters={p.n_clusters} is more than rows={p.rows}")


def _check_carried(name: str, columns: list[str], p: Parameters) -> None:
    """That columns of the input can be carried beside the columns that the program adds."""
    reserved = sorted({*RESULT_COLUMNS, *SEGMENT_COLUMNS})
    for column in columns:
        if column in reserved:
            raise InputError(
                f"{name}: {column!r} is a column of the results ({', '.join(reserved)}); rename it in the input"
            )
        if column == p.embedding_field:
            raise InputError(f"{name}: {column!r} is the embedding_field; vectors are not carried through")
