"""The `output_path` of a run: what may be cleared there, its configuration and the copies of the rejected rows."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections import Counter

import pyarrow as pa
import yaml

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError, RunError, UnitError
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job, Places
from beam_semdedup.plan.stored import AssignManifest
from beam_semdedup.removal.plan import clear
from beam_semdedup.report.job import check_own
from beam_semdedup.stages.assign import AssignFacts
from beam_semdedup.storage import layout, tables
from beam_semdedup.storage.damage import as_damage
from beam_semdedup.storage.folder import Folder
from beam_semdedup.text import without_secrets

PROGRAM = "beam-semdedup"
_CONFIG = "semdedup.yaml"
_CONFIG_HEAD = f"# The configuration of a {PROGRAM} run; storage credentials are left out.\n"


def check(places: Places, references: Places | None = None) -> None:
    """Refuses to overwrite foreign files, and to mix with another run's results where they are not cleared.

    Args:
        references: of the rows of `against`.

    Raises:
        InputError: either of these.
    """
    p, output = places.parameters, places.output
    for name, is_own in ((layout.SUMMARY, _is_own_summary), (_CONFIG, _is_own_configuration)):
        file = output.file(name)
        if file.exists() and not is_own(file.read_bytes()):
            raise InputError(f"{file} is not from this program; choose another output_path")
    check_own(output.file(layout.REPORT))
    own_keys = _own_keys(places, references)
    others = [part for part, key in _parts(output).items() if key not in own_keys]
    if others and not p.clear_output:
        raise InputError(
            f"output_path={output}: {others[0]} is from a run with other parameters or input; give another "
            "output_path or clear_output=true"
        )


def prepare(job: Job) -> str:
    """Clears an earlier run's results, its summary first, and writes the configuration; returns what names the run."""
    run = uuid.uuid4().hex
    p, output = job.parameters, job.output
    output.delete([layout.SUMMARY, layout.REPORT])
    own = _own_keys(job, job.references)
    output.delete(part for part, key in _parts(output).items() if p.clear_output or key in own)
    if p.clear_output:
        for place in {layout.DEDUPLICATED, layout.MARKED} - {removal_place(p)}:
            clear(output / place)  # a removal clears its own, unless it goes on from an interrupted one
    head = f"{_CONFIG_HEAD}# Run {run} of results {job.output_fingerprint}\n"
    values = without_secrets(dataclasses.asdict(p))
    configuration = head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    output.file(_CONFIG).write_bytes(configuration.encode())
    return run


def removal_place(p: Parameters) -> str | None:
    """Returns the name of the folder in `output_path` for the input without duplicates, or with marks."""
    return (layout.MARKED if p.remove == "mark" else layout.DEDUPLICATED) if p.remove else None


def check_alone(places: Places, run: str) -> None:
    """Refuses what may be mixed with the results of a run that began later in the same place, and takes it away.

    Raises:
        RunError: there was one, or the run's own configuration is gone.
    """
    file = places.output.file(_CONFIG)
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise RunError(f"{file} is gone, though the run wrote it: was output_path deleted? Run again") from error
    if run.encode() not in content:
        if f"of results {places.output_fingerprint}".encode() not in content:  # else they are the later run's too
            places.duplicates.delete(duplicates_files(places))
        raise RunError(
            f"another run has begun to write to output_path={places.parameters.output_path}: give each its own; they "
            "may share cache_path"
        )


def duplicates_files(places: Places) -> list[str]:
    """Returns the names of the run's own files of duplicates."""
    return [name for name, key in layout.parts(places.duplicates).items() if key == places.output_fingerprint]


def copy_rejected(job: Job, assigned: AssignManifest) -> Counter[tuple[str, str]]:
    """Copies the rejected rows of the units in the manifest `assigned`; counts them by input file and reason.

    Raises:
        UnitError: they cannot be read, or are fewer than were rejected.
    """
    units = {name.removesuffix(".arrow") for name in assigned.files}
    found = Counter[tuple[str, str]]()
    source, target = job.kmeans / layout.REJECTED, job.output / layout.REJECTED
    for name in sorted(layout.finished_units(source)):
        unit = name.removesuffix(".parquet")
        if unit not in units:  # it was cut otherwise by an attempt that did not finish
            continue
        file = source.file(name)
        with stored.discarding(job.kmeans, job.segments.file(f"{unit}.arrow")), as_damage(file):
            facts = tables.read_facts(file, AssignFacts)
            if facts is None or facts.unit.name != unit:
                raise ValueError("it is not what its unit wrote")
            data = file.read_bytes()
            rows = tables.opened(pa.BufferReader(data)).read()  # all columns, that no damage is copied
        target.file(layout.part_name(job.kmeans_fingerprint, unit)).write_bytes(data)
        counts = rows.group_by(["source_file", "reason"]).aggregate([([], "count_all")])
        for file_reason_count in zip(*(column.to_pylist() for column in counts.columns), strict=True):
            found[file_reason_count[:2]] += file_reason_count[2]
    if found.total() != assigned.rejected:
        stored.forget([job.kmeans])
        raise UnitError(f"{source}: a file is gone; the same command computes it again")
    return found


def _own_keys(places: Places, references: Places | None) -> tuple[str, ...]:
    """Returns the keys of a run's files in `duplicates/` and `rejected/`."""
    rejected = [references.kmeans_fingerprint] if references else []
    return (places.output_fingerprint, places.kmeans_fingerprint, *rejected)


def _parts(output: Folder) -> dict[str, str]:
    """Returns the results of any run in `output`, with the key of the results that they are from."""
    return {
        f"{inner}/{name}": key
        for inner in (layout.DUPLICATES, layout.REJECTED)
        for name, key in layout.parts(output / inner).items()
    }


def _is_own_summary(content: bytes) -> bool:
    try:
        return json.loads(content)["program"] == PROGRAM
    except (ValueError, TypeError, KeyError):
        return False


def _is_own_configuration(content: bytes) -> bool:
    return content.startswith(_CONFIG_HEAD.encode())
