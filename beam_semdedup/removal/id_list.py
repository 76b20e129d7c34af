"""The ids to remove: files with a column `id`, looked up in memory where they are few, else streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.base import FileFacts
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.storage.folder import File, FileInfo, Folder
from beam_semdedup.storage.threads import in_io_threads

_LIST_BATCH_ROWS = 65_536
_ENTRY_BYTES = 16  # the integer, or where the text begins, and the number of the entry


@dataclass(frozen=True)
class IdList:
    """The files with the ids to remove, in their column `id`."""

    files: tuple[FileInfo, ...]
    id_type: pa.DataType
    num_ids: int
    in_memory: bool

    @classmethod
    def open(cls, files: Sequence[File], memory: int) -> IdList:
        """Reads the footers of the files.

        Args:
            memory: of a worker, in bytes. The list is held in it if it takes less than an eighth: sorting takes three
                times as much for a moment.

        Raises:
            InputError: a file is gone or has no usable column `id`; the message names it.
        """
        facts = in_io_threads(_list_facts, files)
        id_type = facts[0].schema.field("id").type if facts else pa.null()
        size = sum(f.column_bytes["id"] + _ENTRY_BYTES * f.num_rows for f in facts)
        found, num_ids = tuple(f.info for f in facts), sum(f.num_rows for f in facts)
        return cls(found, id_type, num_ids, in_memory=size < memory // 8)

    def examples(self, numbers: Sequence[int]) -> list[str]:
        """The ids of the entries with these numbers; reads the list up to the last of them."""
        found: list[str] = []
        first = 0
        for file in self.files:
            if len(found) == len(numbers):
                break
            with file.open() as source:
                for batch in pq.ParquetFile(source).iter_batches(_LIST_BATCH_ROWS, columns=["id"]):
                    inside = [n - first for n in numbers if first <= n < first + batch.num_rows]
                    found += [str(batch.column(0)[n].as_py()) for n in inside]
                    first += batch.num_rows
        return found

    def reader(self) -> IdReader:
        """The list as one worker uses it."""
        return SortedIds(self) if self.in_memory else StreamedIds(self)


class IdReader(Protocol):
    """Looks ids up in an `IdList`."""

    def find(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Looks n ids up.

        Returns:
            Which of them are in the list, (n,) bool; and the numbers of the entries that they match, ascending, each
            once for every id that matches it.
        """


class SortedIds:
    """All ids in one sorted array, which is read once and searched by bisection: a look-up builds no hash table."""

    def __init__(self, ids: IdList) -> None:
        self._ids = ids
        self._sorted: dict[pa.DataType, tuple[pa.Array, np.ndarray]] = {}

    def find(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """See `IdReader.find`."""
        mask = np.zeros(len(ids), dtype=bool)
        valid = ids.is_valid().to_numpy()
        if not self._ids.num_ids or not valid.any():
            return mask, np.empty(0, dtype=np.int64)
        common = _one_type(ids.type, self._ids.id_type)
        wanted = ids.drop_null().cast(common).combine_chunks()
        listed, numbers = self._entries(common)
        low = _bisect(listed, wanted, pc.less)
        there = low < len(listed)
        there[there] = pc.equal(listed.take(low[there]), wanted.filter(pa.array(there))).to_numpy(zero_copy_only=False)
        mask[valid] = there
        first, matches = np.unique(low[there], return_counts=True)
        counts = _bisect(listed, listed.take(first), pc.less_equal) - first
        # The runs of equal entries, one after another.
        found = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        return mask, np.sort(np.repeat(numbers[found], np.repeat(matches, counts)))

    def _entries(self, type_: pa.DataType) -> tuple[pa.Array, np.ndarray]:
        """The entries that are not null, sorted, as `type_`, and their numbers."""
        if type_ not in self._sorted:
            tables = [_read_ids(file).cast(type_) for file in self._ids.files]
            entries = pa.chunked_array([c for t in tables for c in t.chunks], type_).combine_chunks()
            order = pc.sort_indices(entries)[: len(entries) - entries.null_count]
            self._sorted[type_] = entries.take(order), order.to_numpy().astype(np.int64)
        return self._sorted[type_]


class StreamedIds:
    """Reads, for each look-up, the row groups of the list that may hold one of the ids; keeps the footers alone."""

    def __init__(self, ids: IdList) -> None:
        self._files = in_io_threads(_ListFile.open, ids.files)

    def find(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """See `IdReader.find`."""
        mask = np.zeros(len(ids), dtype=bool)
        found = [np.empty(0, dtype=np.int64)]
        known = pc.min_max(ids).as_py()
        first = 0
        for file in self._files:
            for offset, entries in self._entries(file, file.meeting(known)):
                common = _one_type(ids.type, entries.type)
                listed = entries.cast(common)
                match = pc.index_in(ids.cast(common), value_set=listed, skip_nulls=True)
                mask |= match.is_valid().to_numpy()
                matches = np.bincount(match.drop_null().to_numpy(), minlength=len(listed))
                # Where an entry repeats, the first one was matched and stands for all of them.
                same = pc.index_in(listed, value_set=listed).to_numpy()
                found.append(first + offset + np.repeat(np.arange(len(listed)), matches[same]))
            first += file.footer.num_rows
        return mask, np.concatenate(found)

    def _entries(self, file: _ListFile, groups: Sequence[int]) -> Iterator[tuple[int, pa.ChunkedArray]]:
        """The entries of the row groups in pieces, each with the number of its first one in the file."""
        if not groups:
            return
        with file.file.open() as source:
            opened = pq.ParquetFile(source, metadata=file.footer)
            for group in groups:
                offset = file.starts[group]
                for batch in opened.iter_batches(_LIST_BATCH_ROWS, row_groups=[group], columns=["id"]):
                    yield offset, embeddings.decoded(pa.chunked_array([batch.column(0)]))
                    offset += batch.num_rows


@dataclass(frozen=True)
class _ListFile:
    """What the footer of a file with ids says: where each row group starts, and its range of ids."""

    file: File
    footer: Any
    starts: list[int]
    statistics: list[Any]

    @classmethod
    def open(cls, file: File) -> _ListFile:
        with file.open() as source:
            footer = pq.ParquetFile(source).metadata
        groups = [footer.row_group(g) for g in range(footer.num_row_groups)]
        column = [footer.schema.column(i).path for i in range(footer.num_columns)].index("id")
        starts = np.cumsum([0, *(group.num_rows for group in groups)]).tolist()
        return cls(file, footer, starts, [group.column(column).statistics for group in groups])

    def meeting(self, known: dict[str, Any]) -> list[int]:
        """The row groups whose range of ids meets the range `known`."""
        if known["min"] is None:
            return []
        return [group for group, statistics in enumerate(self.statistics) if _may_meet(statistics, known)]


def _list_facts(file: File) -> FileFacts:
    there = Folder(file.url, file.options).find()
    if not there:
        raise InputError(f"{file}: gone, though the run's summary names it; run semdedup again")
    facts = Parquet().inspect(there[0])
    if "id" not in facts.schema.names or not embeddings.is_id_type(facts.schema.field("id").type):
        raise InputError(f"{file}: no column 'id' with integers, strings or binaries; is it a list of duplicates?")
    return facts


def _read_ids(file: File) -> pa.ChunkedArray:
    with file.open() as source:
        return embeddings.decoded(pq.ParquetFile(source).read(columns=["id"]).column("id"))


def _bisect(array: pa.Array, values: pa.Array, precedes: Callable[[pa.Array, pa.Array], pa.Array]) -> np.ndarray:
    """For m values, (m,) int64, how many elements at the start of the sorted `array` precede each."""
    low, high = np.zeros(len(values), dtype=np.int64), np.full(len(values), len(array))
    while (low < high).any():
        middle = (low + high) // 2
        open_ = low < high
        before = precedes(array.take(np.minimum(middle, len(array) - 1)), values).to_numpy(zero_copy_only=False)
        low = np.where(open_ & before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low


def _one_type(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """The type of ids that holds the values of both."""
    if not pa.types.is_integer(a):
        return pa.large_binary()
    if pa.uint64() not in (a, b):
        return pa.int64()
    return a if a == b else pa.decimal128(20)  # negative numbers of the one type, large ones of the other


def _may_meet(statistics: Any, known: dict[str, Any]) -> bool:
    """Whether a row group's range of ids meets the range `known`; true where it does not say."""
    if statistics is None or not statistics.has_min_max:
        return True
    low, high = statistics.min, statistics.max
    if type(low) is not type(known["min"]):
        return True
    return bool(low <= known["max"] and known["min"] <= high)
