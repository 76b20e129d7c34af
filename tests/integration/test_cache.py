"""What a later run takes from the cache, and what it must not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from runs import comparisons, dedup, duplicates, read_parquet, unit_files

from beam_semdedup import InputError, RunError, SemanticDeduplicationWorkflow
from beam_semdedup.runners import base as runners
from beam_semdedup.workflow import run as workflow

Store = Callable[[np.ndarray], str]


def write(path: Path, vectors: np.ndarray, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = pa.array(range(len(vectors)))
    pq.write_table(
        pa.table({"id": ids, "embeddings": pa.array(vectors.tolist()), **columns}),
        path,
        compression="none",
        use_dictionary=False,
    )


def test_a_file_that_changes_behind_a_link_is_read_again(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((60, 8))
    write(tmp_path / "blobs" / "x", np.repeat(vectors[:30], 2, axis=0))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.parquet").symlink_to(tmp_path / "blobs" / "x")
    assert dedup(tmp_path / "data", tmp_path / "out", n_clusters=2, eps=0.0).num_duplicates == 30

    size = (tmp_path / "blobs" / "x").stat().st_size
    write(tmp_path / "blobs" / "x", vectors)
    assert (tmp_path / "blobs" / "x").stat().st_size == size
    assert dedup(tmp_path / "data", tmp_path / "out", n_clusters=2, eps=0.0).num_duplicates == 0


def test_another_eps_over_what_is_compared_does_not_wait_for_beam(parquet_dataset: Any, tmp_path: Path) -> None:
    # Of this eps the recall is estimated, and so of those below.
    dedup(parquet_dataset.path, tmp_path / "out", eps=0.5, recall_sample=1000)
    without = "import sys; sys.modules['apache_beam'] = None; from beam_semdedup.cli.commands import main; main()"
    given = [f"input_path={parquet_dataset.path}", f"output_path={tmp_path}/out", "verbose=false", "eps=0.3"]

    def run(clusters: int) -> int:
        command = [sys.executable, "-c", without, *given, f"n_clusters={clusters}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    assert run(5) == 0
    assert read_parquet(tmp_path / "out" / "duplicates").num_rows > 0
    assert run(6) == 1  # there is no Beam for what is left to do


def test_the_order_of_the_metadata_fields_does_not_matter_to_the_fit(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((60, 8))
    write(tmp_path / "data" / "x.parquet", vectors, a=pa.array(range(60)), b=pa.array(range(60)))
    dedup(tmp_path / "data", tmp_path / "out", metadata_fields=["a", "b"])
    again = dedup(tmp_path / "data", tmp_path / "out", metadata_fields=["b", "a"])
    assert again.stages["assign"].units_done == 0
    assert comparisons(again).column_names[-2:] == ["b", "a"]


def test_what_given_centroids_do_not_depend_on_is_not_in_the_key(
    parquet_dataset: Any, given_centroids: Store, tmp_path: Path
) -> None:
    init = given_centroids(np.random.default_rng(0).standard_normal((5, parquet_dataset.embeddings.shape[1])))
    dedup(parquet_dataset.path, tmp_path / "out", init=init, max_iter=2)
    again = dedup(parquet_dataset.path, tmp_path / "out", init=init, max_iter=2, oversampling_factor=3.0, n_init=4)
    assert again.stages["assign"].units_done == 0


def test_a_moved_output_is_reused_where_it_is_now(done: tuple[Path, Path], tmp_path: Path) -> None:
    data, out = done
    expected = read_parquet(out / "duplicates").sort_by("id")
    assert expected.num_rows
    shutil.move(out, tmp_path / "new")
    summary = dedup(data, tmp_path / "new", n_clusters=3)
    assert {stage.units_done for stage in summary.stages.values()} == {0}
    assert duplicates(summary) == expected


def test_a_plan_alone_deletes_nothing(done: tuple[Path, Path]) -> None:
    data, out = done
    before = unit_files(out)
    assert before
    SemanticDeduplicationWorkflow(
        input_path=data, output_path=out, n_clusters=3, eps=0.05, verbose=False, reuse_cache=False
    ).plan()
    assert unit_files(out) == before


def test_a_refused_run_leaves_nothing(parquet_dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is more than the"):
        dedup(parquet_dataset.path, tmp_path / "out", n_clusters=10**6)
    assert not (tmp_path / "out").exists()


def test_a_plan_without_finished_units_is_made_anew(parquet_dataset: Any, tmp_path: Path) -> None:
    def plan(**sizes: Any) -> Any:
        return SemanticDeduplicationWorkflow(
            input_path=parquet_dataset.path, output_path=tmp_path / "out", n_clusters=5, eps=0.05, **sizes
        ).plan()

    assert plan(assign_unit_bytes="1GiB", max_cluster_rows=1000).job.blocks.max_cluster_rows == 1000
    second = plan(assign_unit_bytes=1000, max_cluster_rows=10)
    assert second.job.blocks.max_cluster_rows == 10
    assert len(second.units) > 5


def test_a_size_that_finished_units_do_not_have_is_not_ignored_silently(
    parquet_dataset: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dedup(parquet_dataset.path, tmp_path / "out", max_cluster_rows=50)
    dedup(parquet_dataset.path, tmp_path / "out", max_cluster_rows=60)
    assert "max_cluster_rows=60 is not used: units were finished with 50" in caplog.text


@pytest.mark.parametrize("content", [pytest.param(b"", marks=pytest.mark.slow), b"not a file of ours"])
def test_damaged_files_are_computed_again(content: bytes, parquet_dataset: Any, tmp_path: Path) -> None:
    expected = duplicates(dedup(parquet_dataset.path, tmp_path / "out", comparison_rows=50, assign_unit_bytes=2000))
    for pattern in ("*_results/*/manifest.json", "kmeans_results/*/segments/*", "pairwise_results/*/*.parquet"):
        next((tmp_path / "out").glob(pattern)).write_bytes(content)
    assert duplicates(dedup(parquet_dataset.path, tmp_path / "out")) == expected


@pytest.mark.parametrize("content", [None, pytest.param(b"", marks=pytest.mark.slow), b"not a file of ours"])
@pytest.mark.parametrize(
    ("pattern", "changed"),
    [("pairwise_results/*/*.parquet", {"eps": 0.06}), ("*/*/segments/*", {"which_to_keep": "easy"})],
)
def test_files_of_a_finished_stage_that_are_damaged_or_gone_are_computed_by_the_next_run(
    content: bytes | None,
    pattern: str,
    changed: dict[str, Any],
    finished: tuple[Path, Path, dict[str, Any]],
    tmp_path: Path,
) -> None:
    data, out = finished[0], tmp_path / "out"
    shutil.copytree(finished[1], out)
    damaged = next(out.glob(pattern))
    damaged.unlink() if content is None else damaged.write_bytes(content)
    with pytest.raises(RunError, match=f"{damaged.name} is damaged or gone: .*; the same command computes it again"):
        dedup(data, out, n_clusters=3, **changed)
    assert duplicates(dedup(data, out, n_clusters=3, **changed)) == finished[2][next(iter(changed))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A dataset with a row that is rejected, the output of a run on it, and the duplicates of runs with one change."""
    root = tmp_path_factory.mktemp("finished")
    vectors = np.random.default_rng(0).normal(size=(60, 4))
    vectors[40:50], vectors[7] = vectors[:10], 0
    write(root / "data" / "x.parquet", vectors)
    dedup(root / "data", root / "out", n_clusters=3)
    expected = {
        name: duplicates(dedup(root / "data", root / name, n_clusters=3, **{name: value}))
        for name, value in (("which_to_keep", "easy"), ("eps", 0.06))
    }
    return root / "data", root / "out", expected


@pytest.fixture
def done(finished: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> tuple[Path, Path]:
    """The dataset and a copy of the output, of a run with n_clusters=3."""
    return finished[0], shutil.copytree(finished[1], tmp_path / "out")


def _another(content: bytes) -> bytes:
    return b'{"files": [], "a": 1}'


def _zeroed(content: bytes) -> bytes:
    start = 64 if len(content) > 200 else 0
    return content[:start] + bytes(len(content) // 2) + content[start + len(content) // 2 :]


@pytest.mark.parametrize("damage", [_zeroed, pytest.param(_another, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("pattern", "changed"),
    [
        ("kmeans_results/*/segments/*", {"which_to_keep": "easy"}),
        ("kmeans_results/*/rejected/*", {"eps": 0.06}),
        ("kmeans_results/*/centroids.npy", {"which_to_keep": "easy"}),
        ("kmeans_results/*/model.json", {"eps": 0.06}),
        ("kmeans_results/*/plan.json", {"which_to_keep": "easy"}),
        ("kmeans_results/*/manifest.json", {"eps": 0.06}),
        ("pairwise_results/*/plan.json", {"eps": 0.06}),
        ("pairwise_results/*/manifest.json", {"eps": 0.06}),
        ("pairwise_results/*/*.parquet", {"eps": 0.06}),
    ],
)
def test_a_cache_file_that_cannot_be_read_is_computed_again(
    damage: Callable[[bytes], bytes],
    pattern: str,
    changed: dict[str, Any],
    finished: tuple[Path, Path, dict[str, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data, out = finished[0], tmp_path / "out"
    shutil.copytree(finished[1], out)
    damaged = next(out.glob(pattern))
    damaged.write_bytes(damage(damaged.read_bytes()))
    for stage in ("kmeans_results", "pairwise_results"):  # an attempt that did not end
        if damaged.name in ("centroids.npy", "plan.json"):
            next(out.glob(f"{stage}/*/manifest.json")).unlink(missing_ok=True)
    said = ""
    try:
        summary = dedup(data, out, n_clusters=3, **changed)
    except RunError as error:
        said = str(error)
        summary = dedup(data, out, n_clusters=3, **changed)
    assert damaged.name in said + caplog.text
    assert duplicates(summary) == finished[2][next(iter(changed))]
    assert summary.rows_rejected == 1


def test_rejected_rows_that_are_gone_are_found_again(finished: tuple[Path, Path, Any], tmp_path: Path) -> None:
    data, out = finished[0], tmp_path / "out"
    shutil.copytree(finished[1], out)
    next(out.glob("kmeans_results/*/rejected/*")).unlink()
    with pytest.raises(RunError, match="rejected: a file is gone; the same command computes it again"):
        dedup(data, out, n_clusters=3)
    assert dedup(data, out, n_clusters=3).rejected == {"embedding has zero norm": 1}


@pytest.mark.parametrize("share", [0.05, 0.2, 0.35, 0.6])
def test_rejected_rows_that_are_damaged_are_not_copied(
    share: float, finished: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    """Whichever column it is in, and also in the footer."""
    data, out = finished[0], tmp_path / "out"
    shutil.copytree(finished[1], out)
    (copy,) = (out / "rejected").iterdir()
    expected = pq.read_table(copy)
    file = next(out.glob("kmeans_results/*/rejected/*"))
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 0x55
    file.write_bytes(content)
    with contextlib.suppress(RunError):  # that it is damaged; some bytes mean nothing
        dedup(data, out, n_clusters=3)
    dedup(data, out, n_clusters=3)
    assert pq.read_table(copy).equals(expected)


@pytest.mark.parametrize("what", ["columns", "unit"])
def test_a_rejected_file_that_is_another_is_not_copied(
    what: str, finished: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    data, out = finished[0], tmp_path / "out"
    shutil.copytree(finished[1], out)
    file = next(out.glob("kmeans_results/*/rejected/*"))
    table = pq.read_table(file)
    if what == "columns":
        table = table.drop_columns("id")
    else:
        table = table.replace_schema_metadata({b"semdedup": table.schema.metadata[b"semdedup"].replace(b"-w", b"-v")})
    pq.write_table(table, file)
    with pytest.raises(RunError, match="damaged or gone: it is not what its unit wrote"):
        dedup(data, out, n_clusters=3)
    assert dedup(data, out, n_clusters=3).rejected == {"embedding has zero norm": 1}


def test_a_damaged_plan_is_made_anew(done: tuple[Path, Path]) -> None:
    data, out = done
    expected = read_parquet(out / "duplicates").sort_by("id")
    for stage in ("kmeans_results", "pairwise_results"):
        next((out / stage).glob("*/plan.json")).write_text('{"format": 3, "fi')
        assert duplicates(dedup(data, out, n_clusters=3)) == expected


def test_a_run_whose_rows_are_all_rejected_says_why(given_centroids: Store, tmp_path: Path) -> None:
    write(tmp_path / "data" / "x.parquet", np.zeros((20, 4)))
    init = given_centroids(np.eye(4)[:3])
    with pytest.raises(InputError, match=r"20 of 20 rows cannot be used \(20: embedding has zero norm\)"):
        dedup(tmp_path / "data", tmp_path / "out", n_clusters=3, init=init, max_iter=0)
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (stored["rows_rejected"], stored["rows_kept"], stored["num_duplicates"]) == (20, 0, 0)


def test_a_file_of_which_most_rows_are_rejected_ends_the_run_unless_that_is_allowed(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 4))
    write(tmp_path / "data" / "good.parquet", vectors)
    vectors[:31] = 0
    write(tmp_path / "data" / "poor.parquet", vectors)
    (tmp_path / "out" / "deduplicated").mkdir(parents=True)

    def run(**changed: Any) -> Any:
        return dedup(tmp_path / "data", tmp_path / "out", n_clusters=3, repeated_ids="allow", remove=True, **changed)

    said = (
        r"data/poor\.parquet: 31 of 60 rows cannot be used \(31: embedding has zero norm\), .*max_rejected_share=0\.5"
    )
    with pytest.raises(InputError, match=said):
        run()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["removal"] is None
    assert list((tmp_path / "out" / "deduplicated").iterdir()) == []
    with pytest.raises(InputError, match=r"the input: 31 of 120 rows cannot be used .*max_rejected_share=0\.25"):
        run(max_rejected_share=0.25)
    for share in (0.52, 1):
        summary = run(max_rejected_share=share)
        assert summary.stages["assign"].units_done == 0
        assert (summary.rows_rejected, summary.removal.rows_read) == (31, 120)


def after_the_pipeline(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Does something once when the next run's pipeline has ended."""
    run = runners.run

    def run_once(*arguments: Any) -> None:
        monkeypatch.setattr(runners, "run", run)
        run(*arguments)
        then()

    monkeypatch.setattr(runners, "run", run_once)


def test_runs_that_write_to_one_place_do_not_mix(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = []
    other = {"eps": 0.3, "remove": True, "cache_path": tmp_path / "cache"}
    duplicates_dir, own = tmp_path / "out" / "duplicates", {}

    def run_another() -> None:
        own.update({path: path.read_bytes() for path in duplicates_dir.iterdir()})
        later.append(dedup(parquet_dataset.path, tmp_path / "out", **other))
        for path, content in own.items():  # as if it had been written after the later run cleared the place
            path.write_bytes(content)

    after_the_pipeline(monkeypatch, run_another)
    with pytest.raises(RunError, match="another run has begun to write to output_path="):
        dedup(parquet_dataset.path, tmp_path / "out", cache_path=tmp_path / "cache", remove=True)
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (stored["eps"], stored["num_duplicates"]) == (0.3, later[0].num_duplicates)
    assert own
    assert {path.name for path in duplicates_dir.iterdir()} == set(stored["duplicates_files"])


def test_a_removal_that_is_refused_leaves_no_earlier_one(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 8))
    write(tmp_path / "data" / "a.parquet", vectors)
    write(tmp_path / "data" / "b.parquet", vectors)  # the same ids
    same = {"n_clusters": 2, "eps": 0.01, "remove": True}
    dedup(tmp_path / "data", tmp_path / "out", repeated_ids="allow", **same)
    assert list((tmp_path / "out" / "deduplicated").glob("*.parquet"))
    with pytest.raises(InputError, match="found and stored, but not removed"):
        dedup(tmp_path / "data", tmp_path / "out", **same)
    assert not list((tmp_path / "out" / "deduplicated").glob("*.parquet"))


def test_input_that_changes_during_a_run_is_noticed_and_nothing_of_it_kept(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = duplicates(dedup(parquet_dataset.path, tmp_path / "other"))
    data = tmp_path / "data"
    shutil.copytree(parquet_dataset.path, data)
    changed = sorted(data.rglob("*.parquet"))[0]
    after_the_pipeline(monkeypatch, lambda: os.utime(changed, (1, 1)))
    with pytest.raises(RunError, match=f"input files changed during the run: .*{changed.name}; run again"):
        dedup(data, tmp_path / "out")
    assert not unit_files(tmp_path / "out")
    assert duplicates(dedup(data, tmp_path / "out")) == expected


def test_a_file_that_appears_during_a_run_is_named_and_not_in_the_deduplicated_dataset(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(parquet_dataset.path, data)
    late = pq.read_table(data / "part-0.parquet")
    late = late.set_column(0, "id", pc.add(late.column("id"), 1000))
    after_the_pipeline(monkeypatch, lambda: pq.write_table(late, data / "part-9.parquet"))
    summary = dedup(data, tmp_path / "out", remove=True)
    kept = read_parquet(summary.paths["deduplicated"])
    assert kept.num_rows == summary.rows_kept == summary.rows_read - summary.num_duplicates
    assert not (tmp_path / "out/deduplicated/part-9.parquet").exists()
    assert caplog.text.count(f"appeared during the run and are not in its results: {data}/part-9.parquet") == 1


def test_a_refused_run_writes_nothing_into_the_input(parquet_dataset: Any) -> None:
    before = sorted(Path(parquet_dataset.path).rglob("*"))
    with pytest.raises(InputError, match="lies inside input_path"):
        dedup(
            parquet_dataset.path, Path(parquet_dataset.path, "out"), init=np.eye(5, parquet_dataset.embeddings.shape[1])
        )
    assert sorted(Path(parquet_dataset.path).rglob("*")) == before


def test_a_link_into_the_input_is_followed(parquet_dataset: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(parquet_dataset.path)
    with pytest.raises(InputError, match="lies inside input_path"):
        dedup(parquet_dataset.path, tmp_path / "link" / "out")


def test_a_directory_that_is_called_like_a_pattern_is_itself(parquet_dataset: Any, tmp_path: Path) -> None:
    data = tmp_path / "data[1]"
    Path(parquet_dataset.path).rename(data)
    (tmp_path / "data1").mkdir()
    with pytest.raises(InputError, match="lies inside input_path"):
        dedup(data, data / "out")
    assert dedup(data, tmp_path / "data1/out", remove=True).rows_read == 300


def test_results_behind_a_link_are_no_input(parquet_dataset: Any, tmp_path: Path) -> None:
    dedup(parquet_dataset.path, tmp_path / "out")
    Path(parquet_dataset.path, "link").symlink_to(tmp_path / "out")
    with pytest.raises(InputError, match=r"link/duplicates/\S* is a result in output_path"):
        dedup(parquet_dataset.path, tmp_path / "out")


def test_a_refused_run_leaves_the_results_that_are_there(done: tuple[Path, Path]) -> None:
    data, out = done
    (out / "semdedup.yaml").write_text("foreign: true\n")
    with pytest.raises(InputError, match="is not from this program"):
        dedup(data, out, n_clusters=3)
    assert (out / "summary.json").exists()
    assert list((out / "duplicates").iterdir())


@pytest.mark.parametrize("name", ["output_path", "cache_path"])
def test_a_place_that_cannot_be_written_is_named(name: str, parquet_dataset: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = {"output_path": tmp_path / "out", "cache_path": tmp_path / "cache", name: tmp_path / "file"}
    with pytest.raises(InputError, match=f"{name}=.*file.*: NotADirectoryError"):
        dedup(parquet_dataset.path, **places)


def test_there_is_no_summary_before_the_removal_is_done(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RunError("a worker died")

    with monkeypatch.context() as patched:
        patched.setattr(workflow, "remove_duplicates", fail)
        with pytest.raises(RunError, match="a worker died"):
            dedup(parquet_dataset.path, tmp_path / "out", remove=True)
    assert not (tmp_path / "out" / "summary.json").exists()
    summary = dedup(parquet_dataset.path, tmp_path / "out", remove=True)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["removal"]["rows_removed"] == (
        summary.num_duplicates
    )


@pytest.mark.parametrize("name", ["runner", "kmeans"])
def test_without_ray_the_message_says_what_to_install(
    name: str, parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=rf"{name}=ray: Ray is not installed: pip install 'beam-semdedup\[ray\]'"):
        dedup(parquet_dataset.path, tmp_path / "out", **{name: "ray"})


@pytest.mark.parametrize("wrong", [{"memory_budget": 100}, {"runner": "ray", "ray_address": "127.0.0.1:1"}])
def test_a_run_that_is_refused_keeps_the_cache_that_it_would_compute_anew(
    wrong: dict[str, Any], done: tuple[Path, Path]
) -> None:
    data, out = done
    before = unit_files(out)
    assert before
    with pytest.raises((InputError, RunError)):
        dedup(data, out, n_clusters=3, reuse_cache=False, **wrong)
    assert unit_files(out) == before


def test_rejected_rows_of_units_that_were_cut_otherwise_are_not_copied(given_centroids: Store, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 4))
    vectors[::7] = 0
    write(tmp_path / "data" / "x.parquet", vectors)
    given = {"n_clusters": 3, "init": given_centroids(np.eye(4)[:3]), "max_iter": 0}
    dedup(tmp_path / "data", tmp_path / "out", **given)
    (stage,) = (tmp_path / "out" / "kmeans_results").iterdir()
    (stage / "manifest.json").unlink()
    for segment in (stage / "segments").iterdir():
        segment.unlink()
    summary = dedup(tmp_path / "data", tmp_path / "out", assign_unit_bytes=100, **given)
    copied = [pq.read_table(file).num_rows for file in (tmp_path / "out" / "rejected").iterdir()]
    assert summary.rows_rejected == sum(summary.rejected.values()) == sum(copied) == 6


def test_a_link_to_the_output_in_the_input_does_not_end_a_run(parquet_dataset: Any, tmp_path: Path) -> None:
    shutil.copytree(parquet_dataset.path, tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "out")
    assert dedup(tmp_path / "data", tmp_path / "out").rows_read == 300


def test_input_that_is_gone_after_a_run_is_noticed(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(parquet_dataset.path, tmp_path / "data")
    after_the_pipeline(monkeypatch, lambda: shutil.rmtree(tmp_path / "data"))
    with pytest.raises(RunError, match=r"input files changed during the run: .* and 2 others; run again"):
        dedup(tmp_path / "data", tmp_path / "out")


def test_results_of_the_same_run_are_not_counted_twice(done: tuple[Path, Path]) -> None:
    data, out = done
    (part,) = (out / "duplicates").iterdir()
    rows = pq.read_table(part).num_rows
    shutil.copy(part, part.with_name(part.name.replace("00000", "00001")))
    assert dedup(data, out, n_clusters=3, clear_output=False).num_duplicates == rows > 0
