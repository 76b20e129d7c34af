"""What a run found: read from the files that it left, and told as counts, times and rates in `summary.json`."""

from __future__ import annotations

import dataclasses
import functools
import math
import platform
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeAlias

from beam_semdedup.compute.proportions import recall
from beam_semdedup.embed.stage import Embedded
from beam_semdedup.errors import RunError
from beam_semdedup.fit.model import ModelInfo
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.planning import Plan, find_recall
from beam_semdedup.plan.probes import Comparison, of_texts
from beam_semdedup.plan.stored import AssignManifest, Manifest, PairwiseManifest, RecallManifest
from beam_semdedup.removal.job import RemovalResult
from beam_semdedup.removal.repetitions import Repetitions
from beam_semdedup.stages.duplicates import DuplicatesFacts
from beam_semdedup.stages.generations import resembled_references
from beam_semdedup.stages.repeated import repeated_in_files
from beam_semdedup.storage import layout, tables
from beam_semdedup.storage.columns import MAX_SOURCE
from beam_semdedup.storage.damage import DamagedFile, as_damage
from beam_semdedup.storage.folder import File
from beam_semdedup.text import EXAMPLES, counted, in_time, without_secrets
from beam_semdedup.workflow import output_path

_LIBRARIES = (output_path.PROGRAM, "apache-beam", "pyarrow", "numpy")
_Stage: TypeAlias = AssignManifest | PairwiseManifest | RecallManifest
_version = functools.cache(version)
"""Looks a version up in the files of the installation, once for the runs of a sweep."""


@dataclass(frozen=True)
class StageSummary:
    """A stage of a run: units computed in it, units taken from earlier ones, seconds, and what bounds it.

    A stage begins with its first unit, after the end of the stage before. Rates are rows and megabytes (of float32
    vectors) per second, and 10^9 floating-point operations per second that the method needs (what is computed twice
    counts once).
    """

    units_done: int
    units_reused: int
    seconds: float
    rows_per_second: float
    megabytes_per_second: float
    gflops: float


@dataclass(frozen=True)
class Recall:
    """What share of the duplicates there are, in the order of the whole dataset, was found.

    Attributes:
        estimate: null where none was found, and none is known of.
        low, high: the interval, which holds the true share with a probability of at least 95 %.
        sample: how many of the rows that were kept were compared with the whole dataset; 0 where the share is proven.
    """

    estimate: float | None
    low: float
    high: float
    sample: int

    def __str__(self) -> str:
        """Says it in words."""
        if not self.sample:
            return (
                "found all duplicates there are, proven"
                if self.low == 1
                else "not known: no row that was kept was drawn"
            )
        by = f"estimated by {counted(self.sample, 'row')}"
        if self.estimate is None:
            return f"found no duplicates, and there is none among {counted(self.sample, 'row')} drawn at random"
        shares = [f"{math.floor(1000 * share) / 10:.1f}" for share in (self.estimate, self.low, self.high)]
        return "found {} % ({} to {} %) of the duplicates there are, {}".format(*shares, by)


@dataclass(frozen=True)
class ReferenceFile:
    """What a run found of a file of `against`.

    Attributes:
        rows: all of it; `rejected` of them could not be used.
        resembled: those that a row of the input is within eps of, as far as the two were compared; null where `eps` is.
        removes: the duplicates whose `max_id` is one of it; null where `eps` is.
    """

    file: str
    rows: int
    rejected: int
    resembled: int | None
    removes: int | None


@dataclass(frozen=True)
class Summary:
    """What a run found and where it is; `summary.json` in `output_path` holds the same.

    Times are in seconds; `startup_time` is what passed until the first unit began: planning, and the start of the
    runner and its workers. `rejected` counts the rejected rows by reason. `rows_kept` and `num_duplicates` are null
    where `eps` is; so is `recall`, which is null with `recall_sample=0` below `n_probes=exact`. `references` are
    the files of `against`; `without_clusters` says whether these have so few rows that each row was compared with all
    of them, and nothing was fitted. `generation` is the number that the input has in the corpus.
    """

    program: str
    rows_read: int
    rows_kept: int | None
    num_duplicates: int | None
    recall: Recall | None
    rows_rejected: int
    rejected: dict[str, int]
    n_clusters: int
    largest_cluster: int
    eps: float | None
    dimension: int
    runner: str
    startup_time: float
    embed_time: float
    kmeans_time: float
    pairwise_time: float
    recall_time: float
    duplicates_time: float
    removal_time: float
    total_time: float
    stages: dict[str, StageSummary]
    repeated_ids: Repetitions
    references: list[ReferenceFile]
    without_clusters: bool
    generation: int | None
    removal: RemovalResult | None
    paths: dict[str, str]
    duplicates_files: list[str]
    versions: dict[str, str]
    configuration: dict[str, Any]


def remedy(summary: Summary) -> str | None:
    """Says how to miss no duplicate, and about what it takes; None where none is missed, or nothing is known."""
    if summary.recall is None or summary.recall.low == 1 or summary.eps is None:
        return None
    if summary.generation is not None:
        return "To miss none: begin a corpus with n_probes=exact, and add all inputs again"
    texts = of_texts(summary.eps, summary.dimension)
    k = summary.n_clusters
    seconds = max(0.1, Comparison(summary.rows_read, summary.dimension, k, num_keys=k, spread=texts).seconds())
    return (
        f"To miss none: the same command with n_probes=exact n_clusters={k} goes on from the assigned "
        f"rows; comparing them takes two cores about {in_time(seconds)}, if they are like texts"
    )


@dataclass(frozen=True)
class Found:
    """What a finished run's files say.

    The manifests are those of the stages; `rejected` counts rows by input file and reason, `rejected_references` those
    of `against`; `at` is when this was found, in seconds since the epoch.
    """

    assign_manifest: AssignManifest
    pairwise_manifest: PairwiseManifest
    recall_manifest: RecallManifest | None
    duplicates_files: list[File]
    duplicates: int
    kept: int
    rejected: Counter[tuple[str, str]]
    repeated_ids: Repetitions
    references: list[ReferenceFile]
    rejected_references: Counter[tuple[str, str]]
    at: float


def find_results(plan: Plan) -> Found:
    """Reads what the pipeline left, and copies the rejected rows to the output.

    Raises:
        RunError: a stage is not finished, or rows were lost.
    """
    job, p = plan.job, plan.job.parameters
    assigned, compared = AssignManifest.find(job.kmeans), PairwiseManifest.find(job.pairwise)
    estimated = find_recall(job, compared)
    if assigned is None or compared is None or (job.has_recall and estimated is None):
        raise RunError("the pipeline ended without finishing its stages; run the same command again")
    names = output_path.duplicates_files(job) if p.eps is not None else []
    files = [job.duplicates.file(name) for name in names]
    facts = [facts for file in files if (facts := tables.read_facts(file, DuplicatesFacts))]
    if len(facts) < len(files):
        raise RunError("a file in duplicates/ is damaged; run the same command again")
    duplicates, kept = sum(f.duplicates for f in facts), sum(f.kept for f in facts)
    accounted = duplicates + kept if p.eps is not None else compared.counts.num_rows
    rows = job.sizes.num_rows
    if rows != accounted + assigned.rejected:
        raise RunError(
            f"rows were lost: {rows:,} read, but {kept:,} kept, {duplicates:,} duplicates and "
            f"{assigned.rejected:,} rejected (compared: {compared.counts.num_rows:,}); run with reuse_cache=false, and "
            "please report it"
        )
    try:
        again = repeated_in_files(files, "id", duplicates, plan.memory)
    except DamagedFile as error:
        raise RunError(f"{error}; run the same command again") from error
    repeated = Repetitions(
        count=max(compared.repeated_ids, again.count),
        in_clusters=compared.repeated_ids,
        in_duplicates=again.count,
        examples=list(dict.fromkeys([*compared.examples, *map(str, again.examples)]))[:EXAMPLES],
    )
    rejected = output_path.copy_rejected(job, assigned)
    references, of_references = _references(plan, compared, files) if plan.references else ([], Counter())
    return Found(
        assigned,
        compared,
        estimated,
        files,
        duplicates,
        kept,
        rejected,
        repeated,
        references,
        of_references,
        time.time(),
    )


def _references(
    plan: Plan, compared: PairwiseManifest, files: list[File]
) -> tuple[list[ReferenceFile], Counter[tuple[str, str]]]:
    """Returns what was found of the files of `against`, and counts their rejected rows by file and reason."""
    assert plan.references is not None
    job, theirs = plan.job, plan.references.job
    assigned = AssignManifest.find(theirs.kmeans)
    if assigned is None:
        raise RunError("the pipeline ended without assigning the rows of against; run the same command again")
    rejected = output_path.copy_rejected(theirs, assigned)
    of_file, rows, removes = _by_file(rejected), _rows_of_files(plan.references), Counter[str]()
    resembled = resembled_references(job, compared)
    for file in files:
        with as_damage(file), file.open() as source:
            for batch in tables.opened(source).iter_batches(columns=[MAX_SOURCE]):
                removes.update({c["values"]: c["counts"] for c in batch.column(0).value_counts().to_pylist()})
    has_eps = job.parameters.eps is not None
    found = [
        ReferenceFile(
            name, rows[name], of_file[name], resembled[name] if has_eps else None, removes[name] if has_eps else None
        )
        for name in dict.fromkeys(without_secrets([file.url for file in plan.references.files]))
    ]
    return found, rejected


def _rows_of_files(plan: Plan) -> Counter[str]:
    """Counts the planned rows by file, called as rejected rows call it."""
    rows = Counter[str]()
    for part in (part for unit in plan.units for part in unit.parts):
        rows[without_secrets(part.path)] += part.num_rows
    return rows


def _by_file(rejected: Counter[tuple[str, str]]) -> Counter[str]:
    found = Counter[str]()
    for (file, _), count in rejected.items():
        found[file] += count
    return found


def too_many_rejected(plan: Plan, found: Counter[tuple[str, str]], name: str = "the input") -> str:
    """Says where more than `max_rejected_share` of the rows, or of a file's rows, is rejected; else nothing.

    Args:
        found: counts the rejected rows by file and reason.
        name: of all of the files.
    """
    p, rows, rejected = plan.job.parameters, _rows_of_files(plan), _by_file(found)
    shares = {file: count / rows[file] for file, count in rejected.items() if count > p.max_rejected_share * rows[file]}
    if rejected.total() > p.max_rejected_share * rows.total():
        where, of, why = name, (rejected.total(), rows.total()), found
    elif shares:
        where = max(shares, key=lambda file: (shares[file], file))
        of, why = (rejected[where], rows[where]), Counter({k: n for k, n in found.items() if k[0] == where})
    else:
        return ""
    return (
        f"{where}: {of[0]:,} of {counted(of[1], 'row')} cannot be used ({reasons(_by_reason(why))}), more than "
        f"max_rejected_share={p.max_rejected_share:g} of them; see {_paths(plan, False)['rejected']}; "
        "max_rejected_share=1 allows all"
    )


def _by_reason(rejected: Counter[tuple[str, str]]) -> dict[str, int]:
    found = Counter[str]()
    for (_, reason), count in rejected.items():
        found[reason] += count
    return dict(found.most_common())


def reasons(rejected: dict[str, int]) -> str:
    """Says how many rows are rejected for which reason."""
    return ", ".join(f"{count:,}: {reason}" for reason, count in rejected.items())


def summarize(
    plan: Plan, started: float, found: Found, removed: RemovalResult | None, embedded: Embedded | None = None
) -> Summary:
    """Makes the summary of a run that began at `started` and ends now."""
    job, p, assigned, compared = plan.job, plan.job.parameters, found.assign_manifest, found.pairwise_manifest
    compared_at = max(started, _compared(plan, found))
    begun = _begun(plan, started, found)
    stages = _stages(plan, started, begun, found, embedded)
    embed_time = round(embedded.seconds, 3) if embedded else 0.0
    recall_time = stages["recall"].seconds if "recall" in stages else 0.0
    return Summary(
        program=output_path.PROGRAM,
        rows_read=job.sizes.num_rows,
        rows_kept=found.kept if p.eps is not None else None,
        num_duplicates=found.duplicates if p.eps is not None else None,
        recall=_recall(job, found),
        rows_rejected=assigned.rejected,
        rejected=_by_reason(found.rejected),
        n_clusters=job.sizes.n_clusters,
        largest_cluster=compared.largest_cluster,
        eps=p.eps,
        dimension=job.sizes.dimension,
        runner=p.runner.name,
        startup_time=max(0.0, round(begun - started - embed_time, 3)),
        embed_time=embed_time,
        kmeans_time=0.0 if plan.assign_manifest else round(assigned.finished - begun, 3),
        pairwise_time=0.0 if plan.pairwise_manifest else round(compared_at - max(begun, assigned.finished), 3),
        recall_time=recall_time,
        duplicates_time=round(max(0.0, found.at - compared_at - recall_time), 3),
        removal_time=removed.seconds if removed else 0.0,
        total_time=round(time.time() - started, 3),
        stages=stages,
        repeated_ids=found.repeated_ids,
        references=found.references,
        without_clusters=job.without_clusters,
        generation=job.generation if job.corpus else None,
        removal=removed,
        paths=_paths(plan, removed is not None),
        duplicates_files=[file.name for file in found.duplicates_files],
        versions={"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        configuration=without_secrets(dataclasses.asdict(p)),
    )


def _recall(job: Job, found: Found) -> Recall | None:
    p = job.parameters
    if p.eps is None:
        return None
    if p.n_probes == "exact" or job.without_clusters:
        return Recall(1.0, 1.0, 1.0, 0)
    if found.recall_manifest is None:
        return None
    size, missed = found.recall_manifest.missed(p.eps)
    return Recall(*recall(found.duplicates, found.kept, missed, size), size)


def _begun(plan: Plan, started: float, found: Found) -> float:
    """Returns when a run that began at `started` began its first unit; `started` where all was there already."""
    model = None if plan.assign_manifest else ModelInfo.read(plan.job.model.file(layout.MODEL))
    begun = [model.finished - model.seconds] if model and model.finished > started else []
    begun += [found.assign_manifest.began] if not plan.assign_manifest else []
    begun += [found.pairwise_manifest.began] if not plan.pairwise_manifest else []
    begun += [found.recall_manifest.began] if found.recall_manifest and not plan.recall_manifest else []
    return max(started, min(begun, default=started))


def _compared(plan: Plan, found: Found) -> float:
    """Returns when all was compared; the recall needs that, and may be known before the manifest is written."""
    compared, estimated = found.pairwise_manifest, found.recall_manifest
    if estimated is None or plan.recall_manifest or plan.pairwise_manifest:
        return compared.finished
    return min(compared.finished, estimated.began)


def _stages(
    plan: Plan, started: float, begun: float, found: Found, embedded: Embedded | None
) -> dict[str, StageSummary]:
    """Returns the stages of a run in their order; the embedding, the fit and the recall only where there is one."""
    job, dimension = plan.job, plan.job.sizes.dimension
    assigned, compared, estimated = found.assign_manifest, found.pairwise_manifest, found.recall_manifest
    fitted = begun
    result = {}
    if embedded and embedded.units_done + embedded.units_reused:
        units = embedded.units_done, embedded.units_reused
        result["embed"] = _stage_summary(*units, embedded.seconds, embedded.rows_done, 0, dimension)
    model = ModelInfo.read(job.model.file(layout.MODEL))
    if model and model.iterations:
        fresh = model.finished > started
        fitted = max(begun, model.finished)
        work = 2 * model.rows * job.sizes.n_clusters * dimension * model.iterations
        result["fit"] = _stage_summary(int(fresh), int(not fresh), fitted - begun, model.rows, work, dimension)
    products = 2 * dimension
    assigning = assigned.counts.rows_done * job.sizes.n_clusters * products
    comparing = max(fitted, assigned.finished), _compared(plan, found)
    stages: list[tuple[str, _Stage, Manifest | None, tuple[float, float], int]] = [
        ("assign", assigned, plan.assign_manifest, (fitted, assigned.finished), assigning),
        ("pairwise", compared, plan.pairwise_manifest, comparing, compared.pairs_done * products),
    ]
    if estimated:
        searching = started, estimated.finished
        stages.append(("recall", estimated, plan.recall_manifest, searching, estimated.pairs_done * products))
    for name, manifest, reused, (before, finished), operations in stages:
        counts = manifest.counts
        done, seconds = (0, 0.0) if reused else (counts.units_done, finished - max(manifest.began, before))
        others = counts.units_done + counts.units_reused - done
        result[name] = _stage_summary(done, others, seconds, counts.rows_done, operations, dimension)
    return result


def _stage_summary(
    done: int, reused: int, seconds: float, rows: int, operations: float, dimension: int
) -> StageSummary:
    if not done:
        return StageSummary(0, reused, round(seconds, 3), 0.0, 0.0, 0.0)
    each = 1 / max(seconds, 1e-3)
    rates = (rows * each, 4 * dimension * rows * each / 1e6, operations * each / 1e9)
    return StageSummary(done, reused, round(seconds, 3), *(round(rate, 4) for rate in rates))


def _paths(plan: Plan, removed: bool) -> dict[str, str]:
    job = plan.job
    paths = {
        "output": job.output.url,
        layout.KMEANS: job.kmeans.url,
        layout.PAIRWISE: job.pairwise.url,
        layout.REJECTED: (job.output / layout.REJECTED).url,  # not there where no row is rejected
    }
    if job.parameters.eps is not None:
        paths[layout.DUPLICATES] = job.duplicates.url
    if job.parameters.report:
        paths["report"] = job.output.file(layout.REPORT).url
    place = output_path.removal_place(job.parameters)
    if removed and place:
        paths[place] = (job.output / place).url
    return paths
