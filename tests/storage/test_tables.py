from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_semdedup.storage import tables
from beam_semdedup.storage.folder import Folder
from beam_semdedup.storage.records import Record


@pytest.mark.parametrize("limit", [30, 200, 1000, 2**31 - 1])
def test_rows_are_taken_whatever_the_size_of_their_texts(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    rng = np.random.default_rng(0)
    texts = [None if i % 7 == 0 else "ab" * int(n) for i, n in enumerate(rng.integers(0, 40, 30))]
    columns = {"text": pa.array(texts), "bytes": pa.array(texts, pa.binary()), "i": pa.array(range(30))}
    table = pa.concat_tables([pa.table(columns).slice(0, 11), pa.table(columns).slice(11)])
    expected = table.take([*range(29, -1, -2), 3, 3, 3])
    monkeypatch.setattr(tables, "_LARGEST_TEXT", limit)
    found = tables.take(table, np.array([*range(29, -1, -2), 3, 3, 3]))
    assert found.equals(expected)
    assert found.schema == table.schema
    assert (found.column("text").num_chunks == 1) == (limit > 1000)


def test_no_rows_are_taken_too() -> None:
    table = pa.table({"text": pa.array(["a"])})
    assert tables.take(table, np.empty(0, np.int64)).equals(table[:0])


@dataclass(frozen=True)
class Facts(Record):
    number: int


ODD_TYPES = {
    "seconds": pa.array([1, None], pa.timestamp("s")),
    "dictionary": pa.array(["a", None]).dictionary_encode(),
    "uuid": pa.array([b"x" * 16, None], pa.uuid()),
    "fixed": pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
    "large": pa.array([["a"], []], pa.large_list(pa.large_string())),
    "struct": pa.array([{"a": {"b": [1]}}, None]),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.float16())),
    "view": pa.array(["a", None], pa.string_view()),
    "null": pa.nulls(2),
    "duration": pa.array([1, 2], pa.duration("ns")),
}


@pytest.mark.parametrize("name", ODD_TYPES)
def test_facts_are_read_whatever_the_columns(tmp_path: Path, name: str) -> None:
    file = Folder(str(tmp_path)).file("a.parquet")
    tables.write(file, pa.table({"id": [1, 2], name: ODD_TYPES[name]}), Facts(7), "zstd")
    assert tables.read_facts(file, Facts) == Facts(7)


@pytest.mark.parametrize("other", [{"id": "string"}, {"text": "binary"}, {"text": "string", "more": "int8"}])
def test_a_file_with_other_columns_than_were_written_has_no_facts(
    tmp_path: Path, other: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    file = Folder(str(tmp_path)).file("a.parquet")
    tables.write(file, pa.table({"text": ["a"]}), Facts(7), "zstd")
    metadata = pq.read_schema(file.url).metadata
    schema = pa.schema([(name, pa.type_for_alias(type_)) for name, type_ in other.items()], metadata)
    pq.write_table(schema.empty_table(), file.url)
    assert tables.read_facts(file, Facts) is None
    assert f"{file} is damaged or gone: its columns are not those that were written" in caplog.text


def test_facts_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    file = Folder(str(tmp_path)).file("a.parquet")
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"semdedup": Facts(7).to_json()}), file.url)
    assert tables.read_facts(file, Facts) == Facts(7)


def test_a_file_that_says_nothing_of_itself_has_no_facts(tmp_path: Path) -> None:
    file = Folder(str(tmp_path)).file("a.parquet")
    pq.write_table(pa.table({"a": [1]}), file.url)
    assert tables.read_facts(file, Facts) is None
