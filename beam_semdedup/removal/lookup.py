"""Looks ids up in an `IdList`: in memory where it is small, else in the row groups whose range of ids may match."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.parquet_pages import read_batches
from beam_semdedup.removal.forms import Form
from beam_semdedup.removal.id_list import IdList
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.tables import opened
from beam_semdedup.storage.threads import in_io_threads


def open_reader(ids: IdList) -> IdReader:
    """Opens the list as one worker uses it."""
    return SortedIds(ids) if ids.in_memory else StreamedIds(ids)


class IdReader(Protocol):
    """Looks ids up in an `IdList`; several threads may ask it."""

    def find(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Looks n ids up.

        Returns:
            Which of them are in the list, (n,) bool; and the numbers of the entries that they match, ascending, each
            once for every id that matches it.
        """

    def find_details(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, pa.Table]:
        """Looks n ids up.

        Returns:
            What `find` does, and what is said of the first entry that each matches, null where it matches none; (n,).
        """


class SortedIds:
    """Holds all ids in one sorted array, which is read once and bisected: a look-up builds no hash table."""

    def __init__(self, ids: IdList) -> None:
        self._ids = ids
        self._sorted: dict[Form, _Sorted] = {}
        self._sorting = threading.Lock()
        self._details: pa.Table | None = None

    def find(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """See `IdReader.find`."""
        return self._find(ids)[:2]

    def find_details(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, pa.Table]:
        """See `IdReader.find_details`."""
        mask, entries, first = self._find(ids)
        with self._sorting:
            if self._details is None:
                read = (table for file in self._ids.files for table in self._ids.read_details(file))
                self._details = pa.concat_tables([self._ids.details.empty_table(), *read]).combine_chunks()
        places = np.zeros(len(ids), dtype=np.int64)
        places[mask] = first
        return mask, entries, self._details.take(pa.array(places, mask=~mask))

    def _find(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what `find` does, and the number of the first entry that each of the ids matches that match one."""
        mask, none = np.zeros(len(ids), dtype=bool), np.empty(0, dtype=np.int64)
        valid = ids.is_valid().to_numpy()
        if not self._ids.num_ids or not valid.any():
            return mask, none, none
        form = Form.common(ids.type, self._ids.id_type)
        wanted = form.of(ids.drop_null()).combine_chunks()
        listed = self._entries(form)
        at = _bisect(listed.values, wanted)
        there = at < len(listed.values)
        equal = pc.equal(listed.values.take(at[there]), wanted.filter(pa.array(there)))
        there[there] = equal.to_numpy(zero_copy_only=False)
        mask[valid] = there
        values, matches = np.unique(at[there], return_counts=True)
        first = listed.starts[values]
        counts = listed.starts[values + 1] - first
        # The runs of equal entries, one after another.
        found = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        entries = np.sort(np.repeat(listed.numbers[found], np.repeat(matches, counts)))
        return mask, entries, listed.numbers[listed.starts[at[there]]]

    def _entries(self, form: Form) -> _Sorted:
        """Returns the entries that are not null, in a form."""
        with self._sorting:
            if form not in self._sorted:
                columns = [form.of(column) for file in self._ids.files for column in self._ids.read(file)]
                chunks = [chunk for column in columns for chunk in column.chunks]
                self._sorted[form] = _Sorted.of(pa.chunked_array(chunks, form.type_).combine_chunks())
            return self._sorted[form]


@dataclass(frozen=True)
class _Sorted:
    """Entries in the order of their values.

    Attributes:
        values: (m,) the different ones.
        starts: (m + 1,) where among all of them the entries of each value begin, and where the last ones end.
        numbers: (n,) the number that each has in the list.
    """

    values: pa.Array
    starts: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, entries: pa.Array) -> _Sorted:
        """Sorts the entries of a list, without those that are null."""
        order = pc.sort_indices(entries)[: len(entries) - entries.null_count]
        values = entries.take(order)
        is_first = np.ones(len(values), dtype=bool)
        if len(values):
            is_first[1:] = pc.not_equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False)
        if not is_first.all():
            values = values.filter(pa.array(is_first))
        return cls(values, np.append(np.flatnonzero(is_first), len(order)), order.to_numpy().astype(np.int64))


class StreamedIds:
    """Reads, for each look-up, the row groups of the list that may hold one of the ids; keeps the footers alone."""

    def __init__(self, ids: IdList) -> None:
        self._ids = ids
        self._files = in_io_threads(_ListFile.open, ids.files)

    def find(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """See `IdReader.find`."""
        return self._find(ids, [])[:2]

    def find_details(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, pa.Table]:
        """See `IdReader.find_details`."""
        mask, entries, places, details = self._find(ids, self._ids.details.names)
        return mask, entries, details.take(pa.array(places, mask=~mask))

    def _find(self, ids: pa.ChunkedArray, columns: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, pa.Table]:
        """Returns what `find` does; and `columns` of the first entries that match, and where in them each id's are."""
        mask, places = np.zeros(len(ids), dtype=bool), np.zeros(len(ids), dtype=np.int64)
        found, details, kept = [np.empty(0, dtype=np.int64)], [self._ids.details.empty_table()], 0
        form = Form.common(ids.type, self._ids.id_type)
        wanted = form.of(ids)
        known = pc.min_max(wanted).as_py()
        first = 0
        for file in self._files:
            for offset, entries, said in self._entries(file, file.meeting(known, form), columns):
                listed = form.of(entries)
                match = pc.index_in(wanted, value_set=listed, skip_nulls=True)
                is_match = match.is_valid().to_numpy()
                numbers = match.drop_null().to_numpy()
                if columns:
                    fresh = is_match & ~mask
                    places[fresh] = kept + np.arange(fresh.sum())
                    kept += int(fresh.sum())
                    details.append(said.take(pa.array(numbers[fresh[is_match]])))
                mask |= is_match
                matches = np.bincount(numbers, minlength=len(listed))
                # Where an entry repeats, the first one was matched and stands for all of them.
                same = pc.index_in(listed, value_set=listed).to_numpy()
                found.append(first + offset + np.repeat(np.arange(len(listed)), matches[same]))
            first += file.footer.num_rows
        return mask, np.concatenate(found), places, pa.concat_tables(details)

    def _entries(
        self, file: _ListFile, groups: Sequence[int], columns: list[str]
    ) -> Iterator[tuple[int, pa.ChunkedArray, pa.Table]]:
        """Yields the entries of the row groups in pieces, with the number of the first one, and their `columns`."""
        if not groups:
            return
        with file.file.open() as source:
            parquet = opened(source, file.footer)
            for group in groups:
                offset = file.starts[group]
                for batch in read_batches(file.file, parquet, self._ids.batch_rows, [group], ["id", *columns]):
                    said = pa.Table.from_batches([batch]).select(columns)
                    said = embeddings.with_types(said, self._ids.details) if columns else said
                    yield offset, embeddings.decoded(pa.chunked_array([batch.column("id")])), said
                    offset += batch.num_rows


@dataclass(frozen=True)
class _ListFile:
    """A file with ids, and what its footer says: where each row group starts, and its range of ids."""

    file: File
    footer: Any
    starts: list[int]
    statistics: list[Any]

    @classmethod
    def open(cls, file: File) -> _ListFile:
        with file.open() as source:
            footer = opened(source).metadata
        groups = [footer.row_group(g) for g in range(footer.num_row_groups)]
        column = [footer.schema.column(i).path for i in range(footer.num_columns)].index("id")
        starts = np.cumsum([0, *(group.num_rows for group in groups)]).tolist()
        return cls(file, footer, starts, [group.column(column).statistics for group in groups])

    def meeting(self, known: dict[str, Any], form: Form) -> list[int]:
        """Returns the row groups whose range of ids, in a form, meets the range `known`."""
        if known["min"] is None:
            return []
        return [group for group, statistics in enumerate(self.statistics) if _may_meet(statistics, known, form)]


def _bisect(array: pa.Array, values: pa.Array) -> np.ndarray:
    """Returns, for m values, how many elements of the sorted `array` are less than each; (m,) int64."""
    if pa.types.is_integer(array.type):
        return np.searchsorted(array.to_numpy(), values.to_numpy())
    low, high = np.zeros(len(values), dtype=np.int64), np.full(len(values), len(array))
    while (low < high).any():
        middle = (low + high) // 2
        open_ = low < high
        before = pc.less(array.take(np.minimum(middle, len(array) - 1)), values).to_numpy(zero_copy_only=False)
        low = np.where(open_ & before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low


def _may_meet(statistics: Any, known: dict[str, Any], form: Form) -> bool:
    """Says whether a row group's range of ids, in a form, meets the range `known`; true where it names none."""
    if statistics is None or not statistics.has_min_max:
        return True
    if form.uuids and statistics.physical_type != "FIXED_LEN_BYTE_ARRAY":
        return True  # the range is that of the texts
    low, high = (bound.encode() if isinstance(bound, str) else bound for bound in (statistics.min, statistics.max))
    return bool(low <= known["max"] and known["min"] <= high)
