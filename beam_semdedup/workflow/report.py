"""What a person is told of a run: what it will do, and how far it is."""

from __future__ import annotations

import logging

from beam_semdedup.plan.job import Job
from beam_semdedup.plan.planning import Plan
from beam_semdedup.plan.stored import PairwiseManifest, RecallManifest
from beam_semdedup.runners.progress import StageProgress
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import Folder
from beam_semdedup.text import counted, in_bytes
from beam_semdedup.workflow import output_path

_LOG = logging.getLogger(__name__)


def report_plan(plan: Plan) -> None:
    """Says what was found, what was chosen and what is reused."""
    job, p, sizes = plan.job, plan.job.parameters, plan.job.sizes
    fit = "given centroids, no fit" if p.max_iter == 0 else f"{p.kmeans.name} fit on {sizes.sample_rows:,} rows"
    if plan.fitted and job.corpus:
        fit = "the centroids of the corpus, no fit"
    if job.without_clusters:
        fit = "no fit: each row is compared with all references, as these are no more than n_clusters"
    _LOG.info(
        "Found %s of dimension %s in %s, %s",
        counted(sizes.num_rows, "row"),
        sizes.dimension,
        counted(len(plan.files), "file"),
        in_bytes(sum(f.size for f in plan.files)),
    )
    _LOG.info(
        "Chosen: %s (%s), %s, %s; runner %s with %s, %s of memory%s",
        counted(job.sizes.n_clusters, "cluster"),
        fit,
        counted(len(plan.units), "assign unit"),
        counted(job.sizes.num_keys, "comparison unit"),
        p.runner.name,
        counted(plan.num_workers, "worker"),
        in_bytes(plan.memory),
        "" if plan.num_workers == 1 else " each",
    )
    if plan.references:
        _LOG.info(
            "Compared with %s in %s of against%s",
            counted(plan.references.job.sizes.num_rows, "row"),
            counted(len(plan.references.files), "file"),
            "" if p.within else ", and not with each other",
        )
    if job.corpus:
        number = counted(len(job.generations), "earlier generation")
        _LOG.info("Generation %s of the corpus %s: compared with %s", job.generation, p.corpus_path, number)
    for name, manifest, folder in (
        ("assigned rows", plan.assign_manifest, job.kmeans),
        ("similarities", plan.pairwise_manifest, job.pairwise),
    ):
        if manifest:
            _LOG.info("Reusing the %s in %s", name, folder)
    if not plan.assign_manifest:
        found = len(layout.finished_units(job.segments))
        if found:
            _LOG.info("Going on from %s of %s finished assign units in %s", found, len(plan.units), job.kmeans)
    elif not plan.pairwise_manifest:
        found = len(layout.finished_units(job.pairwise))
        if found:
            _LOG.info("Going on from %s finished comparison units in %s", found, job.pairwise)


def stages(plan: Plan) -> list[StageProgress]:
    """Returns the stages that the run will do, with how many of their units are done."""
    job = plan.job
    result = []
    if not plan.assign_manifest:
        if job.sizes.sample_rows:
            centroids = job.model.file(layout.CENTROIDS)
            fitted = StageProgress("Fit centroids", None, lambda: int(centroids.exists()))
            result.append(fitted)
        result.append(
            StageProgress(
                "Assign nearest centroid",
                len(plan.units),
                lambda: len(layout.finished_units(job.segments)),
            )
        )
    if plan.references and not plan.references.assign_manifest:
        number, theirs = len(plan.references.units), plan.references.job.segments
        result.append(StageProgress("Assign references", number, lambda: len(layout.finished_units(theirs))))
    if not plan.pairwise_manifest and job.has_visits:
        result.append(StageProgress("Visit clusters", len(plan.units), lambda: len(layout.finished_units(job.visits))))
        result.append(StageProgress("Compare with visitors", job.sizes.num_keys, lambda: _keys_done(job, job.matches)))
        result.append(StageProgress("Merge matches", job.sizes.num_keys, lambda: _keys_done(job, job.pairwise)))
    elif not plan.pairwise_manifest:
        result.append(
            StageProgress("Compare within clusters", job.sizes.num_keys, lambda: _keys_done(job, job.pairwise))
        )
    if not plan.has_recall:
        result.append(StageProgress("Estimate recall", job.sizes.num_keys, lambda: _keys_searched(job)))
    if job.parameters.eps is not None:
        result.append(
            StageProgress(
                "Identify duplicates",
                -(-job.sizes.num_keys // job.keys_per_file),
                lambda: len(output_path.duplicates_files(job)),
            )
        )
    return result


def _keys_done(job: Job, folder: Folder) -> int:
    """Counts the keys whose units are all in a folder; all keys when the stage is finished, as one may have no rows."""
    if PairwiseManifest.find(job.pairwise):
        return job.sizes.num_keys
    return layout.num_compared(layout.finished_units(folder))


def _keys_searched(job: Job) -> int:
    if RecallManifest.read(job.recall_manifest):
        return job.sizes.num_keys
    return sum(name.endswith(".json") for name in job.recall.names())
