"""The ids to remove: the files that hold them in their column `id`, and what a finished run says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.errors import InputError
from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.base import FileFacts
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.inputs.parquet_pages import read_batches
from beam_semdedup.removal.repetitions import RepeatedIds, Repetitions
from beam_semdedup.stages.duplicates import DuplicatesFacts
from beam_semdedup.storage import layout, tables
from beam_semdedup.storage.folder import File, FileInfo, Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.tables import opened
from beam_semdedup.storage.threads import in_io_threads

DETAILS = ("max_id", "cosine_sim_score")
"""What is said of an entry: the row that it resembles, and how much."""
_ENTRY_BYTES = 24  # the integer, or where the text begins, the number of the entry, and where it stands when sorted


@dataclass(frozen=True)
class IdList:
    """The files with the ids to remove, in their column `id`; an entry is a row of one.

    Attributes:
        in_memory: whether a worker holds the whole list.
        batch_rows: the entries that are read at a time.
        details: the types of what is said of each entry, where that is asked for.
    """

    files: tuple[FileInfo, ...]
    id_type: pa.DataType
    num_ids: int
    in_memory: bool
    batch_rows: int
    details: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @classmethod
    def open(cls, files: Sequence[File], memory: int, batch_rows: int = 65_536, details: bool = False) -> IdList:
        """Reads the footers of the files.

        Args:
            details: also read what is said of each entry, which is held with it.
            memory: of a worker, in bytes. The list is held in it if it takes less than an eighth: sorting takes three
                times as much for a moment.

        Raises:
            InputError: a file is gone or has no usable column `id`, or none of the details; the message names it.
        """
        facts = in_io_threads(_list_facts, files)
        id_type = facts[0].schema.field("id").type if facts else pa.null()
        read = ["id", *(DETAILS if details else ())]
        for file in facts:
            if missing := [name for name in read if name not in file.schema.names]:
                raise InputError(f"{file.info}: no column {missing[0]!r}, which mode=mark writes: is it from a run?")
        size = sum(sum(f.column_bytes[name] for name in read) + _ENTRY_BYTES * f.num_rows for f in facts)
        found, num_ids = tuple(f.info for f in facts), sum(f.num_rows for f in facts)
        types = facts[0].schema if facts else pa.schema([pa.field(name, pa.null()) for name in DETAILS])
        schema = pa.schema([(name, types.field(name).type) for name in (DETAILS if details else ())])
        return cls(found, id_type, num_ids, size < memory // 8, batch_rows, schema)

    def examples(self, numbers: Sequence[int]) -> list[str]:
        """Returns the ids of the entries with these numbers; reads the list up to the last of them."""
        found: list[str] = []
        first = 0
        for file in self.files:
            if len(found) == len(numbers):
                break
            for entries in self.read(file):
                inside = [n - first for n in numbers if first <= n < first + len(entries)]
                found += [str(entries[n].as_py()) for n in inside]
                first += len(entries)
        return found

    def read(self, file: File) -> Iterator[pa.ChunkedArray]:
        """Yields the entries of a file; InputError where one cannot be read."""
        with file.open() as source:
            parquet = opened(source)
            for batch in read_batches(file, parquet, self.batch_rows, range(parquet.num_row_groups), ["id"]):
                yield embeddings.decoded(pa.chunked_array([batch.column(0)]))

    def read_details(self, file: File) -> Iterator[pa.Table]:
        """Yields what is said of the entries of a file; InputError where it cannot be read."""
        with file.open() as source:
            parquet = opened(source)
            for batch in read_batches(file, parquet, self.batch_rows, range(parquet.num_row_groups), list(DETAILS)):
                yield embeddings.with_types(pa.Table.from_batches([batch]), self.details)


@dataclass(frozen=True)
class FinishedRun(Record):
    """What a removal must know of the run whose duplicates it removes, from its summary."""

    eps: float | None
    duplicates_files: tuple[str, ...]
    repeated_ids: Repetitions


def find_list(p: RemovalParameters) -> list[File]:
    """Returns the files of the list at `p.duplicates_path`: those that the finished run's summary names.

    Raises:
        InputError: there is no finished run (unless partial=allow), it had no eps, or a file is not as it wrote it.
        RepeatedIds: it found repeated ids (unless repeated_ids=allow).
    """
    folder = Folder.at(p.duplicates_path, p.duplicates_options)
    for place in (folder, folder.parent):
        run = FinishedRun.read(place.file(layout.SUMMARY))
        if run is not None:
            if run.eps is None:
                raise InputError(f"duplicates_path={p.duplicates_path}: that run had no eps and found no duplicates")
            if run.repeated_ids.count and p.repeated_ids != "allow":
                raise RepeatedIds.because(run.repeated_ids)
            listed = [(place / layout.DUPLICATES).file(name) for name in run.duplicates_files]
            in_io_threads(_check_own, listed)
            return listed
    if not folder.exists():
        raise InputError(f"duplicates_path={p.duplicates_path} does not exist")
    if p.partial != "allow":
        raise InputError(
            f"duplicates_path={p.duplicates_path}: not from a finished run (there is no summary.json): run "
            "semdedup to its end, or give partial=allow"
        )
    for place in (folder / layout.DUPLICATES, folder):
        # Not below it: the cache in a run's output_path holds the ids of all rows.
        direct = [f for f in place.find() if "/" not in place.name_of(f)]
        files: list[File] = [f for f in direct if f.url.lower().endswith(Parquet.extensions)]
        if files:
            return files
    raise InputError(f"duplicates_path={p.duplicates_path}: no parquet files there")


def _check_own(file: File) -> None:
    """Raises InputError where a file is there, and is not one of duplicates that a run wrote."""
    if tables.read_facts(file, DuplicatesFacts) is None and file.exists():
        raise InputError(f"{file}: damaged, or not what the run wrote that the summary is of; run semdedup again")


def _list_facts(file: File) -> FileFacts:
    there = Folder(file.url, file.options).find()
    if not there:
        raise InputError(f"{file}: gone, though the run's summary names it; run semdedup again")
    facts = Parquet().inspect(there[0])
    if "id" not in facts.schema.names or not embeddings.is_id_type(facts.schema.field("id").type):
        raise InputError(f"{file}: no column 'id' with integers, strings or binaries; is it a list of duplicates?")
    return facts
