"""The command's jobs in this process and without Beam's graph, which would take ten times as long as a small case.

All that a run does is what the program does: the plan, the units of its stages, their errors as a runner hands them on,
the check that no row was lost, the exit code. Only the wiring is here: the units of a stage one after the other.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from runs import Ended

from beam_semdedup import SemanticDeduplicationWorkflow
from beam_semdedup.cli import commands
from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.removal.job import remove_duplicates
from beam_semdedup.removal.lookup import open_reader
from beam_semdedup.removal.transform import RemoveDuplicates
from beam_semdedup.removal.unit import finish as finish_removal
from beam_semdedup.removal.unit import remove_from_file
from beam_semdedup.runners.direct import DirectRunner
from beam_semdedup.stages import assign, duplicates, fit, pairwise
from beam_semdedup.storage.layout import CENTROIDS
from beam_semdedup.transforms import SemanticDedup


def semdedup(beam: bool = False, **parameters: Any) -> Ended:
    """Runs `semdedup` with these parameters; `beam`: by Beam's local runner."""
    return _ended(lambda: SemanticDeduplicationWorkflow(**{"verbose": False, **parameters}).run(), beam)


def semdedup_remove(beam: bool = False, **parameters: Any) -> Ended:
    """Runs `semdedup-remove` with these parameters."""
    return _ended(lambda: remove_duplicates(resolve({"verbose": False, **parameters}, RemovalParameters)), beam)


def _ended(action: Callable[[], Any], beam: bool) -> Ended:
    out, err = io.StringIO(), io.StringIO()

    def run() -> int:
        action()
        return commands.DONE

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _without_beam(beam):
        code = commands._guarded(run)
    return Ended(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _without_beam(beam: bool) -> Any:
    real = DirectRunner.run
    if not beam:
        DirectRunner.run = lambda self, build: build(_Root())  # type: ignore[method-assign]
    try:
        yield
    finally:
        DirectRunner.run = real  # type: ignore[method-assign]


class _Root:
    """Stands where the pipeline would."""

    def __or__(self, transform: Any) -> None:
        {SemanticDedup: _deduplicate, RemoveDuplicates: _remove}[type(transform)](transform)


def _deduplicate(transform: SemanticDedup) -> None:
    plan, job = transform.plan, transform.plan.job
    if plan.pairwise_manifest:
        compared = list(plan.pairwise_manifest.units)
    else:
        if plan.assign_manifest:
            fitted = FittedKMeans(job.kmeans.file(CENTROIDS).url, plan.assign_manifest.centroids)
            found = [assign.find_assigned(job, name) for name in plan.assign_manifest.files]
        else:
            fitted = plan.fitted or fit.fit_centroids(job)
            assigned = [assign.assign_unit(job, unit, fitted) for unit in plan.units]
            assign.finish(job, assigned, fitted)
            found = [unit.segments for unit in assigned]
        keys = defaultdict(list)
        for segments in found:
            for segment in segments:
                keys[segment.key].append(segment)
        units = [unit for key, parts in keys.items() for unit in pairwise.pairwise_units(job, key, parts)]
        compared = [pairwise.compare_unit(job, unit, fitted) for unit in units]
        pairwise.finish(job, compared, fitted)
    if job.parameters.eps is None:
        return
    files = defaultdict(list)
    for result in compared:
        files[result.key // job.keys_per_file].append(result)
    for number, parts in files.items():
        duplicates.select_duplicates(job, number, parts)


def _remove(transform: RemoveDuplicates) -> None:
    job, reader = transform.job, open_reader(transform.job.ids)
    finish_removal(job, [remove_from_file(job, unit, reader) for unit in transform.units])
