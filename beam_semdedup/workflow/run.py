"""The whole job: parameters in, results and their summary out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from beam_semdedup.compute.ranking import RankingStrategy
from beam_semdedup.config.parameters import Parameters, RemovalParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit import model
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.planning import Located, Plan, forget, list_input, locate, make_plan
from beam_semdedup.plan.stored import AssignManifest, PairwiseManifest
from beam_semdedup.removal import removal
from beam_semdedup.removal.repetitions import Repetitions
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.stages.duplicates import DuplicatesFacts, repeated_in_files
from beam_semdedup.stages.fit import fit_centroids
from beam_semdedup.storage import layout, tables
from beam_semdedup.storage.folder import File, Folder
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
            parameters["init"] = f"{model.content_hash(model.to_npy(self._init))}.npy"
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
            progress.shown(_progress(plan), p.verbose, progress.interval(plan.job.kmeans.url)),
            _fitted_ahead(plan) as plan,
        ):
            runners.run(lambda pipeline: pipeline | SemanticDedup(plan), make_runner(p))
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
    """Yields the plan with the model, where its engine fits before the pipeline starts."""
    if plan.assigned or not make_engine(plan.job.parameters).fits_ahead:
        yield plan
        return
    with fit_centroids(plan.job).published(plan.job.kmeans.options) as fitted:
        yield dataclasses.replace(plan, fitted=fitted)


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
    if p.remove and found.repeated_ids.count and p.repeated_ids != "allow":
        refusal = found.repeated_ids.refusal()
        removal.clear(job.output / layout.DEDUPLICATED)  # of an earlier run
    elif p.remove:
        listed = [job.duplicates.file(name) for name in found.duplicates_files]
        try:
            place = (job.output / layout.DEDUPLICATED).url
            removed = removal.remove_duplicates(RemovalParameters.of_run(p, place), listed)
        except InputError as error:  # that ids repeat in the dataset, or that foreign files are in its place
            refusal = str(error)
    output.check_alone(job, run)
    summary = summarize(plan, started, found, removed)
    stored = without_secrets(dataclasses.asdict(summary))
    job.output.file(layout.SUMMARY).write_bytes(json.dumps(stored, indent=2).encode())
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
    try:
        now = {file.url: file for file in list_files(plan.job.parameters)}
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
    assigned, compared = AssignManifest.find(job.kmeans), PairwiseManifest.find(job.pairwise)
    if assigned is None or compared is None:
        raise RunError("the pipeline ended without finishing its stages; run the same command again")
    names = output.duplicates_files(job) if job.parameters.eps is not None else []
    files: list[File] = [job.duplicates.file(name) for name in names]
    facts = [facts for file in files if (facts := tables.read_facts(file, DuplicatesFacts))]
    if len(facts) < len(files):
        raise RunError("a file in duplicates/ is damaged; run the same command again")
    duplicates, kept = sum(f.duplicates for f in facts), sum(f.kept for f in facts)
    accounted = duplicates + kept if job.parameters.eps is not None else compared.counts.num_rows
    rows = job.assign_plan.num_rows
    if rows != accounted + assigned.rejected:
        raise RunError(
            f"rows were lost: {rows:,} read, but {kept:,} kept, {duplicates:,} duplicates and "
            f"{assigned.rejected:,} rejected (compared: {compared.counts.num_rows:,}); run with reuse_cache=false, and "
            "please report it"
        )
    in_files, examples = repeated_in_files(files, plan.memory)
    repeated = Repetitions(
        count=max(compared.repeated_ids, in_files),
        in_clusters=compared.repeated_ids,
        in_duplicates=in_files,
        examples=tuple(dict.fromkeys([*compared.examples, *examples]))[:EXAMPLES],
    )
    return Found(
        assigned, compared, names, duplicates, kept, output.copy_rejected(job, assigned), repeated, time.time()
    )


def _report_plan(plan: Plan) -> None:
    """Says what was found, what was chosen and what is reused."""
    job, p, assign = plan.job, plan.job.parameters, plan.job.assign_plan
    fit = "given centroids, no fit" if p.max_iter == 0 else f"{p.kmeans.name} fit on {assign.sample_rows:,} rows"
    _LOG.info(
        "Found %s of dimension %s in %s, %s",
        counted(assign.num_rows, "row"),
        assign.dimension,
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
    for name, manifest, folder in (
        ("assigned rows", plan.assigned, job.kmeans),
        ("similarities", plan.compared, job.pairwise),
    ):
        if manifest:
            _LOG.info("Reusing the %s in %s", name, folder)
    if not plan.assigned:
        found = len(layout.finished_units(job.segments))
        if found:
            _LOG.info("Going on from %s of %s finished assign units in %s", found, len(plan.units), job.kmeans)
    elif not plan.compared:
        found = len(layout.finished_units(job.pairwise))
        if found:
            _LOG.info("Going on from %s finished comparison units in %s", found, job.pairwise)


def _progress(plan: Plan) -> list[progress.StageProgress]:
    job = plan.job
    result = []
    if not plan.assigned:
        if job.assign_plan.sample_rows:
            centroids = job.kmeans.file(layout.CENTROIDS)
            fitted = progress.StageProgress("Fit centroids", None, lambda: int(centroids.exists()))
            result.append(fitted)
        result.append(
            progress.StageProgress(
                "Assign nearest centroid",
                len(plan.units),
                lambda: len(layout.finished_units(job.segments)),
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
    if PairwiseManifest.find(job.pairwise):
        return job.num_keys
    return layout.num_compared(layout.finished_units(job.pairwise))


def _store_init(p: Parameters, array: np.ndarray) -> str:
    """Where the given centroids lie from now on, by their content, so that workers can read them."""
    cache = Folder.at(p.cache_root, p.cache_options)
    file = (cache / "init").file(p.init)
    file.create_if_absent(model.to_npy(array))
    return file.url
