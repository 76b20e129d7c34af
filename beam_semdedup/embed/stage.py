"""The embedding of the texts of a run, its first stage: files of vectors in its cache, which the others read."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.embed.models import TextModel, find_text_model
from beam_semdedup.embed.plan import InputJob
from beam_semdedup.errors import RunError
from beam_semdedup.inputs.units import AssignUnit, vector_units
from beam_semdedup.plan.locate import Embedding
from beam_semdedup.plan.planning import Plan
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.text import counted

_LOG = logging.getLogger(__name__)
_FORMAT = 1


@dataclass(frozen=True)
class _Facts(Record):
    """What is stored beside the vectors of a model."""

    dimension: int


@dataclass(frozen=True)
class Embedded:
    """What the stage did: units, of which some were there, the rows of the others, and the seconds that these took."""

    units_done: int
    units_reused: int
    rows_done: int
    seconds: float


def find_model(p: Parameters) -> tuple[TextModel, Embedding]:
    """Returns the model of a run, and what its plan has to know of it; it is loaded where that is not known yet.

    Raises:
        InputError: there is none, it cannot be loaded, or what runs it is not installed.
    """
    files = find_text_model(p)
    key = layout.fingerprint([_FORMAT, files.version])
    facts = _Facts.read(_folder(p, key).file(layout.MODEL))
    if facts is None:
        files.check(p.device if make_runner(p).workers_are_here else "auto")
        facts = _Facts(files.load(replace(p, device="cpu")).dimension)
    return files, Embedding(key, facts.dimension)


def embed_input(plan: Plan, model: TextModel, embedding: Embedding) -> Embedded:
    """Embeds the texts of a run, and of its `against`, whose vectors are needed and not there.

    Raises:
        RunError: a unit or a worker failed; the same call goes on.
    """
    started, p = time.time(), plan.job.parameters
    _Facts(embedding.dimension).write(_folder(p, embedding.key).file(layout.MODEL))
    units, missing, rows = 0, 0, 0
    for job, made in input_jobs(plan, model, embedding):
        names = {unit: _names(job, unit) for unit in made}
        if not p.reuse_cache:
            job.files.folder.delete(name for found in names.values() for name in found)
        there = job.files.folder.names()
        left = [unit for unit in made if not names[unit] <= there]
        _embed(job, left, {name for unit in left for name in names[unit]})
        units, missing = units + len(made), missing + len(left)
        rows += sum(unit.num_rows for unit in left)
    return Embedded(missing, units - missing, rows, time.time() - started)


def input_jobs(plan: Plan, model: TextModel, embedding: Embedding) -> Iterator[tuple[InputJob, list[AssignUnit]]]:
    """Yields what embeds the texts of a run, and of its `against`, that are not assigned, with the units of each."""
    for part in filter(None, (plan, plan.references)):
        if part.assign_manifest is None:
            job = InputJob.of(model, part.job.parameters, embedding.key)
            yield job, vector_units(part.job.input_format, part.units)


def _embed(job: InputJob, units: list[AssignUnit], names: set[str]) -> None:
    if not units:
        return
    job.model.check("auto")
    p, folder = job.parameters, job.files.folder
    rows = sum(unit.num_rows for unit in units)
    _LOG.info("Embedding %s by %s", counted(rows, "text"), p.model)
    with progress.importing_beam():  # not above: it takes longer than all that needs no pipeline
        from beam_semdedup.embed import unit
        from beam_semdedup.embed.transform import EmbedUnits

    done = progress.StageProgress("Embed texts", len(names), lambda: len(names & folder.names()))
    with progress.shown([done], p.verbose, progress.interval(folder.url)):
        runners.run(lambda pipeline: pipeline | EmbedUnits(job, units, unit.embed_input), make_runner(p))
    if not names <= folder.names():
        raise RunError(f"{folder}: the embedding ended without finishing; run the same command again")


def _names(job: InputJob, unit: AssignUnit) -> set[str]:
    """Returns the names of the files with the vectors of a unit."""
    return {job.files.file(part.vectors, part.first_row).name for part in unit.parts}


def _folder(p: Parameters, key: str) -> Folder:
    return Folder.at(p.cache_root, p.cache_options) / layout.VECTORS / key
