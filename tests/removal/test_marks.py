"""Files with columns that say which rows are duplicates: all else in them is as it was."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_semdedup import SemanticDeduplicationWorkflow
from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.removal.id_list import IdList
from beam_semdedup.removal.job import RemovalResult, remove_duplicates
from beam_semdedup.removal.lookup import open_reader
from beam_semdedup.stages.duplicates import DuplicatesFacts
from beam_semdedup.storage import tables
from beam_semdedup.storage.folder import File, Folder

NAMES = ["duplicate_of", "similarity", "duplicate"]


def mark(input_path: Any, duplicates_path: Any, output_path: Any, **values: Any) -> RemovalResult:
    paths = {"input_path": str(input_path), "duplicates_path": str(duplicates_path), "output_path": str(output_path)}
    return remove_duplicates(resolve({**paths, "verbose": False, "mode": "mark", **values}, RemovalParameters))


def finished_run(output: Path, marks: dict[Any, tuple[Any, float]], parts: int = 2) -> Path:
    """What a finished run leaves in its output: files of duplicates with these ids, of what and how similar."""
    folder, ids = Folder(str(output), {}), sorted(marks)
    names = [f"part-0123456789abcdef-{number:05d}.parquet" for number in range(parts)]
    for name, own in zip(names, np.array_split(np.array(ids, dtype=object), parts), strict=True):
        table = pa.table(
            {
                "id": pa.array(own.tolist(), pa.array(ids).type),
                "max_id": pa.array([marks[i][0] for i in own], pa.array(ids).type),
                "cosine_sim_score": pa.array([marks[i][1] for i in own], pa.float32()),
            }
        )
        tables.write((folder / "duplicates").file(name), table, DuplicatesFacts(len(own), 0), "zstd", 3)
    said = {"program": "beam-semdedup", "eps": 0.1, "duplicates_files": names}
    folder.file("summary.json").write_bytes(json.dumps({**said, "repeated_ids": {"count": 0, "examples": []}}).encode())
    return output


def expected(ids: list[Any], marks: dict[Any, tuple[Any, float]]) -> dict[str, list[Any]]:
    found = [marks.get(i, (None, None)) for i in ids]
    scores = [None if score is None else float(np.float32(score)) for _, score in found]
    return dict(zip(NAMES, ([other for other, _ in found], scores, [i in marks for i in ids]), strict=True))


@pytest.mark.parametrize("memory", ["1GiB", 2000])
def test_every_row_stays_and_says_whether_it_is_a_duplicate(tmp_path: Path, memory: Any) -> None:
    ids, rng = [f"row-{i}" for i in range(500)], np.random.default_rng(0)
    marks = {ids[i]: (ids[i - 1], 0.9 + i / 10_000) for i in rng.choice(np.arange(1, 500), 60, replace=False).tolist()}
    table = pa.table({"id": [*ids[:250], None, *ids[250:]], "n": pa.array(range(501)), "l": [[1.5, None]] * 501})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "a.parquet", row_group_size=70, compression="gzip", write_page_index=True)
    run = finished_run(tmp_path / "run", marks)
    result = mark(tmp_path / "data", run, tmp_path / "out", memory_budget=memory)
    assert (result.rows_read, result.rows_removed, result.ids_not_found, result.mode) == (501, 60, 0, "mark")
    written = tmp_path / "out" / "a.parquet"
    found = pq.read_table(written)
    assert found.select(table.column_names).equals(table)
    assert found.select(NAMES).to_pydict() == expected(table["id"].to_pylist(), marks)
    assert found.schema.types[3:] == [pa.string(), pa.float32(), pa.bool_()]
    for other in (pl.read_parquet(written), duckdb.read_parquet(str(written)).pl()):
        assert other.to_arrow().select(NAMES).to_pydict() == found.select(NAMES).to_pydict()
    before, after = pq.read_metadata(tmp_path / "data" / "a.parquet"), pq.read_metadata(written)
    for group in range(before.num_row_groups):
        for column in range(before.num_columns):
            a, b = (m.row_group(group).column(column) for m in (before, after))
            assert (a.compression, a.encodings, a.total_compressed_size, a.statistics) == (
                *(b.compression, b.encodings, b.total_compressed_size),
                b.statistics,
            )
            assert b.has_offset_index == a.has_offset_index
    assert not list((tmp_path / "out").glob("_removal/*"))


@given(
    rows=st.integers(0, 60),
    group=st.integers(1, 30),
    marked=st.sets(st.integers(-10, 70), min_size=1),
    version=st.sampled_from(["1.0", "2.6"]),
    store_schema=st.booleans(),
    in_memory=st.booleans(),
)
@settings(max_examples=40)
def test_files_of_any_shape_are_marked(
    tmp_path_factory: Any, rows: int, group: int, marked: set[int], version: str, store_schema: bool, in_memory: bool
) -> None:
    home = tmp_path_factory.mktemp("marks")
    marks = {i: (i + 1000, 0.5) for i in marked}
    table = pa.table({"id": pa.array(range(rows), pa.int32()), "text": pa.array([f"é{i}" for i in range(rows)])})
    pq.write_table(table, home / "a.parquet", row_group_size=group, version=version, store_schema=store_schema)
    finished_run(home / "run", marks)
    files = [File(str(path)) for path in sorted((home / "run" / "duplicates").iterdir())]
    reader = open_reader(IdList.open(files, 1 << 30 if in_memory else 0, 4, details=True))

    def of(ids: pa.ChunkedArray | None) -> pa.Table:
        if ids is None:
            return pa.table({"of": pa.array([], pa.int64()), "is": pa.array([], pa.bool_())})
        mask, _, details = reader.find_details(ids)
        return pa.table({"of": details["max_id"], "is": mask})

    target = home / "copy.parquet"
    assert Parquet().copy_marked(File(str(home / "a.parquet")), target, pa.field("id", pa.int64()), of, 100) == rows
    found = pq.read_table(target)
    assert found.select(["id", "text"]).equals(table)
    assert found["is"].to_pylist() == [i in marks for i in range(rows)]
    assert found["of"].to_pylist() == [marks[i][0] if i in marks else None for i in range(rows)]


def test_what_arrow_and_spark_say_of_the_columns_is_said_of_the_new_ones(tmp_path: Path) -> None:
    spark = {"type": "struct", "fields": [{"name": "id", "type": "long", "nullable": True, "metadata": {}}]}
    extra = {"org.apache.spark.sql.parquet.row.metadata": json.dumps(spark), "mine": "kept"}
    schema = pa.schema([("id", pa.int64()), ("at", pa.timestamp("us", "Europe/Vienna"))], extra)
    (tmp_path / "data").mkdir()
    pq.write_table(
        pa.table({"id": [1, 2], "at": pa.array([0, 1], schema.field("at").type)}, schema), tmp_path / "data/a.parquet"
    )
    mark(
        tmp_path / "data", finished_run(tmp_path / "run", {2: (1, 0.95)}), tmp_path / "out", mark_fields=["a", "b", "c"]
    )
    found = pq.read_table(tmp_path / "out" / "a.parquet")
    assert found.schema.types == [*schema.types, pa.int64(), pa.float32(), pa.bool_()]
    assert found.select(["a", "c"]).to_pydict() == {"a": [None, 1], "c": [False, True]}
    said = json.loads(found.schema.metadata[b"org.apache.spark.sql.parquet.row.metadata"])
    assert [(field["name"], field["type"]) for field in said["fields"]] == [
        *[("id", "long"), ("a", "long"), ("b", "float"), ("c", "boolean")]
    ]
    assert found.schema.metadata[b"mine"] == b"kept"


def test_lines_of_json_get_members(tmp_path: Path) -> None:
    lines = [
        b'{"id": 1, "text": "a}"}',
        b"",
        b'  {"id": 2}  \r',
        b"{broken",
        b"{}",
        '{"text": "é", "id": 3 }'.encode(),
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    run = finished_run(tmp_path / "run", {2: (1, 0.5), 3: (2, 0.25)})
    result = mark(tmp_path / "data", run, tmp_path / "out", input_filetype="jsonl")
    assert (result.rows_read, result.rows_removed) == (5, 2)
    written = gzip.decompress((tmp_path / "out" / "a.jsonl.gz").read_bytes()).split(b"\n")
    none = b'"duplicate_of": null, "similarity": null, "duplicate": false}'
    assert written == [
        b'{"id": 1, "text": "a}", ' + none,
        b"",
        b'  {"id": 2, "duplicate_of": 1, "similarity": 0.5, "duplicate": true}  \r',
        b"{broken",
        b"{" + none,
        '{"text": "é", "id": 3 , "duplicate_of": 2, "similarity": 0.25, "duplicate": true}'.encode(),
    ]


def test_a_run_marks_its_input(make_dataset: Any, tmp_path: Path) -> None:
    data = make_dataset(rows=120, copies=20, clusters=3)
    given = {"input_path": data.path, "output_path": str(tmp_path / "out"), "n_clusters": 3, "eps": 0.05}
    summary = SemanticDeduplicationWorkflow(**given, remove="mark", verbose=False).run()
    assert summary.removal is not None
    assert (summary.removal.mode, summary.removal.rows_removed) == ("mark", summary.num_duplicates)
    found = pq.read_table(summary.paths["marked"])
    duplicates = pq.read_table(summary.paths["duplicates"])
    said = dict(zip(*(duplicates[name].to_pylist() for name in ("id", "max_id")), strict=True))
    assert found["duplicate_of"].to_pylist() == [said.get(i) for i in found["id"].to_pylist()]
    assert found.num_rows == 120
    again = SemanticDeduplicationWorkflow(**given, remove=True, verbose=False).run()
    assert not (tmp_path / "out" / "marked" / "part-0.parquet").exists()
    assert pq.read_table(again.paths["deduplicated"]).num_rows == 120 - len(said)
    SemanticDeduplicationWorkflow(**given, remove="mark", verbose=False).run()
    assert not list((tmp_path / "out" / "deduplicated").glob("*.parquet"))


def test_mistakes_are_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"id": [1, 2], "duplicate": ["a", "b"]}), tmp_path / "data" / "a.parquet")
    run = finished_run(tmp_path / "run", {2: (1, 0.95)})
    with pytest.raises(InputError, match=r"a\.parquet: it has a column 'duplicate' already; give other names as mark_"):
        mark(tmp_path / "data", run, tmp_path / "out")
    with pytest.raises(InputError, match="three different names"):
        mark(tmp_path / "data", run, tmp_path / "out", mark_fields=["a", "a", "b"])
    with pytest.raises(InputError, match="mark_fields"):
        mark(tmp_path / "data", run, tmp_path / "out", mark_fields=["a"])
    with pytest.raises(InputError, match="remove='maybe'"):
        resolve({"input_path": "x", "output_path": "y", "eps": 0.1, "remove": "maybe"})
    plain = tmp_path / "list"
    plain.mkdir()
    pq.write_table(pa.table({"id": [1]}), plain / "ids.parquet")
    with pytest.raises(InputError, match="no column 'max_id', which mode=mark writes"):
        mark(tmp_path / "data", plain, tmp_path / "out", partial="allow", mark_fields=["a", "b", "c"])
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match="columns cannot be added to files of this format"):
        mark(tmp_path / "a.npy", run, tmp_path / "out", input_filetype="npy", id_field=None)
