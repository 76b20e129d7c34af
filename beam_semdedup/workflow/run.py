"""The whole job: parameters in, results and their summary out."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from beam_semdedup.compute.ranking import RankingStrategy
from beam_semdedup.config.groups import RayKMeansConfig
from beam_semdedup.config.parameters import Parameters, RemovalParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit import model as kmeans
from beam_semdedup.inputs import dataset as inputs
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.planning import Located, Plan, forget, list_input, locate, make_plan
from beam_semdedup.removal import removal
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.stages.duplicates import repeated_in_files
from beam_semdedup.stages.fit import fit_centroids
from beam_semdedup.storage import files as storage
from beam_semdedup.storage import layout
from beam_semdedup.storage import tables as files
from beam_semdedup.text import EXAMPLES, counted, in_bytes, without_secrets
from beam_semdedup.transforms import SemanticDedup
from beam_semdedup.workflow import output
from beam_semdedup.workflow.summary import Found, Summary, reasons, summarize

_LOG = logging.getLogger(__name__)


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

        It deletes nothing: finished units are used whatever `reuse_cache` says.

        Raises:
            InputError: the input or the places are wrong.
        """
        return make_plan(self._locate(runner))

    def run(self, runner: str | Mapping[str, Any] | None = None) -> Summary:
        """Runs the job and returns its summary.

        Args:
            runner: instead of the `runner` parameter: a name, or a mapping with `name` and its settings.

        Raises:
            InputError: the input or the places are wrong, no row can be used, or a removal is refused.
            RunError: a unit or a worker failed; the same call goes on from the finished units.
        """
        with progress.logged(self.parameters.verbose):
            return self._run(runner)

    def _run(self, runner: str | Mapping[str, Any] | None) -> Summary:
        started = time.time()
        located = self._locate(runner)
        output.check(located.places)
        plan = make_plan(located, anew=not self.parameters.reuse_cache)
        _report_plan(plan)
        run = output.prepare(plan.job)
        p = plan.job.parameters
        with (
            progress.shown(_progress(plan), p.verbose, progress.interval(plan.job.kmeans_dir)),
            _fitted_ahead(plan) as plan,
        ):
            runners.run(lambda pipeline: pipeline | SemanticDedup(plan), p)
        return _finish(plan, started, run)

    def _locate(self, runner: str | Mapping[str, Any] | None) -> Located:
        p = self.parameters
        if runner is not None:
            p = resolve({**dataclasses.asdict(p), "runner": runner})
        if isinstance(self._init, np.ndarray):
            list_input(p)  # before anything is written, that no result and input would mix
            p = dataclasses.replace(p, init=_store_init(p, self._init))
        return locate(p)


@contextlib.contextmanager
def _fitted_ahead(plan: Plan) -> Iterator[Plan]:
    """The plan with a model fitted on Ray, before workers claim what the fit needs, and held in its object store."""
    if plan.assigned or not isinstance(plan.job.parameters.kmeans, RayKMeansConfig):
        yield plan
        return
    from beam_semdedup.fit import ray as ray_fit

    fitted = fit_centroids(plan.job)
    with ray_fit.published(fitted, plan.job.cache_options) as shared:
        yield dataclasses.replace(plan, fitted=shared)


def _finish(plan: Plan, started: float, run: str) -> Summary:
    """Checks that no row was lost, removes where asked, and writes the summary.

    Args:
        run: names this run in `output_path`.

    Raises:
        InputError: no row can be used, or a removal is refused; the summary is written before.
        RunError: the input changed, rows were lost, or another run writes to the same place.
    """
    job, p = plan.job, plan.job.parameters
    _check_unchanged(plan)
    output.check_alone(job, run)
    found = _find(plan)
    removed, refusal = None, None
    if p.remove and found.repeated_ids["count"] and p.repeated_ids != "allow":
        refusal = removal.repeated_ids_message(found.repeated_ids)
        removal.clear(storage.join(p.output_path, layout.DEDUPLICATED), job.write_options)  # of an earlier run
    elif p.remove:
        listed = [storage.join(job.duplicates_dir, name) for name in found.duplicates_files]
        try:
            place = storage.join(p.output_path, layout.DEDUPLICATED)
            removed = removal.remove_duplicates(RemovalParameters.of_run(p, place), listed)
        except InputError as error:  # that ids repeat in the dataset, or that foreign files are in its place
            refusal = str(error)
    output.check_alone(job, run)
    summary = summarize(plan, started, found, removed)
    stored = without_secrets(dataclasses.asdict(summary))
    storage.write_json(storage.join(p.output_path, layout.SUMMARY), stored, job.write_options)
    if refusal:
        raise InputError(f"the duplicates are found and stored, but not removed: {refusal}")
    if summary.rows_rejected == summary.rows_read:
        raise InputError(
            f"no row can be used: all {summary.rows_read:,} are rejected ({reasons(summary.rejected)}); see "
            f"{summary.paths['rejected']}"
        )
    return summary


def _check_unchanged(plan: Plan) -> None:
    """That the input files are those that were planned, if they were read in this run; RunError where they are not."""
    if plan.assigned:
        return
    p = plan.job.parameters
    try:
        now = {
            file.url: file
            for file in inputs.list_files(p.input_path, p.input_filetype, p.input_file_extensions, p.read_options)
        }
    except InputError:  # there is no file any more
        now = {}
    changed = [file.url for file in plan.files if now.get(file.url) != file]
    if changed:
        forget(plan.job)  # what was read before and after does not belong together
        others = f" and {counted(len(changed) - 1, 'other')}" if changed[1:] else ""
        raise RunError(f"input files changed during the run: {changed[0]}{others}; run again")


def _find(plan: Plan) -> Found:
    """What the pipeline left.

    Raises:
        RunError: a stage is not finished, or rows were lost.
    """
    job = plan.job
    assigned = layout.read_manifest(job.kmeans_dir, job.cache_options)
    compared = layout.read_manifest(job.pairwise_dir, job.cache_options)
    if assigned is None or compared is None:
        raise RunError("the pipeline ended without finishing its stages; run the same command again")
    names = output.duplicates_files(job) if job.parameters.eps is not None else []
    paths = [storage.join(job.duplicates_dir, name) for name in names]
    facts = [facts for path in paths if (facts := files.read_facts(path, job.write_options))]
    if len(facts) < len(paths):
        raise RunError("a file in duplicates/ is damaged; run the same command again")
    duplicates, kept = sum(f["duplicates"] for f in facts), sum(f["kept"] for f in facts)
    accounted = duplicates + kept if job.parameters.eps is not None else compared["num_rows"]
    if job.num_rows != accounted + assigned["rejected"]:
        raise RunError(
            f"rows were lost: {job.num_rows:,} read, but {kept:,} kept, {duplicates:,} duplicates and "
            f"{assigned['rejected']:,} rejected (compared: {compared['num_rows']:,}); run with reuse_cache=false, and "
            "please report it"
        )
    in_files, examples = repeated_in_files(paths, job.write_options, plan.memory)
    repeated = {
        "count": max(compared["repeated_ids"], in_files),
        "in_clusters": compared["repeated_ids"],
        "in_duplicates": in_files,
        "examples": list(dict.fromkeys(compared["examples"] + examples))[:EXAMPLES],
    }
    return Found(
        assigned, compared, names, duplicates, kept, output.copy_rejected(job, assigned), repeated, time.time()
    )


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
        found = len(layout.finished_units(job.segments_dir, job.cache_options))
        if found:
            _LOG.info("Going on from %s of %s finished assign units in %s", found, len(plan.units), job.kmeans_dir)
    elif not plan.compared:
        found = len(layout.finished_units(job.pairwise_dir, job.cache_options))
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
                lambda: len(layout.finished_units(job.segments_dir, job.cache_options)),
            )
        )
    if not plan.compared:
        result.append(progress.StageProgress("Compare within clusters", job.num_keys, lambda: _keys_done(job)))
    if job.parameters.eps is not None:
        result.append(
            progress.StageProgress(
                "Identify duplicates",
                -(-job.num_keys // job.keys_per_file),
                lambda: len(output.duplicates_files(job)),
            )
        )
    return result


def _keys_done(job: Job) -> int:
    """How many keys have a result; all of them when the stage is finished, since a key may have no rows."""
    if layout.read_manifest(job.pairwise_dir, job.cache_options):
        return job.num_keys
    return layout.num_compared(layout.finished_units(job.pairwise_dir, job.cache_options))


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
