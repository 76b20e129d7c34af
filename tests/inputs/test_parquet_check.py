"""Footers that contradict themselves."""

from __future__ import annotations

import base64
import itertools
import random
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
from footers import read_footer, write_footer
from reading import facts, write

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import parquet_check, thrift
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.inputs.parquet_footer import Chunk, Column, Element, FileField, Group
from beam_semdedup.inputs.thrift import Struct
from beam_semdedup.storage.folder import Folder

IDS, VECTORS = 0, 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "a.parquet", range(6), [[1.0, 2.0]] * 6, rows_per_group=3)


def _column(footer: Struct, number: int = VECTORS) -> Struct:
    column: Struct = footer[FileField.ROW_GROUPS][1][Group.COLUMNS][number][Chunk.METADATA]
    return column


def _claim_rows(footer: Struct) -> None:
    footer[FileField.NUM_ROWS] = 2**63 - 1


def _claim_rows_everywhere(footer: Struct) -> None:
    footer[FileField.NUM_ROWS] = 2**63 - 1
    footer[FileField.ROW_GROUPS][1][Group.NUM_ROWS] = 2**63 - 4


def _fewer_than_no_rows(footer: Struct) -> None:
    footer[FileField.ROW_GROUPS][1][Group.NUM_ROWS] = -3


def _other_levels(footer: Struct) -> None:
    """Arrow itself ends the process."""
    footer[FileField.SCHEMA][1][Element.REPETITION] = 0


def _no_levels(footer: Struct) -> None:
    footer[FileField.SCHEMA][1][Element.REPETITION] = 7


def _more_values(footer: Struct) -> None:
    _column(footer, IDS)[Column.NUM_VALUES] += 1


def _fewer_values(footer: Struct) -> None:
    _column(footer)[Column.NUM_VALUES] = 2


def _other_type(footer: Struct) -> None:
    _column(footer)[Column.TYPE] = 1


def _type_of_the_schema(footer: Struct) -> None:
    """Arrow reads the bytes as that type."""
    footer[FileField.SCHEMA][-1][Element.TYPE] = 1


def _outside(footer: Struct) -> None:
    _column(footer)[Column.COMPRESSED_BYTES] = 10**6


def _fewer_columns(footer: Struct) -> None:
    footer[FileField.ROW_GROUPS][0][Group.COLUMNS].pop()


def _more_children(footer: Struct) -> None:
    footer[FileField.SCHEMA][0][Element.CHILDREN] = 9


def _encrypted(footer: Struct) -> None:
    footer[FileField.ROW_GROUPS][0][Group.COLUMNS][IDS].put(Chunk.CRYPTO, thrift.STRUCT, Struct())


def _no_schema(footer: Struct) -> None:
    footer.drop(FileField.SCHEMA)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_claim_rows, "its footer says 9,223,372,036,854,775,807 rows, and 6 in its row groups"),
        (_claim_rows_everywhere, "'id' in row group 1 has 3 values in 9,223,372,036,854,775,804 rows"),
        (_fewer_than_no_rows, "'id' in row group 1 has 3 values in -3 rows"),
        (_other_levels, "'id' in row group 0 has other levels than the schema"),
        (_no_levels, "has repetition 7"),
        (_more_values, "'id' in row group 1 has 4 values in 3 rows"),
        (_fewer_values, "'embeddings.list.element' in row group 1 has 2 values in 3 rows"),
        (_other_type, "'embeddings.list.element' in row group 1 has another type than in the schema"),
        (_type_of_the_schema, "'embeddings.list.element' in row group 0 has another type than in the schema"),
        (_outside, "'embeddings.list.element' in row group 1 lies outside the file"),
        (_fewer_columns, "row group 0 has 1 columns, and the schema 2"),
        (_more_children, "more columns than it names"),
        (_encrypted, "encrypted"),
        (_no_schema, "less than each does"),
    ],
)
def test_a_footer_that_contradicts_itself_is_bad_input(path: Path, change: Callable[[Struct], None], said: str) -> None:
    footer = read_footer(path)
    change(footer)
    write_footer(path, footer)
    with pytest.raises(InputError) as error:
        facts(path, Parquet())
    assert "a.parquet: not a readable parquet file" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff" * 8 + b"PAR1", b"no parquet at all"])
def test_what_is_no_parquet_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: not a readable parquet file"):
        facts(tmp_path / "a.parquet", Parquet())


def test_a_footer_longer_than_the_first_look_at_it_is_read(tmp_path: Path) -> None:
    columns = {f"column {i} {'x' * 100}": pa.array([i, None]) for i in range(500)}
    found = facts(write(tmp_path / "a.parquet", [1, 2], [[1.0], None], **columns), Parquet())
    assert found.num_rows == 2
    assert len(found.schema) == 502


@pytest.mark.parametrize("seed", range(20))
def test_whole_files_pass(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    kinds = {
        "struct": pa.array([{"a": 1, "b": [None, "x"]}, None, {"a": None, "b": []}]),
        "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        "lists": pa.array([[[1], []], None, [None]]),
        "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
        "null": pa.nulls(3),
    }
    table = pa.table({"id": range(3), **{name: kinds[name] for name in rng.sample(sorted(kinds), 3)}})
    options = {
        "version": rng.choice(["1.0", "2.4", "2.6"]),
        "data_page_version": rng.choice(["1.0", "2.0"]),
        "compression": rng.choice(["NONE", "zstd", "lz4"]),
        "write_page_index": rng.choice([True, False]),
        "row_group_size": rng.choice([1, 2, 5]),
        "use_compliant_nested_type": rng.choice([True, False]),
    }
    pq.write_table(table, tmp_path / "a.parquet", **options)
    assert facts(tmp_path / "a.parquet", Parquet()).num_rows == 3
    pq.write_table(table.slice(0, 0), tmp_path / "b.parquet", **options)
    assert facts(tmp_path / "b.parquet", Parquet()).num_rows == 0


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
    said = f"{tmp_path}/b.parquet: not a readable parquet file: its footer says "
    assert all(error.startswith(said) for error in errors)


def test_more_rows_than_any_file_of_that_size_has_are_bad_input(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_check, "_ROWS_PER_BYTE", 1 / 100)
    with pytest.raises(InputError, match="row group 0 has 3 rows in"):
        facts(path, Parquet())


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
    table = pa.table({"id": range(9), "embeddings": [[1.0, 2.0]] * 9, "text": ["x"] * 9})
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
