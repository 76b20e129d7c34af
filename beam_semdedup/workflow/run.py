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
from beam_semdedup.config.parameters import Parameters, RemovalParameters, ReportParameters
from beam_semdedup.config.places import naming_places
from beam_semdedup.config.validation import resolve
from beam_semdedup.embed.stage import Embedded, embed_input, find_model
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit import model
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.inputs.listing import check_unchanged
from beam_semdedup.plan import stored
from beam_semdedup.plan.fingerprints import output_fingerprint
from beam_semdedup.plan.locate import Embedding, Located, list_input, locate
from beam_semdedup.plan.planning import Plan, find_recall, forget, make_plan, recall_reach
from beam_semdedup.plan.stored import AssignManifest, PairwiseManifest
from beam_semdedup.removal.job import RemovalResult, remove_duplicates
from beam_semdedup.removal.plan import clear
from beam_semdedup.removal.repetitions import RepeatedIds
from beam_semdedup.report.collect import Collected
from beam_semdedup.report.content import count_rows, gather
from beam_semdedup.report.job import memory_of, write_report
from beam_semdedup.report.results import FinishedRun, Results
from beam_semdedup.report.target import find_target
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.stages import duplicates, recall
from beam_semdedup.stages.fit import fit_centroids
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import Folder
from beam_semdedup.text import counted, without_secrets
from beam_semdedup.workflow import output_path, report
from beam_semdedup.workflow.summary import Found, Summary, find_results, summarize, too_many_rejected

_LOG = logging.getLogger(__name__)
_FEW_ROWS = 10_000_000
"""To as many rows this process applies an eps in less time than a cluster starts its workers."""
_FEW_BYTES = 1 << 30
"""With vectors of as many bytes it compares a sample."""


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
        self.parameters: Parameters = resolve({k: v for k, v in parameters.items() if v is not None or k == "id_field"})

    def plan(self, runner: str | Mapping[str, Any] | None = None) -> Plan:
        """Plans what `run` would do, for `SemanticDedup` and the other transforms in a pipeline of your own.

        It deletes nothing: finished units are used whatever `reuse_cache` says.

        Raises:
            InputError: the input or the places are wrong.
        """
        if self.parameters.model is not None:
            raise InputError("plan() is of embeddings: write them by semdedup-embed, and leave model out; or use run()")
        with naming_places(self.parameters, InputError):
            return make_plan(self._locate(runner))

    def run(self, runner: str | Mapping[str, Any] | None = None) -> Summary:
        """Runs the job and returns its summary.

        Args:
            runner: instead of the `runner` parameter: a name, or a mapping with `name` and its settings.

        Raises:
            InputError: the input or the places are wrong, no row can be used, or a removal is refused.
            RunError: a unit or a worker failed; the same call goes on from the finished units.
        """
        with progress.logged(self.parameters.verbose), naming_places(self.parameters, RunError):
            return self._run(runner)

    def _run(self, runner: str | Mapping[str, Any] | None) -> Summary:
        started = time.time()
        with naming_places(self.parameters, InputError):
            model = find_model(self.parameters) if self.parameters.model else None
            located = self._locate(runner, model[1] if model else None)
            output_path.check(located.places, located.references.places if located.references else None)
            plan = make_plan(located, anew=not self.parameters.reuse_cache)
            report.report_plan(plan)
            run = output_path.prepare(plan.job)
        p = plan.job.parameters
        embedded = embed_input(plan, *model) if model else None
        with (
            progress.shown(report.stages(plan), p.verbose, progress.interval(plan.job.kmeans.url)),
            _fitted_ahead(plan) as plan,
        ):
            _run_stages(plan)
        if p.target_rows is not None:
            plan = _at_target(plan)
            run = output_path.prepare(plan.job)
            assigned, compared = AssignManifest.find(plan.job.kmeans), PairwiseManifest.find(plan.job.pairwise)
            _run_stages(dataclasses.replace(plan, assign_manifest=assigned, pairwise_manifest=compared))
        return _finish(plan, started, run, embedded)

    def _locate(self, runner: str | Mapping[str, Any] | None, embedding: Embedding | None = None) -> Located:
        p = self.parameters
        if runner is not None:
            p = resolve({**dataclasses.asdict(p), "runner": runner})
        if isinstance(self._init, np.ndarray):
            list_input(p, warn=False)  # before anything is written, that no result and input would mix
            p = dataclasses.replace(p, init=_store_init(p, self._init))
        return locate(p, embedding=embedding)


def _run_stages(plan: Plan) -> None:
    """Runs the stages that are not finished; in this process where a few rows are compared."""
    p, compared = plan.job.parameters, plan.comparisons
    sizes = plan.job.sizes
    searched = plan.rows * sizes.dimension * 4 if not plan.has_recall else 0
    many = sizes.num_rows > _FEW_ROWS or searched > _FEW_BYTES
    if compared is None or (p.eps is not None and many):
        with progress.importing_beam():  # not above: it takes longer than all that needs no pipeline
            from beam_semdedup.transforms import SemanticDedup

        runners.run(lambda pipeline: pipeline | SemanticDedup(plan), make_runner(p))
    elif p.eps is not None:
        if plan.assign_manifest and not plan.has_recall:
            fitted = FittedKMeans(plan.job.model.file(layout.CENTROIDS).url, plan.assign_manifest.centroids)
            recall.estimate_recall(plan.job, compared.units, plan.assigned, fitted)
        duplicates.identify_duplicates(plan.job, compared.units)


def _at_target(plan: Plan) -> Plan:
    """Returns the plan with the eps that leaves `target_rows`, found in the scores; InputError where none does."""
    job, p = plan.job, plan.job.parameters
    results = Results.of(without_secrets(dataclasses.asdict(p)), job.kmeans, job.pairwise)
    if p.target_rows is None or results is None:
        raise RunError("the pipeline ended without finishing its stages; run the same command again")
    with stored.discarding(job.pairwise):
        eps, left = find_target(results, p.target_rows)
    _LOG.info("target_rows=%s: eps=%s leaves %s", p.target_rows, eps, counted(left, "row"))
    p = dataclasses.replace(p, eps=eps, target_rows=None)
    key = output_fingerprint(p, job.pairwise_fingerprint)
    job = dataclasses.replace(job, parameters=p, output_fingerprint=key)
    job = dataclasses.replace(job, recall_reach=recall_reach(job))
    estimated = find_recall(job, PairwiseManifest.find(job.pairwise))
    return dataclasses.replace(plan, job=job, recall_manifest=estimated)


@contextlib.contextmanager
def _fitted_ahead(plan: Plan) -> Iterator[Plan]:
    """Yields the plan with the model, where its engine fits before the pipeline starts."""
    if plan.assign_manifest or plan.fitted or not make_engine(plan.job.parameters).fits_ahead:
        yield plan
        return
    with fit_centroids(plan.job).published(plan.job.model.options) as fitted:
        yield dataclasses.replace(plan, fitted=fitted)


def _finish(plan: Plan, started: float, run: str, embedded: Embedded | None) -> Summary:
    """Checks that no row was lost, removes where asked, and writes the summary.

    Args:
        run: names this run in `output_path`.
        embedded: what was done before, where the input is texts.

    Raises:
        InputError: too many rows cannot be used, or are duplicates, or a removal is refused; the summary is written
            before.
        RunError: the input changed, rows were lost, or another run writes to the same place.
    """
    job, p = plan.job, plan.job.parameters
    _check_unchanged(plan)
    output_path.check_alone(job, run)
    found = find_results(plan)
    removed, refusal = None, None
    looked_at = _look(plan)
    unusable = too_many_rejected(plan, found.rejected)
    if plan.references and not unusable:
        unusable = too_many_rejected(plan.references, found.rejected_references, "against")
    unusable = unusable or _too_many_removed(p, looked_at)
    place = output_path.removal_place(p)
    if place and unusable:
        clear(job.output / place)  # of an earlier run
    elif place:
        try:
            removed = _remove(plan, found, job.output / place)
        except InputError as error:  # that ids repeat, or that foreign files are in its place
            refusal = error
    output_path.check_alone(job, run)
    summary = summarize(plan, started, found, removed, embedded)
    if p.report and looked_at:
        summary = _report(plan, started, summary, *looked_at)
    values = without_secrets(dataclasses.asdict(summary))
    job.output.file(layout.SUMMARY).write_bytes(json.dumps(values, indent=2).encode())
    if unusable:
        raise InputError(unusable)
    if refusal:
        raise InputError(f"the duplicates are found and stored, but not removed: {refusal}")
    return summary


def _look(plan: Plan) -> tuple[Results, Collected] | None:
    """Reads all scores, where the report or `max_removed_share` asks for what is in them."""
    job, p = plan.job, plan.job.parameters
    if not p.report and p.max_removed_share is None:
        return None
    results = Results.of(without_secrets(dataclasses.asdict(p)), job.kmeans, job.pairwise)
    if results is None:
        return None
    parameters = ReportParameters.of_run(p)
    with stored.discarding(job.pairwise):
        return results, count_rows(results, parameters, memory_of(parameters))


def _too_many_removed(p: Parameters, looked_at: tuple[Results, Collected] | None) -> str:
    """Says of which source more than `max_removed_share` of the rows are duplicates; else nothing."""
    if p.max_removed_share is None or looked_at is None:
        return ""
    collected, source = looked_at[1], p.group_field or "input file"
    if collected.left_out:
        return (
            f"group_field={p.group_field}: more than {len(collected.sources):,} values, too many to hold "
            "max_removed_share to: choose a column with fewer, or leave max_removed_share out"
        )
    hardest = collected.hardest_hit()
    if hardest is None or hardest[1] <= p.max_removed_share * hardest[2]:
        return ""
    return (
        f"{source} {hardest[0]}: {hardest[1]:,} of {counted(hardest[2], 'row')} are duplicates at eps={p.eps}, more "
        f"than max_removed_share={p.max_removed_share:g} of them: look at the pairs (semdedup-report "
        f"output_path={p.output_path}), and take a smaller eps, or a larger max_removed_share"
    )


def _report(plan: Plan, started: float, summary: Summary, results: Results, collected: Collected) -> Summary:
    """Writes the report; returns the summary with the time that it took."""
    parameters = ReportParameters.of_run(plan.job.parameters)
    with stored.discarding(plan.job.pairwise):
        content = gather(results, parameters, collected, {})
    told = FinishedRun.from_json(json.dumps(without_secrets(dataclasses.asdict(summary))))
    write_report(parameters, told, content)
    return dataclasses.replace(summary, total_time=round(time.time() - started, 3))


def _remove(plan: Plan, found: Found, place: Folder) -> RemovalResult:
    """Writes the input that was planned, without the duplicates that were found or with marks, to a place."""
    job = plan.job
    if found.repeated_ids.count and job.parameters.repeated_ids != "allow":
        clear(place)  # of an earlier run
        raise RepeatedIds.because(found.repeated_ids)
    parameters = RemovalParameters.of_run(job.parameters, place.url)
    return remove_duplicates(parameters, found.duplicates_files, plan.files)


def _check_unchanged(plan: Plan) -> None:
    """Raises RunError where the files that were read in this run are not those that were planned."""
    for part, name in ((plan, "input_path"), (plan.references, "against")):
        if part is None or part.assign_manifest:
            continue
        try:
            p = part.job.parameters
            check_unchanged(p, part.files, part.ids, warn=not p.remove, name=name)  # a removal will say it
        except RunError:
            forget(part.job)  # what was read before and after does not belong together
            raise


def _store_init(p: Parameters, array: np.ndarray) -> str:
    """Stores the given centroids by their content, where workers can read them; returns the URL."""
    cache = Folder.at(p.cache_root, p.cache_options)
    file = (cache / "init").file(p.init)
    data = model.to_npy(array)
    if file.create_if_absent(data) != data:  # it was damaged
        file.write_bytes(data)
    return file.url
