"""Columns that Arrow's own reader changes or refuses are read right."""

from __future__ import annotations

import base64
import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from footers import element, read_footer, respell, write_footer
from reading import VECTORS, inspect, parts_of, read

from beam_semdedup.errors import InputError
from beam_semdedup.inputs.embeddings import carried_type
from beam_semdedup.inputs.parquet import Parquet

MICROS, NANOS = pa.timestamp("us"), pa.timestamp("ns")
MAX = datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)
FIRST = datetime.datetime(1, 1, 1)


def write(path: Path, rows_per_group: int = 2, **columns: Any) -> Path:
    """A file with INT96 timestamps and whatever columns, and with usable ids and vectors."""
    n = len(next(iter(columns.values())))
    table = pa.table({"id": range(n), "embeddings": pa.array([[1.0, 2.0]] * n, VECTORS), **columns})
    pq.write_table(table, path, row_group_size=rows_per_group, use_deprecated_int96_timestamps=True)
    return path


def read_column(name: str, *paths: Path, rows_per_unit: int = 1000) -> pa.ChunkedArray:
    found = inspect(*paths, carried=[name])
    content, _ = read(parts_of(found, rows_per_unit), found.format, found.schema)
    return content.column(name)


class TestInt96:
    @pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
    def test_times_beyond_nanoseconds_are_read_to_the_microsecond(self, tmp_path, batch_bytes):
        moments = [MAX, None, FIRST, datetime.datetime(1970, 1, 1, 0, 0, 0, 1), datetime.datetime(2262, 5, 1)]
        found = inspect(write(tmp_path / "a.parquet", t=pa.array(moments, MICROS)), carried=["t"])
        assert found.schema.field("t").type == MICROS
        content, _ = read(parts_of(found, 3), Parquet(batch_bytes), found.schema)
        assert content.column("t").to_pylist() == moments

    def test_finer_times_are_read_to_the_nanosecond(self, tmp_path):
        values = pa.array([1, -1, None, 2**63 - 1, -(2**63) + 1000, 1000], pa.int64())
        column = read_column("t", write(tmp_path / "a.parquet", t=values.cast(NANOS)), rows_per_unit=3)
        assert column.type == NANOS
        assert column.cast(pa.int64()).to_pylist() == values.to_pylist()

    def test_files_with_both_are_read_to_the_finer(self, tmp_path):
        write(tmp_path / "a.parquet", t=pa.array([1_000_000, 2000], NANOS))
        write(tmp_path / "b.parquet", t=pa.array([1, None], NANOS))
        column = read_column("t", tmp_path)
        assert column.type == NANOS
        assert column.cast(pa.int64()).to_pylist() == [1_000_000, 2000, 1, None]

    def test_a_file_of_another_timestamp_goes_with_them(self, tmp_path):
        write(tmp_path / "a.parquet", t=pa.array([1, 2], NANOS))
        write(tmp_path / "b.parquet", t=pa.array([MAX], MICROS))
        table = pq.read_table(write(tmp_path / "c.parquet", t=pa.array([3], MICROS)), coerce_int96_timestamp_unit="us")
        pq.write_table(table, tmp_path / "c.parquet")
        column = read_column("t", tmp_path / "a.parquet", tmp_path / "c.parquet")
        assert column.cast(pa.int64()).to_pylist() == [1, 2, 3000]
        with pytest.raises(InputError, match=r"b\.parquet: column 't' has INT96 timestamps before 1677"):
            read_column("t", tmp_path / "a.parquet", tmp_path / "b.parquet")

    def test_a_column_of_both_in_one_file_is_refused_before_any_work(self, tmp_path):
        stored = [
            nanos.to_bytes(8, "little") + day.to_bytes(4, "little") for nanos, day in ((999, 2_440_588), (0, 5_373_484))
        ]
        path = write(tmp_path / "a.parquet", t=pa.array(stored, pa.binary(12)))
        vectors = element(
            "embeddings", element("list", element("element", type_="float"), repetition="repeated"), converted=3
        )
        respell(path, element("id", type_="int64"), vectors, element("t", type_="int96"))
        with pytest.raises(InputError, match=r"a\.parquet: column 't' has INT96 timestamps before 1677 .* finer"):
            inspect(path, carried=["t"])

    @pytest.mark.parametrize(
        ("wrap", "value"),
        [
            (pa.list_, lambda t: [t, None]),
            (lambda t: pa.struct([("a", t)]), lambda t: {"a": t}),
            (lambda t: pa.map_(pa.string(), t), lambda t: [("k", t)]),
            (lambda t: pa.list_(pa.struct([("a", pa.list_(t))])), lambda t: [{"a": [t]}, None]),
        ],
    )
    def test_nested_ones_too(self, tmp_path, wrap, value):
        write(tmp_path / "a.parquet", t=pa.array([value(MAX), None, value(FIRST)], wrap(MICROS)))
        write(tmp_path / "b.parquet", t=pa.array([value(1), None, value(5)], wrap(NANOS)))
        micros, nanos = (read_column("t", tmp_path / f"{name}.parquet") for name in "ab")
        assert micros.to_pylist() == [value(MAX), None, value(FIRST)]
        assert nanos.equals(pa.chunked_array([pa.array([value(1), None, value(5)], wrap(NANOS))]))


class TestNullsInListsOfFixedSize:
    """With Arrow's own schema, stored in the file, Arrow reads none."""

    @pytest.mark.parametrize("batch_bytes", [1, 60, 1 << 20])
    @pytest.mark.parametrize(
        ("type_", "value"),
        [
            (pa.list_(pa.float32(), 2), [1.0, 2.0]),
            (pa.list_(pa.string(), 2), ["a", None]),
            (pa.struct([("a", pa.list_(pa.int8(), 2))]), {"a": [1, 2]}),
            (
                pa.list_(pa.struct([("a", pa.list_(pa.duration("s"), 1))])),
                [{"a": [datetime.timedelta(1)]}, {"a": None}],
            ),
        ],
    )
    def test_they_are_carried(self, tmp_path, type_, value, batch_bytes):
        values = [value, value, value, value, None, value, None]
        large = pa.array(["a"] * 7, pa.large_string())
        write(tmp_path / "a.parquet", 6, x=pa.array(values, type_), s=large)
        found = inspect(tmp_path / "a.parquet", carried=["x", "s"])
        content, _ = read(parts_of(found, 1000), Parquet(batch_bytes), found.schema)
        assert content.column("x").equals(pa.chunked_array([pa.array(values, carried_type(type_))]))
        assert content.schema.field("s").type == pa.large_string()

    @pytest.mark.parametrize("type_", [pa.list_(pa.float32(), 2), pa.fixed_shape_tensor(pa.float32(), (2,))])
    def test_a_vector_that_is_one_is_null(self, tmp_path, type_):
        storage = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2))
        vectors = storage if type_ == storage.type else pa.ExtensionArray.from_storage(type_, storage)
        pq.write_table(pa.table({"id": range(3), "embeddings": vectors}), tmp_path / "a.parquet")
        found = inspect(tmp_path / "a.parquet")
        content, _ = read(parts_of(found, 1000), found.format, found.schema)
        assert found.dimension == 2
        assert content.column("embeddings").to_pylist() == [[1, 2], None, [3, 4]]

    def test_a_vector_of_another_size_than_arrow_remembers_is_read_with_its_own(self, tmp_path):
        """As hand-made files have it; the row is rejected later."""
        vectors = pa.array([[1, 2], [3, 4, 5], None], VECTORS)
        table = pa.table({"id": range(3), "embeddings": vectors})
        pq.write_table(table, tmp_path / "a.parquet")
        fixed = pa.schema([("id", pa.int64()), ("embeddings", pa.list_(pa.float32(), 2))])
        footer = read_footer(tmp_path / "a.parquet")
        footer[5][0][2] = base64.b64encode(fixed.serialize().to_pybytes())
        write_footer(tmp_path / "a.parquet", footer)
        found = inspect(tmp_path / "a.parquet")
        content, _ = read(parts_of(found, 1000), found.format, found.schema)
        assert content.column("embeddings").to_pylist() == [[1, 2], [3, 4, 5], None]


class TestViews:
    @pytest.mark.parametrize(
        ("type_", "plain", "value"),
        [
            (pa.list_(pa.string_view()), pa.list_(pa.string()), ["a", None]),
            (pa.large_list(pa.binary_view()), pa.large_list(pa.binary()), [b"a"]),
            (pa.struct([("a", pa.string_view())]), pa.struct([("a", pa.string())]), {"a": "x"}),
            (pa.map_(pa.string_view(), pa.string_view()), pa.map_(pa.string(), pa.string()), [("a", "b")]),
            (pa.list_(pa.struct([("a", pa.list_(pa.string_view()))])), None, [{"a": ["x"]}]),
        ],
    )
    def test_they_are_read_as_the_usual_types_however_deep(self, tmp_path, type_, plain, value):
        write(tmp_path / "a.parquet", x=pa.array([value, None], type_))
        column = read_column("x", tmp_path / "a.parquet")
        assert column.type == carried_type(type_)
        assert plain is None or column.type == plain
        assert "view" not in str(column.type)
        assert column.to_pylist() == [value, None]
        assert column.filter(pa.array([True, False])).to_pylist() == [value]
