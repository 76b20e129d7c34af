"""Parquet files with damaged pages."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import copied

from beam_semdedup.errors import InputError
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.inputs.parquet_pages import read_batches
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.tables import opened

ROWS, DIMENSION = 200, 4
NESTED = {
    "list": ([[1, 2], None, [], [3]], pa.list_(pa.int32())),
    "fixed": ([[1, 2], [3, 4], [5, 6], [7, 8]], pa.list_(pa.int32(), 2)),
    "struct": (
        [{"a": 1, "b": [1, 2]}, None, {"a": None, "b": None}, {"a": 2, "b": []}],
        pa.struct([("a", pa.int32()), ("b", pa.list_(pa.int32()))]),
    ),
    "map": ([[("a", 1)], None, [], [("b", 2), ("c", 3)]], pa.map_(pa.string(), pa.int32())),
    "lists": ([[[1], []], None, [], [None, [3, 4]]], pa.list_(pa.large_list(pa.int32()))),
    "structs": (
        [[{"x": 1, "y": ["a"]}], None, [], [None, {"x": 2, "y": []}]],
        pa.list_(pa.struct([("x", pa.int32()), ("y", pa.list_(pa.string()))])),
    ),
    "dictionary": (["a", None, "b", "c"], pa.string()),
}


def vectors() -> pa.Table:
    values = np.arange(ROWS * DIMENSION, dtype=np.float32).reshape(ROWS, DIMENSION)
    return pa.table({"id": range(ROWS), "embeddings": pa.array(list(values), pa.list_(pa.float32()))})


def written(table: pa.Table, rows_per_group: int = 100, checksums: bool = False) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=rows_per_group,
        compression="none",
        use_dictionary=False,
        write_page_checksum=checksums,
    )
    return buffer.getvalue()


def read(content: bytes, columns: list[str] | None = None) -> pa.Table:
    parquet = opened(pa.BufferReader(content))
    groups = range(parquet.num_row_groups)
    return pa.Table.from_batches(read_batches(File("/a.parquet"), parquet, 64, groups, columns), parquet.schema_arrow)


def flipped(content: bytes, position: int, bit: int) -> bytes:
    result = bytearray(content)
    result[position] ^= 1 << bit
    return bytes(result)


def pages(content: bytes, group: int, column: int) -> range:
    chunk = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(group).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return range(start, start + chunk.total_compressed_size)


@pytest.mark.parametrize("rows_per_group", [5, 1000])
def test_nested_columns_of_all_kinds_have_the_values_that_their_footer_says(rows_per_group: int) -> None:
    table = pa.table({name: pa.array(values * 30, type_) for name, (values, type_) in NESTED.items()})
    table = table.set_column(6, "dictionary", table.column("dictionary").dictionary_encode())
    assert read(written(table, rows_per_group)).equals(table)


def test_a_bit_that_flips_in_the_repetition_levels_gives_no_row_the_vector_of_another() -> None:
    table = vectors()
    content, expected = written(table), table.column("embeddings").to_pylist()
    errors = []
    for position, bit in itertools.product(pages(content, 1, 1)[:60], range(0, 8, 3)):  # the header and the levels
        try:
            found = read(flipped(content, position, bit), ["id", "embeddings"])
        except InputError as error:
            errors.append(str(error))
            continue
        assert found.column("id").equals(table.column("id"))
        for vector, own in zip(found.column("embeddings").to_pylist(), expected, strict=True):
            assert vector is None or all(value in (None, other) for value, other in zip(vector, own, strict=True))
    assert len(errors) > 50
    assert {error[:54] for error in errors} == {"/a.parquet: column 'embeddings' in row group 1 cannot "}


def test_any_bit_that_flips_where_checksums_are_written_is_an_error_or_changes_nothing() -> None:
    table = vectors()
    content = written(table, checksums=True)
    errors = 0
    for position in pages(content, 0, 1)[::7]:
        try:
            assert read(flipped(content, position, 2)).equals(table)
        except InputError:
            errors += 1
    assert errors > 200


@pytest.mark.parametrize("column", ["id", "text"])
def test_a_removal_names_the_column_and_the_row_group_that_cannot_be_read(column: str, tmp_path: Path) -> None:
    table = vectors().append_column("text", [[f"text {i}" for i in range(ROWS)]])
    content, place = written(table), tmp_path / "a.parquet"
    chunk = pages(content, 1, table.schema.get_field_index(column))
    place.write_bytes(content[: chunk.start] + b"\xff" * len(chunk) + content[chunk.stop :])
    with pytest.raises(InputError, match=f"^{re.escape(str(place))}: column '{column}' in row group 1 cannot be read"):
        copied(Parquet(), place, [3])


@pytest.mark.parametrize("raised", [FileNotFoundError("gone"), OSError(5, "Input/output error"), MemoryError()])
def test_what_is_no_damage_stays_what_it_is(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Callable[..., None]:
        raise raised

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    with pytest.raises(type(raised)):
        read(written(vectors()))
