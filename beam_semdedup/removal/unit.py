"""A unit of a removal: files of the dataset without the listed rows, and a note of what was found in them.

The note is written last. It holds the numbers of the list's entries that the removed rows match, one for each match.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from beam_semdedup.errors import RunError, naming_unit
from beam_semdedup.inputs.base import Copied
from beam_semdedup.inputs.ids import of_file
from beam_semdedup.inputs.registry import copier, marker, versioned
from beam_semdedup.plan import stored
from beam_semdedup.plan.stored import Counts
from beam_semdedup.removal.lookup import IdReader
from beam_semdedup.removal.plan import RemovalJob, RemovalManifest, RemovalUnit
from beam_semdedup.stages.repeated import repeated_in_files
from beam_semdedup.storage import tables
from beam_semdedup.storage.folder import File, FileInfo, Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.threads import IO_THREADS, in_io_threads

_ENTRY = "entry"


@dataclass(frozen=True)
class RemovedUnit(Record):
    """Written files, by their names in the output: rows that were read and removed, and their matches with entries.

    Attributes:
        unit: the name of the unit.
        receipts: those of its files, where their format gives any.
    """

    unit: str
    targets: tuple[str, ...]
    num_rows: int
    rows_removed: int
    matches: int
    receipts: tuple[str, ...] = ()
    reused: bool = False


def remove_from_files(job: RemovalJob, unit: RemovalUnit, ids: IdReader) -> RemovedUnit:
    """Writes the files of a unit, unless an earlier attempt did."""
    note = job.note(unit.name)
    found = tables.read_facts(note, RemovedUnit)
    if found and all(in_io_threads(lambda target: job.output.file(target).exists(), unit.written)):
        return replace(found, reused=True)
    batch_bytes = job.memory // 8 // min(IO_THREADS, len(unit.sources))
    options, versions = job.parameters.read_options, unit.versions or [""] * len(unit.sources)
    sources = [FileInfo(url, options, 0, version) for url, version in zip(unit.sources, versions, strict=True)]
    files = zip(sources, unit.targets, unit.ids or [""] * len(unit.sources), strict=True)
    written = in_io_threads(lambda file: _write_file(job, *file, ids, batch_bytes), files)
    copied, entries = zip(*written, strict=True)
    matches = np.sort(np.concatenate(entries))
    removed = RemovedUnit(
        unit.name,
        unit.written,
        sum(copy.rows_read for copy in copied),
        sum(copy.rows_removed for copy in copied),
        len(matches),
        tuple(copy.receipt for copy in copied if copy.receipt),
    )
    table, encoding = pa.table({_ENTRY: matches}), {_ENTRY: "DELTA_BINARY_PACKED"}
    with naming_unit(note):
        tables.write(note, table, removed, "zstd", use_dictionary=False, column_encoding=encoding)
    return removed


def finish(job: RemovalJob, units: Iterable[RemovedUnit]) -> None:
    """Writes what belongs to the files besides, and the manifest."""
    p = job.parameters
    for url, name in job.companions:
        content = copier(str(p.input_filetype)).changed(File(url, p.read_options), job.key)
        job.output.file(name).write_bytes(content)
    units = sorted(units, key=lambda unit: (unit.targets, unit.unit))
    kind, receipts = versioned(str(p.input_filetype)), [receipt for unit in units for receipt in unit.receipts]
    for url, name in job.manifests:
        assert kind is not None
        job.output.file(name).write_bytes(kind.first_version(Folder(url, p.read_options), receipts, job.key))
    notes = [job.note(unit.unit) for unit in units if unit.matches]
    with stored.discarding(job.stage):
        found = repeated_in_files(notes, _ENTRY, sum(unit.matches for unit in units), job.memory)
    manifest = RemovalManifest(
        counts=Counts.of(units),
        finished=time.time(),
        files=tuple([*(target for unit in units for target in unit.targets), *job.besides]),
        rows_removed=sum(unit.rows_removed for unit in units),
        ids_removed=found.distinct,
        repeated_ids=found.count,
        repeated_entries=found.examples,
        manifests=tuple(name for _, name in job.manifests),
    )
    manifest.store(job.results)


def commit(job: RemovalJob, units: Sequence[RemovalUnit]) -> int:
    """Makes what the units deleted in place a version of the dataset, and returns its number.

    Raises:
        RunError: others changed the same rows, or the notes of the units are gone.
    """
    kind = versioned(str(job.parameters.input_filetype))
    assert kind is not None
    notes = in_io_threads(lambda unit: tables.read_facts(job.note(unit.name), RemovedUnit), units)
    if None in notes:
        raise RunError(f"{job.stage}: what was found in the dataset is gone; nothing is deleted: run again")
    return kind.commit(job.dataset, [receipt for note in notes if note for receipt in note.receipts], job.key)


def _write_file(
    job: RemovalJob, file: FileInfo, targets: Sequence[str], apart: str, ids: IdReader, batch_bytes: int
) -> tuple[Copied, np.ndarray]:
    """Returns how many rows were read and removed, and the numbers of the entries that were found.

    Args:
        apart: the URL of the file with the ids of the source, where they are not in it.
    """
    p = job.parameters
    found = [np.empty(0, dtype=np.int64)]
    id_column = pa.field(p.id_column, job.ids.id_type)
    row_ids = None if p.id_field is not None and not apart else of_file(file, apart, p.id_column)

    def is_listed(batch: pa.ChunkedArray) -> np.ndarray:
        mask, entries = ids.find(batch if row_ids is None else row_ids.of(batch.to_numpy()))
        found.append(entries)
        return mask

    def marks(batch: pa.ChunkedArray | None) -> pa.Table:
        if batch is None:
            return _marks(p.mark_fields, job.ids.details.empty_table(), np.empty(0, dtype=bool))
        mask, entries, details = ids.find_details(batch if row_ids is None else row_ids.of(batch.to_numpy()))
        found.append(entries)
        marked.append(int(mask.sum()))
        return _marks(p.mark_fields, details, mask)

    marked: list[int] = []
    with naming_unit(file), contextlib.ExitStack() as stack:
        written = [stack.enter_context(job.output.file(target).atomic_write()) for target in targets]
        if p.mode == "mark":
            rows_read = marker(str(p.input_filetype)).copy_marked(
                file, written[0], id_column if row_ids is None else None, marks, batch_bytes
            )
            return Copied(rows_read, sum(marked)), np.concatenate(found)
        asked = id_column if row_ids is None else None
        kind = versioned(str(p.input_filetype))
        if job.in_place and kind:
            copied = kind.delete(file, asked, is_listed, batch_bytes)
        else:
            copied = copier(str(p.input_filetype)).copy_without(file, written, asked, is_listed, batch_bytes)
    return copied, np.concatenate(found)


def _marks(names: Sequence[str], details: pa.Table, is_duplicate: np.ndarray) -> pa.Table:
    """Returns the columns of marks: what is said of the rows (n,) in the list, and whether they are in it."""
    columns = [*details.columns, pa.chunked_array([pa.array(is_duplicate)])]
    fields = [pa.field(name, column.type) for name, column in zip(names, columns, strict=True)]
    return pa.table(columns, schema=pa.schema(fields))
