"""Parquet files with damaged pages."""

from __future__ import annotations

import base64
import io
import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest
from reading import copied

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import parquet_pages
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.inputs.parquet_pages import check_footer, read_batches
from beam_semdedup.storage.folder import File, Folder
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


def varint(number: int) -> bytes:
    """A number as Thrift's compact protocol writes it."""
    number, result = number << 1, b""
    while number >= 128:
        result, number = result + bytes([number & 127 | 128]), number >> 7
    return result + bytes([number])


def test_counts_of_a_footer_that_do_not_fit_each_other_are_bad_input(tmp_path: Path) -> None:
    rows = 100_003
    pq.write_table(pa.table({"id": np.arange(rows), "text": ["x"] * rows}), tmp_path / "a.parquet", compression="none")
    content = (tmp_path / "a.parquet").read_bytes()
    places = [match.start() for match in re.finditer(re.escape(varint(rows)), content)]
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    places = [place for place in places if place > footer]
    errors = []
    for place, other in itertools.product(places, (rows - 1, rows + 1, 2**20 - 1)):
        (tmp_path / "b.parquet").write_bytes(content[:place] + varint(other) + content[place + 3 :])
        (file,) = Folder(f"{tmp_path}/b.parquet").find()
        try:
            assert Parquet().inspect(file).num_rows == rows
        except InputError as error:
            errors.append(str(error))
    assert len(errors) == 3 * 4  # of the file, of its row group, and of each column; the others are of statistics
    said = f"{tmp_path}/b.parquet: not a readable parquet file: ValueError: its footer says "
    assert all(error.startswith(said) for error in errors)


def test_more_rows_than_any_file_of_that_size_has_are_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    content = written(vectors())
    footer = opened(pa.BufferReader(content)).metadata
    check_footer(pa.BufferReader(content), footer)
    monkeypatch.setattr(parquet_pages, "_ROWS_PER_BYTE", 1 / 100)
    with pytest.raises(ValueError, match="row group 0 has 100 rows in"):
        check_footer(pa.BufferReader(content), footer)


class _Keys(encryption.KmsClient):
    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


@pytest.mark.parametrize("plain_footer", [True, False])
@pytest.mark.parametrize("column", ["text", "embeddings.list.element"])
def test_an_encrypted_file_is_bad_input(plain_footer: bool, column: str, tmp_path: Path) -> None:
    table = vectors().append_column("text", [["x"] * ROWS])
    keys = encryption.EncryptionConfiguration("footer", column_keys={"key": [column]}, plaintext_footer=plain_footer)
    factory = encryption.CryptoFactory(_Keys)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), keys)
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    program = (
        "import sys; from beam_semdedup.inputs.parquet import Parquet\n"
        "from beam_semdedup.storage.folder import Folder\n"
        "Parquet().inspect(*Folder(sys.argv[1]).find())"
    )
    command = [sys.executable, "-c", program, f"{tmp_path}/a.parquet"]
    ended = subprocess.run(command, capture_output=True, text=True)  # which may be aborted
    assert ended.returncode == 1
    assert f"InputError: {tmp_path}/a.parquet: not a readable parquet file: " in ended.stderr
    assert "encrypt" in ended.stderr.splitlines()[-1]
