"""What a finished pipeline left: its manifests and files, checked so that no row is lost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from beam_semdedup.errors import RunError
from beam_semdedup.plan.planning import Plan
from beam_semdedup.plan.stored import AssignManifest, PairwiseManifest
from beam_semdedup.removal.repetitions import Repetitions
from beam_semdedup.stages.duplicates import DuplicatesFacts
from beam_semdedup.stages.repeated import repeated_in_files
from beam_semdedup.storage import tables
from beam_semdedup.storage.folder import File
from beam_semdedup.text import EXAMPLES
from beam_semdedup.workflow import output_path


@dataclass(frozen=True)
class Found:
    """What a finished run's files say.

    `assigned` and `compared` are the manifests of the stages; `rejected` counts rows by reason; `at` is when this was
    found, in seconds since the epoch.
    """

    assigned: AssignManifest
    compared: PairwiseManifest
    duplicates_files: list[File]
    duplicates: int
    kept: int
    rejected: dict[str, int]
    repeated_ids: Repetitions
    at: float


def find_results(plan: Plan) -> Found:
    """Reads what the pipeline left, and copies the rejected rows to the output.

    Raises:
        RunError: a stage is not finished, or rows were lost.
    """
    job, p = plan.job, plan.job.parameters
    assigned, compared = AssignManifest.find(job.kmeans), PairwiseManifest.find(job.pairwise)
    if assigned is None or compared is None:
        raise RunError("the pipeline ended without finishing its stages; run the same command again")
    names = output_path.duplicates_files(job) if p.eps is not None else []
    files = [job.duplicates.file(name) for name in names]
    facts = [facts for file in files if (facts := tables.read_facts(file, DuplicatesFacts))]
    if len(facts) < len(files):
        raise RunError("a file in duplicates/ is damaged; run the same command again")
    duplicates, kept = sum(f.duplicates for f in facts), sum(f.kept for f in facts)
    accounted = duplicates + kept if p.eps is not None else compared.counts.num_rows
    rows = job.assign_plan.num_rows
    if rows != accounted + assigned.rejected:
        raise RunError(
            f"rows were lost: {rows:,} read, but {kept:,} kept, {duplicates:,} duplicates and "
            f"{assigned.rejected:,} rejected (compared: {compared.counts.num_rows:,}); run with reuse_cache=false, and "
            "please report it"
        )
    again = repeated_in_files(files, "id", duplicates, plan.memory)
    repeated = Repetitions(
        count=max(compared.repeated_ids, again.count),
        in_clusters=compared.repeated_ids,
        in_duplicates=again.count,
        examples=list(dict.fromkeys([*compared.examples, *map(str, again.examples)]))[:EXAMPLES],
    )
    rejected = output_path.copy_rejected(job, assigned)
    return Found(assigned, compared, files, duplicates, kept, rejected, repeated, time.time())
