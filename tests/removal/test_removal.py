from __future__ import annotations

import gzip
import json
import posixpath
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.jsonl import Jsonl
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.inputs.registry import FORMATS
from beam_semdedup.plan import stored
from beam_semdedup.removal import plan
from beam_semdedup.removal.id_list import IdList, find_list
from beam_semdedup.removal.job import RemovalResult, remove_duplicates
from beam_semdedup.removal.plan import clear
from beam_semdedup.runners import base as runners
from beam_semdedup.stages.duplicates import DuplicatesFacts
from beam_semdedup.storage import scratch, tables
from beam_semdedup.storage.folder import File, Folder


def remove(input_path: Any, duplicates_path: Any, output_path: Any, **values: Any) -> RemovalResult:
    paths = [str(p) for p in input_path] if isinstance(input_path, list) else str(input_path)
    given_ = {"input_path": paths, "duplicates_path": str(duplicates_path), "output_path": str(output_path)}
    return remove_duplicates(resolve({**given_, "verbose": False, **values}, RemovalParameters))


def message(*arguments: Any, **values: Any) -> str:
    """What the InputError says that this removal raises."""
    with pytest.raises(InputError) as raised:
        remove(*arguments, **values)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def finished_run(
    output: Path | str,
    *ids: pa.Array | Sequence[Any],
    rows_per_group: int = 1000,
    options: dict[str, Any] | None = None,
    **summary: Any,
) -> str:
    """What a finished run leaves in its output: files of duplicates with these ids and the summary."""
    folder = Folder(str(output), options or {})
    names = [f"part-0123456789abcdef-{number:05d}.parquet" for number in range(len(ids))]
    for name, values in zip(names, ids, strict=True):
        array = values if isinstance(values, pa.Array) else pa.array(values)
        table = pa.table({"id": array, "max_id": array, "cosine_sim_score": np.ones(len(array), np.float32)})
        facts = DuplicatesFacts(len(array), 0)
        tables.write((folder / "duplicates").file(name), table, facts, "zstd", rows_per_group)
    said = {
        "program": "beam-semdedup",
        "eps": 0.1,
        "repeated_ids": {"count": 0, "examples": []},
        "duplicates_files": names,
        **summary,
    }
    folder.file("summary.json").write_bytes(json.dumps(said).encode())
    return str(output)


def write(path: Path, ids: Any, rows_per_group: int = 1000, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = ids if isinstance(ids, (pa.Array, pa.ChunkedArray)) else pa.array(ids)
    pq.write_table(pa.table({"id": array, **columns}), path, row_group_size=rows_per_group)
    return path


def write_lines(path: Path, *lines: Any) -> bytes:
    content = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def ids_in(path: Path | str) -> list[Any]:
    return pq.read_table(path, columns=["id"]).column("id").to_pylist()


def files_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


class TestParquet:
    def test_the_listed_rows_go_and_the_others_stay_in_order(self, tmp_path, parquet_dataset):
        gone = sorted(parquet_dataset.copies)
        run = finished_run(tmp_path / "run", gone[:20], gone[20:], rows_per_group=7)
        result = remove(parquet_dataset.path, run, tmp_path / "out")
        kept = [i for f in parquet_dataset.files for i in ids_in(tmp_path / "out" / Path(f).name)]
        assert kept == [i for i in parquet_dataset.ids if i not in parquet_dataset.copies]
        assert (result.rows_read, result.rows_removed, result.ids_removed, result.ids_not_found) == (300, 30, 30, 0)
        assert result.files == tuple(f"{tmp_path}/out/{Path(f).name}" for f in parquet_dataset.files)
        assert files_in(tmp_path / "out") == {*(Path(f).name for f in parquet_dataset.files), "_removal.json"}

    def test_files_without_rows_and_files_that_lose_all_rows_stay(self, tmp_path):
        write(tmp_path / "in/none.parquet", pa.array([], pa.int64()))
        write(tmp_path / "in/all.parquet", [1, 2])
        write(tmp_path / "in/some.parquet", [4, 3])
        result = remove(tmp_path / "in", finished_run(tmp_path / "run", [1, 2, 4]), tmp_path / "out")
        assert [ids_in(tmp_path / f"out/{n}.parquet") for n in ("none", "all", "some")] == [[], [], [3]]
        assert (result.rows_read, result.rows_removed, result.ids_removed) == (4, 3, 3)

    def test_another_id_column_than_id(self, tmp_path):
        pq.write_table(pa.table({"key.of": ["a", "b"], "id": ["b", "a"]}), tmp_path / "in.parquet")
        remove(tmp_path / "in.parquet", finished_run(tmp_path / "run", ["a"]), tmp_path / "out", id_field="key.of")
        assert pq.read_table(tmp_path / "out/in.parquet").column("key.of").to_pylist() == ["b"]


class TestWholeRuns:
    """The types again, through the pipeline."""

    @pytest.mark.parametrize(
        ("type_", "values"),
        [
            (pa.int32(), [-1, 5, 7]),
            (pa.large_string(), ["é", "", "b"]),
            (pa.binary(), [b"\xff\x00", b"", b"b"]),
            (pa.dictionary(pa.int8(), pa.string()), list("abc")),
            (pa.string_view(), list("abc")),
            (pa.binary_view(), [b"a", b"b", b"long enough to be no part of the view"]),
            (pa.uuid(), [b"a" * 16, b"b" * 16, b"c" * 16]),
        ],
    )
    def test_ids_keep_their_type_and_are_removed(self, tmp_path, type_, values):
        plain = embeddings.plain_type(type_)
        ids = pa.array([*values, None], plain)
        ids = ids.dictionary_encode() if pa.types.is_dictionary(type_) else ids.cast(type_)
        write(tmp_path / "in.parquet", ids, rows_per_group=2)
        result = remove(
            tmp_path / "in.parquet", finished_run(tmp_path / "run", pa.array(values[1:2], plain)), tmp_path / "out"
        )
        after = pq.read_table(tmp_path / "out/in.parquet").column("id")
        assert embeddings.decoded(after).to_pylist() == [values[0], values[2], None]
        assert after.type == pq.read_table(tmp_path / "in.parquet").column("id").type
        assert result.rows_removed == 1

    def test_a_list_larger_than_memory_gives_the_same_files_and_counts(self, tmp_path, make_dataset, monkeypatch):
        dataset = make_dataset(rows=200, ids="string")
        listed = [*sorted(dataset.copies), *(f"unknown-{i}" for i in range(40))]
        run = finished_run(tmp_path / "run", listed[:30], listed[30:], rows_per_group=9)
        results = {}
        opened = []
        open_list = IdList.open.__func__
        monkeypatch.setattr(
            IdList, "open", classmethod(lambda *a, **k: opened.append(open_list(*a, **k)) or opened[-1])
        )
        for name, memory in (("kept", "1GiB"), ("streamed", 2000)):
            results[name] = remove(dataset.path, run, tmp_path / name, memory_budget=memory)
        assert [ids.in_memory for ids in opened] == [True, False]
        for file in dataset.files:
            one, other = (pq.read_table(tmp_path / n / Path(file).name) for n in results)
            assert one.equals(other)
        assert [(r.rows_removed, r.ids_removed, r.ids_not_found) for r in results.values()] == [(30, 30, 40)] * 2

    def test_ids_that_no_row_has_are_counted_and_are_no_error(self, tmp_path):
        write(tmp_path / "in/a.parquet", [1, 2, 3])
        write(tmp_path / "in/b.parquet", [5, 4])
        result = remove(tmp_path / "in", finished_run(tmp_path / "run", [3, 7], [8, 9, 4]), tmp_path / "out")
        assert (result.rows_removed, result.ids_removed, result.ids_not_found) == (2, 2, 3)

    def test_repeated_entries_of_a_list_are_not_counted_as_not_found(self, tmp_path):
        write(tmp_path / "in.parquet", [1, 2, 3])
        result = remove(tmp_path / "in.parquet", finished_run(tmp_path / "run", [2, 2, 9]), tmp_path / "out")
        assert (result.rows_removed, result.ids_removed, result.ids_not_found) == (1, 2, 1)

    def test_a_run_without_a_single_duplicate_removes_nothing(self, tmp_path):
        write(tmp_path / "in.parquet", [1, 2, 3])
        for name, ids in (("a", []), ("b", [pa.array([], pa.string())])):
            result = remove(tmp_path / "in.parquet", finished_run(tmp_path / name, *ids), tmp_path / f"out-{name}")
            assert (result.rows_read, result.rows_removed, result.ids_removed, result.ids_not_found) == (3, 0, 0, 0)
            assert ids_in(tmp_path / f"out-{name}/in.parquet") == [1, 2, 3]

    @pytest.mark.slow
    def test_worker_processes_do_the_same(self, tmp_path, make_dataset):
        dataset = make_dataset(rows=60, copies=12, files=4)
        run = finished_run(tmp_path / "run", sorted(dataset.copies))
        one = remove(dataset.path, run, tmp_path / "one")
        two = remove(dataset.path, run, tmp_path / "two", runner={"name": "direct", "num_workers": 2})
        for file in dataset.files:
            assert pq.read_table(tmp_path / "one" / Path(file).name).equals(
                pq.read_table(tmp_path / "two" / Path(file).name)
            )
        assert (two.rows_removed, two.ids_removed, two.ids_not_found) == (12, 12, 0)
        assert [Path(f).name for f in one.files] == [Path(f).name for f in two.files]

    def test_a_failure_names_the_file_and_the_removal_is_not_finished(self, tmp_path, monkeypatch):
        write(tmp_path / "in/a.parquet", [1, 2])
        write(tmp_path / "in/b.parquet", [3, 4])
        run = finished_run(tmp_path / "run", [1])
        original = Parquet.copy_without

        def fail(self: Any, source: File, targets: Sequence[Path], *rest: Any) -> Any:
            if source.name == "b.parquet":
                targets[0].write_bytes(b"half")
                raise OSError("the disk is full")
            return original(self, source, targets, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(Parquet, "copy_without", fail)
            with pytest.raises(RunError, match=rf"{tmp_path}/in/b\.parquet: OSError: the disk is full"):
                remove(tmp_path / "in", run, tmp_path / "out")
        assert "b.parquet" not in files_in(tmp_path / "out")
        assert not (tmp_path / "out/_removal.json").exists()
        assert remove(tmp_path / "in", run, tmp_path / "out").rows_removed == 1
        assert files_in(tmp_path / "out") == {"a.parquet", "b.parquet", "_removal.json"}


class TestResume:
    """A removal that was killed goes on where it stopped."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> str:
        write(tmp_path / "in/a.parquet", [1, 2, 5])
        write(tmp_path / "in/b.parquet", [3, 4, 6])
        return finished_run(tmp_path / "run", [1, 5], [3, 7])

    @staticmethod
    def stop(tmp_path: Path, run: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Ends a removal when one of its two files, a unit each, is written; the names of those written from now on."""
        monkeypatch.setattr(plan, "_UNIT_BYTES", 1)
        original, written = Parquet.copy_without, []

        def fail(self: Any, source: File, *rest: Any) -> Any:
            if written:
                raise OSError("killed")
            written.append(source.name)
            return original(self, source, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(Parquet, "copy_without", fail)
            with pytest.raises(RunError, match="killed"):
                remove(tmp_path / "in", run, tmp_path / "out")
        (first,), later = written, []
        assert (tmp_path / "out" / first).exists()
        monkeypatch.setattr(
            Parquet,
            "copy_without",
            lambda self, source, *rest: later.append(source.name) or original(self, source, *rest),
        )
        return later

    def test_what_it_was_writing_is_swept(self, tmp_path, run, monkeypatch):
        self.stop(tmp_path, run, monkeypatch)
        left = tmp_path / "out" / f".b.parquet.{'0' * 32}.tmp"
        left.write_bytes(b"half")
        scratch._sweep.cache_clear()  # as in another process
        remove(tmp_path / "in", run, tmp_path / "out")
        assert not left.exists()

    @pytest.mark.parametrize("clear", [True, False])
    def test_written_files_are_kept_and_count(self, tmp_path, run, monkeypatch, clear):
        later = self.stop(tmp_path, run, monkeypatch)
        result = remove(tmp_path / "in", run, tmp_path / "out", clear_output=clear)
        assert len(later) == 1
        assert (result.rows_read, result.rows_removed, result.ids_removed, result.ids_not_found) == (6, 3, 3, 1)
        assert (ids_in(tmp_path / "out/a.parquet"), ids_in(tmp_path / "out/b.parquet")) == ([2], [4, 6])
        assert files_in(tmp_path / "out") == {"a.parquet", "b.parquet", "_removal.json"}
        assert not (tmp_path / "out/_removal").exists()

    def test_a_file_that_is_gone_is_written_again(self, tmp_path, run, monkeypatch):
        later = self.stop(tmp_path, run, monkeypatch)
        for path in (tmp_path / "out").glob("*.parquet"):
            path.unlink()
        assert remove(tmp_path / "in", run, tmp_path / "out").rows_removed == 3
        assert sorted(later) == ["a.parquet", "b.parquet"]

    @pytest.mark.parametrize("change", ["list", "input"])
    def test_nothing_is_kept_of_a_removal_of_other_files(self, tmp_path, run, monkeypatch, change):
        later = self.stop(tmp_path, run, monkeypatch)
        if change == "list":
            finished_run(tmp_path / "run", [1, 5], [4])
        else:
            write(tmp_path / "in/b.parquet", [3, 4, 6, 8])
        result = remove(tmp_path / "in", run, tmp_path / "out", clear_output=False)
        assert sorted(later) == ["a.parquet", "b.parquet"]
        assert result.rows_read == 6 + (change == "input")
        assert files_in(tmp_path / "out") == {"a.parquet", "b.parquet", "_removal.json"}

    def test_one_that_was_killed_before_its_folder_went_goes_on(self, tmp_path, run, monkeypatch):
        with monkeypatch.context() as patched:
            patched.setattr(stored, "forget", lambda stages: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                remove(tmp_path / "in", run, tmp_path / "out")
        assert (tmp_path / "out/_removal.json").exists()
        monkeypatch.setattr(Parquet, "copy_without", lambda *_: 1 / 0)
        assert remove(tmp_path / "in", run, tmp_path / "out").rows_removed == 3
        assert files_in(tmp_path / "out") == {"a.parquet", "b.parquet", "_removal.json"}

    @pytest.mark.parametrize("clear", [True, False])
    def test_one_that_was_stopped_over_a_finished_one_is_not_finished(self, tmp_path, run, monkeypatch, clear):
        remove(tmp_path / "in", run, tmp_path / "out")
        with monkeypatch.context() as patched:
            patched.setattr(Parquet, "copy_without", lambda *_: 1 / 0)
            with pytest.raises(RunError, match="ZeroDivisionError"):
                remove(tmp_path / "in", run, tmp_path / "out", clear_output=clear)
        assert not (tmp_path / "out/_removal.json").exists()
        assert remove(tmp_path / "in", run, tmp_path / "out", clear_output=clear).rows_removed == 3

    def test_what_a_removal_left_behind_is_its_own(self, tmp_path, run, monkeypatch):
        self.stop(tmp_path, run, monkeypatch)
        clear(Folder(str(tmp_path / "out")))
        assert files_in(tmp_path / "out") == set()


class TestJsonl:
    def test_lines_of_many_blocks(self, tmp_path, monkeypatch, jsonl_dataset):
        monkeypatch.setitem(FORMATS, "jsonl", lambda: Jsonl(block_bytes=1000))
        run = finished_run(tmp_path / "run", sorted(jsonl_dataset.copies))
        result = remove(jsonl_dataset.path, run, tmp_path / "out", input_filetype="jsonl")
        assert (result.rows_read, result.rows_removed) == (300, 30)
        for file in jsonl_dataset.files:
            lines = Path(file).read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["id"] not in jsonl_dataset.copies]
            assert (tmp_path / "out" / Path(file).name).read_bytes() == b"".join(kept)


class TestStructure:
    def test_files_lie_below_the_output_as_below_the_input(self, tmp_path):
        for number, name in enumerate(("a.parquet", "x/b.parquet", "x/y/c.parquet")):
            write(tmp_path / "in" / name, [number])
        run = finished_run(tmp_path / "run", [1])
        remove(tmp_path / "in", run, tmp_path / "out")
        assert files_in(tmp_path / "out") == {"a.parquet", "x/b.parquet", "x/y/c.parquet", "_removal.json"}
        remove(f"{tmp_path}/in/x/**/*.parquet", run, tmp_path / "globbed")
        assert files_in(tmp_path / "globbed") == {"b.parquet", "y/c.parquet", "_removal.json"}

    def test_a_directory_that_is_called_like_a_pattern_is_itself(self, tmp_path):
        write(tmp_path / "data[1]/x/a.parquet", [1, 2])
        run = finished_run(tmp_path / "run", [1])
        remove(tmp_path / "data[1]", run, tmp_path / "out")
        assert files_in(tmp_path / "out") == {"x/a.parquet", "_removal.json"}
        assert "lies inside input_path" in message(tmp_path / "data[1]", run, tmp_path / "data[1]/out")

    def test_directories_behind_links_are_part_of_the_dataset(self, tmp_path):
        write(tmp_path / "in/a.parquet", [1, 2])
        write(tmp_path / "other/x/b.parquet", [3, 4])
        (tmp_path / "in/c").symlink_to(tmp_path / "other")
        run = finished_run(tmp_path / "run", [1, 3])
        assert remove(tmp_path / "in", run, tmp_path / "out").rows_removed == 2
        assert files_in(tmp_path / "out") == {"a.parquet", "c/x/b.parquet", "_removal.json"}
        assert "lies inside input_path" in message(tmp_path / "in/c", run, tmp_path / "other/out")
        (tmp_path / "in/d").symlink_to(tmp_path / "out")
        assert "holds the input file" in message(tmp_path / "in", run, tmp_path / "out")

    def test_several_inputs_are_laid_over_each_other(self, tmp_path):
        write(tmp_path / "one/a.parquet", [1, 2])
        write(tmp_path / "two/x/b.parquet", [3, 5])
        write(tmp_path / "c.parquet", [4])
        inputs = [tmp_path / "one", tmp_path / "two", tmp_path / "c.parquet"]
        remove(inputs, finished_run(tmp_path / "run", [1]), tmp_path / "out")
        assert files_in(tmp_path / "out") == {"a.parquet", "x/b.parquet", "c.parquet", "_removal.json"}
        assert [ids_in(tmp_path / "out" / n) for n in ("a.parquet", "x/b.parquet", "c.parquet")] == [[2], [3, 5], [4]]

    def test_names_that_collide_are_an_error_that_names_both_files(self, tmp_path):
        for place in ("one", "two"):
            write(tmp_path / place / "a.parquet", [1])
        said = message([tmp_path / "one", tmp_path / "two"], finished_run(tmp_path / "run", [1]), tmp_path / "out")
        assert said == (
            f"input_path: {tmp_path}/one/a.parquet and {tmp_path}/two/a.parquet would both be written to "
            f"{tmp_path}/out/a.parquet: give a directory that holds both as input_path, or remove from one after the "
            "other with an output_path each"
        )
        assert not (tmp_path / "out").exists()

    def test_an_input_within_another_is_not_read_twice(self, tmp_path):
        write(tmp_path / "in/x/a.parquet", [1, 2])
        write(tmp_path / "in/b.parquet", [3])
        inputs = [tmp_path / "in", tmp_path / "in/x", tmp_path / "in/x/a.parquet"]
        result = remove(inputs, finished_run(tmp_path / "run", [1]), tmp_path / "out")
        assert result.rows_read == 3
        assert len(result.files) == 2

    @pytest.mark.parametrize("output", ["in", "in/out", "in/../in/out"])
    def test_an_output_inside_the_input_is_an_error(self, tmp_path, output):
        write(tmp_path / "in/a.parquet", [1])
        said = message(tmp_path / "in", finished_run(tmp_path / "run", [1]), tmp_path / output)
        assert said.startswith(f"output_path={tmp_path}/{output} ")
        assert files_in(tmp_path / "in") == {"a.parquet"}

    def test_an_input_inside_the_output_is_an_error(self, tmp_path):
        write(tmp_path / "out/in/a.parquet", [1])
        said = message(tmp_path / "out/in", finished_run(tmp_path / "run", [1]), tmp_path / "out")
        assert said == f"output_path={tmp_path}/out holds the input file {tmp_path}/out/in/a.parquet; choose another"

    def test_a_missing_or_wrong_id_column_is_an_error_that_names_the_file(self, tmp_path):
        run = finished_run(tmp_path / "run", [1])
        write(tmp_path / "in/a.parquet", [1])
        pq.write_table(pa.table({"key": [1]}), tmp_path / "in/b.parquet")
        assert message(tmp_path / "in", run, tmp_path / "out") == (
            f"{tmp_path}/in/b.parquet: no column id_field='id'; it has: key"
        )
        for ids in (["1"], [1.5]):
            write(tmp_path / "in/b.parquet", ids)
            assert message(tmp_path / "in", run, tmp_path / "out").startswith(
                f"{tmp_path}/in/b.parquet: the ids in 'id' are "
            )
        assert "in pandas where one is missing: write them as Int64" in message(tmp_path / "in", run, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_an_id_column_that_stands_twice_is_an_error(self, tmp_path):
        (tmp_path / "in").mkdir()
        pq.write_table(pa.table([[1], [2]], names=["id", "id"]), tmp_path / "in/a.parquet")
        said = message(tmp_path / "in", finished_run(tmp_path / "run", [1]), tmp_path / "out")
        assert said == f"{tmp_path}/in/a.parquet: column id_field='id' stands there 2 times; rename all but one"

    def test_a_jsonl_file_without_an_object_in_a_line_is_an_error(self, tmp_path):
        write_lines(tmp_path / "in/a.jsonl", {"id": 1})
        write_lines(tmp_path / "in/b.jsonl", "what")
        write_lines(tmp_path / "in/c.jsonl", b"")
        run = finished_run(tmp_path / "run", [1])
        said = message(tmp_path / "in", run, tmp_path / "out", input_filetype="jsonl")
        assert said.startswith(f"{tmp_path}/in/b.jsonl: no line is a JSON object")

    def test_only_the_start_of_jsonl_is_read_to_check_the_ids(self, tmp_path, monkeypatch):
        monkeypatch.setitem(FORMATS, "jsonl", lambda: Jsonl(block_bytes=30))
        lines = [{"id": i, "x": "y" * 20} for i in range(5)]
        run = finished_run(tmp_path / "run", [1])
        write_lines(tmp_path / "in/a.jsonl", *lines)
        write_lines(tmp_path / "in/b.jsonl", *({"x": "y" * 20} for _ in range(3)), *lines)
        write_lines(tmp_path / "in/c.jsonl", {"id": "one", "x": "y" * 20}, *lines)
        write_lines(tmp_path / "in/d.jsonl", {"id": None}, {"id": None})
        whole, inspect = [], Jsonl.inspect
        monkeypatch.setattr(Jsonl, "inspect", lambda self, file: whole.append(file.url) or inspect(self, file))
        result = remove(tmp_path / "in", run, tmp_path / "out", input_filetype="jsonl", repeated_ids="allow")
        assert result.rows_removed == 3
        assert [Path(url).name for url in sorted(whole)] == ["b.jsonl", "c.jsonl"]

    def test_no_input_is_an_error(self, tmp_path):
        assert message(tmp_path / "in", finished_run(tmp_path / "run", [1]), tmp_path / "out").startswith(
            "input_path: no files at"
        )


class TestTheList:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return write(tmp_path / "in/a.parquet", range(10))

    @staticmethod
    def find(place: Any, **values: Any) -> list[str]:
        """The names of the files that are taken for the list."""
        given_ = {"input_path": "in", "output_path": "out", "duplicates_path": str(place)}
        return [f.name for f in find_list(resolve({**given_, **values}, RemovalParameters))]

    def test_it_is_found_by_the_output_of_its_run_or_its_own_directory(self, tmp_path):
        run = finished_run(tmp_path / "run", [1, 2], [3])
        names = [f"part-0123456789abcdef-0000{n}.parquet" for n in range(2)]
        for place in (run, f"{run}/", f"{run}/duplicates", f"{run}/duplicates/", f"{run}/../run"):
            assert self.find(place) == names

    def test_files_that_the_summary_does_not_name_are_not_read(self, tmp_path, source):
        run = finished_run(tmp_path / "run", [1, 2])
        pq.write_table(pa.table({"id": [3]}), tmp_path / "run/duplicates/part-stale.parquet")
        assert remove(source, run, tmp_path / "out").rows_removed == 2

    def test_a_file_that_the_summary_names_must_be_there(self, tmp_path, source):
        run = finished_run(tmp_path / "run", [1, 2], [3])
        next(Path(run, "duplicates").glob("*-00001.parquet")).unlink()
        assert "part-0123456789abcdef-00001.parquet: gone" in message(source, run, tmp_path / "out")

    def test_a_file_that_is_another_than_the_run_wrote_is_refused(self, tmp_path, source):
        run = finished_run(tmp_path / "run", [1, 2], [3])
        name = "part-0123456789abcdef-00001.parquet"
        for content in (pa.table({"id": [5, 6]}), pa.table({"id": [5], "reason": ["embedding is null"]})):
            pq.write_table(content, Path(run, "duplicates", name))
            assert f"{name}: damaged, or not what the run wrote" in message(source, run, tmp_path / "out")
        Path(run, "duplicates", name).write_bytes(b"PAR1")
        assert f"{name}: damaged, or not what the run wrote" in message(source, run, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_an_unfinished_run_is_refused(self, tmp_path, source):
        run = finished_run(tmp_path / "run", [1, 2])
        Path(run, "summary.json").unlink()
        for place in (run, f"{run}/duplicates"):
            assert "not from a finished run (there is no summary.json)" in message(source, place, tmp_path / "out")
        nowhere = tmp_path / "nowhere"
        assert message(source, nowhere, tmp_path / "out") == f"duplicates_path={nowhere} does not exist"
        assert not (tmp_path / "out").exists()

    def test_it_is_taken_if_that_is_allowed(self, tmp_path, source):
        run = finished_run(tmp_path / "run", [1, 2])
        Path(run, "summary.json").unlink()
        (file,) = Path(run, "duplicates").glob("*.parquet")
        for place in (run, f"{run}/duplicates", file):
            assert self.find(place, partial="allow") == [file.name]
        assert remove(source, run, tmp_path / "out", partial="allow").rows_removed == 2

    def test_the_cache_beside_an_unfinished_list_is_never_taken_for_it(self, tmp_path):
        """The results of the comparison hold the ids of all rows."""
        run = tmp_path / "run"
        write(run / "pairwise_results/0123/00000000-00000001.parquet", range(10))
        write(run / "kmeans_results/0123/rejected/a.parquet", range(10))
        write(run / "rejected/part-0123.parquet", range(10))
        with pytest.raises(InputError, match=r": no parquet files there$"):
            self.find(run, partial="allow")
        write(run / "duplicates/part-0123-0.parquet", [4])
        assert self.find(run, partial="allow") == ["part-0123-0.parquet"]

    def test_a_run_without_eps_is_refused(self, tmp_path, source):
        run = finished_run(tmp_path / "run", eps=None)
        assert message(source, run, tmp_path / "out").endswith("that run had no eps and found no duplicates")

    def test_repeated_ids_are_refused_unless_allowed(self, tmp_path, source):
        write(source, [1, 2, 2, 3])
        repeated = {"count": 276, "in_clusters": 276, "in_duplicates": 1, "examples": ["2", ""]}
        run = finished_run(tmp_path / "run", [2], repeated_ids=repeated)
        said = message(source, run, tmp_path / "out")
        assert said.startswith(
            "ids repeat, 276 times within clusters and 1 among the duplicates, such as '2', ''; a removal would take "
            "all rows of a listed id"
        )
        assert "repeated_ids=allow" in said
        result = remove(source, run, tmp_path / "out", repeated_ids="allow")
        assert (result.rows_removed, result.ids_removed) == (2, 1)
        assert ids_in(tmp_path / "out/a.parquet") == [1, 3]


class TestRepeatedInTheDataset:
    """Ids of which the run could not know that they repeat: it saw one of their rows among its duplicates."""

    # The ids of each file, and how many of the listed ids 2, 3, 9 repeat.
    ROWS: ClassVar = {
        "in a file": ([[1, 2, 2, 3]], 1),
        "in two files": ([[1, 2], [2, 4]], 1),
        "both": ([[1, 2, 2], [2, 3], [3]], 2),
    }

    @staticmethod
    def written(tmp_path: Path, files: list[list[int]]) -> str:
        for number, ids in enumerate(files):
            write(tmp_path / f"in/{number}.parquet", ids, rows_per_group=2)
        return finished_run(tmp_path / "run", [2, 9], [3], rows_per_group=1)

    @pytest.mark.parametrize("where", ROWS)
    @pytest.mark.parametrize("memory", ["1GiB", 2000])
    def test_they_are_refused_and_what_was_written_is_removed(self, tmp_path, where, memory):
        files, count = self.ROWS[where]
        run = self.written(tmp_path, files)
        (tmp_path / "out").mkdir()
        (tmp_path / "out/notes.txt").write_text("mine")
        said = message(tmp_path / "in", run, tmp_path / "out", memory_budget=memory)
        examples = ", ".join(["'2'", "'3'"][:count])
        assert said.startswith(f"ids repeat, {count} of the listed ones in the dataset, such as {examples}; ")
        assert files_in(tmp_path / "out") == {"notes.txt"}

    @pytest.mark.parametrize("where", ROWS)
    def test_all_of_their_rows_go_where_that_is_allowed(self, tmp_path, where):
        files, _ = self.ROWS[where]
        result = remove(tmp_path / "in", self.written(tmp_path, files), tmp_path / "out", repeated_ids="allow")
        kept = [[i for i in ids if i not in (2, 3)] for ids in files]
        assert [ids_in(f) for f in result.files] == kept
        assert result.rows_removed == sum(map(len, files)) - sum(map(len, kept))

    def test_an_id_that_repeats_and_is_not_listed_does_not_matter(self, tmp_path):
        assert remove(tmp_path / "in", self.written(tmp_path, [[1, 1, 2], [1, 3]]), tmp_path / "out").rows_removed == 2

    def test_it_is_noticed_by_a_removal_that_goes_on(self, tmp_path, monkeypatch):
        run = self.written(tmp_path, [[1, 2], [2, 4]])
        later = TestResume.stop(tmp_path, run, monkeypatch)
        assert "1 of the listed ones in the dataset, such as '2'" in message(tmp_path / "in", run, tmp_path / "out")
        assert len(later) == 1
        assert files_in(tmp_path / "out") == set()


class TestNotFound:
    @pytest.mark.parametrize(("ids", "missing"), [([1, 11, 12], 2), ([1, 11], None), ([1, 2], None)])
    def test_more_than_half_of_the_listed_ids_missing_is_a_warning(self, tmp_path, caplog, ids, missing):
        write(tmp_path / "in.parquet", range(10))
        run = finished_run(tmp_path / "run", ids)
        remove(tmp_path / "in.parquet", run, tmp_path / "out")
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(said) == (missing is not None)
        if missing:
            assert said[0].startswith(
                f"Not found in id_field=id of input_path={tmp_path}/in.parquet: {missing} of {len(ids)} listed ids in "
                f"duplicates_path={run}; check that "
            )

    @pytest.mark.parametrize("clear", [True, False])
    def test_that_none_of_them_is_there_is_an_error_and_nothing_stays(self, tmp_path, clear):
        write(tmp_path / "in/a.parquet", range(10), name=["x"] * 10)
        write(tmp_path / "in/b.parquet", range(10, 20), name=["x"] * 10)
        run = finished_run(tmp_path / "run", [100, 101])
        assert message(tmp_path / "in", run, tmp_path / "out", clear_output=clear) == (
            f"id_field=id of input_path={tmp_path}/in: none of the 2 listed ids in duplicates_path={run} is there, so "
            "that nothing was removed or written; give the dataset of that run, and the column of its ids"
        )
        assert files_in(tmp_path / "out") == set()
        run = finished_run(tmp_path / "texts", ["x", "y"])
        assert remove(tmp_path / "in", run, tmp_path / "out", id_field="name", repeated_ids="allow").rows_removed == 20


class TestUuids:
    """A run over one form of the ids, and a removal from a dataset with another."""

    UUIDS = tuple(uuid.UUID(int=i << 100 | 0xABCDEF) for i in range(6))

    @pytest.mark.parametrize("listed", [pa.uuid(), pa.string(), pa.binary(16)])
    @pytest.mark.parametrize("form", ["parquet", "text", "upper", "bytes", "jsonl"])
    def test_the_same_ones_are_removed(self, tmp_path, listed, form):
        chosen = self.UUIDS[1:4:2]
        if listed == pa.string():
            ids = pa.array([str(u) for u in chosen])
        else:
            ids = pa.array([u.bytes for u in chosen], pa.binary(16)).cast(listed)
        run = finished_run(tmp_path / "run", ids)
        if form == "jsonl":
            write_lines(tmp_path / "in/a.jsonl", *({"id": str(u)} for u in self.UUIDS))
            remove(tmp_path / "in", run, tmp_path / "out", input_filetype="jsonl")
            lines = (tmp_path / "out/a.jsonl").read_text().splitlines()
            assert [json.loads(line)["id"] for line in lines] == [
                str(u) for i, u in enumerate(self.UUIDS) if i not in (1, 3)
            ]
            return
        if form in ("text", "upper"):
            values = pa.array([str(u) if form == "text" else str(u).upper() for u in self.UUIDS])
        else:
            values = pa.array([u.bytes for u in self.UUIDS], pa.binary(16))
            values = values.cast(pa.uuid()) if form == "parquet" else values
        write(tmp_path / "in/a.parquet", values)
        if (listed, form) == (pa.string(), "upper"):  # two texts are the same only if they are written so
            assert "none of the 2 listed ids" in message(tmp_path / "in", run, tmp_path / "out")
        else:
            assert remove(tmp_path / "in", run, tmp_path / "out").ids_not_found == 0
            after = pq.read_table(tmp_path / "out/a.parquet").column("id")
            assert after.to_pylist() == pa.chunked_array([values]).take([0, 2, 4, 5]).to_pylist()


class TestOutput:
    @pytest.fixture
    def run(self, tmp_path: Path) -> str:
        write(tmp_path / "in/a.parquet", [1, 2])
        write(tmp_path / "in/x/b.parquet", [3, 4])
        return finished_run(tmp_path / "run", [1, 3])

    @pytest.mark.parametrize("clear", [True, False])
    @pytest.mark.parametrize("inner", ["a.parquet", "x/b.parquet"])
    def test_a_foreign_file_is_never_overwritten(self, tmp_path, run, clear, inner):
        foreign = tmp_path / "out" / inner
        foreign.parent.mkdir(parents=True)
        foreign.write_bytes(b"precious")
        said = message(tmp_path / "in", run, tmp_path / "out", clear_output=clear)
        assert said == f"{foreign} exists and is not from an earlier removal; choose another output_path"
        assert foreign.read_bytes() == b"precious"
        assert files_in(tmp_path / "out") == {inner}

    def test_not_even_a_hidden_one(self, tmp_path, run):
        write(tmp_path / "in/.h.parquet", [1, 2])
        (tmp_path / "out").mkdir()
        (tmp_path / "out/.h.parquet").write_bytes(b"precious")
        assert "is not from an earlier removal" in message(tmp_path / "in/.h.parquet", run, tmp_path / "out")

    def test_foreign_files_beside_it_stay(self, tmp_path, run):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/notes.txt").write_text("mine")
        for _ in range(2):
            remove(tmp_path / "in", run, tmp_path / "out")
        assert files_in(tmp_path / "out") == {"a.parquet", "x/b.parquet", "notes.txt", "_removal.json"}

    def test_the_files_of_an_earlier_removal_are_cleared(self, tmp_path, run):
        remove(tmp_path / "in", run, tmp_path / "out")
        remove(tmp_path / "in/x", run, tmp_path / "out")
        assert files_in(tmp_path / "out") == {"b.parquet", "_removal.json"}

    def test_without_clearing_they_stay_and_are_replaced_where_they_are_written_again(self, tmp_path, run):
        remove(tmp_path / "in", run, tmp_path / "out")
        write(tmp_path / "in/a.parquet", [1, 7])
        remove(tmp_path / "in/a.parquet", run, tmp_path / "out", clear_output=False)
        assert ids_in(tmp_path / "out/a.parquet") == [7]
        assert ids_in(tmp_path / "out/x/b.parquet") == [4]

    @pytest.mark.parametrize("finished", [True, False])
    @pytest.mark.parametrize("clear", [True, False])
    def test_what_an_earlier_version_wrote_is_its_own(self, tmp_path, run, finished, clear):
        (tmp_path / "out/_removal").mkdir(parents=True)
        for name in ("a.parquet", "old.parquet"):
            (tmp_path / "out" / name).write_bytes(b"of before")
        (tmp_path / "out/_removal/0123456789abcdef.json").write_text('{"rows_read": 1, "rows_removed": 0, "found": ""}')
        ledger = {"finished": finished, "key": "0123456789abcdef", "files": ["a.parquet", "old.parquet"]}
        (tmp_path / "out/_removal.json").write_text(json.dumps(ledger))
        assert remove(tmp_path / "in", run, tmp_path / "out", clear_output=clear).rows_removed == 2
        assert ids_in(tmp_path / "out/a.parquet") == [2]
        kept = set() if clear else {"old.parquet"}
        assert files_in(tmp_path / "out") == {"a.parquet", "x/b.parquet", "_removal.json", *kept}

    @pytest.mark.parametrize("stored", ["_removal.json", "_removal/plan.json"])
    @pytest.mark.parametrize("name", ["../precious", "x/../../precious", "{tmp_path}/precious"])
    def test_a_stored_name_never_leads_out_of_the_output(self, tmp_path, run, stored, name):
        (tmp_path / "precious").write_text("mine")
        (tmp_path / "out" / stored).parent.mkdir(parents=True)
        said = {"key": "0123456789abcdef", "files": [name.format(tmp_path=tmp_path)]}
        (tmp_path / "out" / stored).write_text(json.dumps(said))
        assert "is not the name of something in it" in message(tmp_path / "in", run, tmp_path / "out")
        assert (tmp_path / "precious").read_text() == "mine"

    def test_a_removal_into_a_copy_of_an_output_leaves_the_original_alone(self, tmp_path, run):
        remove(tmp_path / "in", run, tmp_path / "out")
        (tmp_path / "out").rename(tmp_path / "moved")
        remove(tmp_path / "in", run, tmp_path / "out")
        remove(tmp_path / "in/a.parquet", run, tmp_path / "moved")
        assert files_in(tmp_path / "moved") == {"a.parquet", "_removal.json"}
        assert files_in(tmp_path / "out") == {"a.parquet", "x/b.parquet", "_removal.json"}


class TestS3:
    def test_a_dataset_a_list_and_an_output_on_s3(self, s3, make_dataset):
        dataset = make_dataset(s3.join("in"), rows=60, copies=10, options=s3.options)
        run = finished_run(s3.join("run"), sorted(dataset.copies), options=s3.options)
        kwargs = {name: {"storage_options": s3.options} for name in ("read_kwargs", "write_kwargs")}
        for _ in range(2):
            result = remove(dataset.path, run, s3.join("out"), **kwargs)
            assert (result.rows_read, result.rows_removed, result.ids_not_found) == (60, 10, 0)
        keys = s3.keys()
        assert {key for key in keys if key.startswith("out/")} == {
            "out/_removal.json",
            *(f"out/{posixpath.basename(f)}" for f in dataset.files),
        }
        fs = fsspec.core.url_to_fs(s3.url, skip_instance_cache=True, **s3.options)[0]
        kept = [i for f in dataset.files for i in ids_in(fs.open(f.replace("/in/", "/out/")))]
        assert kept == [i for i in dataset.ids if i not in dataset.copies]

    def test_from_s3_to_a_local_directory_with_a_local_list(self, s3, tmp_path, make_dataset):
        dataset = make_dataset(
            s3.join("in"), rows=40, copies=6, files=2, filetype="jsonl", suffix=".gz", options=s3.options
        )
        result = remove(
            dataset.path,
            finished_run(tmp_path / "run", sorted(dataset.copies)),
            tmp_path / "out",
            input_filetype="jsonl",
            read_kwargs={"storage_options": s3.options},
            duplicates_kwargs={},
        )
        assert result.rows_removed == 6
        kept = [
            json.loads(line)["id"] for f in result.files for line in gzip.decompress(Path(f).read_bytes()).splitlines()
        ]
        assert kept == [i for i in dataset.ids if i not in dataset.copies]

    def test_an_object_that_is_not_its_own_is_never_overwritten(self, s3, tmp_path, make_dataset):
        dataset = make_dataset(rows=20, copies=2, files=1)
        Folder(s3.url, s3.options).file("out/part-0.parquet").write_bytes(b"precious")
        run = finished_run(tmp_path / "run", sorted(dataset.copies))
        said = message(dataset.path, run, s3.join("out"), write_kwargs={"storage_options": s3.options})
        assert said.startswith(f"{s3.join('out/part-0.parquet')} exists and is not from an earlier removal")
        assert Folder(s3.url, s3.options).file("out/part-0.parquet").read_bytes() == b"precious"


class TestADatasetThatChanges:
    @pytest.fixture
    def meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Makes something happen when the pipeline of the next removal has ended."""

        def happens(then: Any) -> None:
            run = runners.run
            monkeypatch.setattr(runners, "run", lambda *arguments: (run(*arguments), then()))

        return happens

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        for name in ("a", "b"):
            (tmp_path / "in").mkdir(exist_ok=True)
            pq.write_table(pa.table({"id": [f"{name}1", f"{name}2"]}), tmp_path / "in" / f"{name}.parquet")
        return tmp_path / "in"

    def test_a_file_that_appears_is_said_and_not_copied(self, data, tmp_path, meanwhile, caplog):
        meanwhile(lambda: pq.write_table(pa.table({"id": ["c1"]}), data / "c.parquet"))
        removed = remove(data, finished_run(tmp_path / "run", ["a1"]), tmp_path / "out")
        assert (removed.rows_read, removed.rows_removed) == (4, 1)
        assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == ["a.parquet", "b.parquet"]
        assert f"appeared during the run and are not in its results: {data}/c.parquet" in caplog.text

    def test_a_file_that_changes_ends_it_and_leaves_nothing(self, data, tmp_path, meanwhile):
        run = finished_run(tmp_path / "run", ["a1"])
        meanwhile(lambda: pq.write_table(pa.table({"id": ["b3"]}), data / "b.parquet"))
        with pytest.raises(RunError, match=rf"input files changed during the run: {data}/b\.parquet; run again"):
            remove(data, run, tmp_path / "out")
        assert not list((tmp_path / "out").rglob("*.*"))
