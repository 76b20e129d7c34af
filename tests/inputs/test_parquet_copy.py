"""A copy without some rows has everything else as it was: values, types, names, codecs, encodings."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from footers import element, read_footer, respell, write_footer
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import copied
from texts import WRITERS, delta, polars

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import thrift
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.inputs.parquet_copy import Copy, StoredFile
from beam_semdedup.storage.folder import File

MAX = datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)
INF = float("inf")
EXTREMES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False]),
    *((t, [-(2 ** (t.bit_width - 1)), 0, 2 ** (t.bit_width - 1) - 1]) for t in (pa.int8(), pa.int16(), pa.int32())),
    (pa.int64(), [-(2**63), 2**63 - 1]),
    *((t, [0, 2**t.bit_width - 1]) for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    (pa.float16(), [np.float16(x) for x in (-65504, -0.0, 6e-8, INF)]),
    (pa.float32(), [-3e38, -0.0, 1e-45, INF]),
    (pa.float64(), [-1.7e308, -0.0, 5e-324, INF]),
    (pa.string(), ["", "é\0", "\U0010ffff" * 30]),
    (pa.large_string(), ["", "b"]),
    (pa.string_view(), ["", "longer than a view holds itself"]),
    (pa.binary(), [b"", b"\xff\x00"]),
    (pa.large_binary(), [b"", b"\x00" * 100]),
    (pa.binary_view(), [b"", b"longer than a view holds itself"]),
    (pa.binary(3), [b"\x00\x00\x00", b"\xff\xff\xff"]),
    (pa.uuid(), [b"\xff" * 16, b"\x00" * 16]),
    (pa.json_(), ["{}", "[1]"]),
    (pa.date32(), [datetime.date(1, 1, 1), datetime.date(9999, 12, 31)]),
    (pa.date64(), [datetime.date(1, 1, 1), datetime.date(9999, 12, 31)]),
    (pa.time32("s"), [datetime.time(0), datetime.time(23, 59, 59)]),
    (pa.time32("ms"), [datetime.time(0), datetime.time(23, 59, 59, 999000)]),
    (pa.time64("us"), [datetime.time(0), datetime.time(23, 59, 59, 999999)]),
    (pa.time64("ns"), [0, 86_399_999_999_999]),
    *((pa.timestamp(u), [datetime.datetime(1, 1, 1), MAX]) for u in ("s", "ms", "us")),
    (pa.timestamp("ns"), [-(2**63) + 1, 2**63 - 1]),
    (pa.timestamp("us", "Europe/Vienna"), [datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30)]),
    *((pa.duration(u), [-(2**62), 2**62]) for u in ("s", "ms", "us", "ns")),
    (pa.decimal32(5, 2), [Decimal("-999.99"), Decimal("999.99")]),
    (pa.decimal64(18, 0), [Decimal(-(10**18) + 1), Decimal(10**18 - 1)]),
    (pa.decimal128(38, 38), [Decimal("-0." + "9" * 38), Decimal("1e-38")]),
    (pa.decimal256(76, 0), [Decimal(-(10**75)), Decimal(10**75)]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
    (pa.null(), [None]),
]
NESTED: list[Callable[[pa.DataType], tuple[pa.DataType, Callable[[Any], Any]]]] = [
    lambda t: (t, lambda v: v),
    lambda t: (pa.list_(t), lambda v: [v, None, v]),
    lambda t: (pa.large_list(t), lambda v: [v]),
    lambda t: (pa.list_(t, 2), lambda v: [v, None]),
    lambda t: (pa.list_view(t), lambda v: [v, v]),
    lambda t: (pa.struct([("a", t), ("b.c", t)]), lambda v: {"a": v, "b.c": None}),
    lambda t: (pa.map_(pa.string(), t), lambda v: [("k", v), ("l", None)]),
    lambda t: (pa.list_(pa.struct([("a", pa.list_(t))])), lambda v: [{"a": [v]}, None, {"a": []}, {"a": None}]),
]


def array(values: list[Any], type_: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(type_):
        return pa.array(values, type_.value_type).cast(type_)
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, pa.array(values, type_.storage_type))
    return pa.array(values, type_)


def can_be_made(type_: pa.DataType, wrap: Any) -> bool:
    """Whether Arrow itself makes and writes such a column."""
    special = isinstance(type_, pa.BaseExtensionType) or pa.types.is_dictionary(type_) or type_ == pa.null()
    return wrap is NESTED[0] or not special


COLUMNS = [(t, wrap, values) for t, values in EXTREMES for wrap in NESTED if can_be_made(t, wrap)]


def without(ids: Iterable[int], gone: Iterable[int]) -> pa.Array:
    return pa.array([i not in set(gone) for i in ids])


def read(path: Path) -> pa.Table:
    """What is stored, without the types that Arrow remembers beside it, which it cannot read all values as."""
    plain = path.with_name("plain")
    plain.write_bytes(path.read_bytes())
    footer = read_footer(plain)
    footer.drop(5)
    write_footer(plain, footer)
    return pq.read_table(plain, coerce_int96_timestamp_unit="us", partitioning=None)


def facts(path: Path) -> tuple[Any, ...]:
    """All that a footer says of a file, without places, sizes and statistics."""
    footer = read_footer(path)
    return footer[2], footer.get(5), footer.get(6), footer.get(7)


def stored(path: Path) -> list[list[tuple[Any, ...]]]:
    """How the columns of each row group with rows are stored: their paths, types, codecs, encodings of values."""
    result = []
    for group in (group for group in read_footer(path)[4] if group[3]):
        columns = [chunk[3] for chunk in group[1]]
        # 0, 3, 4: PLAIN stands with dictionaries too, the others are those of levels.
        kinds = [{8 if e == 2 else e for e in c[2] if e not in (0, 3, 4)} for c in columns]
        result.append([(c[3], c[1], c[4], kind) for c, kind in zip(columns, kinds, strict=True)])
    return result


def check_copy(source: Path, gone: list[int], batch_bytes: int = 1 << 20) -> Path:
    """Copies a file whose column `id` counts its rows, and checks all that is to be the same."""
    copy, counts = copied(Parquet(), source, gone, batch_bytes)
    before = read(source)
    kept = without(range(before.num_rows), gone)
    assert counts == (before.num_rows, len(set(gone)))
    assert facts(copy) == facts(source)
    assert {str(c) for g in stored(copy) for c in g} <= {str(c) for g in stored(source) for c in g}
    after = read(copy)
    assert after.schema.equals(before.schema, check_metadata=True)
    expected = before.filter(kept) if before.num_columns else before
    for name in before.schema.names:
        assert after.column(name).combine_chunks().equals(expected.column(name).combine_chunks()), name
    return copy


class TestTypes:
    @given(data=st.data())
    @settings(max_examples=60)
    def test_every_type_with_its_extremes_in_any_nesting_and_layout(self, tmp_path_factory, data):
        n = data.draw(st.integers(1, 12), "rows")
        columns: dict[str, pa.Array] = {"id": pa.array(range(n))}
        for number in range(data.draw(st.integers(1, 4))):
            type_, wrap, values = data.draw(st.sampled_from(COLUMNS))
            made, value = wrap(type_)
            rows = data.draw(st.lists(st.none() | st.sampled_from(values), min_size=n, max_size=n))
            columns[f"c.{number}"] = array([None if row is None else value(row) for row in rows], made)
        source = tmp_path_factory.mktemp("types") / "a.parquet"
        pq.write_table(
            pa.table(columns),
            source,
            # Arrow does not slice nested views.
            row_group_size=n if "view" in str([c.type for c in columns.values()]) else data.draw(st.integers(1, 6)),
            compression=data.draw(st.sampled_from(["none", "snappy", "gzip", "zstd", "brotli", "lz4"])),
            use_dictionary=data.draw(st.booleans()),
            data_page_version=data.draw(st.sampled_from(["1.0", "2.0"])),
            write_statistics=data.draw(st.booleans()),
            write_page_index=data.draw(st.booleans()),
            store_schema=data.draw(st.booleans()),
            store_decimal_as_integer=data.draw(st.booleans()),
            write_time_adjusted_to_utc=data.draw(st.booleans()),
            use_deprecated_int96_timestamps=data.draw(st.booleans()),
            use_compliant_nested_type=data.draw(st.booleans()),
        )
        gone = data.draw(st.lists(st.integers(0, n - 1), unique=True))
        check_copy(source, gone, data.draw(st.sampled_from([1, 100, 1 << 20])))

    @pytest.mark.parametrize("unit", ["us", "ns"])
    def test_int96_is_copied_far_beyond_what_nanoseconds_reach(self, tmp_path, unit):
        moments = (
            [datetime.datetime(1, 1, 1), MAX, None, datetime.datetime(1677, 1, 1)] if unit == "us" else [1, -1, 999]
        )
        table = pa.table({"id": range(len(moments)), "t": pa.array(moments, pa.timestamp(unit))})
        pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
        copy = check_copy(tmp_path / "a.parquet", [0])
        assert pq.read_metadata(copy).schema.column(1).physical_type == "INT96"
        if unit == "us":
            query = duckdb.sql(f"select t from read_parquet('{copy}')").fetchall()
            assert [row for (row,) in query] == moments[1:]
            assert pl.read_parquet(copy)["id"].to_list() == [1, 2, 3]
        else:
            assert pq.read_table(copy).column("t").cast(pa.int64()).to_pylist() == moments[1:]

    @pytest.mark.parametrize(
        ("values", "column"),
        [
            (pa.array([b"a" * 12, None]), element("x", type_="fixed", length=12, converted=21)),
            (pa.array([b"a", None]), element("x", type_="bytes", converted=4, logical={4: ()})),
            (pa.array([b"a", None]), element("x", type_="bytes", converted=20, logical={13: ()})),
            (pa.array([b"a", None]), element("x", type_="bytes", logical={17: ()})),
            (pa.array([b"a", None]), element("x", type_="bytes", logical={99: ()})),
            (pa.array([b"\x80", b"\x7f"]), element("x", type_="bytes", converted=5, precision=2, scale=1)),
            (pa.array([b"\x80" * 9, b"a" * 9]), element("x", type_="fixed", length=9, converted=5, precision=2)),
            (pa.array([b"\x80" * 40, b"a" * 40]), element("x", type_="fixed", length=40, converted=5, precision=90)),
            (pa.array([-1, 2**31 - 1], pa.int32()), element("x", type_="int32", converted=5, precision=9, scale=2)),
            (pa.array([-1, 2**63 - 1]), element("x", type_="int64", converted=5, precision=18, scale=2)),
            (pa.array([-1, 2**31 - 1], pa.int32()), element("x", type_="int32", converted=11)),
            (pa.array([-1, 2**63 - 1]), element("x", type_="int64", converted=14)),
            (pa.array([-1, 2**63 - 1]), element("x", type_="int64", converted=10)),
            (pa.array([None, None], pa.bool_()), element("x", type_="boolean", logical={11: ()})),
            (pa.array([b"z" * 12, None]), element("x", type_="int96")),
        ],
    )
    def test_what_values_mean_is_never_translated(self, tmp_path, values, column):
        plain = (
            values.cast(pa.binary(column[0][2]))
            if 2 in column[0]
            else values.cast(pa.binary(12))
            if column[0][1] == 3
            else values
        )
        table = pa.table({"id": [0, 1, 2], "x": pa.concat_arrays([plain, plain.slice(0, 1)])})
        pq.write_table(table, tmp_path / "a.parquet", compression="gzip")
        respell(tmp_path / "a.parquet", element("id", type_="int64"), column)
        copy, counts = copied(Parquet(), tmp_path / "a.parquet", [2])
        assert counts == (3, 1)
        assert facts(copy) == facts(tmp_path / "a.parquet")
        assert stored(copy) == stored(tmp_path / "a.parquet")
        respell(copy, element("id", type_="int64"), element("x", type_=_stored_type(plain), length=_length(plain)))
        assert pq.read_table(copy).column("x").to_pylist() == table.column("x").to_pylist()[:2]


def _stored_type(values: pa.Array) -> str:
    names = {pa.int32(): "int32", pa.int64(): "int64", pa.bool_(): "boolean", pa.binary(): "bytes"}
    return names.get(values.type, "fixed")


def _length(values: pa.Array) -> int | None:
    return values.type.byte_width if pa.types.is_fixed_size_binary(values.type) else None


def list_of(inner: str, item: list[thrift.Struct], converted: int | None = 3) -> list[thrift.Struct]:
    return element("x", element(inner, item, repetition="repeated"), converted=converted)


NUMBER = {"type_": "int64"}
SPELLINGS = {
    "Arrow before it was compliant": list_of("list", element("item", **NUMBER)),
    "Hive": list_of("bag", element("array_element", **NUMBER)),
    "Impala": list_of("list", element("element", **NUMBER)),
    "unannotated": list_of("list", element("element", **NUMBER), None),
    "names with dots": list_of("a.b", element("c.d", **NUMBER)),
    "Avro, two levels": element("x", element("array", repetition="repeated", **NUMBER), converted=3),
    "Thrift, two levels": element("x", element("x_tuple", repetition="repeated", **NUMBER), converted=3),
    "parquet-go, repeated": element("x", repetition="repeated", **NUMBER),
    "repeated group": element("x", element("y", **NUMBER), repetition="repeated"),
}


class TestSpellings:
    """Lists and maps as other writers name and nest them."""

    @pytest.mark.parametrize("name", SPELLINGS)
    @pytest.mark.parametrize("codec", ["zstd", "none"])
    def test_lists_of_other_writers_stay_as_they_are(self, tmp_path, name, codec):
        column = SPELLINGS[name]
        # An element or a list that is not optional has a level less.
        values: list[Any] = [[1, 2], [3, 3], [], [2**40] * 50]
        optional = [e.get(3) == 1 for e in column if e.get(3) != 2]
        inner = pa.field("element", pa.int64(), nullable=column[-1].get(3) == 1)
        field = pa.field("x", pa.list_(inner), nullable=bool(optional) and column[0].get(3) == 1)
        table = pa.table([range(4), pa.array(values, field.type)], schema=pa.schema([("id", pa.int64()), field]))
        pq.write_table(table, tmp_path / "a.parquet", compression=codec, use_dictionary=["x.list.element"])
        respell(tmp_path / "a.parquet", element("id", type_="int64"), column)
        copy = check_copy(tmp_path / "a.parquet", [0])
        assert duckdb.sql(f"select id from read_parquet('{copy}')").fetchall() == [(1,), (2,), (3,)]
        again = duckdb.sql(f"select x from read_parquet('{copy}')").fetchall()
        assert again == duckdb.sql(f"select x from read_parquet('{tmp_path}/a.parquet')").fetchall()[1:]

    @pytest.mark.parametrize(("middle", "converted"), [("map", 1), ("entries", 1), ("key_value", 2), ("map", None)])
    @pytest.mark.parametrize("key", ["required", "optional"])
    def test_maps_of_other_writers_stay_as_they_are(self, tmp_path, middle, converted, key):
        pairs = pa.struct([pa.field("key", pa.string(), nullable=key == "optional"), ("value", pa.int64())])
        values = pa.array(
            [[{"key": "a", "value": 1}], None, [], [{"key": "b", "value": None}]],
            pa.list_(pa.field("element", pairs, nullable=False)),
        )
        pq.write_table(pa.table({"id": range(4), "x": values}), tmp_path / "a.parquet", compression="gzip")
        entry = element("key", type_="bytes", converted=0, repetition=key), element("value", type_="int64")
        column = element("x", element(middle, *entry, repetition="repeated"), converted=converted)
        respell(tmp_path / "a.parquet", element("id", type_="int64"), column)
        copy, _ = copied(Parquet(), tmp_path / "a.parquet", [0])
        assert facts(copy) == facts(tmp_path / "a.parquet")
        assert stored(copy) == stored(tmp_path / "a.parquet")
        if key == "required":  # Arrow reads no other ones
            assert pq.read_table(copy).equals(pq.read_table(tmp_path / "a.parquet").slice(1))


def _short_integers(path: Path) -> None:
    pq.write_table(pa.table({"id": range(500_000), "x": [7] * 500_000}), path)


class TestStorage:
    def test_each_row_group_keeps_its_own_codecs_and_encodings(self, tmp_path):
        n = 40_000
        rng = np.random.default_rng(0)
        texts = [f"{i:x}" * 20 for i in rng.integers(0, 2**60, n // 8)]
        table = pa.table(
            {
                "id": range(n),
                "time": np.cumsum(rng.integers(0, 9, n)),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=4 * n).astype(np.float32)), 4),
                "text": np.repeat(texts, 8),
                "url": [f"https://example.com/page/{i:07}" for i in range(n)],
                "flag": rng.random(n) < 0.01,
                "tags": [["a", "b"] * (i % 3) for i in range(n)],
            }
        )
        pq.write_table(
            table,
            tmp_path / "a.parquet",
            compression="zstd",
            use_dictionary=["text", "tags.list.element"],
            dictionary_pagesize_limit=1 << 30,
            column_encoding={
                "id": "DELTA_BINARY_PACKED",
                "time": "DELTA_BINARY_PACKED",
                "vector.list.element": "BYTE_STREAM_SPLIT",
                "url": "DELTA_BYTE_ARRAY",
                "flag": "RLE",
            },
        )
        copy = check_copy(tmp_path / "a.parquet", [n // 2], 1 << 30)
        assert copy.stat().st_size < 1.02 * (tmp_path / "a.parquet").stat().st_size

    def test_row_groups_of_several_codecs(self, tmp_path):
        parts = []
        for number, codec in enumerate(("zstd", "none", "gzip")):
            path = tmp_path / f"{codec}.parquet"
            pq.write_table(pa.table({"id": range(10 * number, 10 * number + 10)}), path, compression=codec)
            parts.append(path)
        joined = tmp_path / "joined.parquet"
        _join(parts, joined)
        check_copy(joined, [0, 11, 22])
        assert [group[0][2] for group in stored(joined)] == [6, 0, 2]

    def test_a_row_group_without_a_listed_row_has_the_same_bytes(self, tmp_path):
        table = pa.table({"id": range(60), "x": [[str(i)] for i in range(60)]})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=20, compression="zstd", compression_level=19)
        copy = check_copy(tmp_path / "a.parquet", [3, 50])
        chunks = [[_bytes(path, group[1]) for group in read_footer(path)[4]] for path in (tmp_path / "a.parquet", copy)]
        assert chunks[0][1] == chunks[1][1]
        assert chunks[0][0] != chunks[1][0]

    def test_texts_that_repeat_stay_a_dictionary_of_those_that_are_left(self, tmp_path):
        source = tmp_path / "a.parquet"
        texts = [None if row % 7 == 0 else f"{row % 5}" * 20_000 for row in range(4000)]
        pq.write_table(pa.table({"id": range(4000), "text": texts}), source)
        gone = [row for row in range(4000) if row % 5 == 3]
        copy = check_copy(source, gone, batch_bytes=500_000)
        assert pq.read_metadata(copy).num_row_groups == 1
        assert copy.stat().st_size <= source.stat().st_size
        (column,) = pq.read_table(copy, columns=["text"], read_dictionary=["text"]).column(0).chunks
        assert sorted(text[0] for text in column.dictionary.to_pylist()) == ["0", "1", "2", "4"]

    @pytest.mark.parametrize("write", [*WRITERS, _short_integers])
    def test_batches_have_the_size_that_values_have_in_memory(self, tmp_path, write):
        source = tmp_path / "a.parquet"
        write(source)
        check_copy(source, [1, 700], batch_bytes=1_000_000)
        stored = StoredFile.open(File(str(source)), pa.OSFile(str(source)))
        for columns in (None, [stored.number("id")]):
            batches = list(stored.read_group(0, 1_000_000, columns))
            assert sum(batch.num_rows for batch in batches) == pq.read_metadata(source).num_rows
            assert max(batch.nbytes for batch in batches) < 1_100_000

    @pytest.mark.parametrize("write", [delta, polars])
    def test_a_damaged_text_is_named_where_the_first_ones_are_looked_at(self, tmp_path, write):
        source = tmp_path / "a.parquet"
        write(source)
        column = read_footer(source)[4][0][1][1][3]
        data, start = bytearray(source.read_bytes()), column.get(11) or column[9]
        data[start + 40 : start + column[7]] = b"\xff" * (column[7] - 40)
        source.write_bytes(data)
        with pytest.raises(InputError, match="column 'x' in row group 0 cannot be read"):
            copied(Parquet(), source, [1])

    def test_indexes_move_with_their_pages(self, tmp_path):
        table = pa.table({"id": range(60), "x": [str(i) for i in range(60)]})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=20, write_page_index=True)
        copy = check_copy(tmp_path / "a.parquet", [25])
        data = copy.read_bytes()
        for group in read_footer(copy)[4]:
            for chunk in group[1]:
                pages, size = thrift.read(data[chunk[4] : chunk[4] + chunk[5]])
                assert size == chunk[5]
                assert pages[1][0][1] == chunk[3][9]
                bounds, _ = thrift.read(data[chunk[6] : chunk[6] + chunk[7]])
                assert bounds[2][0] == chunk[3][12][6]

    def test_the_order_of_rows_is_still_said(self, tmp_path):
        table = pa.table({"x": [3, 2, 1], "id": range(3)})
        order = [pq.SortingColumn(0, descending=True)]
        pq.write_table(table, tmp_path / "a.parquet", sorting_columns=order)
        assert pq.read_metadata(check_copy(tmp_path / "a.parquet", [1])).row_group(0).sorting_columns == tuple(order)

    @pytest.mark.parametrize(
        ("type_", "values"),
        [
            (pa.uint32(), [2**31, 1]),
            (pa.uint64(), [2**63, 1]),
            (pa.uint8(), [200, 1]),
            (pa.decimal128(5, 2), [Decimal(-1), Decimal(1)]),
            (pa.float16(), [np.float16(-1), np.float16(1)]),
            (pa.timestamp("us"), [datetime.datetime(1, 1, 1), MAX]),
            (pa.string(), ["é", "z"]),
        ],
    )
    @pytest.mark.parametrize("kept", [True, False])
    def test_statistics_are_those_of_the_type(self, tmp_path, type_, values, kept):
        table = pa.table({"id": range(3), "x": pa.array([values[0], values[1], values[0]], type_)})
        pq.write_table(table, tmp_path / "a.parquet", write_statistics=kept)
        copy = check_copy(tmp_path / "a.parquet", [2])
        before, after = (pq.read_metadata(p).row_group(0).column(1).statistics for p in (tmp_path / "a.parquet", copy))
        assert (before is None, after is None) == (not kept, not kept)
        if kept:
            assert (after.min, after.max) == (before.min, before.max)

    def test_values_without_a_known_order_have_no_statistics(self, tmp_path):
        table = pa.table({"id": [0, 1], "x": [b"a", b"b"]})
        pq.write_table(table, tmp_path / "a.parquet")
        for column in (
            element("x", type_="bytes", converted=5, precision=2),
            element("x", type_="bytes", logical={17: ()}),
        ):
            respell(tmp_path / "a.parquet", element("id", type_="int64"), column)
            copy, _ = copied(Parquet(), tmp_path / "a.parquet", [1])
            assert 12 not in read_footer(copy)[4][0][1][1][3]

    def test_hadoops_lz4_becomes_the_one_that_took_its_place(self, tmp_path):
        pq.write_table(pa.table({"id": range(50), "x": ["text"] * 50}), tmp_path / "a.parquet", compression="lz4")
        _as_hadoop(tmp_path / "a.parquet")
        before = pq.read_table(tmp_path / "a.parquet")
        copy, _ = copied(Parquet(), tmp_path / "a.parquet", [7])
        assert pq.read_table(copy).equals(before.filter(without(range(50), [7])))
        assert {chunk[2] for group in stored(copy) for chunk in group} == {7}

    def test_a_row_group_with_other_rows_than_its_footer_says_is_no_input(self, tmp_path):
        pq.write_table(pa.table({"id": range(50)}), tmp_path / "a.parquet")
        footer = read_footer(tmp_path / "a.parquet")
        footer[3] = footer[4][0][3] = 60
        write_footer(tmp_path / "a.parquet", footer)
        with pytest.raises(InputError, match=r"a.parquet: column 'id' in row group 0 cannot be read: fewer rows"):
            copied(Parquet(), tmp_path / "a.parquet", [7])


class TestWriters:
    """Files of other programs, read by them again."""

    def test_polars(self, tmp_path):
        n = 300
        frame = pl.DataFrame(
            {
                "id": range(n),
                "lists": [[[1, 2], [3]], None, []] * (n // 3),
                "struct": [{"a": [1.5, None]}] * n,
                "category": pl.Series(["a", "b", "c"] * (n // 3), dtype=pl.Categorical),
                "enum": pl.Series(["a", "b", "c"] * (n // 3), dtype=pl.Enum(["a", "b", "c"])),
                "bytes": [b"\xff"] * n,
                "time": [datetime.time(1, 2, 3)] * n,
                "moment": [MAX] * n,
                "duration": [datetime.timedelta(seconds=3)] * n,
                "decimal": pl.Series(["1.25"] * n).cast(pl.Decimal(38, 3)),
                "small": pl.Series([-1] * n, dtype=pl.Int8),
                "array": pl.Series([[1.0, 2.0], None, [3.0, 4.0]] * (n // 3), dtype=pl.Array(pl.Float32, 2)),
            }
        )
        frame.write_parquet(tmp_path / "a.parquet", row_group_size=100)
        copy = pl.read_parquet(check_copy(tmp_path / "a.parquet", [3, 150]))
        assert copy.schema == frame.schema
        assert copy.equals(frame.filter(~pl.col("id").is_in([3, 150])))

    def test_duckdb(self, tmp_path):
        source = tmp_path / "a.parquet"
        duckdb.sql(
            f"""copy (select range::int as id, [[range], null, []] as lists, {{'a': [1.5, null]}} as struct,
            map {{'k': range}} as map, interval 3 day as interval, uuid() as uuid, range::uinteger as unsigned,
            1.5::decimal(4, 2) as short, 1.5::decimal(18, 2) as long, range::hugeint as huge, '1:2:3'::time as time,
            now() as zoned, '9999-12-31'::timestamp as moment, now()::timestamp_ns as nanos, '\\xaa'::blob as bytes,
            'a'::enum('a', 'b') as enum, '{{}}'::json as json, range % 7 as few
            from range(5000)) to '{source}' (row_group_size 2048)"""
        )
        copy = check_copy(source, [3, 4500])

        def rows(path: Path) -> list[Any]:
            return duckdb.sql(f"select * from read_parquet('{path}') where id not in (3, 4500)").fetchall()

        assert rows(copy) == rows(source)
        described = [duckdb.sql(f"describe from read_parquet('{p}')").fetchall() for p in (source, copy)]
        assert described[0] == described[1]
        found = [
            duckdb.sql(f"select count(*) from read_parquet('{p}') where few = 3").fetchall() for p in (source, copy)
        ]
        assert found[0][0][0] - found[1][0][0] == 1  # with the filters that it wrote beside the dictionaries


def _bytes(path: Path, columns: list[thrift.Struct]) -> list[bytes]:
    data, starts = path.read_bytes(), [c[3].get(11) or c[3][9] for c in columns]
    return [data[s : s + c[3][7]] for s, c in zip(starts, columns, strict=True)]


def _join(paths: list[Path], target: Path) -> None:
    """Joins files of one column and row group into one file."""
    with target.open("wb") as sink:
        copy = Copy.begin(File(str(target)), sink)
        for path in paths:
            copy.append((pa.OSFile(str(path)), read_footer(path)[4][0]))
        copy.finish(read_footer(paths[0]))


def _as_hadoop(path: Path) -> None:
    """Frames the pages of a file in LZ4 as Hadoop does: with both lengths before them."""
    data, footer, out = path.read_bytes(), read_footer(path), bytearray(b"PAR1")
    for chunk in (chunk for group in footer[4] for chunk in group[1]):
        column = chunk[3]
        place = column.get(11) or column[9]
        end, shift = place + column[7], len(out) - place
        for field in (9, 11):
            if field in column:
                column[field] += shift
        start = len(out)
        while place < end:
            header, place = thrift.read(data, place)
            size = header[3]
            if header[1] == 0 and column.get(11):
                column[9] = len(out)
            header[3] += 8
            out += thrift.write(header) + header[2].to_bytes(4, "big") + size.to_bytes(4, "big")
            out += data[place : place + size]
            place += size
        column[7], column[4] = len(out) - start, 5
    path.write_bytes(bytes(out) + bytes(8))
    write_footer(path, footer)
