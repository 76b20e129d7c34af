from __future__ import annotations

import tracemalloc
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import embeddings
from beam_semdedup.removal.id_list import IdList
from beam_semdedup.removal.lookup import IdReader, open_reader
from beam_semdedup.storage.folder import File

NUMPY = np.lib.tracemalloc_domain

TYPES = [
    (pa.int8(), [-1, 5, 7]),
    (pa.int32(), [-1, 5, 7]),
    (pa.int64(), [-1, 5, 7]),
    (pa.uint64(), [1, 5, 2**64 - 1]),
    (pa.string(), ["é", "", "b"]),
    (pa.large_string(), ["é", "", "b"]),
    (pa.binary(), [b"\xff\x00", b"", b"b"]),
    (pa.large_binary(), [b"\xff\x00", b"", b"b"]),
    (pa.binary(2), [b"ab", b"\xff\x00", b"cd"]),
]


class TestFind:
    """`IdReader.find`: which ids of a column are in a list, whatever the two are made of."""

    @staticmethod
    def written(tmp_path: Path, *ids: pa.Array, rows_per_group: int = 1000) -> list[File]:
        paths = []
        for number, array in enumerate(ids):
            paths.append(str(tmp_path / f"list-{number}.parquet"))
            pq.write_table(pa.table({"id": array}), paths[-1], row_group_size=rows_per_group)
        return list(map(File, paths))

    @classmethod
    def open(cls, tmp_path: Path, *ids: pa.Array, memory: int = 1 << 30, **layout: int) -> IdReader:
        return open_reader(IdList.open(cls.written(tmp_path, *ids, **layout), memory))

    @pytest.mark.parametrize(("type_", "values"), TYPES)
    @pytest.mark.parametrize("encoded", [False, True])
    def test_ids_of_every_type_are_found(self, tmp_path, type_, values, encoded):
        ids = pa.array([values[2], None, values[0], values[1], values[0]], type_)
        column = embeddings.decoded(pa.chunked_array([ids.dictionary_encode() if encoded else ids]))
        found = self.open(tmp_path, pa.array(values[:1], type_), pa.array(values[1:2], type_)).find(column)
        assert found[0].tolist() == [False, False, True, True, True]
        assert found[1].tolist() == [0, 0, 1]

    @pytest.mark.parametrize(
        ("one", "other", "values", "common"),
        [
            (pa.int8(), pa.int64(), ([1, -1, 2], [1, 2**40, -1]), [1, -1]),
            (pa.int32(), pa.uint32(), ([1, -1, 2], [1, 2**32 - 1, 9]), [1]),
            (pa.int64(), pa.uint64(), ([5, -1, 2], [2**64 - 1, 5, 7]), [5]),
            (pa.string(), pa.large_string(), (["a", "é"], ["é", "c"]), ["é"]),
            (pa.string(), pa.binary(), (["a", "é"], ["é".encode(), b"\xff"]), ["é"]),
            (pa.binary(2), pa.large_binary(), ([b"ab", b"cd"], [b"cd", b"c"]), [b"cd"]),
        ],
    )
    def test_ids_are_found_in_a_list_of_another_type(self, tmp_path, one, other, values, common):
        first, second = pa.array(values[0], one), pa.array(values[1], other)
        for ids, listed in ((first, second), (second, first)):
            mask, found = self.open(tmp_path, listed).find(pa.chunked_array([ids]))
            meant = {c if pa.types.is_integer(one) or isinstance(c, bytes) else c.encode() for c in common}
            plain = [v.encode() if isinstance(v, str) else v for v in ids.to_pylist()]
            assert [v for v, m in zip(plain, mask, strict=True) if m] == [v for v in plain if v in meant]
            assert len(found) == len(common)

    @pytest.mark.parametrize("memory", [0, 1 << 30])
    @pytest.mark.parametrize(
        "spell",
        [
            str,
            lambda u: str(u).upper(),
            lambda u: u.hex,
            lambda u: u.urn,
            lambda u: f"{{{u}}}",
            lambda u: u.bytes,
        ],
    )
    def test_a_uuid_is_found_in_whichever_form_it_is_written(self, tmp_path, spell, memory):
        uuids = [uuid.UUID(int=i) for i in (2**127 + 5, 7, 2**128 - 1, 0xABCDEF << 90)]
        stored = pa.array([*(u.bytes for u in uuids), None], pa.binary(16)).cast(pa.uuid())
        spelled = [spell(u) for u in uuids[1:]]
        is_text = isinstance(spelled[0], str)
        others = ["no uuid", "", f"x{uuids[0]}", f"{uuids[0]}x", f"{uuids[0].hex}00"]
        written = [None, *spelled, *(others if is_text else [o.encode() for o in others])]
        for type_ in (pa.string(), pa.large_binary()) if is_text else (pa.binary(),):
            texts = pa.array([v.encode() if v is not None and is_text else v for v in written], pa.binary()).cast(type_)
            mask, found = self.open(tmp_path, stored, memory=memory, rows_per_group=2).find(
                pa.chunked_array([texts[:3], texts[3:]])
            )
            assert mask.tolist() == [False, True, True, True, *[False] * 5]
            assert found.tolist() == [1, 2, 3]
            mask, found = self.open(tmp_path, texts, memory=memory, rows_per_group=2).find(
                embeddings.decoded(pa.chunked_array([stored]))
            )
            assert mask.tolist() == [False, True, True, True, False]
            assert found.tolist() == [1, 2, 3]

    def test_texts_are_the_same_only_in_the_same_spelling(self, tmp_path):
        one = uuid.UUID(int=0xABC << 100)
        ids = self.open(tmp_path, pa.array([str(one)]))
        assert ids.find(pa.chunked_array([[str(one).upper(), one.hex, str(one)]]))[0].tolist() == [False, False, True]

    def test_a_null_is_no_id_on_either_side(self, tmp_path):
        mask, found = self.open(tmp_path, pa.array([None, 1])).find(pa.chunked_array([[None, 1, 2]]))
        assert mask.tolist() == [False, True, False]
        assert found.tolist() == [1]

    def test_an_entry_that_repeats_is_found_each_time(self, tmp_path):
        ids = self.open(tmp_path, pa.array([5, 5, 6, 7, 5]), pa.array([5, 8]), rows_per_group=3)
        mask, found = ids.find(pa.chunked_array([[5], [8]]))
        assert mask.tolist() == [True, True]
        assert found.tolist() == [0, 1, 4, 5, 6]

    def test_nothing_is_found_in_nothing(self, tmp_path):
        some, none = pa.chunked_array([[1, 2]]), pa.chunked_array([[]], pa.int64())
        for ids in (self.open(tmp_path), self.open(tmp_path, pa.array([], pa.int64()))):
            mask, found = ids.find(some)
            assert (mask.tolist(), found.tolist()) == ([False, False], [])
        mask, found = self.open(tmp_path, pa.array([1])).find(none)
        assert (mask.tolist(), found.tolist()) == ([], [])
        mask, _ = self.open(tmp_path, pa.array([1])).find(pa.chunked_array([pa.nulls(2, pa.int64())]))
        assert mask.tolist() == [False, False]

    @given(
        listed=st.lists(st.lists(st.integers(-5, 60), max_size=25), max_size=3),
        batches=st.lists(st.lists(st.integers(-5, 60) | st.none(), max_size=12), max_size=4),
        rows_per_group=st.integers(1, 9),
        in_memory=st.booleans(),
        text=st.booleans(),
        statistics=st.booleans(),
    )
    def test_it_finds_what_a_set_finds_whatever_is_skipped_and_kept(
        self, tmp_path_factory, listed, batches, rows_per_group, in_memory, text, statistics
    ):
        def ids(values: Sequence[Any]) -> pa.Array:
            made = [None if v is None else f"{v:03d}" if text else v for v in values]
            return pa.array(made, pa.string() if text else pa.int64())

        directory = tmp_path_factory.mktemp("list")
        paths = [f"{directory}/{number}.parquet" for number in range(len(listed))]
        for path, values in zip(paths, listed, strict=True):
            table = pa.table({"id": ids(sorted(values))})
            pq.write_table(table, path, row_group_size=rows_per_group, write_statistics=statistics)
        opened = IdList.open(list(map(File, paths)), 1 << 30 if in_memory else 0, batch_rows=4)
        assert opened.in_memory == in_memory
        assert opened.num_ids == sum(map(len, listed))
        entries = [v for values in listed for v in sorted(values)]
        reader = open_reader(opened)
        for batch in batches:
            mask, found = reader.find(pa.chunked_array([ids(batch)]))
            assert mask.tolist() == [v is not None and v in set(entries) for v in batch]
            assert found.tolist() == [n for n, v in enumerate(entries) for _ in range(batch.count(v))]

    @pytest.mark.parametrize("memory", [0, 1 << 30])
    def test_a_list_is_opened_once_for_all_batches(self, tmp_path, monkeypatch, memory):
        opened = IdList.open(self.written(tmp_path, pa.array([1, 2, 3]), pa.array([7, 9])), memory)
        footers = []
        parquet_file = pq.ParquetFile
        monkeypatch.setattr(
            pq, "ParquetFile", lambda *s, **given: footers.append(given["metadata"]) or parquet_file(*s, **given)
        )
        reader = open_reader(opened)
        for value in (2, 7, 9, 20):
            assert reader.find(pa.chunked_array([[value]]))[0].tolist() == [value != 20]
        assert footers.count(None) == 2

    @pytest.mark.parametrize("type_", [pa.int64(), pa.uint64(), pa.string(), pa.binary()])
    def test_row_groups_out_of_the_range_of_ids_are_not_read(self, tmp_path, monkeypatch, type_):
        def ids(*values: int) -> pa.Array:
            return pa.array(values).cast(pa.int64() if pa.types.is_integer(type_) else pa.string()).cast(type_)

        reader = self.open(tmp_path, ids(*range(100, 160)), rows_per_group=10, memory=0)
        read: list[int] = []
        batches = pq.ParquetFile.iter_batches
        monkeypatch.setattr(
            pq.ParquetFile,
            "iter_batches",
            lambda self, *rows, row_groups, **rest: (
                read.extend(row_groups) or batches(self, *rows, row_groups=row_groups, **rest)
            ),
        )
        wanted = ids(125, 131)
        for column in (
            [wanted] if pa.types.is_integer(type_) else [wanted.cast(t) for t in (pa.large_binary(), pa.string())]
        ):
            read.clear()
            mask, found = reader.find(pa.chunked_array([column]))
            assert mask.tolist() == [True, True]
            assert found.tolist() == [25, 31]
            assert read == [2, 3]
        read.clear()
        assert reader.find(pa.chunked_array([ids(170, 999)]))[0].tolist() == [False, False]
        assert read == []

    @pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BINARY_PACKED"])
    def test_a_list_is_held_in_memory_by_what_it_takes_there_however_small_its_file(self, tmp_path, encoding):
        path = str(tmp_path / "a.parquet")
        table = pa.table({"id": range(100_000)})
        pq.write_table(table, path, compression="zstd", use_dictionary=False, column_encoding={"id": encoding})
        opened = [IdList.open([File(path)], memory) for memory in (8 * 2_300_000, 8 * 3_500_000)]
        assert [ids.in_memory for ids in opened] == [False, True]
        reader = open_reader(opened[1])
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        reader.find(pa.chunked_array([[1]]))
        arrays = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, NUMPY)])
        tracemalloc.stop()
        held = pa.total_allocated_bytes() - before + sum(trace.size for trace in arrays.traces)
        assert 2_300_000 < held < 3_500_000

    def test_a_file_that_is_no_list_of_ids_is_an_error_that_names_it(self, tmp_path):
        for table in (pa.table({"key": [1]}), pa.table({"id": [1.5]})):
            pq.write_table(table, tmp_path / "a.parquet")
            with pytest.raises(InputError, match=rf"{tmp_path}/a.parquet: no column 'id' with integers, strings or b"):
                IdList.open([File(str(tmp_path / "a.parquet"))], 1)
