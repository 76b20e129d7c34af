"""Whole runs and removals over Lance datasets, which pylance writes, and opens again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import Ended, dedup, duplicates

from beam_semdedup import InputError, RunError
from beam_semdedup.cli import commands
from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.inputs.lance import Lance
from beam_semdedup.removal import job
from beam_semdedup.removal.job import RemovalResult, remove_duplicates

lance = pytest.importorskip("lance")
ROWS = np.random.default_rng(7).normal(size=(200, 8)).astype(np.float16)
COPIES = {150: 3, 151: 8, 199: 12, 61: 20}
"""Rows that are others again; 3 is deleted before any run."""
for _copy, _row in COPIES.items():
    ROWS[_copy] = ROWS[_row]
PAIRS = {frozenset((f"doc-{a}", f"doc-{b}")) for a, b in COPIES.items() if b != 3}
EXACT = {"eps": 1e-4, "n_clusters": 1, "recall_sample": 0}


def table(rows: range = range(200)) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS[list(rows)].reshape(-1)), 8)
    texts = [f"text {row}" for row in rows]
    return pa.table({"id": [f"doc-{row}" for row in rows], "embeddings": vectors, "text": texts})


def written(place: Path | str, **options: Any) -> str:
    """A dataset of four fragments, with deletions in two, in version 2."""
    lance.write_dataset(table(), str(place), max_rows_per_file=60, **options)
    lance.dataset(str(place), **options).delete("id in ('doc-3', 'doc-70')")
    return str(place)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return written(tmp_path / "x.lance")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over such a dataset, whose duplicates go by their ids."""
    place = tmp_path_factory.mktemp("found")
    dedup(written(place / "x.lance"), place / "out", **EXACT)
    return place / "out"


@pytest.fixture(scope="module")
def more(found: Path) -> Path:
    """Another run over it, which finds many more."""
    dedup(found.parent / "x.lance", found.parent / "more", eps=1.2, n_clusters=1, recall_sample=0)
    return found.parent / "more"


def ids(place: Path | str, **options: Any) -> list[str]:
    return list(lance.dataset(str(place), **options).to_table(columns=["id"]).column("id").to_pylist())


def removal(data: str, output: Path | str, run: Path, **parameters: Any) -> RemovalResult:
    given = {"input_path": [data], "duplicates_path": str(run), "output_path": str(output), "verbose": False}
    return remove_duplicates(RemovalParameters(**{**given, **parameters}))


def fail_at_third(patched: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Lets the third call of a method of `Lance` fail, in units of a file each; returns the calls, as they come."""
    method, calls = getattr(Lance, name), list[Any]()

    def fail(kind: Lance, *given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise RuntimeError("killed")
        return method(kind, *given)

    patched.setattr(Lance, name, fail)
    patched.setattr("beam_semdedup.removal.plan._UNIT_BYTES", 1)
    return calls


class TestRuns:
    def test_the_command_finds_duplicates_and_writes_a_dataset_without_them(
        self, data: str, tmp_path: Path, called: Callable[..., Ended]
    ) -> None:
        given = [f"input_path={data}", f"output_path={tmp_path}/out", "n_clusters=4", "eps=0.0001", "n_probes=exact"]
        ended = called(commands.main, *given, "remove=true", "metadata_fields=[text]", "report=true")
        assert ended.code == 0, ended.err
        assert "not " not in ended.err
        found = pq.read_table(tmp_path / "out/duplicates").to_pylist()
        assert {frozenset((row["id"], row["max_id"])) for row in found} == PAIRS
        assert all(row["text"] == row["id"].replace("doc-", "text ") for row in found)
        gone = {row["id"] for row in found}
        kept = lance.dataset(f"{tmp_path}/out/deduplicated")
        kept.validate()
        assert kept.version == 1
        expected = [row for row in lance.dataset(data).to_table().to_pylist() if row["id"] not in gone]
        assert sorted(kept.to_table().to_pylist(), key=lambda row: row["id"]) == sorted(
            expected, key=lambda row: row["id"]
        )
        assert kept.schema == lance.dataset(data).schema
        assert lance.dataset(data).version == 2
        report = (tmp_path / "out/report.html").read_text()
        assert "text 151" in report or "text 8" in report

    def test_a_commit_during_a_run_does_not_change_it(self, data: str, tmp_path: Path, monkeypatch: Any) -> None:
        inspect, since = Lance.inspect, []

        def then_commit(kind: Lance, file: Any) -> Any:
            found = inspect(kind, file)
            if not since:
                since.append(lance.dataset(data).delete("id < 'doc-15'"))
                lance.write_dataset(table(range(50)), data, mode="append")
            return found

        monkeypatch.setattr(Lance, "inspect", then_commit)
        summary = dedup(data, tmp_path / "out", remove=True, **EXACT)
        assert (summary.rows_read, summary.num_duplicates) == (198, 3)
        assert len(ids(tmp_path / "out/deduplicated")) == 195
        after = dedup(data, tmp_path / "out", **EXACT)
        assert after.rows_read != 198
        assert not after.stages["assign"].units_reused

    def test_the_same_version_is_not_read_again(self, data: str, tmp_path: Path) -> None:
        dedup(data, tmp_path / "out", **EXACT)
        assert not dedup(data, tmp_path / "out", **EXACT).stages["assign"].units_done

    def test_of_several_datasets_each_is_one_again(self, tmp_path: Path) -> None:
        for name in ("x.lance", "deep/y.lance"):
            (tmp_path / "in/deep").mkdir(parents=True, exist_ok=True)
            written(tmp_path / "in" / name)
        summary = dedup(tmp_path / "in", tmp_path / "out", repeated_ids="allow", remove=True, **EXACT)
        assert summary.rows_read == 396
        kept = [ids(tmp_path / "out/deduplicated" / name) for name in ("x.lance", "deep/y.lance")]
        gone = set(duplicates(summary).column("id").to_pylist())
        whole = ids(tmp_path / "in/x.lance")
        assert sorted(kept[0]) == sorted(kept[1]) == sorted(set(whole) - gone)

    def test_a_source_that_would_lose_too_much_is_a_data_file(self, data: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"input file \w+\.lance: 2 of 59 rows are duplicates"):
            dedup(data, tmp_path / "out", remove=True, **EXACT, max_removed_share=0.01)

    def test_formats_that_are_mixed_are_told(self, data: str, tmp_path: Path) -> None:
        pq.write_table(table(), tmp_path / "a.parquet")
        with pytest.raises(
            InputError, match=r"files of several formats, \w+ \(.*\) and \w+ \(.*\): give input_filetype"
        ):
            dedup(tmp_path, f"{tmp_path}-out")
        assert dedup(tmp_path, f"{tmp_path}-out", input_filetype="lance").rows_read == 198
        assert dedup(tmp_path, f"{tmp_path}-out", input_filetype="parquet").rows_read == 200

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["direct", "ray"])
    def test_on_several_processes(self, data: str, tmp_path: Path, name: str) -> None:
        if name == "ray":
            pytest.importorskip("ray")
        runner = {"name": name, "num_workers": 2}
        summary = dedup(data, tmp_path / "out", runner, remove=True, assign_unit_bytes=2000, **EXACT)
        assert summary.num_duplicates == 3
        assert len(ids(tmp_path / "out/deduplicated")) == 195
        lance.dataset(data).to_table()  # this process has not stopped to read either

    def test_marks_cannot_be_added(self, data: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="input_filetype=lance: columns cannot be added"):
            dedup(data, tmp_path / "out", remove="mark", **EXACT)


class TestInPlace:
    def test_rows_are_deleted_in_a_new_version(
        self, data: str, found: Path, tmp_path: Path, called: Callable[..., Ended]
    ) -> None:
        before, listed = ids(data), set(pq.read_table(found / "duplicates").column("id").to_pylist())
        given = [f"input_path={data}", f"duplicates_path={found}", f"output_path={data}"]
        ended = called(commands.remove_main, *given)
        assert ended.code == 0, ended.err
        assert "Deleted in version 3 of " in ended.err
        assert "Removed 3 rows (3 ids), kept 195" in ended.out
        assert ids(data) == [name for name in before if name not in listed]
        assert lance.dataset(data, version=2).count_rows() == 198
        lance.dataset(data).validate()
        assert not [path for path in Path(data).iterdir() if path.name.startswith("_removal")]
        again = called(commands.remove_main, *given)
        assert again.code == 2
        assert "none of the 3 listed ids in duplicates_path=" in again.err
        assert not [path for path in Path(data).iterdir() if path.name.startswith("_removal")]
        assert lance.dataset(data).version == 3

    def test_rows_without_ids_go_by_their_places_in_whichever_version(self, data: str, tmp_path: Path) -> None:
        summary = dedup(data, tmp_path / "out", id_field=None, **EXACT)
        places = duplicates(summary).column("id").to_pylist()
        assert all(place.startswith(f"{data}/data/") for place in places)
        lance.dataset(data).delete("id in ('doc-0', 'doc-1', 'doc-2')")
        lance.write_dataset(table(range(1)), data, mode="append")
        result = removal(data, data, tmp_path / "out", id_field=None)
        assert (result.rows_removed, result.ids_not_found) == (3, 0)
        left = ids(data)
        assert len(left) == 198 - 3 + 1 - 3
        assert all(len(pair & set(left)) == 1 for pair in PAIRS)

    def test_a_removal_that_failed_goes_on_and_commits_once(self, data: str, found: Path, monkeypatch: Any) -> None:
        with monkeypatch.context() as patched:
            calls = fail_at_third(patched, "delete")
            with pytest.raises(RunError):
                removal(data, data, found)
            assert lance.dataset(data).version == 2
            assert removal(data, data, found).rows_removed == 3
            assert len(calls) in (4, 5)
        assert (lance.dataset(data).version, len(ids(data))) == (3, 195)

    def test_a_removal_that_was_killed_after_its_commit_is_finished(
        self, data: str, found: Path, monkeypatch: Any
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(job, "abandon", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                removal(data, data, found)
        assert lance.dataset(data).version == 3
        lance.write_dataset(table(range(1)), data, mode="append")
        result = removal(data, data, found)
        assert (result.rows_read, result.rows_removed, result.ids_removed) == (198, 3, 3)
        assert lance.dataset(data).version == 4
        assert not list(Path(data).glob("_removal*"))

    def test_another_removal_after_a_kill_is_its_own(
        self, data: str, found: Path, more: Path, monkeypatch: Any
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(job, "abandon", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                removal(data, data, found)
        assert removal(data, data, more).rows_removed > 50
        assert lance.dataset(data).version == 4

    def test_what_others_commit_meanwhile_stays_or_is_told(self, data: str, found: Path, monkeypatch: Any) -> None:
        commit = Lance.commit

        def later(statement: Callable[[], Any]) -> Callable[..., int]:
            def call(kind: Lance, *given: Any) -> int:
                statement()
                return commit(kind, *given)

            return call

        monkeypatch.setattr(Lance, "commit", later(lambda: lance.dataset(data).delete("id = 'doc-150'")))
        with pytest.raises(RunError, match="rows of the same fragments were changed since version 2"):
            removal(data, data, found)
        assert len(ids(data)) == 197
        monkeypatch.setattr(Lance, "commit", later(lambda: lance.write_dataset(table(range(5)), data, mode="append")))
        assert removal(data, data, found).rows_removed == 3
        assert len(ids(data)) == 197 + 5 - 3

    def test_repeated_ids_are_refused_before_anything_is_deleted(self, data: str, found: Path) -> None:
        lance.write_dataset(table(range(200)), data, mode="append")
        with pytest.raises(InputError, match="repeated_ids=allow"):
            removal(data, data, found)
        assert (lance.dataset(data).version, len(ids(data))) == (3, 398)
        assert removal(data, data, found, repeated_ids="allow").rows_removed == 6

    def test_one_of_several_datasets_is_no_output(self, data: str, found: Path, tmp_path: Path) -> None:
        shutil.copytree(data, tmp_path / "y.lance")
        with pytest.raises(
            InputError, match="is one of 2 datasets in input_path: give it alone as input_path to delete"
        ):
            removal(f"{tmp_path}/*.lance", data, found)
        with pytest.raises(InputError, match="lies inside input_path"):
            removal(data, f"{data}/clean", found)

    def test_other_formats_have_no_versions(self, found: Path, tmp_path: Path) -> None:
        (tmp_path / "parquet").mkdir()
        pq.write_table(table(), tmp_path / "parquet/a.parquet")
        with pytest.raises(InputError, match="holds the input file"):
            removal(f"{tmp_path}/parquet", tmp_path / "parquet", found)


class TestNewDatasets:
    def test_a_removal_that_failed_goes_on(self, data: str, found: Path, tmp_path: Path, monkeypatch: Any) -> None:
        with monkeypatch.context() as patched:
            calls = fail_at_third(patched, "copy_without")
            with pytest.raises(RunError):
                removal(data, tmp_path / "clean", found)
            assert not (tmp_path / "clean/_versions").exists()
            assert removal(data, tmp_path / "clean", found).rows_removed == 3
            assert len(calls) in (4, 5)
        assert len(ids(tmp_path / "clean")) == 195

    def test_it_takes_the_place_of_an_earlier_one_and_of_nothing_else(
        self, data: str, found: Path, more: Path, tmp_path: Path
    ) -> None:
        removal(data, tmp_path / "clean", found)
        removal(data, tmp_path / "clean", more)
        assert (lance.dataset(f"{tmp_path}/clean").version, len(ids(tmp_path / "clean")) < 150) == (1, True)
        foreign = written(tmp_path / "foreign.lance")
        with pytest.raises(InputError, match="exists and is not from an earlier removal"):
            removal(data, foreign, found)
        assert len(ids(foreign)) == 198

    def test_versions_that_others_made_of_it_are_not_cleared(self, data: str, found: Path, tmp_path: Path) -> None:
        removal(data, tmp_path / "clean", found)
        removal(data, tmp_path / "clean", found)
        lance.write_dataset(table(range(5)), f"{tmp_path}/clean", mode="append")
        with pytest.raises(InputError, match="manifest is a version of the dataset that no removal wrote"):
            removal(data, tmp_path / "clean", found)
        lance.dataset(f"{tmp_path}/clean").validate()
        assert len(ids(tmp_path / "clean")) == 200

    def test_rows_can_be_deleted_in_place_in_what_a_removal_wrote(
        self, data: str, found: Path, more: Path, tmp_path: Path
    ) -> None:
        clean = f"{tmp_path}/clean"
        removal(data, clean, found)
        result = removal(clean, clean, more)
        assert lance.dataset(clean).version == 2
        assert len(ids(clean)) == 195 - result.rows_removed < 150
        lance.dataset(clean).validate()


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [False, True])
def test_datasets_on_s3(s3: Any, in_place: bool) -> None:
    endpoint = s3.options["client_kwargs"]["endpoint_url"]
    keys = {"aws_access_key_id": s3.options["key"], "aws_secret_access_key": s3.options["secret"]}
    own = {"storage_options": {**keys, "aws_endpoint": endpoint, "aws_region": "us-east-1", "allow_http": "true"}}
    data = written(s3.join("x.lance"), **own)
    options = {"storage_options": s3.options}
    places = {"read_kwargs": options, "write_kwargs": options}
    summary = dedup(data, s3.join("out"), **places, remove=not in_place, **EXACT)
    assert summary.num_duplicates == 3
    if in_place:
        removal(data, data, s3.join("out"), **places)  # type: ignore[arg-type]
    assert len(ids(data if in_place else s3.join("out/deduplicated"), **own)) == 195


def test_a_dataset_is_not_watched(data: str, tmp_path: Path, called: Callable[..., Ended]) -> None:
    places = [f"input_path={data}", f"output_path={tmp_path}/out", f"corpus_path={tmp_path}/corpus"]
    ended = called(commands.watch_main, *places, "input_filetype=lance", "eps=0.1")
    assert ended.code == 2
    assert "a dataset with versions is not watched" in ended.err
