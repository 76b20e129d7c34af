from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import inspect, write, write_lines

from beam_semdedup.errors import InputError
from beam_semdedup.inputs.ids import Places, of_file
from beam_semdedup.inputs.listing import filetype_of
from beam_semdedup.storage.folder import File, Folder


def filetype(path: Path) -> str:
    return filetype_of(Folder(str(path)).find())


class TestFiletype:
    def test_the_names_of_the_files_say_it_whatever_is_in_them(self, tmp_path):
        for name in ("a.parquet", "b.PQ"):
            (tmp_path / name).write_bytes(b"{}")
        assert filetype(tmp_path) == "parquet"
        (tmp_path / "lines.ndjson").write_bytes(b"PAR1")
        assert filetype(tmp_path / "lines.ndjson") == "jsonl"

    @pytest.mark.parametrize("name", ["part-00000", "embeddings.dat"])
    def test_where_the_name_says_nothing_it_is_how_the_file_begins(self, tmp_path, name):
        write(tmp_path / "parquet" / name, [1], [[1.0]])
        assert filetype(tmp_path / "parquet" / name) == "parquet"
        write_lines(tmp_path / name, "", '  {"id": 1}')
        assert filetype(tmp_path / name) == "jsonl"

    @pytest.mark.parametrize("content", [b"", b"hello", b"PAR", b"[1, 2]", b"\x80\x04K\x01."])
    def test_what_no_format_begins_like_is_an_error_that_names_the_file(self, tmp_path, content):
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.bin: neither its name nor .*: give input_filetype, one of parquet, "):
            filetype(tmp_path)

    def test_files_of_two_formats_are_an_error_that_names_one_of_each(self, tmp_path):
        for name in ("a.jsonl", "b.jsonl", "c.parquet"):
            (tmp_path / name).write_bytes(b"{")
        with pytest.raises(InputError) as raised:
            filetype(tmp_path)
        assert f"several formats, jsonl ({tmp_path}/a.jsonl) and parquet ({tmp_path}/c.parquet): give" in str(
            raised.value
        )


def ids_of(file: Path, ids: Path | None, rows: list[int], name: str = "id") -> list[Any]:
    return of_file(File(str(file)), str(ids or ""), name).of(np.array(rows)).to_pylist()


def test_a_place_is_the_file_and_the_number_of_the_row(tmp_path):
    assert ids_of(tmp_path / "a:b.parquet", None, [0, 7]) == [f"{tmp_path}/a:b.parquet:{n}" for n in (0, 7)]
    assert Places("https://me:secret@host/a.npy").of(np.array([1])).to_pylist() == ["https://***@host/a.npy:1"]


def test_stored_ids_are_those_of_the_rows_whichever_are_asked_for(tmp_path):
    values = [f"k{n}" for n in range(100)]
    pq.write_table(pa.table({"key": values, "other": range(100)}), tmp_path / "ids.parquet", row_group_size=7)
    found = of_file(File("x"), str(tmp_path / "ids.parquet"), "key")
    for rows in (range(100), [0], [99], [6, 7], [3, 20, 21, 90], []):
        assert found.of(np.array(rows, dtype=np.int64)).to_pylist() == [values[row] for row in rows]


def test_of_a_file_with_one_column_that_is_the_ids(tmp_path):
    pq.write_table(pa.table({"doc": [5, 6]}), tmp_path / "ids.parquet")
    assert ids_of(tmp_path / "x", tmp_path / "ids.parquet", [1]) == [6]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": [1], "b": [2]}, "no one column id_field='id' with the ids; it has: a, b"),
        ({"id": [1.5]}, "the ids are double, expected integers, strings or binary"),
    ],
)
def test_a_file_without_ids_is_an_error_that_names_it(tmp_path, table, said):
    pq.write_table(pa.table(table), tmp_path / "ids.parquet")
    with pytest.raises(InputError) as raised:
        ids_of(tmp_path / "x", tmp_path / "ids.parquet", [0])
    assert str(raised.value) == f"{tmp_path}/ids.parquet: {said}"


def test_malformed_lines_leave_it_open_whose_the_ids_are(tmp_path):
    ids = write_lines(tmp_path / "ids.jsonl", {"id": 1}, "no object", {"id": 2})
    with pytest.raises(InputError, match=r"ids\.jsonl: it has malformed lines"):
        ids_of(tmp_path / "x", ids, [0])


def test_the_schema_of_the_input_has_the_ids_that_its_files_have_not(tmp_path):
    write(tmp_path / "a.parquet", [1, 2], [[1.0], [2.0]])
    assert inspect(tmp_path / "a.parquet", ids=[]).schema.field("id").type == pa.string()
    pq.write_table(pa.table({"id": pa.array([3, 4], pa.int32())}), tmp_path / "ids.parquet")
    found = inspect(tmp_path / "a.parquet", ids=Folder(f"{tmp_path}/ids.parquet").find())
    assert found.schema.field("id").type == pa.int32()


def test_more_or_fewer_ids_than_rows_are_an_error_that_counts_both(tmp_path):
    write(tmp_path / "a.parquet", [1, 2], [[1.0], [2.0]])
    pq.write_table(pa.table({"id": [3]}), tmp_path / "ids.parquet")
    with pytest.raises(InputError, match=r"a\.parquet has 2 rows, and .*ids\.parquet, in ids_path, 1 id$"):
        inspect(tmp_path / "a.parquet", ids=Folder(f"{tmp_path}/ids.parquet").find())


def test_ids_of_different_kinds_are_an_error(tmp_path):
    for name, ids in (("a", pa.array([3, 4])), ("b", pa.array(["x", "y"]))):
        write(tmp_path / f"in/{name}.parquet", [1, 2], [[1.0], [2.0]])
        (tmp_path / "ids").mkdir(exist_ok=True)
        pq.write_table(pa.table({"id": ids}), tmp_path / f"ids/{name}.parquet")
    with pytest.raises(InputError, match=r"the ids are int64 in .*/ids/a\.parquet and string in .*/ids/b\.p"):
        inspect(tmp_path / "in", ids=Folder(f"{tmp_path}/ids").find())
