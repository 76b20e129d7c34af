"""A unit of a removal: a file of the dataset without the listed rows, and a note of what was found in it.

The note is written last. It holds the numbers of the list's entries that the removed rows match, one for each match.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from beam_semdedup.errors import naming_unit
from beam_semdedup.inputs.registry import copier
from beam_semdedup.plan import stored
from beam_semdedup.plan.stored import Counts
from beam_semdedup.removal.lookup import IdReader
from beam_semdedup.removal.plan import RemovalJob, RemovalManifest, RemovalUnit
from beam_semdedup.stages.repeated import repeated_in_files
from beam_semdedup.storage import tables
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.records import Record

_ENTRY = "entry"


@dataclass(frozen=True)
class RemovedUnit(Record):
    """A written file, by its name in the output: rows that were read and removed, and matches of these with entries."""

    target: str
    num_rows: int
    rows_removed: int
    matches: int
    reused: bool = False


def remove_from_file(job: RemovalJob, unit: RemovalUnit, ids: IdReader) -> RemovedUnit:
    """Writes the file of a unit, unless an earlier attempt did."""
    note = job.note(unit.target)
    with naming_unit(unit.source):
        found = tables.read_facts(note, RemovedUnit)
        if found and job.output.file(unit.target).exists():
            return replace(found, reused=True)
        removed, entries = _write_file(job, unit, ids)
        table, encoding = pa.table({_ENTRY: entries}), {_ENTRY: "DELTA_BINARY_PACKED"}
        tables.write(note, table, removed, "zstd", use_dictionary=False, column_encoding=encoding)
        return removed


def finish(job: RemovalJob, units: Iterable[RemovedUnit]) -> None:
    """Writes the manifest."""
    units = sorted(units, key=lambda unit: unit.target)
    notes = [job.note(unit.target) for unit in units if unit.matches]
    with stored.discarding(job.stage):
        found = repeated_in_files(notes, _ENTRY, sum(unit.matches for unit in units), job.memory)
    manifest = RemovalManifest(
        counts=Counts.of(units),
        finished=time.time(),
        files=tuple(unit.target for unit in units),
        rows_removed=sum(unit.rows_removed for unit in units),
        ids_removed=found.distinct,
        repeated_ids=found.count,
        repeated_entries=found.examples,
    )
    manifest.store(job.output)


def _write_file(job: RemovalJob, unit: RemovalUnit, ids: IdReader) -> tuple[RemovedUnit, np.ndarray]:
    """Returns the counts, and the numbers of the entries that were found."""
    p = job.parameters
    found = [np.empty(0, dtype=np.int64)]

    def is_listed(batch: pa.ChunkedArray) -> np.ndarray:
        mask, entries = ids.find(batch)
        found.append(entries)
        return mask

    source, id_column = File(unit.source, p.read_options), pa.field(p.id_field, job.ids.id_type)
    with job.output.file(unit.target).atomic_write() as scratch:
        rows_read, rows_removed = copier(p.input_filetype).copy_without(
            source, scratch, id_column, is_listed, job.memory // 8
        )
    entries = np.sort(np.concatenate(found))
    return RemovedUnit(unit.target, rows_read, rows_removed, len(entries)), entries
