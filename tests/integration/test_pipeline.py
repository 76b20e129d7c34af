"""Whole runs through the Python API, held against the oracle and against each other."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import oracle
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from runs import (
    DEMO,
    assert_equals_oracle,
    by_oracle,
    centroids,
    comparisons,
    dedup,
    duplicates,
    read_parquet,
    segments,
    vectors,
)

from beam_semdedup import (
    AssignCentroids,
    FitKMeans,
    IdentifyDuplicates,
    InputError,
    PairwiseSimilarity,
    RankingStrategy,
    RunError,
    SemanticDedup,
    SemanticDeduplicationWorkflow,
    Summary,
)
from beam_semdedup.removal.repetitions import Repetitions

HARD = (("cosine_dist_to_cent", False), ("id", False))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return dedup(DEMO, tmp_path_factory.mktemp("demo"), n_clusters=40, eps=0.05, metadata_fields=["text"])


def test_the_demo_agrees_with_the_oracle_on_the_written_segments(demo: Summary) -> None:
    assert demo.rows_read == segments(demo).num_rows == 5000
    assert_equals_oracle(comparisons(demo), by_oracle(demo, *HARD))


@pytest.mark.parametrize("eps", [0.02, 0.05, 0.2])
def test_the_duplicates_of_the_demo_are_those_of_the_oracle(demo: Summary, eps: float) -> None:
    summary = dedup(DEMO, demo.paths["output"], n_clusters=40, eps=eps, metadata_fields=["text"])
    expected = sorted(oracle.duplicates(by_oracle(demo, *HARD), eps))
    found = duplicates(summary)
    columns = (found.column(name).to_pylist() for name in ("id", "max_id", "cosine_sim_score"))
    assert list(zip(*columns, strict=True)) == [(i, m, float(s)) for i, m, s in expected]
    assert 0 < summary.num_duplicates == len(expected) < 5000
    assert summary.rows_kept == 5000 - len(expected)
    assert (summary.stages["assign"].units_done, summary.stages["pairwise"].units_done) == (0, 0)


def test_every_row_of_the_demo_has_its_nearest_centroid_and_its_own_distances(demo: Summary) -> None:
    table, fitted = segments(demo), centroids(demo)
    rows, labels = vectors(table), table.column("centroid").to_numpy()
    nearest = np.concatenate([oracle.nearest(rows[i : i + 250], fitted) for i in range(0, len(rows), 250)])
    np.testing.assert_array_equal(labels, nearest)
    l2, cosine = oracle.distances(rows, fitted, labels)
    np.testing.assert_allclose(table.column("l2_dist_to_cent").to_numpy(), l2, atol=1e-6)
    np.testing.assert_allclose(table.column("cosine_dist_to_cent").to_numpy(), cosine, atol=1e-6)
    given = {i: v for file in sorted(DEMO.glob("*.parquet")) for i, v in _embeddings(file)}
    np.testing.assert_allclose(rows, oracle.normalized([given[i] for i in table.column("id").to_pylist()]), atol=1e-6)


def _embeddings(file: Path) -> Any:
    table = pq.read_table(file, columns=["id", "embeddings"])
    matrix = table.column("embeddings").combine_chunks().flatten().to_numpy().astype(np.float32).reshape(len(table), -1)
    return zip(table.column("id").to_pylist(), matrix, strict=True)


def test_the_summary_says_what_was_done_and_where_it_is(demo: Summary) -> None:
    stored = json.loads(Path(demo.paths["output"], "summary.json").read_text())
    assert {"rows_read", "rows_kept", "num_duplicates", "rows_rejected", "n_clusters", "eps", "dimension"} <= set(
        stored
    )
    assert (stored["dimension"], stored["n_clusters"], stored["runner"]) == (384, 40, "direct")
    assert stored["rows_read"] == stored["rows_kept"] + stored["num_duplicates"] + stored["rows_rejected"]
    assert demo.stages["assign"].units_done == 1
    assert demo.stages["pairwise"].units_reused == 0
    assert demo.total_time >= demo.kmeans_time + demo.pairwise_time > demo.pairwise_time > 0
    assert stored["configuration"]["metadata_fields"] == ["text"]
    assert stored["versions"]["apache-beam"] == "2.77.0"
    for name in ("output", "kmeans_results", "pairwise_results", "duplicates"):
        assert Path(stored["paths"][name]).is_dir()
    listed = {path.name for path in Path(demo.paths["duplicates"]).iterdir()}
    assert listed == set(stored["duplicates_files"])


@pytest.mark.parametrize("max_cluster_rows", [None, 40])
def test_rates_count_the_products_that_the_method_needs(
    demo: Summary, max_cluster_rows: int | None, tmp_path: Path
) -> None:
    fixed = {"n_clusters": 40, "init": centroids(demo), "max_iter": 0, "max_cluster_rows": max_cluster_rows}
    fixed |= {"recall_sample": 0}
    stages = dedup(DEMO, tmp_path / "out", **fixed).stages
    sizes = np.bincount(segments(demo).column("centroid").to_numpy())
    needed = {"assign": 2 * 384 * 40 * 5000, "pairwise": 2 * 384 * (sizes * (sizes - 1) // 2).sum()}
    assert set(stages) == set(needed)
    for name, stage in stages.items():
        assert stage.gflops * stage.seconds == pytest.approx(needed[name] / 1e9, rel=0.05)
        assert stage.rows_per_second * stage.seconds == pytest.approx(5000, rel=0.05)
        assert stage.megabytes_per_second == pytest.approx(4 * 384 * stage.rows_per_second / 1e6, rel=0.05)


def test_the_result_object_holds_what_the_summary_file_holds(parquet_dataset: Any, tmp_path: Path) -> None:
    import dataclasses

    summary = dedup(parquet_dataset.path, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == dataclasses.asdict(summary)


@pytest.mark.slow
def test_worker_processes_give_what_one_process_gives(
    make_dataset: Callable[..., Any], given_centroids: Callable[..., str], tmp_path: Path
) -> None:
    dataset = make_dataset(ids="string")
    fixed = {
        "init": given_centroids(dataset.embeddings[:5]),
        "max_iter": 0,
        "comparison_rows": 40,
        "assign_unit_bytes": 3200,
    }
    one = dedup(dataset.path, tmp_path / "one", **fixed)
    two = dedup(dataset.path, tmp_path / "two", runner={"name": "direct", "num_workers": 2}, **fixed)
    assert two.stages["assign"].units_done == one.stages["assign"].units_done == 6
    assert comparisons(two).equals(comparisons(one))
    assert duplicates(two).equals(duplicates(one))
    assert two.num_duplicates > 0


VARIANTS: dict[str, list[dict[str, Any]]] = {
    "assign": [{"assign_unit_bytes": 640}, {"memory_budget": "40KB"}],
    "pairwise": [{"max_cluster_rows": 7}, {"max_cluster_rows": 7, "pairwise_batch_size": 3}, {"comparison_rows": 1}],
    "": [{"pairwise_batch_size": 3, "max_samples_per_batch": 7}],
}


def test_the_result_does_not_depend_on_sizes(
    parquet_dataset: Any, given_centroids: Callable[..., str], tmp_path: Path
) -> None:
    fixed = {"init": given_centroids(parquet_dataset.embeddings[:5]), "max_iter": 0}
    usual = dedup(parquet_dataset.path, tmp_path / "usual", **fixed)
    assert 0 < usual.num_duplicates < 300
    for stage, variants in VARIANTS.items():
        for variant in variants:
            other = dedup(parquet_dataset.path, tmp_path / str(variant), **fixed, **variant)
            assert comparisons(other).equals(comparisons(usual)), variant
            assert duplicates(other).equals(duplicates(usual)), variant
            if stage:
                assert other.stages[stage].units_done > usual.stages[stage].units_done + 2


def test_the_result_does_not_depend_on_the_order_and_split_of_the_files(
    parquet_dataset: Any, given_centroids: Callable[..., str], tmp_path: Path
) -> None:
    table = pa.concat_tables(pq.read_table(file) for file in parquet_dataset.files)
    other = table.take(pa.array(np.random.default_rng(1).permutation(table.num_rows)))
    (tmp_path / "other").mkdir()
    pq.write_table(other.slice(0, 77), tmp_path / "other" / "z.parquet", row_group_size=10)
    pq.write_table(other.slice(77), tmp_path / "other" / "a.parquet")
    fixed = {
        "init": given_centroids(parquet_dataset.embeddings[:5]),
        "max_iter": 0,
        "metadata_fields": ["text"],
    }
    for which_to_keep in ("hard", "random"):
        first = dedup(parquet_dataset.path, tmp_path / "out-1", which_to_keep=which_to_keep, **fixed)
        second = dedup(tmp_path / "other", tmp_path / "out-2", which_to_keep=which_to_keep, **fixed)
        assert comparisons(second).equals(comparisons(first))
        assert duplicates(second).equals(duplicates(first))
        assert first.num_duplicates > 0


def test_the_farthest_or_the_nearest_row_is_kept_by_either_distance(parquet_dataset: Any, tmp_path: Path) -> None:
    # Rows of one length are ordered alike by both distances, so these have several, and are said to be normalised.
    for file, scale in zip(parquet_dataset.files, (0.1, 0.05, 0.15), strict=True):
        table = pq.read_table(file)
        scaled = pa.array([scale * np.array(v, dtype=np.float32) for v in table["embeddings"].to_pylist()])
        pq.write_table(table.set_column(1, "embeddings", scaled.cast(pa.list_(pa.float32()))), file)
    orders = set()
    for which_to_keep, ascending in (("hard", False), ("easy", True)):
        for metric in ("cosine", "l2"):
            summary = dedup(
                parquet_dataset.path,
                tmp_path / "out",
                which_to_keep=which_to_keep,
                distance_metric=metric,
                init=parquet_dataset.embeddings[:5],
                max_iter=0,
                assume_normalized=True,
            )
            expected = by_oracle(summary, (f"{metric}_dist_to_cent", ascending), ("id", ascending))
            assert_equals_oracle(comparisons(summary), expected)
            orders.add(tuple(expected.ids))
    assert len(orders) == 4


def test_a_random_order_depends_on_the_seed(parquet_dataset: Any, tmp_path: Path) -> None:
    fixed = {"which_to_keep": "random", "init": parquet_dataset.embeddings[:5], "max_iter": 0}
    one, two = (
        comparisons(dedup(parquet_dataset.path, tmp_path / "out", random_state=seed, **fixed))["id"].to_pylist()
        for seed in (1, 2)
    )
    assert one != two
    assert sorted(one) == sorted(two)


def test_a_ranking_strategy_sorts_by_a_column_that_is_not_carried(parquet_dataset: Any, tmp_path: Path) -> None:
    strategy = RankingStrategy.metadata_based(["quality"], ascending=False)
    summary = dedup(parquet_dataset.path, tmp_path / "out", ranking_strategy=strategy)
    assert_equals_oracle(comparisons(summary), by_oracle(summary, ("quality", False), ("id", True)))
    assert "quality" not in duplicates(summary).column_names
    quality = dict(zip(*(segments(summary).column(name).to_pylist() for name in ("id", "quality")), strict=True))
    pairs = zip(*(duplicates(summary).column(name).to_pylist() for name in ("id", "max_id")), strict=True)
    assert all(quality[kept] > quality[removed] for removed, kept in pairs)
    mapping = {"metadata_cols": ["quality"], "ascending": False}
    again = dedup(parquet_dataset.path, tmp_path / "out", ranking_strategy=mapping)
    assert again.stages["pairwise"].units_done == 0
    assert again.paths["pairwise_results"] == summary.paths["pairwise_results"]


@pytest.mark.parametrize("suffix", ["", pytest.param(".gz", marks=pytest.mark.slow)])
def test_jsonl_gives_what_parquet_gives(
    suffix: str, make_dataset: Callable[..., Any], given_centroids: Callable[..., str], tmp_path: Path
) -> None:
    parquet, jsonl = make_dataset(), make_dataset(filetype="jsonl", suffix=suffix)
    fixed = {
        "init": given_centroids(parquet.embeddings[:5]),
        "max_iter": 0,
        "metadata_fields": ["text", "quality"],
        "assign_unit_bytes": 3200,
    }
    usual = dedup(parquet.path, tmp_path / "parquet", **fixed)
    lines = dedup(jsonl.path, tmp_path / "jsonl", input_filetype="jsonl", **fixed)
    assert comparisons(lines).equals(comparisons(usual))
    assert duplicates(lines).equals(duplicates(usual))
    assert lines.num_duplicates > 0


@pytest.mark.parametrize("id_type", [pa.int8(), pa.uint64(), pa.large_string(), pa.binary(8)], ids=str)
def test_ids_keep_their_type_and_their_values(id_type: pa.DataType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 4)).astype(np.float32)
    rows[20:] = rows[:20]
    numbers = np.arange(40) - (20 if id_type == pa.int8() else 0)
    if id_type == pa.uint64():
        ids = pa.array(numbers.astype(np.uint64) + np.uint64(2**64 - 40))
    elif pa.types.is_integer(id_type):
        ids = pa.array(numbers, id_type)
    else:
        ids = pa.array([b"row %04d" % n for n in numbers], pa.binary(8)).cast(id_type)
    embeddings = pa.array([*rows[:-1], None], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": ids, "embeddings": embeddings}), tmp_path / "in.parquet")
    summary = dedup(tmp_path / "in.parquet", tmp_path / "out", n_clusters=2, eps=0)
    found = duplicates(summary)
    assert found.schema.field("id").type == found.schema.field("max_id").type == id_type
    assert len(found) == 19
    pairs = {frozenset(pair) for pair in zip(found["id"].to_pylist(), found["max_id"].to_pylist(), strict=True)}
    values = ids.to_pylist()
    assert pairs == {frozenset((values[i], values[i + 20])) for i in range(19)}
    rejected = read_parquet(summary.paths["rejected"])
    assert rejected.schema.field("id").type == id_type
    assert rejected.column("id").to_pylist() == values[-1:]


def test_metadata_fields_are_carried_to_the_results(parquet_dataset: Any, tmp_path: Path) -> None:
    summary = dedup(parquet_dataset.path, tmp_path / "out", metadata_fields=["quality", "text"])
    given = pa.concat_tables(pq.read_table(file) for file in parquet_dataset.files)
    expected = dict(zip(given["id"].to_pylist(), given.select(["quality", "text"]).to_pylist(), strict=True))
    for found in (comparisons(summary), duplicates(summary)):
        assert found.column_names == ["id", "max_id", "cosine_sim_score", "centroid", "quality", "text"]
        carried = found.select(["quality", "text"]).to_pylist()
        assert carried == [expected[i] for i in found["id"].to_pylist()]
    assert comparisons(summary).num_rows == 300


def test_the_duplicates_are_sorted_by_id_in_the_number_of_row_groups_that_was_asked_for(
    parquet_dataset: Any, tmp_path: Path
) -> None:
    summary = dedup(parquet_dataset.path, tmp_path / "out", eps=0.5, _duplicates_num_row_groups_hint=4)
    (file,) = Path(summary.paths["duplicates"]).iterdir()
    ids = pq.read_table(file).column("id").to_pylist()
    assert ids == sorted(ids)
    assert pq.ParquetFile(file).num_row_groups == 4


REASONS = {
    "id is null": (None, [1.0, 2.0, 3.0]),
    "embedding is null": (100, None),
    "embedding has the wrong length": (101, [1.0, 2.0]),
    "embedding has NaN or infinite values": (102, [1.0, float("nan"), 3.0]),
    "embedding has zero norm": (103, [0.0, 0.0, 0.0]),
}


def test_rejected_rows_say_where_they_stand_and_why(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows: list[tuple[int | None, list[float] | None]] = [(i, rng.normal(size=3).tolist()) for i in range(40)]
    bad = [*REASONS.values(), (104, [1.0, float("inf"), 3.0])]
    places = [0, 7, 12, 19, 20, 33]
    for place, row in zip(places, bad, strict=True):
        rows[place] = row
    (tmp_path / "in").mkdir()
    for name, part in (("a", rows[:25]), ("b", rows[25:])):
        table = pa.table(
            {
                "id": pa.array([row[0] for row in part], pa.int64()),
                "embeddings": pa.array([row[1] for row in part], pa.list_(pa.float64())),
            }
        )
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet", row_group_size=10)
    summary = dedup(tmp_path / "in", tmp_path / "out", assign_unit_bytes=48, eps=0.3)
    rejected = read_parquet(summary.paths["rejected"])
    found = rejected.sort_by([(name, "ascending") for name in ("source_file", "row_group", "row")]).to_pylist()
    reasons = [*REASONS, "embedding has NaN or infinite values"]
    expected = [
        {
            "source_file": str(tmp_path / "in" / ("a.parquet" if place < 25 else "b.parquet")),
            "row_group": (place if place < 25 else place - 25) // 10,
            "row": (place if place < 25 else place - 25) % 10,
            "id": row[0],
            "reason": reason,
        }
        for place, row, reason in zip(places, bad, reasons, strict=True)
    ]
    assert found == expected
    assert summary.rows_rejected == 6
    assert summary.rows_kept + summary.num_duplicates == 34 == comparisons(summary).num_rows
    assert set(comparisons(summary)["id"].to_pylist()) == {row[0] for row in rows} - {row[0] for row in bad}


def test_a_malformed_line_is_rejected_with_its_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [json.dumps({"id": i, "embeddings": rng.normal(size=3).tolist()}) for i in range(30)]
    lines[4] = "{not json"
    lines[9] = ""
    lines[11] = '{"id": 11}'
    lines[20] = '{"id": 20, "embeddings": "eleven"}'
    lines[25] = '{"id": 25, "embeddings": [1, 2]}'
    with gzip.open(tmp_path / "in.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("in.jsonl", "in.jsonl.gz"):
        summary = dedup(tmp_path / name, tmp_path / f"out-{name}", input_filetype="jsonl", n_clusters=3)
        found = read_parquet(summary.paths["rejected"]).sort_by("row")
        assert found["row"].to_pylist() == [5, 12, 21, 26]
        assert found["id"].to_pylist() == [None, 11, None, 25]
        assert found["reason"].to_pylist() == [
            "malformed line",
            "embedding is null",
            "malformed line",
            "embedding has the wrong length",
        ]
        assert found["row_group"].null_count == 4
        assert (summary.rows_read, summary.rows_rejected) == (29, 4)


def test_a_row_that_is_not_accounted_for_fails_the_run(parquet_dataset: Any, tmp_path: Path) -> None:
    summary = dedup(parquet_dataset.path, tmp_path / "out")
    manifest = Path(summary.paths["kmeans_results"], "manifest.json")
    stored = {**json.loads(manifest.read_text()), "rejected": 1}
    del stored["checksum"]
    manifest.write_text(json.dumps(stored))
    with pytest.raises(RunError, match="rows were lost: 300 read"):
        dedup(parquet_dataset.path, tmp_path / "out")
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_unit_with_fewer_rows_than_it_should_have_fails_the_run(parquet_dataset: Any, tmp_path: Path) -> None:
    summary = dedup(parquet_dataset.path, tmp_path / "out", comparison_rows=1)
    file = min(Path(summary.paths["pairwise_results"]).glob("*.parquet"))
    table = pq.read_table(file)
    pq.write_table(table.slice(0, table.num_rows - 1), file)
    with pytest.raises(RunError, match="rows were lost"):
        dedup(parquet_dataset.path, tmp_path / "out", eps=0.1)


def test_eps_null_stops_after_the_similarities(parquet_dataset: Any, tmp_path: Path) -> None:
    summary = dedup(parquet_dataset.path, tmp_path / "out", eps=None)
    assert (summary.eps, summary.num_duplicates, summary.rows_kept) == (None, None, None)
    assert comparisons(summary).num_rows == 300
    assert not (tmp_path / "out" / "duplicates").exists()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["duplicates_files"] == []


def test_eps_zero_finds_equal_rows_and_no_similar_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 8)).astype(np.float32)
    rows[10:20] = rows[:10]
    rows[20:30] = 4 * rows[:10]
    rows[30:] = rows[:10] + 1e-2 * rng.normal(size=(10, 8))
    pq.write_table(pa.table({"id": np.arange(40), "embeddings": list(rows)}), tmp_path / "in.parquet")
    fixed = {"n_clusters": 2, "which_to_keep": "easy"}
    found = duplicates(dedup(tmp_path / "in.parquet", tmp_path / "out", eps=0, **fixed))
    assert found["id"].to_pylist() == list(range(10, 30))
    assert found["max_id"].to_pylist() == [*range(10), *range(10)]
    assert found["cosine_sim_score"].to_pylist() == [1.0] * 20
    assert dedup(tmp_path / "in.parquet", tmp_path / "out", eps=1e-3, **fixed).num_duplicates == 30


@pytest.mark.parametrize("eps", [1, 1.999])
def test_the_first_ranked_row_is_never_a_duplicate(eps: float, parquet_dataset: Any, tmp_path: Path) -> None:
    summary = dedup(parquet_dataset.path, tmp_path / "out", eps=eps, max_cluster_rows=20)
    all_rows = by_oracle(summary, *HARD)
    found = set(duplicates(summary)["id"].to_pylist())
    first = {i for i, is_first in zip(all_rows.ids, all_rows.is_first, strict=True) if is_first}
    assert len(first) == 5
    assert not first & found
    assert found == {i for i, _, _ in oracle.duplicates(all_rows, eps)}
    assert summary.rows_kept == 300 - len(found)
    if eps > 1.9:
        assert len(found) == 295


def test_the_number_of_clusters_follows_from_the_rows(parquet_dataset: Any, tmp_path: Path) -> None:
    assert dedup(parquet_dataset.path, tmp_path / "out", n_clusters=None).n_clusters == 17


def test_an_array_as_init_is_kept_by_its_content(
    parquet_dataset: Any, given_centroids: Callable[..., str], tmp_path: Path
) -> None:
    path = given_centroids(parquet_dataset.embeddings[:6])
    array = np.load(path)
    fixed = {"max_iter": 0, "n_clusters": None}
    by_path = dedup(parquet_dataset.path, tmp_path / "path", init=path, **fixed)
    by_array = dedup(parquet_dataset.path, tmp_path / "array", init=array, **fixed)
    assert by_array.n_clusters == 6
    np.testing.assert_array_equal(centroids(by_array), array)
    assert comparisons(by_array).equals(comparisons(by_path))
    again = dedup(parquet_dataset.path, tmp_path / "array", init=array.copy(), **fixed)
    assert again.stages["assign"].units_done == 0
    other = dedup(parquet_dataset.path, tmp_path / "array", init=array[::-1], **fixed)
    assert other.stages["assign"].units_reused == 0


def test_an_init_array_starts_a_fit(parquet_dataset: Any, tmp_path: Path) -> None:
    init = parquet_dataset.embeddings[:5] / np.linalg.norm(parquet_dataset.embeddings[:5], axis=1, keepdims=True)
    summary = dedup(parquet_dataset.path, tmp_path / "out", init=init)
    fitted, rows = centroids(summary), oracle.normalized(parquet_dataset.embeddings)
    expected = init
    for _ in range(50):
        labels = oracle.nearest(rows, expected)
        expected = np.array([rows[labels == k].mean(axis=0) for k in range(5)])
    np.testing.assert_allclose(fitted, expected, atol=1e-2)
    assert not np.allclose(expected, init, atol=1e-2)


@pytest.fixture
def repeated(parquet_dataset: Any) -> Path:
    """The dataset with an id that stands on a row and its exact copy."""
    vector = {i: tuple(v) for i, v in zip(parquet_dataset.ids, parquet_dataset.embeddings.tolist(), strict=True)}
    copy, source = next((c, s) for c, s in parquet_dataset.copies.items() if vector[c] == vector[s])
    for file in parquet_dataset.files:
        table = pq.read_table(file)
        ids = pc.if_else(pc.equal(table["id"], copy), source, table["id"])
        pq.write_table(table.set_column(0, "id", ids), file)
    return Path(parquet_dataset.path)


def test_repeated_ids_are_counted_and_refuse_removal(repeated: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not removed: ids repeat, 1 time within clusters, .* repeated_ids=allow"):
        dedup(repeated, tmp_path / "out", remove=True)
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["repeated_ids"]["count"] == 1
    assert stored["num_duplicates"] > 0
    assert not list((tmp_path / "out").glob("deduplicated/*.parquet"))


def test_an_id_of_a_duplicate_that_also_stands_on_another_row_refuses_removal(tmp_path: Path) -> None:
    """Which neither the clusters nor the duplicates show."""
    angles = np.array([0.0, 0.001, 1.5, 1.7])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pq.write_table(pa.table({"id": ["a", "x", "b", "x"], "embeddings": list(rows)}), tmp_path / "in.parquet")
    fixed = {"init": np.array([[1, 0.0], [0.0, 1]]), "n_clusters": 2, "max_iter": 0, "eps": 0.01, "remove": True}
    by_id = {"ranking_strategy": {"metadata_cols": ["id"]}}
    with pytest.raises(InputError, match=r"not removed: ids repeat, 1 of the listed ones in the dataset, such as 'x'"):
        dedup(tmp_path / "in.parquet", tmp_path / "out", **fixed, **by_id)
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (stored["num_duplicates"], stored["removal"]) == (1, None)
    assert not list((tmp_path / "out").rglob("deduplicated/*"))
    summary = dedup(tmp_path / "in.parquet", tmp_path / "out", repeated_ids="allow", **fixed, **by_id)
    assert summary.removal.rows_removed == 2


def test_repeated_ids_are_removed_where_that_is_allowed(repeated: Path, tmp_path: Path) -> None:
    summary = dedup(repeated, tmp_path / "out", remove=True, repeated_ids="allow")
    assert summary.removal.rows_removed == summary.num_duplicates + 1
    assert summary.removal.ids_not_found == 0


def test_unique_ids_are_not_counted_as_repeated(parquet_dataset: Any, tmp_path: Path) -> None:
    assert dedup(parquet_dataset.path, tmp_path / "out", eps=0.5).repeated_ids.count == 0


def test_an_id_that_repeats_across_clusters_is_counted_where_its_rows_are_duplicates(tmp_path: Path) -> None:
    angles = np.array([0.0, 0.001, 1.5, 1.501, 0.002])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    table = pa.table({"id": ["a", "x", "b", "x", "c"], "embeddings": list(rows)})
    pq.write_table(table, tmp_path / "in.parquet")
    centers = np.array([[1, 0.0], [0.0, 1]])
    summary = dedup(
        tmp_path / "in.parquet",
        tmp_path / "out",
        init=centers,
        n_clusters=2,
        max_iter=0,
        ranking_strategy={"metadata_cols": ["id"]},
    )
    found = {"count": 1, "in_clusters": 0, "in_duplicates": 1, "examples": ["x"]}
    assert summary.repeated_ids == Repetitions(**found)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["repeated_ids"] == found


def test_remove_writes_the_input_without_its_duplicates(parquet_dataset: Any, tmp_path: Path) -> None:
    summary = dedup(parquet_dataset.path, tmp_path / "out", remove=True)
    removed = set(duplicates(summary)["id"].to_pylist())
    assert removed
    for file in map(Path, parquet_dataset.files):
        before, after = pq.read_table(file), pq.read_table(tmp_path / "out" / "deduplicated" / file.name)
        assert after.equals(before.filter(pc.invert(pc.is_in(before["id"], pa.array(removed)))))
    assert summary.removal.rows_read == 300
    assert summary.removal.ids_removed == summary.num_duplicates
    assert Path(summary.paths["deduplicated"]).is_dir()


def test_uuids_and_quantised_vectors_are_read_and_removed(make_dataset: Callable[..., Any], tmp_path: Path) -> None:
    dataset = make_dataset(rows=60, copies=10, files=2)
    for file, views in zip(dataset.files, (True, False), strict=True):
        table = pq.read_table(file)
        ids = pa.array([int(i).to_bytes(16, "big") for i in table["id"].to_pylist()], pa.binary(16)).cast(pa.uuid())
        vectors = np.array(table["embeddings"].to_pylist())
        quantised = pa.array(list(np.round(vectors * 20).astype(np.int8)))
        text = table["text"].combine_chunks().cast(pa.string_view() if views else pa.large_string())
        pq.write_table(pa.table({"id": ids, "embeddings": quantised, "text": text}), file)
    summary = dedup(dataset.path, tmp_path / "out", n_clusters=2, eps=0.001, metadata_fields=["text"], remove=True)
    found = {int.from_bytes(i, "big") for i in duplicates(summary)["id"].to_pylist()}
    assert len(found) >= 5
    assert summary.removal.rows_removed == summary.num_duplicates == len(found)
    assert duplicates(summary)["text"].to_pylist() == [f"text of {i}" for i in sorted(found)]
    kept = pq.read_table(tmp_path / "out/deduplicated/part-0.parquet")
    assert kept.schema.types == [pa.uuid(), pa.list_(pa.field("element", pa.int8())), pa.string_view()]


def test_the_transforms_work_in_a_pipeline_of_ones_own(parquet_dataset: Any, tmp_path: Path) -> None:
    def plan(output: str) -> Any:
        return SemanticDeduplicationWorkflow(
            input_path=parquet_dataset.path, output_path=tmp_path / output, n_clusters=5, eps=0.05, verbose=False
        ).plan()

    made = plan("parts")
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        fitted = pipeline | FitKMeans(made.job)
        segments = pipeline | beam.Create(made.units) | AssignCentroids(made.job, fitted)
        compared = segments | PairwiseSimilarity(made.job, fitted)
        files = compared | IdentifyDuplicates(made.job)
        _ = files | beam.Map(lambda f: f"{f.duplicates},{f.kept}") | beam.io.WriteToText(str(tmp_path / "counts"))
    whole = plan("whole")
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = pipeline | SemanticDedup(whole) | beam.Map(lambda file: file.path)
    expected = dedup(parquet_dataset.path, tmp_path / "usual")
    (counts,) = tmp_path.glob("counts*")
    assert counts.read_text().strip() == f"{expected.num_duplicates},{expected.rows_kept}"
    for output in ("parts", "whole"):
        assert read_parquet(tmp_path / output / "duplicates").sort_by("id").equals(duplicates(expected))


def test_counters_can_be_queried(make_dataset: Callable[..., Any], tmp_path: Path) -> None:
    dataset = make_dataset(rows=60, copies=6)
    made = SemanticDeduplicationWorkflow(
        input_path=dataset.path, output_path=tmp_path / "out", n_clusters=3, eps=0.1
    ).plan()
    pipeline = beam.Pipeline(runner=FnApiRunner())
    _ = pipeline | SemanticDedup(made)
    result = pipeline.run()
    result.wait_until_finish()
    counters = {
        c.key.metric.name: c.committed
        for c in result.metrics().query()["counters"]
        if c.key.metric.namespace == "semdedup"
    }
    assert counters == {"rows-read": 60, "rows-rejected": 0, "rows-compared": 60}


def test_centroids_without_rows_do_no_harm(parquet_dataset: Any, tmp_path: Path) -> None:
    init = np.concatenate([parquet_dataset.embeddings[:3], np.full((4, 16), 1e6, dtype=np.float32)])
    summary = dedup(parquet_dataset.path, tmp_path / "out", init=init, n_clusters=7, max_iter=0, comparison_rows=1)
    assert len(set(comparisons(summary)["centroid"].to_pylist())) < 7
    assert summary.rows_kept + summary.num_duplicates == 300


@pytest.mark.parametrize(
    ("set_up", "shown", "hidden"),
    [
        ("", " Found ", "direct_num_workers"),
        pytest.param(
            "logging.basicConfig(level='INFO', format='theirs|%(message)s')",
            "theirs|Found ",
            "\nFound",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_script_sees_what_the_run_does_in_the_log_that_it_chose_or_else_on_standard_error(
    set_up: str, shown: str, hidden: str, parquet_dataset: Any, tmp_path: Path
) -> None:
    code = f"""
import logging
from beam_semdedup import SemanticDeduplicationWorkflow
{set_up}
SemanticDeduplicationWorkflow(input_path={parquet_dataset.path!r}, output_path={str(tmp_path)!r}, n_clusters=3).run()
logging.basicConfig(level="INFO")
logging.info("set up afterwards")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown in ended.stderr
    assert hidden not in ended.stderr
    assert "Failed to import" not in ended.stderr  # Beam's warnings of what this project does not use
    assert "not found" not in ended.stderr
    assert "set up afterwards" in ended.stderr


def test_a_column_in_the_names_of_directories_is_carried_and_ranks(make_dataset: Any, tmp_path: Path) -> None:
    data = make_dataset(rows=60, copies=10, files=2)
    for number, file in enumerate(map(Path, data.files)):
        (file.parent / f"year={9 + number}").mkdir()
        file.rename(file.parent / f"year={9 + number}" / file.name)
    ranking = {"metadata_cols": ["year"], "ascending": False}
    summary = dedup(data.path, tmp_path / "out", metadata_fields=["year"], ranking_strategy=ranking, n_clusters=1)
    years = {i: 9 + (n >= 30) for n, i in enumerate(data.ids)}
    found = duplicates(summary).to_pydict()
    assert found["year"] == [years[i] for i in found["id"]]
    assert all(years[kept] >= year for kept, year in zip(found["max_id"], found["year"], strict=True))
    assert len(found["id"]) == 10
