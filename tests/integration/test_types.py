"""Whole runs with removal over columns that not every reader gives back as they are."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from runs import dedup, duplicates, read_parquet

MAX = datetime.datetime(9999, 12, 31)
NOW = datetime.datetime(2020, 1, 1)
PAIRS = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
"""Vectors of four rows, the second and the fourth of which are as the one before them."""


def run(tmp_path: Path, rows: pa.Table, **parameters: Any) -> Any:
    (tmp_path / "in").mkdir()
    pq.write_table(rows, tmp_path / "in/a.parquet", use_deprecated_int96_timestamps=True)
    return dedup(str(tmp_path / "in"), str(tmp_path / "out"), n_clusters=1, remove=True, **parameters)


def test_rows_are_ranked_by_int96_timestamps_of_any_year_which_stay_what_they_are(tmp_path: Path) -> None:
    until = pa.array([NOW, MAX, datetime.datetime(1600, 1, 1), datetime.datetime(1500, 1, 1)], pa.timestamp("us"))
    table = pa.table({"id": range(4), "embeddings": PAIRS, "until": until})
    ranking = {"metadata_cols": ["until"], "ascending": False}
    summary = run(tmp_path, table, ranking_strategy=ranking, metadata_fields=["until"])
    found = duplicates(summary)
    assert found.column("id").to_pylist() == [0, 3]
    assert found.column("until").to_pylist() == [NOW, datetime.datetime(1500, 1, 1)]
    (file,) = Path(summary.paths["duplicates"]).glob("*.parquet")
    logical = pq.read_metadata(file).schema.column(4).logical_type.to_json()  # which Spark reads
    assert '"timeUnit": "microseconds"' in logical
    kept = tmp_path / "out/deduplicated/a.parquet"
    assert pq.read_metadata(kept).schema.column(2).physical_type == "INT96"
    assert duckdb.sql(f"select id, until from read_parquet('{kept}')").fetchall() == [(1, MAX), (2, until[2].as_py())]


def test_a_null_vector_of_a_fixed_size_is_rejected_and_stays(tmp_path: Path) -> None:
    vectors = pa.array([*PAIRS, None], pa.list_(pa.float32(), 2))
    sizes = pa.array([[1, 2], None, None, [3, None], None], pa.list_(pa.int8(), 2))
    tags = pa.array([["a"], None, [], ["c", None], None], pa.list_(pa.string_view()))
    names = pa.array([{"x": "a"}, None, None, {"x": None}, None], pa.struct([("x", pa.string_view())]))
    table = pa.table({"id": range(5), "embeddings": vectors, "sizes": sizes, "tags": tags, "names": names})
    summary = run(tmp_path, table, which_to_keep="easy", metadata_fields=["sizes", "tags", "names"])
    found = duplicates(summary)
    assert found.column("id").to_pylist() == [1, 3]
    assert found.column("sizes").to_pylist() == [None, [3, None]]
    assert found.column("tags").to_pylist() == [None, ["c", None]]
    assert found.column("names").to_pylist() == [None, {"x": None}]
    rejected = read_parquet(tmp_path / "out/rejected")
    assert list(zip(*rejected.select(["id", "reason"]).to_pydict().values(), strict=True)) == [(4, "embedding is null")]
    kept = tmp_path / "out/deduplicated/a.parquet"
    assert pq.read_schema(kept).equals(table.schema)
    rows = duckdb.sql(f"select * from read_parquet('{kept}')").fetchall()
    assert rows == [(0, [1, 0], [1, 2], ["a"], {"x": "a"}), (2, [0, 1], None, [], None), (4, None, None, None, None)]


def test_an_id_that_is_not_utf8_is_rejected_and_its_row_stays_as_it_is(tmp_path: Path) -> None:
    stored = pa.array([b"a", b"b", b"\xff", b"\xc3("])
    ids = pa.Array.from_buffers(pa.string(), 4, stored.buffers())
    summary = run(tmp_path, pa.table({"id": ids, "embeddings": [[1.0, 0.0]] * 4}), which_to_keep="easy")
    assert duplicates(summary).column("id").to_pylist() == ["b"]
    assert summary.rejected == {"id is not UTF-8": 2}
    rejected = read_parquet(tmp_path / "out/rejected")
    assert rejected.column("id").to_pylist() == [None, None]
    assert rejected.column("row").to_pylist() == [2, 3]
    kept = pq.read_table(tmp_path / "out/deduplicated/a.parquet").column("id")
    assert kept.cast(pa.binary()).to_pylist() == [b"a", b"\xff", b"\xc3("]
