"""What a run will do, decided before it does anything: keys, places, units, sizes.

A stage's folder is named by a key that hashes everything its result depends on. The plan of a stage is
stored there, and from its first finished unit on read back by every later attempt, whatever its memory or number
of workers.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fsspec.utils import glob_translate

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.fit import model
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.inputs import dataset
from beam_semdedup.inputs.base import InputUnit
from beam_semdedup.inputs.dataset import Columns, InputFacts
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.inputs.registry import FORMATS, copier
from beam_semdedup.inputs.units import units
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job, Places, init_file, ranking_of
from beam_semdedup.plan.sizes import Sizes, default_clusters
from beam_semdedup.plan.stored import AssignManifest, AssignPlan, KMeansPlan, PairwiseManifest, PairwisePlan
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.resources import memory_per_worker
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import FileInfo, Folder
from beam_semdedup.storage.layout import fingerprint
from beam_semdedup.storage.records import Record

_LOG = logging.getLogger(__name__)
_R = TypeVar("_R", bound=Record)
FORMAT = 4


@dataclass(frozen=True)
class Located:
    """A run whose input is found and whose places are known.

    `carried` are the columns to read besides id and embedding; `inspect` opens the files, once.
    """

    places: Places
    files: tuple[FileInfo, ...]
    carried: tuple[str, ...]
    inspect: Callable[[], InputFacts]


@dataclass(frozen=True)
class Plan:
    """A run before it starts: the job, its input and units, and what stands in the cache already.

    `assigned` and `compared` are the manifests of the stages that are finished; `fitted` is the model where it was
    fitted before the pipeline.
    """

    job: Job
    files: tuple[FileInfo, ...]
    units: tuple[InputUnit, ...]
    assigned: AssignManifest | None
    compared: PairwiseManifest | None
    memory: int
    num_workers: int
    fitted: FittedKMeans | None = None


def locate(parameters: Parameters) -> Located:
    """Finds the input and names the places of the results; writes nothing.

    Raises:
        InputError: no input, results that would mix with it, rows to remove from a format that has no copier, unusable
            centroids, no GPU where one is asked for.
    """
    p = dataclasses.replace(parameters)
    _check_installed(p)
    if p.remove:
        copier(p.input_filetype)
    files = list_input(p)
    p.input_path = [Folder.at(path, p.read_options).url for path in p.input_path]
    p.output_path = Folder.at(p.output_path, p.write_options).url
    p.cache_path = Folder.at(p.cache_root, p.cache_options).url
    carried = sorted({*p.metadata_fields, *ranking_of(p).input_columns})
    init = init_file(p)
    if init:
        p.init = init.url
        p.n_clusters = len(model.load_init(init, p.n_clusters, p.embedding_dim))

    @functools.cache
    def inspect() -> InputFacts:
        columns = Columns(p.id_field, p.embedding_field, carried, p.embedding_dim)
        return dataset.inspect(files, FORMATS[p.input_filetype], columns)

    if p.n_clusters is None:
        p.n_clusters = default_clusters(inspect().num_rows)
        _LOG.info("n_clusters=%s chosen: the square root of %s rows", p.n_clusters, f"{inspect().num_rows:,}")
    kmeans_key = _kmeans_key(p, files, carried)
    pairwise_key = fingerprint([FORMAT, kmeans_key, ranking_of(p).describe(), p.metadata_fields, p.screening_threshold])
    places = Places(p, kmeans_key, pairwise_key, fingerprint([FORMAT, pairwise_key, p.eps]))
    return Located(places, tuple(files), tuple(carried), inspect)


def make_plan(located: Located, anew: bool = False) -> Plan:
    """Checks all that can be checked before the run, and stores the stages' plans.

    Args:
        anew: removes what the cache holds for the run, after the checks.

    Raises:
        InputError: the input's files do not fit together or the parameters do not fit them; nothing is stored then.
    """
    places, p = located.places, located.places.parameters
    runner = make_runner(p)
    workers = runner.num_workers()
    memory = memory_per_worker(runner, workers, p.memory_budget)
    plan_kmeans = functools.cache(lambda: _plan_kmeans(located, memory))
    if anew:
        plan_kmeans()
        forget(places)
    kmeans_plan = _stored_plan(p, places.kmeans, places.segments, KMeansPlan, plan_kmeans)
    assign = kmeans_plan.assign
    sizes = Sizes(p, assign.num_rows, assign.dimension, assign.carried_bytes, memory)
    pairwise = _stored_plan(
        p,
        places.pairwise,
        places.pairwise,
        PairwisePlan,
        lambda: PairwisePlan(sizes.cluster_rows, sizes.key_rows(assign.width)),
    )
    if p.max_cluster_rows not in (None, pairwise.max_cluster_rows):
        _LOG.warning(
            "max_cluster_rows=%s is not used: units were finished with %s; reuse_cache=false plans anew",
            p.max_cluster_rows,
            pairwise.max_cluster_rows,
        )
    assigned = AssignManifest.find(places.kmeans)
    compared = PairwiseManifest.find(places.pairwise)
    if not assigned or (compared and compared.centroids != assigned.centroids):
        compared = None
    if (
        assigned
    ):  # a run that started at the same time may have stored another plan than the one that finished the stage
        assign = dataclasses.replace(assign, width=assigned.width)
    job = Job(**vars(places), assign_plan=assign, pairwise_plan=pairwise, rows_per_file=sizes.rows_per_file)
    return Plan(job, located.files, kmeans_plan.input_units(), assigned, compared, memory, workers)


def forget(places: Places) -> None:
    """Removes what the cache holds for a run."""
    stored.forget([places.pairwise, places.kmeans])


def list_input(p: Parameters) -> list[FileInfo]:
    """The input files; InputError where there are none, or where results and input would mix."""
    files = list_files(p)
    _check_paths(p, files)
    return files


def _stored_plan(p: Parameters, stage: Folder, finished: Folder, kind: type[_R], make: Callable[[], _R]) -> _R:
    """The plan that finished units of a stage were made by; a new one, which is stored, where there are none.

    Args:
        finished: where the stage's finished units lie.
        make: makes a plan for the present parameters and memory.
    """
    file = stage.file(layout.PLAN)
    found = kind.read(file)
    if found is not None and layout.finished_units(finished):
        return found
    new = make()
    name = "output_path" if p.cache_path == p.output_path else "cache_path"
    with as_input_error(f"{name}={p.cache_path}: cannot be written"):
        if found is None:
            file.create_if_absent(new.to_json())
            found = kind.read(file)
            if found is not None:  # perhaps that of a faster attempt
                return found
        if found != new:
            new.write(file)
    return new


def _plan_kmeans(located: Located, memory: int) -> KMeansPlan:
    p, facts = located.places.parameters, located.inspect()
    sizes = Sizes(p, facts.num_rows, facts.dimension, facts.row_bytes(located.carried), memory)
    ranking_of(p).check(facts.schema)
    sample_rows = _sample_rows(sizes)
    _check_rows(sizes, sample_rows)
    assign = AssignPlan(
        schema=AssignPlan.encoded(facts.schema),
        dimension=facts.dimension,
        carried_bytes=sizes.carried_bytes,
        num_rows=facts.num_rows,
        sample_rows=sample_rows,
        width=sizes.width,
    )
    return KMeansPlan.of(assign, [f.info.url for f in facts.files], units(facts, sizes.unit_rows))


def _sample_rows(sizes: Sizes) -> int:
    """How many rows are fitted on; 0 where the centroids are given."""
    if sizes.parameters.max_iter == 0:
        return 0
    asked, affordable = sizes.asked_sample, sizes.affordable_sample
    if affordable < min(asked, sizes.n_clusters):
        raise InputError(
            f"memory_budget: {sizes.memory:,} bytes hold {affordable:,} rows of {sizes.dimension} values to fit on, "
            f"fewer than n_clusters={sizes.n_clusters}; give more memory or a smaller n_clusters"
        )
    if affordable < asked:
        _LOG.warning(
            "Fitting on %s rows instead of %s: the memory budget (%s bytes) allows no more",
            f"{affordable:,}",
            f"{asked:,}",
            f"{sizes.memory:,}",
        )
    return min(asked, affordable)


def _check_rows(sizes: Sizes, sample_rows: int) -> None:
    """That there are enough rows for the clusters, and that given centroids fit them."""
    if sizes.rows < sizes.n_clusters:
        raise InputError(
            f"n_clusters={sizes.n_clusters} is more than the {sizes.rows} rows of the input; give fewer or null"
        )
    init = init_file(sizes.parameters)
    if init:
        model.load_init(init, sizes.n_clusters, sizes.dimension)
    if 0 < sample_rows < sizes.n_clusters:
        raise InputError(
            f"n_clusters={sizes.n_clusters} is more than the {sample_rows} rows to fit on; give a larger "
            "fit_data_fraction or a smaller n_clusters"
        )


def _kmeans_key(p: Parameters, files: list[FileInfo], carried: list[str]) -> str:
    init = init_file(p)
    fit: dict[str, Any] = {
        "init": model.content_hash(init.read_bytes()) if init else p.init,
        "max_iter": p.max_iter,
    }
    if p.max_iter:
        fit["engine"] = make_engine(p).key()
        names = ["tol", "min_moved", "random_state", "fit_data_fraction"]
        if not init:
            names += ["n_init"]
        if p.init == "k-means||":
            names += ["oversampling_factor", "max_samples_per_batch"]
        fit.update((name, getattr(p, name)) for name in names)
    return fingerprint(
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


def _check_installed(p: Parameters) -> None:
    """That this machine has what the parameters ask for; `device=auto` asks for nothing."""
    runner, engine = make_runner(p), make_engine(p)
    runner.check(p.device)
    if runner.workers_are_here or engine.fits_ahead:  # elsewhere only the workers know
        engine.check()


def _check_paths(p: Parameters, files: list[FileInfo]) -> None:
    """No result may become input of a later run, and no input may be taken for a result and removed."""
    places = {
        "output_path": (p.output_path, Folder.at(p.output_path, p.write_options).realpath()),
        "cache_path": (p.cache_root, Folder.at(p.cache_root, p.cache_options).realpath()),
    }
    for name, (path, place) in places.items():
        for given in p.input_path:
            folder = Folder.at(given, p.read_options)
            root = folder.realpath()
            inside = place.is_inside(root)
            if folder.is_pattern():
                pattern = re.compile(glob_translate(root.url))
                results = [place.url, *(f"{place}/{product}/x.parquet" for product in layout.PRODUCTS)]
                inside = any(map(pattern.match, results))
            if inside:
                raise InputError(
                    f"{name}={path} lies inside input_path={given}: later runs would read the results; move it out"
                )
        for file in files:
            real = file.realpath()
            for product in layout.PRODUCTS:
                if real.is_inside(place / product):
                    raise InputError(
                        f"input_path: {file} is a result in {name}={path}, where results are cleared; give "
                        f"another {name}"
                    )
