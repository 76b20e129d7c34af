"""What a run will do, decided before it does anything: keys, directories, units, sizes.

A stage's directory is named by a key that hashes everything its result depends on. The plan of a stage is
stored there, and from its first finished unit on read back by every later attempt, whatever its memory or number
of workers.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import logging
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from fsspec.utils import glob_translate

from beam_semdedup import arrays, inputs, kmeans, storage
from beam_semdedup.capacity import memory_per_worker, num_workers
from beam_semdedup.config import Parameters
from beam_semdedup.failures import InputError, as_input_error
from beam_semdedup.formats import InputUnit
from beam_semdedup.kmeans import FittedKMeans
from beam_semdedup.ranking import RankingStrategy
from beam_semdedup.segments import segment_schema
from beam_semdedup.settings import CumlKMeansConfig, DirectConfig

_LOG = logging.getLogger(__name__)
FORMAT = 3
SEGMENT_BYTES = 256 << 10
"""What the vectors of a segment should have at least: each is a ranged read, and a reference in the driver."""
_MIN_SAMPLE, _SAMPLE_PER_CLUSTER = 100_000, 256
_UNIT_ROWS, _ASSIGN_UNIT_BYTES = 16_384, 64 << 20
_MAX_CLUSTER_ROWS = 65_536
_ROWS_PER_DUPLICATES_FILE, _ID_BYTES = 4_000_000, 100


@dataclass(frozen=True)
class Job:
    """What a worker must know of the run; small, and pickled into the transforms."""

    parameters: Parameters
    input_schema: pa.Schema
    dimension: int
    num_rows: int
    width: int
    sample_rows: int
    max_cluster_rows: int
    max_key_rows: int
    rows_per_file: int
    kmeans_dir: str
    pairwise_dir: str
    output_key: str

    @property
    def n_clusters(self) -> int:
        """The number of centroids, resolved."""
        assert self.parameters.n_clusters is not None
        return self.parameters.n_clusters

    @property
    def num_keys(self) -> int:
        """Groups of neighbouring centroids that are compared as one unit."""
        return -(-self.n_clusters // self.width)

    @property
    def keys_per_file(self) -> int:
        """How many keys' duplicates go into one file."""
        return max(1, round(self.rows_per_file * self.num_keys / self.num_rows))

    @property
    def ranking(self) -> RankingStrategy:
        """The order within clusters."""
        return ranking_of(self.parameters)

    @property
    def read_options(self) -> storage.Options:
        """Storage options of the input."""
        return self.parameters.read_options

    @property
    def cache_options(self) -> storage.Options:
        """Storage options of the cache."""
        return self.parameters.cache_options

    @property
    def write_options(self) -> storage.Options:
        """Storage options of the output."""
        return self.parameters.write_options

    @property
    def carried(self) -> list[pa.Field]:
        """The input's columns that segments hold besides id and embedding."""
        p = self.parameters
        return [f for f in self.input_schema if f.name not in (p.id_field, p.embedding_field)]

    @property
    def segment_schema(self) -> pa.Schema:
        """The columns of this run's segment files."""
        return segment_schema(self.input_schema.field(self.parameters.id_field).type, self.dimension, self.carried)


@dataclass(frozen=True)
class Plan:
    """A run before it starts: the job, its input and units, and what stands in the cache already.

    `assigned` and `compared` are the manifests of the stages that are finished; `fitted` is the model where it was
    fitted before the pipeline.
    """

    job: Job
    files: tuple[storage.FileInfo, ...]
    units: tuple[InputUnit, ...]
    assigned: dict[str, Any] | None
    compared: dict[str, Any] | None
    memory: int
    num_workers: int
    fitted: FittedKMeans | None = None


def make_plan(parameters: Parameters) -> Plan:
    """Finds the input, checks all that can be checked before the run, and stores the stages' plans.

    Raises:
        InputError: see the command's documentation; nothing is computed then.
    """
    p = dataclasses.replace(parameters)
    if isinstance(p.runner, DirectConfig):  # elsewhere only the workers know
        _check_device(p)
    read_options = p.read_options
    cache_options = p.cache_options
    files = list_input(p)
    p.output_path = storage.absolute(p.output_path, p.write_options)
    p.cache_path = storage.absolute(p.cache_root, cache_options)
    carried = sorted({*p.metadata_fields, *ranking_of(p).input_columns})
    if p.centroids_given:
        p.init = storage.absolute(p.init, kmeans.init_options(p))
        p.n_clusters = len(kmeans.load_init(p, p.embedding_dim))

    @functools.cache
    def inspect() -> inputs.InputFacts:
        return inputs.inspect(
            files, p.input_filetype, p.id_field, p.embedding_field, carried, p.embedding_dim, read_options
        )

    if p.n_clusters is None:
        p.n_clusters = default_clusters(inspect().num_rows)
        _LOG.info("n_clusters=%s chosen: the square root of %s rows", p.n_clusters, f"{inspect().num_rows:,}")
    kmeans_key = _kmeans_key(p, files, carried)
    pairwise_key = storage.fingerprint(
        [FORMAT, kmeans_key, ranking_of(p).describe(), p.metadata_fields, p.screening_threshold]
    )
    kmeans_dir = storage.join(p.cache_path, "kmeans_results", kmeans_key)
    pairwise_dir = storage.join(p.cache_path, "pairwise_results", pairwise_key)
    workers, memory = num_workers(p), memory_per_worker(p)
    with as_input_error(f"cache_path={p.cache_path}: cannot be written"):
        assign = _stage_plan(kmeans_dir, "segments", lambda: _plan_kmeans(p, inspect(), carried, memory), cache_options)
        compare = _stage_plan(
            pairwise_dir,
            "",
            lambda: _plan_pairwise(p, assign, memory),
            cache_options,
        )
    _check_rows(p, assign)
    if p.max_cluster_rows not in (None, compare["max_cluster_rows"]):
        _LOG.warning(
            "max_cluster_rows=%s is not used: units were finished with %s; reuse_cache=false plans anew",
            p.max_cluster_rows,
            compare["max_cluster_rows"],
        )
    assigned = read_manifest(kmeans_dir, cache_options)
    compared = read_manifest(pairwise_dir, cache_options)
    if not assigned or (compared and compared["centroids"] != assigned["centroids"]):
        compared = None
    job = Job(
        parameters=p,
        input_schema=pa.ipc.read_schema(pa.BufferReader(base64.b64decode(assign["schema"]))),
        dimension=assign["dimension"],
        num_rows=assign["num_rows"],
        # A run that started at the same time may have stored another plan than the one that finished the stage.
        width=(assigned or assign)["width"],
        sample_rows=assign["sample_rows"],
        max_cluster_rows=compare["max_cluster_rows"],
        max_key_rows=compare["max_key_rows"],
        rows_per_file=rows_per_file(assign["carried_bytes"], memory),
        kmeans_dir=kmeans_dir,
        pairwise_dir=pairwise_dir,
        output_key=storage.fingerprint([FORMAT, pairwise_key, p.eps]),
    )
    return Plan(job, tuple(files), load_units(assign), assigned, compared, memory, workers)


def _check_device(p: Parameters) -> None:
    """That this machine has what the parameters ask for; `auto` asks for nothing."""
    if p.device == "gpu":
        arrays.library(p.device)
    if isinstance(p.kmeans, CumlKMeansConfig):
        from beam_semdedup import cuml_fit

        cuml_fit.check()


def list_input(p: Parameters) -> list[storage.FileInfo]:
    """The input files; InputError where there are none, or where results and input would mix."""
    options = p.read_options
    files = inputs.list_files(p.input_path, p.input_filetype, p.input_file_extensions, options)
    _check_paths(p, files, options)
    return files


def forget(job: Job) -> None:
    """Removes what the cache holds for the job's stages; the manifests first, so that they are unfinished then."""
    for directory in (job.pairwise_dir, job.kmeans_dir):
        storage.delete([storage.join(directory, "manifest.json")], job.cache_options)
        storage.delete_tree(directory, job.cache_options)


def ranking_of(p: Parameters) -> RankingStrategy:
    """The order that the parameters ask for, by the columns of segments, where the id column is called `id`."""
    if p.ranking_strategy is not None:
        strategy = RankingStrategy.from_value(p.ranking_strategy, p.random_state)
        strategy.metadata_cols = ["id" if name == p.id_field else name for name in strategy.metadata_cols]
        return strategy
    return RankingStrategy.by_distance(p.which_to_keep, p.distance_metric, p.random_state)


def default_clusters(num_rows: int) -> int:
    """`n_clusters` where it is null."""
    return max(1, round(num_rows**0.5))


def unit_sizes(p: Parameters, num_rows: int, dimension: int, carried_bytes: int, memory: int) -> tuple[int, int]:
    """Centroids per key and rows per assign unit.

    Args:
        p: with `n_clusters` set.
        carried_bytes: of a row in the columns besides id and embedding.
        memory: bytes per worker.
    """
    assert p.n_clusters is not None
    row_bytes = 4 * dimension
    affordable = max(1, memory // 8 // (row_bytes + carried_bytes))
    # There is a segment for each key in each unit: they are largest where a key has as many rows as a unit.
    balanced = math.isqrt(num_rows * SEGMENT_BYTES // row_bytes)
    key_rows = min(p.unit_rows or max(_UNIT_ROWS, balanced), affordable)
    width = max(1, round(key_rows * p.n_clusters / num_rows))
    keys = -(-p.n_clusters // width)
    unit_rows = (p.assign_unit_bytes or max(_ASSIGN_UNIT_BYTES, SEGMENT_BYTES * keys)) // row_bytes
    return width, max(1, min(unit_rows, affordable))


def sample_sizes(p: Parameters, num_rows: int, dimension: int, memory: int) -> tuple[int, int]:
    """How many rows the parameters ask to fit on, and how many a worker's `memory` (bytes) can hold."""
    assert p.n_clusters is not None
    if p.fit_data_fraction is not None:
        asked = max(1, round(p.fit_data_fraction * num_rows))
    else:
        asked = min(num_rows, max(_MIN_SAMPLE, _SAMPLE_PER_CLUSTER * p.n_clusters))
    # Beside the rows the fit holds some of them again, as candidates for initial centroids.
    return asked, memory // 4 // (4 * dimension)


def max_cluster_rows(p: Parameters, dimension: int, carried_bytes: int, memory: int) -> int:
    """The ranked rows that are compared as one unit where a key is split."""
    return p.max_cluster_rows or max(1024, min(_MAX_CLUSTER_ROWS, _held_rows(dimension, carried_bytes, memory)))


def max_key_rows(p: Parameters, num_rows: int, dimension: int, carried_bytes: int, memory: int, width: int) -> int:
    """The rows of a key above which it is split: twice the usual number, as then it has a large cluster.

    Args:
        p: with `n_clusters` set.
        memory: bytes per worker.
        width: centroids per key; the rows of a key of many are each compared with few of the others.
    """
    assert p.n_clusters is not None
    block = max_cluster_rows(p, dimension, carried_bytes, memory)
    if p.max_cluster_rows or width == 1:
        return block
    return max(block, min(2 * width * num_rows // p.n_clusters, _held_rows(dimension, carried_bytes, memory)))


def _held_rows(dimension: int, carried_bytes: int, memory: int) -> int:
    """The rows to compare that a worker's `memory` (bytes) allows."""
    return memory // 4 // (4 * dimension + carried_bytes)


def rows_per_file(carried_bytes: int, memory: int) -> int:
    """The compared rows whose duplicates go into one file."""
    return min(_ROWS_PER_DUPLICATES_FILE, memory // 4 // (_ID_BYTES + carried_bytes))


def load_units(stored: dict[str, Any]) -> tuple[InputUnit, ...]:
    """The assign units of a stored plan."""
    return tuple(
        InputUnit(stored["files"][file], file, first, rows, tuple(groups), *place)
        for file, first, rows, groups, *place in stored["units"]
    )


def read_manifest(directory: str, options: storage.Options) -> dict[str, Any] | None:
    """The manifest of a finished stage, with its files' full names; None where the stage is not finished."""
    return storage.read_json(storage.join(directory, "manifest.json"), options)


def _stage_plan(
    directory: str, units: str, make: Callable[[], dict[str, Any]], options: storage.Options
) -> dict[str, Any]:
    """The plan that finished units of a stage were made by; a new one, which is stored, where there are none.

    Args:
        units: where in `directory` finished units lie.
        make: makes a plan for the present parameters and memory.
    """
    url = storage.join(directory, "plan.json")
    stored = storage.read_json(url, options)
    finished = storage.names(storage.join(directory, units).rstrip("/"), options) - {"plan.json"}
    if stored is not None and any(not name.startswith(".") for name in finished):
        return stored
    made = make()
    if stored is None:
        return json.loads(storage.create_if_absent(url, json.dumps(made).encode(), options))
    if stored != made:
        storage.write_json(url, made, options)
    return made


def _plan_kmeans(p: Parameters, facts: inputs.InputFacts, carried: list[str], memory: int) -> dict[str, Any]:
    carried_bytes = facts.row_bytes(carried)
    width, unit_rows = unit_sizes(p, facts.num_rows, facts.dimension, carried_bytes, memory)
    units = inputs.units(facts.files, unit_rows)
    return {
        "format": FORMAT,
        "files": [f.info.url for f in facts.files],
        "schema": base64.b64encode(facts.schema.serialize()).decode(),
        "dimension": facts.dimension,
        "carried_bytes": carried_bytes,
        "num_rows": facts.num_rows,
        "sample_rows": _sample_rows(p, facts, memory),
        "width": width,
        "units": [
            [u.file, u.first_row, u.num_rows, list(u.row_groups), u.offset, u.length, u.first_line] for u in units
        ],
    }


def _plan_pairwise(p: Parameters, assign: dict[str, Any], memory: int) -> dict[str, Any]:
    dimension, carried = assign["dimension"], assign["carried_bytes"]
    return {
        "max_cluster_rows": max_cluster_rows(p, dimension, carried, memory),
        "max_key_rows": max_key_rows(p, assign["num_rows"], dimension, carried, memory, assign["width"]),
    }


def _sample_rows(p: Parameters, facts: inputs.InputFacts, memory: int) -> int:
    assert p.n_clusters is not None
    if p.max_iter == 0:
        return 0
    asked, affordable = sample_sizes(p, facts.num_rows, facts.dimension, memory)
    if affordable < min(asked, p.n_clusters):
        raise InputError(
            f"memory_budget: {memory:,} bytes hold {affordable:,} rows of {facts.dimension} values to fit on, fewer "
            f"than n_clusters={p.n_clusters}; give more memory or a smaller n_clusters"
        )
    if affordable < asked:
        _LOG.warning(
            "Fitting on %s rows instead of %s: the memory budget (%s bytes) allows no more",
            f"{affordable:,}",
            f"{asked:,}",
            f"{memory:,}",
        )
    return min(asked, affordable)


def _kmeans_key(p: Parameters, files: list[storage.FileInfo], carried: list[str]) -> str:
    fit: dict[str, Any] = {
        "init": kmeans.content_hash(kmeans.init_bytes(p)) if p.centroids_given else p.init,
        "max_iter": p.max_iter,
    }
    if p.max_iter:
        settings = [getattr(p.kmeans, "num_actors", 1), getattr(p.kmeans, "device_buffer_samples", None)]
        fit["engine"] = [p.kmeans.name, *settings]
        names = ["tol", "min_moved", "random_state", "fit_data_fraction"]
        if not p.centroids_given:
            names += ["n_init"]
        if p.init == "k-means||":
            names += ["oversampling_factor", "max_samples_per_batch"]
        fit.update((name, getattr(p, name)) for name in names)
    return storage.fingerprint(
        {
            "format": FORMAT,
            "files": [[f.url, f.size, f.version] for f in files],
            "filetype": p.input_filetype,
            "columns": [p.id_field, p.embedding_field, *carried],
            "embedding_dim": p.embedding_dim,
            "assume_normalized": p.assume_normalized,
            "n_clusters": p.n_clusters,
            "fit": fit,
        }
    )


def _check_rows(p: Parameters, stored: dict[str, Any]) -> None:
    assert p.n_clusters is not None
    if stored["num_rows"] < p.n_clusters:
        raise InputError(
            f"n_clusters={p.n_clusters} is more than the {stored['num_rows']} rows of the input; give fewer or null"
        )
    if p.centroids_given:
        kmeans.load_init(p, stored["dimension"])
    if 0 < stored["sample_rows"] < p.n_clusters:
        raise InputError(
            f"n_clusters={p.n_clusters} is more than the {stored['sample_rows']} rows to fit on; give a larger "
            "fit_data_fraction or a smaller n_clusters"
        )


PRODUCTS = ("duplicates", "rejected", "deduplicated", "kmeans_results", "pairwise_results")


def _check_paths(p: Parameters, files: list[storage.FileInfo], read_options: storage.Options) -> None:
    """No result may become input of a later run, and no input may be taken for a result and removed."""
    places = {"output_path": (p.output_path, p.write_options), "cache_path": (p.cache_root, p.cache_options)}
    for name, (path, options) in places.items():
        place = _followed(storage.absolute(path, options))
        for given in p.input_path:
            root = _followed(storage.absolute(given, read_options))
            inside = storage.is_inside(place, root)
            if any(c in given for c in "*?["):
                pattern = re.compile(glob_translate(root))
                inside = any(
                    pattern.match(storage.join(place, *inner)) for inner in [(), *((d, "x.parquet") for d in PRODUCTS)]
                )
            if inside:
                raise InputError(
                    f"{name}={path} lies inside input_path={given}: later runs would read the results; move it out"
                )
        for file in files:
            for product in PRODUCTS:
                if storage.is_inside(_followed(file.url), storage.join(place, product)):
                    raise InputError(
                        f"input_path: {file.url} is a result in {name}={path}, where results are cleared; give "
                        f"another {name}"
                    )


def _followed(url: str) -> str:
    """A local path after its symbolic links; any other URL as it is."""
    return url if "://" in url else os.path.realpath(url)
