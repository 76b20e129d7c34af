"""What runs say of the share of the duplicates that they find, held against a brute force over the whole dataset."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import DEMO, Ended, dedup, segments, segments_in, vectors
from scipy.stats import binom
from strategies import blobs, unit_rows

from beam_semdedup import Summary
from beam_semdedup.compute.proportions import recall
from beam_semdedup.compute.sampling import sampled
from beam_semdedup.stages.generations import source_keys

ALL = 10**6
"""More rows than there are: the sample is all of them, and the recall is known."""
SIZES = {"comparison_rows": 60, "assign_unit_bytes": 100 * 4 * 24, "max_cluster_rows": 30, "n_clusters": 30}
RANKINGS: dict[str, tuple[dict[str, Any], list[tuple[str, bool]]]] = {
    "hard": ({}, [("cosine_dist_to_cent", False), ("id", False)]),
    "easy": ({"which_to_keep": "easy", "distance_metric": "l2"}, [("l2_dist_to_cent", True), ("id", True)]),
    "metadata": (
        {"ranking_strategy": {"metadata_cols": ["quality"], "ascending": [False]}},
        [("quality", False), ("id", True)],
    ),
}
SOURCE = [("source_file", True), ("source_row", True)]


def write(directory: Path, rows: np.ndarray, group: int = 50, ids: np.ndarray | None = None) -> Path:
    """The rows in two files, with a column to rank by."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(4)
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    ids = rng.permutation(len(rows)) if ids is None else ids
    table = pa.table({"id": ids, "embeddings": embeddings, "quality": rng.integers(0, 4, len(rows))})
    first = min(150, len(rows) // 2)
    pq.write_table(table.slice(0, first), directory / "a.parquet", row_group_size=group)
    pq.write_table(table.slice(first), directory / "b.parquet", row_group_size=group)
    return directory


def similar_rows() -> np.ndarray:
    """Rows around centers, with exact copies, near ones, and a group of many copies."""
    rng = np.random.default_rng(1)
    rows = blobs(1, 420, 24, 12, 0.36)
    rows[100:160] = rows[rng.integers(0, 100, 60)]
    rows[200:260] = rows[rng.integers(0, 200, 60)] + rng.choice([1e-7, 1e-4, 0.02, 0.1], (60, 1)) * unit_rows(3, 60, 24)
    rows[300:340] = rows[300]
    return rows.astype(np.float32)


def brute_force(summary: Summary, keys: list[tuple[str, bool]], reach: float) -> dict[int, float]:
    """The score of the best earlier row of the dataset, by what identifies a row; of those that have one in reach."""
    table = segments(summary)
    columns = [(table.column(name).to_pylist(), ascending) for name, ascending in [*keys, *SOURCE]]
    order = oracle.rank_order([0] * table.num_rows, columns)
    scores, _ = oracle.best_earlier(vectors(table), order, reach=reach)
    there = np.flatnonzero(~np.isnan(scores))
    return dict(
        zip(source_keys(table, "source_file", "source_row")[there].tolist(), scores[there].tolist(), strict=True)
    )


def stored(summary: Summary) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sources of the sampled rows, and their scores that were found and that there are; NaN for none."""
    (file,) = Path(summary.paths["pairwise_results"]).rglob("sample.arrow")
    (manifest,) = file.parent.glob("*.json")
    said = json.loads(manifest.read_text())
    scores = (np.array(said[name], dtype=np.float64) for name in ("found", "best"))
    return source_keys(pa.ipc.open_file(file).read_all(), "source_file", "source_row"), *scores


def assert_known(summary: Summary, true: dict[int, float]) -> None:
    """The recall is that of the brute force."""
    assert summary.recall is not None
    assert summary.eps is not None
    there_are = sum(score >= 1 - summary.eps for score in true.values())
    assert summary.recall.sample == summary.rows_kept
    assert summary.recall.estimate == summary.recall.low == summary.recall.high == summary.num_duplicates / there_are


@pytest.mark.parametrize(
    ("ranking", "eps", "probes"),
    [
        ("hard", 0.0, 1),
        ("hard", 0.1, 1),
        ("hard", 0.1, 2),
        pytest.param("hard", 1.9, 2, marks=pytest.mark.slow),
        ("easy", 0.3, 1),
        ("metadata", 0.1, 1),
    ],
)
def test_a_sample_of_all_rows_knows_what_is_missed(tmp_path: Path, ranking: str, eps: float, probes: int) -> None:
    parameters, keys = RANKINGS[ranking]
    dataset = write(tmp_path / "input", similar_rows())
    summary = dedup(dataset, tmp_path, eps=eps, n_probes=probes, recall_sample=ALL, **SIZES, **parameters)
    true = brute_force(summary, keys, eps)
    assert_known(summary, true)
    if eps in (0.1, 0.3) and probes == 1:
        assert 0 < summary.recall.estimate < 1
    rows, _, best = stored(summary)
    expected = [true.get(source, np.nan) for source in rows.tolist()]
    np.testing.assert_array_equal(np.where(best >= 1 - eps, best, np.nan), expected)


def test_where_ids_repeat_each_row_is_one(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 9, 420)
    summary = dedup(write(tmp_path / "input", similar_rows(), ids=ids), tmp_path, eps=0.1, recall_sample=ALL, **SIZES)
    assert_known(summary, brute_force(summary, RANKINGS["hard"][1], 0.1))


def test_rows_that_are_not_of_length_one(tmp_path: Path) -> None:
    rows = blobs(6, 300, 8, 40, 0.3) * np.exp(np.random.default_rng(5).uniform(-0.35, 0.35, (300, 1))).astype(
        np.float32
    )
    parameters = {"eps": 0.05, "assume_normalized": True, "n_clusters": 20, "recall_sample": ALL}
    summary = dedup(write(tmp_path / "input", rows), tmp_path, **parameters)
    assert_known(summary, brute_force(summary, RANKINGS["hard"][1], 0.05))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, dict[str, Any]]:
    """A run on the committed texts, in clusters that cut through what is similar, whose sample is all rows."""
    init = unit_rows(0, 60, 384)
    given = {"init": init, "max_iter": 0, "n_clusters": 60, "eps": 0.1}
    return dedup(DEMO, tmp_path_factory.mktemp("demo"), recall_sample=ALL, **given), given


def test_the_interval_holds_the_recall_as_often_as_it_says(demo: tuple[Summary, dict[str, Any]]) -> None:
    """Of 200 samples 95 % should; fewer than 181 would have a probability below a thousandth."""
    summary, _ = demo
    table = segments(summary)
    columns = [(table.column(name).to_pylist(), False) for name in ("cosine_dist_to_cent", "id")]
    rows = vectors(table)[oracle.rank_order([0] * table.num_rows, columns)].astype(np.float64)
    true = dict(enumerate(np.tril(rows @ rows.T, -1).max(axis=1)))
    assert_known(summary, true)
    rows, found, best = stored(summary)
    for eps in (0.02, 0.1):
        there = sum(score >= 1 - eps for score in true.values())
        missed = (best >= 1 - eps) & ~(found >= 1 - eps)
        kept = ~(found >= 1 - eps)
        others = summary.rows_read - (there - int(missed.sum()))
        held, estimates = 0, []
        for seed in range(200):
            chosen = sampled(rows, seed, 500, summary.rows_read) & kept
            estimate, low, high = recall(
                there - int(missed.sum()), others, int(missed[chosen].sum()), int(chosen.sum())
            )
            estimates.append(estimate)
            held += low <= 1 - missed.sum() / there <= high
        assert held >= binom.ppf(1e-3, 200, 0.95)
        assert np.mean(estimates) == pytest.approx(1 - missed.sum() / there, abs=0.02)


def test_a_run_says_what_its_sample_says(demo: tuple[Summary, dict[str, Any]], tmp_path: Path) -> None:
    whole, given = demo
    rows, found, best = stored(whole)
    for seed in (1, 2):
        summary = dedup(DEMO, tmp_path, recall_sample=700, random_state=seed, **given)
        chosen = sampled(rows, seed, 700, whole.rows_read) & ~(found >= 0.9)
        missed = chosen & (best >= 0.9)
        assert summary.recall is not None
        assert summary.recall.sample == chosen.sum() < 700
        expected = recall(whole.num_duplicates, whole.rows_kept, int(missed.sum()), int(chosen.sum()))
        assert (summary.recall.estimate, summary.recall.low, summary.recall.high) == expected
        assert summary.recall.low <= whole.recall.estimate <= summary.recall.high


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_units_and_workers_and_files_in_another_order_do_not_matter(num_workers: int, tmp_path: Path) -> None:
    dataset = write(tmp_path / "input", similar_rows())
    given = {"n_clusters": 30, "init": unit_rows(0, 30, 24), "max_iter": 0, "recall_sample": 300, "eps": 0.1}
    reversed_files = [dataset / "b.parquet", dataset / "a.parquet"]
    found = []
    for number, (path, workers, sizes) in enumerate(
        [
            (dataset, 1, SIZES),
            (reversed_files, 1, {"pairwise_batch_size": 16}),
            (dataset, num_workers, {"comparison_rows": 1}),
        ]
    ):
        runner = {"name": "direct", "num_workers": workers}
        summary = dedup(path, tmp_path / str(number), runner, **{**given, **sizes})
        found.append((summary.recall, [scores.tolist() for scores in map(np.nan_to_num, stored(summary))]))
    assert 50 < found[0][0].sample < 250
    assert found == [found[0]] * len(found)


def test_a_smaller_eps_is_only_counted_and_a_larger_one_is_searched_for(tmp_path: Path) -> None:
    dataset = write(tmp_path / "input", similar_rows())
    first = dedup(dataset, tmp_path, eps=0.1, recall_sample=ALL, **SIZES)
    smaller = dedup(dataset, tmp_path, eps=0.02, recall_sample=ALL, **SIZES)
    larger = dedup(dataset, tmp_path, eps=0.3, recall_sample=ALL, **SIZES)
    again = dedup(dataset, tmp_path, eps=0.2, recall_sample=ALL, **SIZES)
    done = [summary.stages["recall"].units_done for summary in (first, smaller, larger, again)]
    assert done == [done[0], 0, done[0], 0]
    assert done[0] > 1
    assert [summary.stages["pairwise"].units_done for summary in (smaller, larger, again)] == [0, 0, 0]
    true = brute_force(first, RANKINGS["hard"][1], 0.3)
    for summary in (first, smaller, larger, again):
        assert_known(summary, true)


@pytest.mark.parametrize("probes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_scores_that_were_found_without_a_sample_are_not_found_again(tmp_path: Path, probes: int) -> None:
    dataset = write(tmp_path / "input", similar_rows())
    given = {"n_probes": probes, "reach": 0.2, "eps": 0.1, **SIZES}
    without = dedup(dataset, tmp_path / "1", recall_sample=0, **({**given, "reach": None} if probes == 1 else given))
    assert without.recall is None
    assert "recall" not in without.stages
    assert not list((tmp_path / "1").rglob("recall"))
    later = dedup(dataset, tmp_path / "1", recall_sample=300, **given)
    assert later.stages["pairwise"].units_done == 0
    assert later.recall == dedup(dataset, tmp_path / "2", recall_sample=300, **given).recall
    assert later.recall.sample > 50


def test_without_eps_rows_are_drawn_for_the_runs_that_have_one(tmp_path: Path) -> None:
    dataset = write(tmp_path / "input", similar_rows())
    first = dedup(dataset, tmp_path, eps=None, recall_sample=ALL, **SIZES)
    assert first.recall is None
    drawn = list(Path(first.paths["pairwise_results"], "recall").rglob("*.arrow"))
    assert drawn
    times = [file.stat().st_mtime_ns for file in drawn]
    second = dedup(dataset, tmp_path, eps=0.1, recall_sample=ALL, **SIZES)
    assert second.stages["pairwise"].units_done == 0
    assert [file.stat().st_mtime_ns for file in drawn] == times
    assert_known(second, brute_force(second, RANKINGS["hard"][1], 0.1))


@pytest.mark.parametrize("probes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_lost_or_damaged_is_made_again(tmp_path: Path, probes: int) -> None:
    dataset = write(tmp_path / "input", similar_rows())
    given = {"eps": 0.1, "n_probes": probes, "recall_sample": 300, **SIZES}
    whole = dedup(dataset, tmp_path, **given)
    root = Path(whole.paths["pairwise_results"], "recall")
    everything = sorted(file for file in root.rglob("*") if file.is_file())
    samples = [file for file in everything if file.name == "sample.arrow"]
    for lost in ([file for file in everything if file.suffix == ".json"], everything, samples, everything[::2]):
        for manifest in root.glob("*/*.json"):
            manifest.unlink()
        for number, file in enumerate(lost):
            file.write_bytes(b"no such file") if number % 2 else file.unlink(missing_ok=True)
        again = dedup(dataset, tmp_path, **given)
        assert again.recall == whole.recall
        assert again.stages["pairwise"].units_done == 0
        assert len(list(root.glob("*/*.json"))) == 1


def test_a_run_that_was_killed_goes_on_from_the_keys_that_were_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beam_semdedup.stages import recall as stage

    dataset = write(tmp_path / "input", similar_rows())
    given = {"eps": 0.1, "recall_sample": 300, **SIZES}
    whole = dedup(dataset, tmp_path / "whole", **given)
    search, calls = stage._search, []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise RuntimeError("the power is gone")
        return search(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_search", failing)
        with pytest.raises(RuntimeError, match="the power is gone"):
            dedup(dataset, tmp_path / "killed", **given)
    again = dedup(dataset, tmp_path / "killed", **given)
    assert again.recall == whole.recall
    assert again.stages["recall"].units_reused == 2


def test_the_eps_of_a_target_has_a_recall(tmp_path: Path) -> None:
    dataset = write(tmp_path / "input", similar_rows())
    given = {"eps": None, "target_rows": 300, "recall_sample": ALL, **SIZES}
    first, again = (dedup(dataset, tmp_path, **given) for _ in range(2))
    assert_known(first, brute_force(first, RANKINGS["hard"][1], first.eps))
    assert again.recall == first.recall
    assert [summary.stages["recall"].units_done > 0 for summary in (first, again)] == [True, False]


# What a person sees


def test_the_command_says_it_and_how_to_miss_nothing(tmp_path: Path, semdedup: Callable[..., Ended]) -> None:
    common = (f"input_path={DEMO}", f"output_path={tmp_path}", "n_clusters=70", "eps=0.05", "verbose=false")
    ended = semdedup(*common, "recall_sample=2000")
    assert ended.code == 0, ended.err
    (line,) = (line for line in ended.out.splitlines() if line.startswith("Recall"))
    said = json.loads((tmp_path / "summary.json").read_text())["recall"]
    assert set(said) == {"estimate", "low", "high", "sample"}
    assert 0.8 < said["low"] < said["estimate"] <= said["high"] <= 1
    estimate, low, high = (f"{int(1000 * said[name]) / 10:.1f}" for name in ("estimate", "low", "high"))
    assert line == (
        f"Recall      found {estimate} % ({low} to {high} %) of the duplicates there are, estimated by "
        f"{said['sample']:,} rows"
    )
    advice = ended.out.splitlines()[-1]
    assert re.fullmatch(
        r"To miss none: the same command with n_probes=exact n_clusters=70 goes on from the assigned rows; comparing "
        r"them takes two cores about [0-9.]+ s, if they are like texts",
        advice,
    )
    exact = semdedup(*common, "n_probes=exact")
    assert json.loads((tmp_path / "summary.json").read_text())["stages"]["assign"]["units_done"] == 0
    assert json.loads((tmp_path / "summary.json").read_text())["recall"] == {
        "estimate": 1.0,
        "low": 1.0,
        "high": 1.0,
        "sample": 0,
    }
    assert "Recall      found all duplicates there are, proven" in exact.out
    assert "n_probes=exact" not in exact.out
    silent = semdedup(*common, "recall_sample=0")
    assert "Recall" not in silent.out
    assert "n_probes" not in silent.out


def test_where_nothing_is_found_that_is_said(tmp_path: Path, semdedup: Callable[..., Ended]) -> None:
    dataset = write(tmp_path / "input", unit_rows(8, 400, 24))
    ended = semdedup(
        f"input_path={dataset}", f"output_path={tmp_path}/out", "n_clusters=5", "eps=0.01", "recall_sample=100"
    )
    said = json.loads((tmp_path / "out" / "summary.json").read_text())["recall"]
    assert said == {"estimate": None, "low": 0.0, "high": 1.0, "sample": said["sample"]}
    assert f"found no duplicates, and there is none among {said['sample']} rows drawn at random" in ended.out


def test_a_sweep_searches_once_and_has_a_column(tmp_path: Path, semdedup: Callable[..., Ended]) -> None:
    dataset = write(tmp_path / "input", similar_rows())
    ended = semdedup(f"input_path={dataset}", f"output_path={tmp_path}/out", "n_clusters=9", "-m", "eps=0.02,0.3,0.1")
    assert ended.code == 0, ended.err
    found = [
        json.loads((tmp_path / "out" / f"eps={eps}" / "summary.json").read_text()) for eps in ("0.02", "0.3", "0.1")
    ]
    assert [summary["stages"]["recall"]["units_done"] > 0 for summary in found] == [True, False, False]
    with (tmp_path / "out" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [[float(row[name]) for name in ("recall", "recall_low", "recall_high")] for row in rows] == [
        [round(summary["recall"][name], 4) for name in ("estimate", "low", "high")] for summary in found
    ]


@pytest.mark.parametrize(
    ("probes", "within"),
    [(1, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, False), (2, True)))],
)
def test_the_recall_of_a_batch_is_of_all_before_it(tmp_path: Path, probes: int, within: bool) -> None:
    """Of references, of an earlier generation of a corpus, and of its own rows."""
    rows = np.random.default_rng(2).permutation(similar_rows())
    parts = [write(tmp_path / f"{n}", rows[n::3][:140], ids=np.arange(n * 140, n * 140 + 140)) for n in range(3)]
    given = {**SIZES, "n_probes": probes, "within": within, "recall_sample": ALL, "against": str(parts[0])}
    given |= {"corpus_path": str(tmp_path / "corpus"), "reach": 0.06}
    dedup(parts[1], tmp_path / "first", eps=0.06, **given)

    def run(eps: float) -> Summary:
        return dedup(parts[2], tmp_path / "second", eps=eps, **given)

    summary = run(0.06)
    folders = [*(tmp_path / "corpus").rglob("references/*"), *sorted((tmp_path / "corpus").rglob("generations/*/"))]
    tables = [segments_in(folder).select(["id", "embedding", "cosine_dist_to_cent"]) for folder in folders]
    table, generation = pa.concat_tables(tables), np.repeat([0, 1, 2], 140)
    columns = [(table.column(name).to_pylist(), False) for name in ("cosine_dist_to_cent", "id")]
    order = oracle.rank_order(generation, columns)
    pairs = np.ones((420, 420), bool) if within else (generation[:, None] != 2) | (generation != 2)
    scores, _ = oracle.best_earlier(vectors(table), order, pairs, 0.06)
    true = dict(enumerate(scores[generation == 2][~np.isnan(scores[generation == 2])].tolist()))
    assert_known(summary, true)
    assert (0.5 < summary.recall.estimate < 1) == (probes == 1), summary.recall
    other = run(0.04)
    assert_known(other, true)
    for folder in Path(summary.paths["pairwise_results"]).glob("recall"):
        shutil.rmtree(folder)
    assert run(0.04).recall == other.recall


def test_few_references_are_all_compared(tmp_path: Path) -> None:
    rows = similar_rows()
    own, references = (write(tmp_path / name, part) for name, part in (("own", rows[:400]), ("few", rows[400:])))
    summary = dedup(own, tmp_path / "out", against=str(references), within=False, eps=0.1, **SIZES)
    assert summary.without_clusters
    assert (summary.recall.estimate, summary.recall.low) == (1, 1)
