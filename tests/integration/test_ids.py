"""Whole runs, and removals, over rows without ids of their own: by their places, or by a second file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import write, write_lines
from runs import Ended, dedup, duplicates

from beam_semdedup import InputError, RunError
from beam_semdedup.cli import commands

ROWS = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)
COPIES = {25: 3, 31: 8, 39: 12}
"""Rows that are others again."""
for _copy, _row in COPIES.items():
    ROWS[_copy] = ROWS[_row]


@pytest.fixture(params=["parquet", "jsonl"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory of two files of 20 rows with vectors and texts, and no ids."""
    for number in range(2):
        place = tmp_path / f"in/part-{number}.{request.param}"
        place.parent.mkdir(exist_ok=True)
        vectors = ROWS[20 * number : 20 * number + 20].tolist()
        texts = [f"text {row}" for row in range(20 * number, 20 * number + 20)]
        if request.param == "parquet":
            pq.write_table(pa.table({"embeddings": vectors, "text": texts}), place, row_group_size=6)
        else:
            lines = [{"embeddings": v, "text": t} for v, t in zip(vectors, texts, strict=True)]
            write_lines(place, "", *lines[:5], "not a row", *lines[5:])
    return tmp_path / "in"


def place(source: Path, row: int) -> str:
    """The id of a row, where a line that is none stands after the fifth of each file in JSON."""
    file = sorted(source.iterdir())[row // 20]
    number = row % 20
    return f"{file}:{number + (file.suffix == '.jsonl' and number >= 5)}"


def texts_in(directory: Path) -> list[str]:
    found = []
    for file in sorted(directory.glob("part*")):
        lines = file.read_text().splitlines() if file.suffix == ".jsonl" else []
        found += [line.partition('"text": "')[2].rstrip('"}') for line in lines if '"text"' in line]
        found += pq.read_table(file).column("text").to_pylist() if not lines else []
    return found


def test_rows_without_ids_are_called_by_their_places_and_removed_by_them(
    source: Path, tmp_path: Path, called: Callable[..., Ended]
) -> None:
    given = [
        "id_field=null",
        "eps=0.001",
        "n_clusters=1",
        "which_to_keep=easy",
        "remove=true",
        "metadata_fields=[text]",
    ]
    ended = called(commands.main, f"input_path={source}", f"output_path={tmp_path}/out", *given)
    assert ended.code == 0, ended.err
    found = pq.read_table(tmp_path / "out/duplicates")
    pairs = {frozenset(pair) for pair in zip(*found.select(["id", "max_id"]).to_pydict().values(), strict=True)}
    assert pairs == {frozenset((place(source, a), place(source, b))) for a, b in COPIES.items()}
    gone = set(found.column("text").to_pylist())
    kept = [f"text {row}" for row in range(40) if f"text {row}" not in gone]
    assert texts_in(tmp_path / "out/deduplicated") == kept
    other = [f"input_path={source}", f"duplicates_path={tmp_path}/out", f"output_path={tmp_path}/clean"]
    assert called(commands.remove_main, *other, "id_field=null").code == 0
    assert texts_in(tmp_path / "clean") == kept


def test_places_are_those_of_the_dataset_that_the_run_was_on(
    source: Path, tmp_path: Path, called: Callable[..., Ended]
) -> None:
    dedup(source, tmp_path / "out", id_field=None, eps=1e-3, n_clusters=1)
    shutil.copytree(source, tmp_path / "moved")
    given = ["id_field=null", f"duplicates_path={tmp_path}/out", f"output_path={tmp_path}/clean"]
    ended = called(commands.remove_main, f"input_path={tmp_path}/moved", *given)
    assert ended.code == 2
    assert f"Error: id_field=null of input_path={tmp_path}/moved: none of the 3 listed ids" in ended.err


@pytest.fixture
def apart(tmp_path: Path) -> tuple[Path, Path]:
    """Two files of 20 vectors, with their ids in files of the same names in another directory."""
    for number in range(2):
        rows = range(20 * number, 20 * number + 20)
        vectors = pa.array(ROWS[rows].tolist(), pa.list_(pa.float32()))
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "ids").mkdir(exist_ok=True)
        pq.write_table(pa.table({"embeddings": vectors}), tmp_path / f"in/{number}.parquet", row_group_size=8)
        pq.write_table(pa.table({"key": [f"k{row}" for row in rows], "x": rows}), tmp_path / f"ids/{number}.parquet")
    return tmp_path / "in", tmp_path / "ids"


def test_ids_may_be_in_files_of_their_own(apart: tuple[Path, Path], tmp_path: Path) -> None:
    source, ids = apart
    given = {"ids_path": str(ids), "id_field": "key", "eps": 1e-3, "assign_unit_bytes": 5 * 24, "remove": True}
    summary = dedup(source, tmp_path / "out", n_clusters=1, **given)
    found = duplicates(summary)
    pairs = {frozenset(pair) for pair in zip(*found.select(["id", "max_id"]).to_pydict().values(), strict=True)}
    assert pairs == {frozenset((f"k{a}", f"k{b}")) for a, b in COPIES.items()}
    gone = {int(id_[1:]) for id_ in found.column("id").to_pylist()}
    tables = [pq.read_table(file) for file in sorted((tmp_path / "out/deduplicated").glob("*.parquet"))]
    kept = [vector for table in tables for vector in table.column("embeddings").to_pylist()]
    np.testing.assert_array_equal(kept, ROWS[[row for row in range(40) if row not in gone]])


def test_other_ids_are_another_run(apart: tuple[Path, Path], tmp_path: Path) -> None:
    source, ids = apart
    given = {"ids_path": str(ids), "id_field": "key", "eps": 1e-3, "n_clusters": 1}
    first = dedup(source, tmp_path / "out", **given)
    pq.write_table(pa.table({"key": [f"other{row}" for row in range(20)]}), ids / "1.parquet")
    second = dedup(source, tmp_path / "out", **given)
    assert first.paths["kmeans_results"] != second.paths["kmeans_results"]
    assert {"other5", "k3"} & {str(id_) for row in duplicates(second).to_pylist() for id_ in row.values()}


def test_ids_that_change_during_a_run_end_it(
    apart: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beam_semdedup.workflow import run

    source, ids = apart
    finish_ = run._finish

    def change(*arguments: object) -> object:
        pq.write_table(pa.table({"key": ["x"] * 20}), ids / "1.parquet")
        return finish_(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "_finish", change)
    with pytest.raises(RunError, match=r"input files changed during the run: .*ids/1\.parquet; run again"):
        dedup(source, tmp_path / "out", ids_path=str(ids), id_field="key")


class TestMistakes:
    def said(self, *arguments: object, **values: object) -> str:
        with pytest.raises(InputError) as raised:
            dedup(*arguments, **values)
        return str(raised.value)

    def test_one_file_of_ids_for_several_files_is_refused(self, apart, tmp_path):
        said = self.said(apart[0], tmp_path / "out", ids_path=f"{apart[1]}/0.parquet", id_field="key")
        assert said.startswith(f"ids_path={apart[1]}/0.parquet is one file, the input 2: give a directory")

    def test_a_file_without_ids_is_named(self, apart, tmp_path):
        (apart[1] / "1.parquet").rename(apart[1] / "one.parquet")
        said = self.said(apart[0], tmp_path / "out", ids_path=str(apart[1]), id_field="key")
        assert said == (f"ids_path={apart[1]}: nothing there is called 1, as the ids of {apart[0]}/1.parquet would be")

    def test_two_files_of_ids_of_one_name_are_refused(self, apart, tmp_path):
        write_lines(apart[1] / "1.jsonl", {"key": 1})
        said = self.said(apart[0], tmp_path / "out", ids_path=str(apart[1]), id_field="key")
        assert said == f"ids_path: {apart[1]}/1.jsonl and {apart[1]}/1.parquet have one name: which is it?"

    def test_ids_that_are_and_are_not_are_refused(self, apart, tmp_path):
        said = self.said(apart[0], tmp_path / "out", ids_path=str(apart[1]), id_field=None)
        assert said.endswith("is where the ids are, and id_field=null says that there are none")

    def test_files_of_several_formats_are_refused_and_one_may_be_chosen(self, tmp_path):
        write(tmp_path / "in/a.parquet", [1, 2], [[1.0], [2.0]])
        write_lines(tmp_path / "in/b.jsonl", {"id": 1, "embeddings": [1.0]})
        said = self.said(tmp_path / "in", tmp_path / "out")
        assert said.startswith(f"input_path: files of several formats, parquet ({tmp_path}/in/a.parquet) and jsonl (")
        assert dedup(tmp_path / "in", tmp_path / "out", input_filetype="parquet", n_clusters=1).rows_read == 2


def test_the_command_finds_the_format_and_stores_it(tmp_path: Path, semdedup: Callable[..., Ended]) -> None:
    (tmp_path / "in").mkdir()
    write_lines(tmp_path / "in/a.jsonl", *({"id": n, "embeddings": [1.0, n]} for n in range(3)))
    ended = semdedup(f"input_path={tmp_path}/in", f"output_path={tmp_path}/out", "eps=0.01", "n_clusters=1")
    assert ended.code == 0, ended.err
    assert "input_filetype: jsonl" in (tmp_path / "out/semdedup.yaml").read_text()
