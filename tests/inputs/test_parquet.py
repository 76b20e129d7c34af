from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import VECTORS, copied, facts, malformed, numbers, positions, read
from texts import WRITERS

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.base import FileFacts, InputUnit
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.storage.folder import FileInfo


def table(num_rows: int, dimension: int = 3, type_: pa.DataType = VECTORS) -> pa.Table:
    vectors = np.arange(num_rows * dimension, dtype=np.float32).reshape(num_rows, dimension)
    column = pa.array(list(vectors), VECTORS).cast(type_) if num_rows else pa.array([], type_)
    return pa.table(
        {
            "id": pa.array(range(num_rows), pa.int64()),
            "embeddings": column,
            "text": pa.array(["x"] * num_rows, pa.string()),
        }
    )


class TestParquet:
    kind = Parquet()

    def written(self, path: Path, content: pa.Table, rows_per_group: int = 10) -> FileFacts:
        pq.write_table(content, path / "a.parquet", row_group_size=rows_per_group)
        return facts(path / "a.parquet", self.kind)

    def test_each_row_group_is_a_part(self, tmp_path):
        found = self.written(tmp_path, table(25))
        assert found.num_rows == 25
        assert [(p.piece, p.first_row, p.num_rows) for p in found.parts] == [
            ((0,), 0, 10),
            ((1,), 10, 10),
            ((2,), 20, 5),
        ]

    def test_a_unit_is_named_by_its_file_row_groups_and_rows(self):
        assert self.kind.describe(InputUnit("a", 0, 20, 5, (2,))) == "a (row group 2, rows 20 to 24)"
        assert self.kind.describe(InputUnit("a", 0, 20, 15, (2, 3))) == "a (row groups 2 to 3, rows 20 to 34)"
        assert self.kind.suffix((2, 3)) == "-g000002-000003"

    def test_row_groups_without_rows_are_no_parts_and_are_counted(self, tmp_path):
        with pq.ParquetWriter(tmp_path / "a.parquet", table(0).schema) as writer:
            for rows in (0, 4, 0, 3):
                writer.write_table(table(rows))
        found = facts(tmp_path / "a.parquet", self.kind)
        parts = [(p.piece, p.first_row, p.num_rows) for p in found.parts]
        assert parts == [((1,), 0, 4), ((3,), 4, 3)]
        content, rows = read(found.parts, self.kind)
        assert content.column("id").to_pylist() == [0, 1, 2, 3, 0, 1, 2]
        assert positions(rows) == list(range(7))

    @given(
        rows=st.integers(1, 40),
        rows_per_group=st.integers(1, 15),
        batch_bytes=st.integers(1, 1000),
        cuts=st.lists(st.integers(0, 40), max_size=5),
    )
    def test_units_cut_anywhere_give_every_row_once_with_its_number(
        self, tmp_path_factory, rows, rows_per_group, batch_bytes, cuts
    ):
        found = self.written(tmp_path_factory.mktemp("cut"), table(rows), rows_per_group)
        bounds = sorted({0, rows, *(c for c in cuts if c < rows)})
        units = []
        for low, high in zip(bounds[:-1], bounds[1:], strict=True):
            groups = tuple(range(low // rows_per_group, (high - 1) // rows_per_group + 1))
            units.append(InputUnit(found.info.url, 0, low, high - low, groups))
        for unit in units:
            content, parts = read([unit], Parquet(batch_bytes))
            expected = list(range(unit.first_row, unit.first_row + unit.num_rows))
            assert content.column("id").to_pylist() == expected
            assert content.column("embeddings").to_pylist() == [[3.0 * i, 3.0 * i + 1, 3.0 * i + 2] for i in expected]
            assert positions(parts) == numbers(parts) == expected
            assert malformed(parts) == []
            assert all(len(r.positions) == r.table.num_rows <= max(1, batch_bytes // 20) for r in parts)

    @pytest.mark.parametrize("width", [pa.float16(), pa.float32(), pa.float64(), pa.int8()])
    @pytest.mark.parametrize("values", [[1], [-1, 1]])
    def test_values_that_repeat_are_read_in_batches_of_the_size_that_they_have_in_memory(self, tmp_path, width, values):
        rows, dimension = 5000, 64
        vectors = np.random.default_rng(0).choice(np.float32(values), rows * dimension)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors).cast(width), dimension)
        found = self.written(tmp_path, pa.table({"id": range(rows), "embeddings": column}), 2000)
        assert found.info.size < 100_000
        assert found.column_bytes["embeddings"] >= column.nbytes
        content, batches = read(found.parts, Parquet(batch_bytes=200_000), pa.schema([("embeddings", column.type)]))
        assert content.column("embeddings").combine_chunks().equals(column)
        assert max(batch.table.nbytes for batch in batches) <= 210_000
        assert len(batches) < 20

    @pytest.mark.parametrize("write", WRITERS)
    def test_texts_that_repeat_are_counted_and_read_by_what_they_take_in_memory(self, tmp_path, write):
        write(tmp_path / "a.parquet")
        found = facts(tmp_path / "a.parquet", self.kind)
        expected = pq.read_table(tmp_path / "a.parquet", columns=["x"]).cast(pa.schema([found.schema.field("x")]))
        assert 0.98 < self.kind.num_bytes(found, ["x", "y"]) / expected.nbytes < 1.1
        (whole,), kind = found.parts, Parquet(batch_bytes=1_000_000)
        for first, rows in ((0, whole.num_rows), (333, 444)):
            part = replace(whole, first_row=first, num_rows=rows)
            content, batches = read([part], kind, expected.schema)
            assert content.equals(expected.slice(first, rows))
            assert positions(batches) == list(range(first, first + rows))
            assert max(batch.table.nbytes for batch in batches) < 1_200_000

    @pytest.mark.parametrize("width", [pa.float16(), pa.float32(), pa.float64()])
    @pytest.mark.parametrize("make", [pa.list_, pa.large_list, lambda width: pa.list_(width, 3)])
    def test_vectors_of_every_list_type_are_read_as_they_are(self, tmp_path, make, width):
        found = self.written(tmp_path, table(5, type_=make(width)))
        assert found.schema.field("embeddings").type == make(width)
        assert self.kind.dimension(found, "embeddings") == 3
        content, _ = read(found.parts, self.kind, pa.schema([("embeddings", make(width))]))
        assert content.column("embeddings").to_pylist()[1] == [3, 4, 5]

    @pytest.mark.parametrize(
        ("type_", "values"),
        [
            (pa.int8(), [-1, 2, None]),
            (pa.int32(), [-1, 2, None]),
            (pa.uint64(), [2**64 - 1, 2, None]),
            (pa.string(), ["é", "", None]),
            (pa.large_string(), ["é", "", None]),
            (pa.binary(), [b"\xff", b"", None]),
            (pa.large_binary(), [b"\xff", b"", None]),
            (pa.binary(2), [b"\xff\x00", b"ab", None]),
        ],
    )
    @pytest.mark.parametrize("encoded", [False, True])
    def test_ids_of_every_type_are_read_as_they_are_dictionaries_as_their_values(
        self, tmp_path, type_, values, encoded
    ):
        ids = pa.array(values, type_)
        content = table(3).set_column(0, "id", ids.dictionary_encode() if encoded else ids)
        found = self.written(tmp_path, content)
        if encoded:  # parquet forgets whether the values of a dictionary were large
            type_ = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(type_, type_)
        assert found.schema.field("id").type == type_
        again, _ = read(found.parts, self.kind, pa.schema([found.schema.field("id")]))
        assert again.column("id").type == type_
        assert again.column("id").to_pylist() == values

    @pytest.mark.parametrize("names", [["row.id", "model.v2.embedding"], ["row", "row.model"], ["row.model", "row"]])
    def test_columns_with_dots_in_their_names_are_columns_like_others(self, tmp_path, names):
        kind = Parquet(batch_bytes=1000)
        content = table(5000)
        plain = self.written(tmp_path, content, rows_per_group=5000)
        batches = [len(rows.positions) for rows in read(plain.parts, kind)[1]]
        content = content.rename_columns([*names, "text"])
        found = self.written(tmp_path, content, rows_per_group=5000)
        schema = pa.schema([(names[0], pa.int64()), (names[1], VECTORS)])
        again, rows = read(found.parts, kind, schema)
        assert again.equals(content.select(names))
        assert max(len(r.positions) for r in rows) <= max(batches) < 100
        assert kind.dimension(found, names[1]) == 3

    def test_the_bytes_of_a_column_are_those_of_all_its_fields(self, tmp_path):
        nested = pa.array([{"a": i, "b": [{"c": i}]} for i in range(100)])
        found = self.written(tmp_path, pa.table({"x": nested, "x.a": range(100), "y": range(100)}))
        metadata = pq.read_metadata(found.info.url)
        sizes = [sum(metadata.row_group(g).column(c).total_uncompressed_size for g in range(10)) for c in range(4)]
        assert found.column_bytes == {"x": sum(sizes[:3]), "x.a": sizes[0] + sizes[2], "y": sizes[3]}

    def test_rows_are_found_by_row_group_and_place_in_it(self, tmp_path):
        found = self.written(tmp_path, table(25))
        groups, places = self.kind.places(found.info, np.array([0, 9, 10, 19, 24]))
        assert groups.to_pylist() == [0, 0, 1, 1, 2]
        assert places.to_pylist() == [0, 9, 0, 9, 4]

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda whole: b"", id="empty"),
            pytest.param(lambda whole: b"PAR1", id="magic alone"),
            pytest.param(lambda whole: b"this is a text\n" * 10, id="text"),
            pytest.param(lambda whole: b"PAR1" + bytes(100) + b"PAR1", id="magic around nothing"),
            pytest.param(lambda whole: whole[:-9], id="cut at the end"),
            pytest.param(lambda whole: whole[: len(whole) // 2], id="cut in the middle"),
            pytest.param(lambda whole: whole[-12:], id="cut at the start"),
        ],
    )
    def test_a_file_that_is_not_parquet_is_an_input_error_that_names_it(self, tmp_path, damage):
        path = tmp_path / "bad.parquet"
        pq.write_table(table(100), path)
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(InputError, match=r"bad\.parquet: not a readable parquet file") as raised:
            facts(path, self.kind)
        assert "\n" not in str(raised.value)

    def test_a_file_that_went_away_is_an_input_error_that_names_it(self, tmp_path):
        with pytest.raises(InputError, match=r"gone\.parquet"):
            self.kind.inspect(FileInfo(str(tmp_path / "gone.parquet")))


class TestParquetDimension:
    kind = Parquet()

    def dimension(
        self, path: Path, *groups: list[Any], type_: pa.DataType = VECTORS, name: str = "embeddings"
    ) -> int | None:
        with pq.ParquetWriter(path / "a.parquet", pa.schema([(name, type_)])) as writer:
            for group in groups:
                writer.write_table(pa.table({name: pa.array(group, type_)}))
        return self.kind.dimension(facts(path / "a.parquet", self.kind), name)

    def test_it_is_the_size_that_the_type_fixes_whatever_the_rows(self, tmp_path):
        assert self.dimension(tmp_path, [None, None], type_=pa.list_(pa.float16(), 7)) == 7

    def test_it_is_the_commonest_length_and_of_equally_common_ones_the_shortest(self, tmp_path):
        assert self.dimension(tmp_path, [[1.0, 2], [1], [3, 4], None, []]) == 2
        assert self.dimension(tmp_path, [[1.0, 2], [1]]) == 1

    def test_it_comes_from_the_first_row_group_with_a_vector(self, tmp_path):
        assert self.dimension(tmp_path, [None, []], [[1.0, 2, 3]], [[1.0], [2.0]]) == 3

    def test_it_is_none_where_no_row_has_a_vector(self, tmp_path):
        assert self.dimension(tmp_path, [None, []], [None]) is None
        assert self.dimension(tmp_path, []) is None
        assert self.dimension(tmp_path) is None

    @pytest.mark.parametrize("name", ["embeddings", "model.v2"])
    def test_a_large_row_group_of_equal_lengths_is_not_read_to_its_end(self, tmp_path, monkeypatch, name):
        looked = []
        lengths = embeddings.lengths
        monkeypatch.setattr(embeddings, "lengths", lambda c: looked.append(len(c)) or lengths(c))
        assert self.dimension(tmp_path, [[1.0, 2.0]] * 5000, name=name) == 2
        assert sum(looked) < 5000

    def test_a_large_row_group_of_different_lengths_has_the_commonest_though_their_mean_is_whole(self, tmp_path):
        group = [[1.0] * length for length in (1, 1, 3, 1, 1, 3, 4)] * 300
        assert sum(map(len, group)) == 2 * len(group)
        assert self.dimension(tmp_path, group) == 1

    @given(st.lists(st.lists(st.integers(0, 3) | st.none(), max_size=8), max_size=3))
    def test_it_is_the_commonest_length_for_any_lengths(self, tmp_path_factory, groups):
        found = self.dimension(
            tmp_path_factory.mktemp("dimension"),
            *[[None if n is None else [1.0] * n for n in group] for group in groups],
        )
        usable = [[n for n in group if n] for group in groups]
        first = next((group for group in usable if group), [])
        assert found == max(sorted(set(first)), key=first.count, default=None)


class TestCopyWithout:
    kind = Parquet()

    def test_all_columns_types_and_metadata_are_kept(self, tmp_path):
        n = 20
        columns = {
            "id": pa.array(range(n), pa.int32()),
            "half": pa.array(np.arange(n, dtype=np.float16)),
            "day": pa.array(range(n), pa.date32()),
            "time": pa.array(range(n), pa.timestamp("us", "Europe/Vienna")),
            "long": pa.array(range(n), pa.duration("ms")),
            "price": pa.array([Decimal(i) / 4 for i in range(n)], pa.decimal128(12, 3)),
            "flag": pa.array([None, True, False, True] * 5),
            "nothing": pa.nulls(n),
            "kind": pa.array(["a", "b", None, "a"] * 5).dictionary_encode(),
            "large": pa.array(["é" * i for i in range(n)], pa.large_string()),
            "raw": pa.array([bytes([i] * 3) for i in range(n)], pa.binary(3)),
            "small": pa.array(range(n), pa.uint8()),
            "vector": pa.array([[float(i), 1.0] for i in range(n)], pa.list_(pa.float32(), 2)),
            "halves": pa.array([np.full(i % 4, i, np.float16) for i in range(n)], pa.large_list(pa.float16())),
            "nested": pa.array([{"a": [{"b": i, "c": None}], "d": {"e": str(i)}} for i in range(n)]),
            "map": pa.array([[(str(i), i)] for i in range(n)], pa.map_(pa.string(), pa.int64())),
            "tensor": pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.float32(), (1, 2)),
                pa.array([[float(i), 1.0] for i in range(n)], pa.list_(pa.float32(), 2)),
            ),
        }
        schema = pa.schema(
            [
                pa.field(name, a.type, nullable=name != "id", metadata={"unit": "of " + name})
                for name, a in columns.items()
            ],
            metadata={"made by": "a test", "pandas": "{}"},
        )
        content = pa.table(list(columns.values()), schema=schema)
        pq.write_table(content, tmp_path / "in.parquet", row_group_size=6)
        before = pq.read_table(tmp_path / "in.parquet")
        after = pq.read_table(copied(self.kind, tmp_path / "in.parquet", [3, 17])[0])
        assert after.schema.equals(before.schema, check_metadata=True)
        assert after.equals(before.filter(pa.array([i not in (3, 17) for i in range(n)])))

    def test_row_groups_stay_where_they_were(self, tmp_path):
        pq.write_table(table(100), tmp_path / "a.parquet", row_group_size=30)
        copy, counts = copied(self.kind, tmp_path / "a.parquet", [0, 1, *range(30, 60), 99])
        assert counts == (100, 33)
        metadata = pq.read_metadata(copy)
        assert [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)] == [28, 0, 30, 9]

    def test_the_compression_of_each_column_is_kept(self, tmp_path):
        for codec in ("none", "snappy", "gzip", "brotli", "zstd", "lz4"):
            source = tmp_path / f"{codec}.parquet"
            codecs = {"id": "none", "text": codec, "embeddings.list.element": "gzip"}
            pq.write_table(table(10), source, compression=codecs)
            groups = [pq.read_metadata(path).row_group(0) for path in (source, copied(self.kind, source, [3])[0])]
            before, after = ([group.column(i).compression for i in range(3)] for group in groups)
            assert after == before

    def test_row_groups_larger_than_the_memory_are_taken_in_pieces(self, tmp_path):
        pq.write_table(table(5000), tmp_path / "a.parquet")
        copy, _ = copied(self.kind, tmp_path / "a.parquet", range(0, 5000, 7), batch_bytes=10_000)
        assert pq.read_table(copy).column("id").to_pylist() == [i for i in range(5000) if i % 7]
        assert pq.read_metadata(copy).num_row_groups > 1
