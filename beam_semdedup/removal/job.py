"""The original dataset without its duplicates: same files, same columns, in bounded memory.

A unit is an input file, or many small ones. Their rows stream through in batches, and the ids of each batch are looked
up in the list of duplicates. A removal that was killed goes on from the units that it finished.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.config.places import naming_places
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.inputs.listing import check_unchanged, filetype_of, list_files
from beam_semdedup.inputs.registry import copier, marker
from beam_semdedup.plan import stored
from beam_semdedup.removal.id_list import IdList, find_list
from beam_semdedup.removal.plan import (
    RemovalJob,
    RemovalManifest,
    RemovalUnit,
    abandon,
    committed,
    make_plan,
    prepare,
)
from beam_semdedup.removal.repetitions import RepeatedIds, repetitions
from beam_semdedup.removal.unit import commit
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.resources import memory_per_worker
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import File, FileInfo
from beam_semdedup.text import counted, in_bytes

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemovalResult:
    """What a removal did. `ids_not_found` are entries of the list that no row has, which is no error.

    With the `mode` mark, `rows_removed` are those that are marked as duplicates.
    """

    rows_read: int
    rows_removed: int
    ids_removed: int
    ids_not_found: int
    files: tuple[str, ...]
    seconds: float
    mode: str = "remove"


def remove_duplicates(
    p: RemovalParameters, listed: Sequence[File] | None = None, dataset: Sequence[FileInfo] | None = None
) -> RemovalResult:
    """Writes the dataset at `p.input_path` without the ids listed at `p.duplicates_path`.

    Args:
        listed: the files of the list, given by a caller that has just finished the run; None: the run's summary
            names them.
        dataset: the files of the dataset, given by a caller that has read them; None: what is at `p.input_path` now.

    Raises:
        InputError: the list is not from a finished run, the id column is missing or of another type than the
            list's, no listed id is in the dataset, or the output would mix with the input or with files that are not
            from an earlier removal.
        RepeatedIds: the run found repeated ids, or a listed id stands on several rows of the dataset, of which what
            was written is removed again (unless repeated_ids=allow).
        RunError: a unit or a worker failed, or the dataset changed meanwhile; the same call goes on.
    """
    with naming_places(p, RunError):
        return _remove(p, listed, dataset)


def _remove(p: RemovalParameters, listed: Sequence[File] | None, dataset: Sequence[FileInfo] | None) -> RemovalResult:
    started = time.time()
    runner = make_runner(p)
    runner.check("auto")
    memory = memory_per_worker(runner, runner.num_workers(), p.memory_budget)
    with naming_places(p, InputError):
        ids = IdList.open(find_list(p) if listed is None else listed, memory, details=p.mode == "mark")
        files = list_files(p) if dataset is None else dataset
        p = dataclasses.replace(p, input_filetype=p.input_filetype or filetype_of(files))
        (marker if p.mode == "mark" else copier)(str(p.input_filetype))  # raises
        job, units = make_plan(p, files, ids, memory)
        was_committed = committed(job)
        if not was_committed:
            prepare(job, units)
    manifest = was_committed or _run(job, units, runner)
    try:
        check_unchanged(p, files)
    except RunError:
        abandon(job)
        raise
    if not job.in_place:
        stored.forget([job.stage])
    if manifest.repeated_ids and p.repeated_ids != "allow":
        abandon(job)
        where = f"{manifest.repeated_ids:,} of the listed ones in the dataset"
        raise RepeatedIds.because(repetitions(where, ids.examples(manifest.repeated_entries)))
    if ids.num_ids and not manifest.ids_removed:
        abandon(job)
        raise InputError(
            f"id_field={p.id_field or 'null'} of input_path={', '.join(p.input_path)}: none of the "
            f"{counted(ids.num_ids, 'listed id')} in duplicates_path={p.duplicates_path} is there, so that nothing was "
            "removed or written; give the dataset of that run, and the column of its ids"
        )
    if job.in_place:
        if manifest.rows_removed and not was_committed:
            _LOG.info("Deleted in version %s of %s", commit(job, units), job.output)
        abandon(job)
    result = RemovalResult(
        manifest.counts.num_rows,
        manifest.rows_removed,
        manifest.ids_removed,
        ids.num_ids - manifest.ids_removed,
        tuple(job.output.file(name).url for name in manifest.files),
        round(time.time() - started, 3),
        p.mode,
    )
    if result.ids_not_found > result.ids_removed:
        _LOG.warning(
            "Not found in id_field=%s of input_path=%s: %s of %s in duplicates_path=%s; check that the run was on this "
            "dataset, and that this is the column of its ids",
            p.id_field or "null",
            ", ".join(p.input_path),
            f"{result.ids_not_found:,}",
            counted(ids.num_ids, "listed id"),
            p.duplicates_path,
        )
    return result


def _run(job: RemovalJob, units: Sequence[RemovalUnit], runner: runners.Runner) -> RemovalManifest:
    """Returns the manifest of a removal, which the pipeline writes last."""
    p = job.parameters
    _LOG.info(
        "Marking %s in %s, %s" if p.mode == "mark" else "Removing %s from %s, %s",
        counted(job.ids.num_ids, "listed id"),
        counted(sum(len(unit.sources) for unit in units), "file"),
        in_bytes(sum(unit.size for unit in units)),
    )
    # Not above: it imports Beam, for which what is wrong need not wait.
    from beam_semdedup.removal.transform import RemoveDuplicates

    done = progress.StageProgress(
        "Mark duplicates" if p.mode == "mark" else "Remove duplicates",
        len(units),
        lambda: len(layout.finished_units(job.stage)),
    )
    with progress.shown([done], p.verbose, progress.interval(job.output.url)):
        runners.run(lambda pipeline: pipeline | RemoveDuplicates(job, units), runner)
    manifest = RemovalManifest.find(job.results)
    if not manifest:
        raise RunError(f"{job.output}: the removal ended without finishing; run it again")
    return manifest
