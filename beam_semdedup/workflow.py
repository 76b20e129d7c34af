"""The whole job: parameters in, results and their summary out."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import platform
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from beam_semdedup import kmeans, progress, removal, runners, stages, storage
from beam_semdedup.config import Parameters, RemovalParameters
from beam_semdedup.failures import InputError, RunError, as_input_error
from beam_semdedup.plan import Plan, forget, list_input, make_plan, read_manifest
from beam_semdedup.ranking import RankingStrategy
from beam_semdedup.settings import RayKMeansConfig
from beam_semdedup.transforms import SemanticDedup
from beam_semdedup.validation import resolve
from beam_semdedup.wording import counted, in_bytes, without_secrets

_LOG = logging.getLogger(__name__)
_PROGRAM = "beam-semdedup"
_PART = re.compile(r"part-(?P<key>[0-9a-f]{16})-.*\.parquet")
_CONFIG = "semdedup.yaml"
_CONFIG_HEAD = f"# The configuration of a {_PROGRAM} run; storage credentials are left out.\n"


@dataclass(frozen=True)
class StageSummary:
    """A stage of a run: units computed in it, units taken from earlier ones, seconds, and what bounds it.

    Rates are over the whole stage, start-up included: rows and megabytes (of float32 vectors) per second, and
    10^9 floating-point operations per second that the method needs (what is computed twice counts once).
    """

    units_done: int
    units_reused: int
    seconds: float
    rows_per_second: float
    megabytes_per_second: float
    gflops: float


@dataclass(frozen=True)
class Summary:
    """What a run found and where it is; `summary.json` in `output_path` holds the same.

    Times are in seconds. `rows_kept` and `num_duplicates` are null where `eps` is.
    """

    program: str
    rows_read: int
    rows_kept: int | None
    num_duplicates: int | None
    rows_rejected: int
    n_clusters: int
    largest_cluster: int
    eps: float | None
    dimension: int
    runner: str
    kmeans_time: float
    pairwise_time: float
    duplicates_time: float
    removal_time: float
    total_time: float
    stages: dict[str, StageSummary]
    repeated_ids: dict[str, Any]
    removal: dict[str, Any] | None
    paths: dict[str, str]
    duplicates_files: list[str]
    versions: dict[str, str]
    configuration: dict[str, Any]


class SemanticDeduplicationWorkflow:
    """Finds (and removes) rows that are close to an earlier-ranked row of their cluster.

    Args:
        **parameters: as `semdedup --help` lists them. `init` may also be an array (k, d), and
            `ranking_strategy` a `RankingStrategy`.

    Raises:
        InputError: an unknown parameter, a wrong type or a value out of range.
    """

    def __init__(self, **parameters: Any) -> None:
        hint = parameters.pop("_duplicates_num_row_groups_hint", None)
        if hint is not None:
            parameters["duplicates_num_row_groups_hint"] = hint
        self._init = parameters.get("init")
        if isinstance(self._init, np.ndarray):
            parameters["init"] = f"{kmeans.content_hash(_npy(self._init))}.npy"
        if isinstance(parameters.get("ranking_strategy"), RankingStrategy):
            parameters["ranking_strategy"] = parameters["ranking_strategy"].to_value()
        self.parameters: Parameters = resolve({k: v for k, v in parameters.items() if v is not None})

    def plan(self, runner: str | Mapping[str, Any] | None = None) -> Plan:
        """What `run` would do, for `SemanticDedup` and the other transforms in a pipeline of your own.

        Raises:
            InputError: the input or the places are wrong.
        """
        p = self.parameters
        if runner is not None:
            p = resolve({**dataclasses.asdict(p), "runner": runner})
        if isinstance(self._init, np.ndarray):
            list_input(p)  # before anything is written, that no result and input would mix
            p = dataclasses.replace(p, init=_store_init(p, self._init))
        return make_plan(p)

    def run(self, runner: str | Mapping[str, Any] | None = None) -> Summary:
        """Runs the job and returns its summary.

        Args:
            runner: instead of the `runner` parameter: a name, or a mapping with `name` and its settings.

        Raises:
            InputError: the input or the places are wrong; nothing was computed.
            RunError: a unit or a worker failed; the same call goes on from the finished units.
        """
        started = time.time()
        if not _LOG.hasHandlers():
            progress.log_to_console(self.parameters.verbose)
        plan = self.plan(runner)
        _check_output(plan)
        if not self.parameters.reuse_cache:
            forget(plan.job)
            plan = self.plan(runner)
        _report_plan(plan)
        _prepare_output(plan)
        p = plan.job.parameters
        with (
            progress.shown(_progress(plan), p.verbose, progress.interval(plan.job.kmeans_dir)),
            _fitted_ahead(plan) as plan,
        ):
            runners.run(lambda pipeline: pipeline | SemanticDedup(plan), p)
        return _finish(plan, started)


@contextlib.contextmanager
def _fitted_ahead(plan: Plan) -> Iterator[Plan]:
    """The plan with a model fitted on Ray, before workers claim what the fit needs, and held in its object store."""
    if plan.assigned or not isinstance(plan.job.parameters.kmeans, RayKMeansConfig):
        yield plan
        return
    from beam_semdedup import ray_fit

    fitted = stages.fit(plan.job)
    with ray_fit.published(fitted, plan.job.cache_options) as shared:
        yield dataclasses.replace(plan, fitted=shared)


def _finish(plan: Plan, started: float) -> Summary:
    """Checks that no row was lost, removes where asked, and writes the summary."""
    job, p = plan.job, plan.job.parameters
    assigned = read_manifest(job.kmeans_dir, job.cache_options)
    compared = read_manifest(job.pairwise_dir, job.cache_options)
    if assigned is None or compared is None:
        raise RunError("the pipeline ended without finishing its stages; run the same command again")
    files = _own_parts(job.output_key, p.output_path, "duplicates", job.write_options) if p.eps is not None else []
    paths = [storage.join(p.output_path, "duplicates", name) for name in files]
    facts = [stages.read_facts(path, job.write_options) or {} for path in paths]
    duplicates, kept = sum(f["duplicates"] for f in facts), sum(f["kept"] for f in facts)
    accounted = duplicates + kept if p.eps is not None else compared["num_rows"]
    if job.num_rows != accounted + assigned["rejected"]:
        raise RunError(
            f"rows were lost: {job.num_rows:,} read, but {kept:,} kept, {duplicates:,} duplicates and "
            f"{assigned['rejected']:,} rejected (compared: {compared['num_rows']:,}); run with reuse_cache=false, and "
            "please report it"
        )
    _copy_rejected(plan)
    in_files, examples = stages.repeated_ids(paths, job.write_options, plan.memory)
    repeated = {
        "count": max(compared["repeated_ids"], in_files),
        "in_clusters": compared["repeated_ids"],
        "in_duplicates": in_files,
        "examples": (compared["examples"] + examples)[:5],
    }
    analysed = time.time()
    removed, refusal = None, None
    if p.remove and repeated["count"] and p.repeated_ids != "allow":
        refusal = removal.repeated_ids_message(repeated)
    elif p.remove:
        removed = removal.remove_duplicates(_removal_parameters(p), paths)
    summary = Summary(
        program=_PROGRAM,
        rows_read=job.num_rows,
        rows_kept=kept if p.eps is not None else None,
        num_duplicates=duplicates if p.eps is not None else None,
        rows_rejected=assigned["rejected"],
        n_clusters=job.n_clusters,
        largest_cluster=compared["largest_cluster"],
        eps=p.eps,
        dimension=job.dimension,
        runner=p.runner.name,
        kmeans_time=0.0 if plan.assigned else round(assigned["finished"] - started, 3),
        pairwise_time=0.0 if plan.compared else round(compared["finished"] - max(started, assigned["finished"]), 3),
        duplicates_time=round(analysed - max(started, compared["finished"]), 3),
        removal_time=removed.seconds if removed else 0.0,
        total_time=round(time.time() - started, 3),
        stages=_stages(plan, started, assigned, compared),
        repeated_ids=repeated,
        removal=dataclasses.asdict(removed) if removed else None,
        paths=_paths(plan),
        duplicates_files=files,
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in (_PROGRAM, "apache-beam", "pyarrow", "numpy")},
        },
        configuration=_configuration(p),
    )
    stored = without_secrets(dataclasses.asdict(summary))
    storage.write_json(storage.join(p.output_path, "summary.json"), stored, job.write_options)
    if refusal:
        raise InputError(f"the duplicates are found and stored, but not removed: {refusal}")
    return summary


def _report_plan(plan: Plan) -> None:
    """Says what was found, what was chosen and what is reused."""
    job, p = plan.job, plan.job.parameters
    fit = "given centroids, no fit" if p.max_iter == 0 else f"{p.kmeans.name} fit on {job.sample_rows:,} rows"
    _LOG.info(
        "Found %s of dimension %s in %s, %s",
        counted(job.num_rows, "row"),
        job.dimension,
        counted(len(plan.files), "file"),
        in_bytes(sum(f.size for f in plan.files)),
    )
    _LOG.info(
        "Chosen: %s (%s), %s, %s; runner %s with %s, %s of memory%s",
        counted(job.n_clusters, "cluster"),
        fit,
        counted(len(plan.units), "assign unit"),
        counted(job.num_keys, "comparison unit"),
        p.runner.name,
        counted(plan.num_workers, "worker"),
        in_bytes(plan.memory),
        "" if plan.num_workers == 1 else " each",
    )
    for name, manifest, directory in (
        ("assigned rows", plan.assigned, job.kmeans_dir),
        ("similarities", plan.compared, job.pairwise_dir),
    ):
        if manifest:
            _LOG.info("Reusing the %s in %s", name, directory)
    if not plan.assigned:
        found = len(_done(job.kmeans_dir, "segments", job.cache_options))
        if found:
            _LOG.info("Going on from %s of %s finished assign units in %s", found, len(plan.units), job.kmeans_dir)
    elif not plan.compared:
        found = len(_done(job.pairwise_dir, "", job.cache_options))
        if found:
            _LOG.info("Going on from %s finished comparison units in %s", found, job.pairwise_dir)


def _progress(plan: Plan) -> list[progress.StageProgress]:
    job = plan.job
    result = []
    if not plan.assigned:
        if job.sample_rows:
            uri = kmeans.centroids_uri(job.kmeans_dir)
            fitted = progress.StageProgress("Fit centroids", None, lambda: int(storage.exists(uri, job.cache_options)))
            result.append(fitted)
        result.append(
            progress.StageProgress(
                "Assign nearest centroid",
                len(plan.units),
                lambda: len(_done(job.kmeans_dir, "segments", job.cache_options)),
            )
        )
    if not plan.compared:
        result.append(progress.StageProgress("Compare within clusters", job.num_keys, lambda: _keys_done(plan)))
    if job.parameters.eps is not None:
        result.append(
            progress.StageProgress(
                "Identify duplicates",
                -(-job.num_keys // job.keys_per_file),
                lambda: len(_own_parts(job.output_key, job.parameters.output_path, "duplicates", job.write_options)),
            )
        )
    return result


def _keys_done(plan: Plan) -> int:
    """How many keys have a result; all of them when the stage is finished, since a key may have no rows."""
    if read_manifest(plan.job.pairwise_dir, plan.job.cache_options):
        return plan.job.num_keys
    return len({name[:17] for name in _done(plan.job.pairwise_dir, "", plan.job.cache_options)})


def _done(directory: str, inner: str, options: storage.Options) -> list[str]:
    names = storage.names(storage.join(directory, inner) if inner else directory, options)
    return [name for name in names if not name.startswith(".") and name.endswith((".arrow", ".parquet"))]


def _stages(plan: Plan, started: float, assigned: dict[str, Any], compared: dict[str, Any]) -> dict[str, StageSummary]:
    """The stages of a run in their order; the fit only where there is one."""
    job = plan.job
    fitted = started
    result = {}
    model = storage.read_json(storage.join(job.kmeans_dir, "model.json"), job.cache_options)
    if model and model["iterations"]:
        fresh = model["finished"] > started
        fitted = max(started, model["finished"])
        work = 2 * model["rows"] * job.n_clusters * job.dimension * model["iterations"]
        result["fit"] = _stage_summary(int(fresh), int(not fresh), fitted - started, model["rows"], work, job.dimension)
    products = 2 * job.dimension
    for name, manifest, reused, before, operations in (
        ("assign", assigned, plan.assigned, fitted, assigned["rows_done"] * job.n_clusters * products),
        ("pairwise", compared, plan.compared, max(fitted, assigned["finished"]), compared["pairs_done"] * products),
    ):
        done, found = manifest["units_done"], manifest["units_reused"]
        if reused:
            result[name] = _stage_summary(0, done + found, 0.0, 0, 0, job.dimension)
        else:
            seconds = manifest["finished"] - max(started, before)
            result[name] = _stage_summary(done, found, seconds, manifest["rows_done"], operations, job.dimension)
    return result


def _stage_summary(
    done: int, reused: int, seconds: float, rows: int, operations: float, dimension: int
) -> StageSummary:
    if not done:
        return StageSummary(0, reused, round(seconds, 3), 0.0, 0.0, 0.0)
    each = 1 / max(seconds, 1e-3)
    rates = (rows * each, 4 * dimension * rows * each / 1e6, operations * each / 1e9)
    return StageSummary(done, reused, round(seconds, 3), *(round(rate, 4) for rate in rates))


def _paths(plan: Plan) -> dict[str, str]:
    p = plan.job.parameters
    paths = {
        "output": p.output_path,
        "kmeans_results": plan.job.kmeans_dir,
        "pairwise_results": plan.job.pairwise_dir,
        "rejected": storage.join(p.output_path, "rejected"),  # not there where no row is rejected
    }
    if p.eps is not None:
        paths["duplicates"] = storage.join(p.output_path, "duplicates")
    if p.remove:
        paths["deduplicated"] = storage.join(p.output_path, "deduplicated")
    return paths


def _check_output(plan: Plan) -> None:
    """Refuses to overwrite foreign files, and to mix with another run's results where they are not cleared."""
    job, p = plan.job, plan.job.parameters
    output, options = p.output_path, job.write_options
    with as_input_error(f"output_path={output}: cannot be written"):
        for name, is_own in (("summary.json", _is_own_summary), (_CONFIG, _is_own_configuration)):
            url = storage.join(output, name)
            if storage.exists(url, options) and not is_own(storage.read_bytes(url, options)):
                raise InputError(f"{url} is not from this program; choose another output_path")
        own_keys = (job.output_key, _rejected_key(plan))
        others = sorted(part for part, key in _parts(output, options).items() if key not in own_keys)
    if others and not p.clear_output:
        raise InputError(
            f"output_path={output}: {others[0]} is from a run with other parameters or input; give another "
            "output_path or clear_output=true"
        )


def _prepare_output(plan: Plan) -> None:
    """Clears an earlier run's results, its summary first, and writes the configuration."""
    p, options = plan.job.parameters, plan.job.write_options
    output = p.output_path
    with as_input_error(f"output_path={output}: cannot be written"):
        storage.delete([storage.join(output, "summary.json")], options)
        if p.clear_output:
            storage.delete([storage.join(output, part) for part in _parts(output, options)], options)
            if not p.remove:  # a removal clears its own place, unless it goes on from an interrupted one
                storage.delete(removal.owned_files(storage.join(output, "deduplicated"), options), options)
        configuration = _CONFIG_HEAD + OmegaConf.to_yaml(_configuration(p))
        storage.write_bytes(storage.join(output, _CONFIG), configuration.encode(), options)


def _parts(output: str, options: storage.Options) -> dict[str, str]:
    """The results of any run in `output`, with the key of the run that they are from."""
    return {
        f"{inner}/{name}": match["key"]
        for inner in ("duplicates", "rejected")
        for name in storage.names(storage.join(output, inner), options)
        if (match := _PART.fullmatch(name))
    }


def _is_own_summary(content: bytes) -> bool:
    try:
        return json.loads(content)["program"] == _PROGRAM
    except (ValueError, TypeError, KeyError):
        return False


def _is_own_configuration(content: bytes) -> bool:
    return content.startswith(_CONFIG_HEAD.encode())


def _configuration(p: Parameters) -> dict[str, Any]:
    return without_secrets(dataclasses.asdict(p))


def _own_parts(key: str, output: str, inner: str, options: storage.Options) -> list[str]:
    names = storage.names(storage.join(output, inner), options)
    return sorted(n for n in names if (match := _PART.fullmatch(n)) and match["key"] == key)


def _rejected_key(plan: Plan) -> str:
    return plan.job.kmeans_dir.rsplit("/", 1)[-1]


def _copy_rejected(plan: Plan) -> None:
    job = plan.job
    source = storage.join(job.kmeans_dir, "rejected")
    for name in sorted(n for n in storage.names(source, job.cache_options) if not n.startswith(".")):
        target = storage.join(job.parameters.output_path, "rejected", f"part-{_rejected_key(plan)}-{name}")
        data = storage.read_bytes(storage.join(source, name), job.cache_options)
        storage.write_bytes(target, data, job.write_options)


def _removal_parameters(p: Parameters) -> RemovalParameters:
    return resolve(
        {
            "input_path": p.input_path,
            "duplicates_path": p.output_path,
            "output_path": storage.join(p.output_path, "deduplicated"),
            "id_field": p.id_field,
            "input_filetype": p.input_filetype,
            "input_file_extensions": p.input_file_extensions,
            "repeated_ids": p.repeated_ids,
            "read_kwargs": p.read_kwargs,
            "duplicates_kwargs": {"storage_options": p.write_options},
            "write_kwargs": {"storage_options": p.write_options},
            "clear_output": p.clear_output,
            "memory_budget": p.memory_budget,
            "verbose": p.verbose,
            "runner": p.runner,
        },
        RemovalParameters,
    )


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, dtype=np.float32))
    return buffer.getvalue()


def _store_init(p: Parameters, array: np.ndarray) -> str:
    """Where the given centroids lie from now on, by their content, so that workers can read them."""
    data = _npy(array)
    url = storage.join(storage.absolute(p.cache_root, p.cache_options), "init", p.init)
    storage.create_if_absent(url, data, p.cache_options)
    return url
