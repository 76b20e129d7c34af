"""Runs that compare rows in other clusters than their own, held against the oracle over the whole dataset."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import centroids, comparisons, dedup, duplicates, finish, read_parquet, segments, start, vectors
from strategies import blobs, unit_rows

from beam_semdedup import InputError, Summary

ROWS, DIMENSION = 420, 24
SIZES = {"comparison_rows": 60, "assign_unit_bytes": 100 * 4 * DIMENSION, "max_cluster_rows": 40, "n_clusters": 9}
"""Many units, keys of several centroids, and split clusters."""
RANKINGS: dict[str, tuple[dict[str, Any], list[tuple[str, bool]]]] = {
    "hard": ({}, [("cosine_dist_to_cent", False), ("id", False)]),
    "easy": ({"which_to_keep": "easy", "distance_metric": "l2"}, [("l2_dist_to_cent", True), ("id", True)]),
    "metadata": (
        {"ranking_strategy": {"metadata_cols": ["quality", "source"], "ascending": [False, True]}},
        [("quality", False), ("source", True), ("id", True)],
    ),
}


def rows_of(kind: str) -> np.ndarray:
    """Vectors with near and exact copies, in few and in many clusters of them."""
    rng = np.random.default_rng(len(kind))
    rows = blobs(1, ROWS, DIMENSION, 12, 0.08) if kind == "blobs" else unit_rows(2, ROWS, DIMENSION)
    rows[100:160] = rows[rng.integers(0, 100, 60)]
    rows[200:260] = rows[rng.integers(0, 200, 60)] + rng.choice([0, 1e-7, 1e-4, 0.02, 0.1], (60, 1)) * unit_rows(
        3, 60, DIMENSION
    )
    return (rows * (3 if kind == "white" else 1)).astype(np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(rows_of("blobs"), tmp_path_factory.mktemp("blobs") / "input")


@pytest.fixture(scope="module")
def assigned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parameters of runs over either kind of rows, which assign them once for all."""
    root = tmp_path_factory.mktemp(request.param)
    return {"input_path": write(rows_of(request.param), root / "input"), "cache_path": root / "cache", **SIZES}


def on_either(cases: list[tuple[Any, ...]], white: set[tuple[Any, ...]]) -> list[Any]:
    """The cases on both kinds of rows, of which each is fast on one: on white ones where it is among these."""
    return [
        pytest.param(kind, *case, marks=[pytest.mark.slow] * ((kind == "white") != (case in white)))
        for kind in ("blobs", "white")
        for case in cases
    ]


def write(rows: np.ndarray, directory: Path, order: Any = slice(None)) -> Path:
    """The rows in two files; ids and what ranks them go with the row, whatever the order."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(4)
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(rows[order].ravel()), rows.shape[1])
    table = pa.table(
        {
            "id": [f"row {i}" for i in rng.permutation(len(rows))[order]],
            "embeddings": embeddings,
            "quality": rng.integers(0, 4, len(rows))[order],
            "source": np.array(["web", "book", "code"])[rng.integers(0, 3, len(rows))[order]],
        }
    )
    half = len(rows) // 3
    pq.write_table(table.slice(0, half), directory / "a.parquet", row_group_size=50)
    pq.write_table(table.slice(half), directory / "b.parquet", row_group_size=70)
    return directory


def expected(summary: Summary, keys: list[tuple[str, bool]], reach: float, probes: int = 0) -> dict[str, tuple]:
    """What the oracle finds in the segments of a run: by id, the max_id and the score of rows that have a match."""
    table = segments(summary)
    ids, rows = table.column("id").to_pylist(), vectors(table)
    order = oracle.rank_order([0] * len(ids), [(table.column(name).to_pylist(), ascending) for name, ascending in keys])
    pairs = None
    if probes:
        labels = table.column("centroid").to_numpy()
        model = centroids(summary).astype(np.float64)
        far = ((rows[:, None].astype(np.float64) - model) ** 2).sum(axis=2)
        far[np.arange(len(rows)), labels] = -1
        nearest = np.argsort(far, axis=1, kind="stable")[:, :probes]
        met = (nearest[:, :, None] == labels).any(axis=1)
        pairs = met | met.T
    scores, winners = oracle.best_earlier(rows, order, pairs, reach)
    return {ids[i]: (ids[winners[i]], float(scores[i])) for i in np.flatnonzero(~np.isnan(scores))}


def by_id(table: pa.Table) -> dict[str, tuple]:
    table = table.filter(table.column("cosine_sim_score").is_valid())
    values = (table.column(name).to_pylist() for name in ("id", "max_id", "cosine_sim_score"))
    return {id_: (max_id, score) for id_, max_id, score in zip(*values, strict=True)}


@pytest.mark.parametrize(
    ("assigned", "ranking", "eps"),
    on_either(
        [("hard", 0), ("hard", 1e-6), ("hard", 0.03), ("hard", 0.4), ("hard", 1.9), ("easy", 0.1), ("metadata", 0.1)],
        white={("hard", 1e-6), ("hard", 0.4), ("metadata", 0.1)},
    ),
    indirect=["assigned"],
)
def test_exact_finds_what_all_pairs_of_the_dataset_say(
    assigned: dict[str, Any], tmp_path: Path, ranking: str, eps: float
) -> None:
    parameters, keys = RANKINGS[ranking]
    summary = dedup(output_path=tmp_path, eps=eps, n_probes="exact", **assigned, **parameters)
    true = expected(summary, keys, eps)
    assert by_id(comparisons(summary)) == true
    assert by_id(duplicates(summary)) == true
    assert summary.num_duplicates == len(true) > 0
    assert summary.rows_kept == ROWS - len(true)
    found = comparisons(summary)
    alone = found.filter(found.column("cosine_sim_score").is_null())
    assert alone.column("id").to_pylist() == alone.column("max_id").to_pylist()


@pytest.mark.parametrize(
    ("assigned", "probes", "eps"),
    on_either([(2, 0.05), (2, None), (3, None), (9, 0.05), (9, None), (100, None)], white={(2, None), (9, 0.05)}),
    indirect=["assigned"],
)
def test_n_probes_compares_in_so_many_clusters(
    assigned: dict[str, Any], tmp_path: Path, probes: int, eps: float | None
) -> None:
    summary = dedup(output_path=tmp_path, eps=eps, n_probes=probes, **assigned)
    true = expected(summary, RANKINGS["hard"][1], 2.0 if eps is None else eps, probes)
    assert by_id(comparisons(summary)) == true
    if eps is None and probes >= SIZES["n_clusters"]:
        assert len(true) == ROWS - 1


@pytest.mark.parametrize("ranking", ["metadata", pytest.param("random", marks=pytest.mark.slow)])
def test_the_duplicates_depend_on_the_data_alone(tmp_path: Path, ranking: str) -> None:
    rows = rows_of("blobs")
    shuffled = np.random.default_rng(9).permutation(ROWS)
    parameters = {"which_to_keep": "random"} if ranking == "random" else RANKINGS["metadata"][0]
    found = []
    for number, (order, sizes) in enumerate(
        [
            (slice(None), SIZES),
            (shuffled, {"n_clusters": 1, "pairwise_batch_size": 16}),
            (slice(None), {"n_clusters": ROWS, "comparison_rows": 33}),
            (shuffled, {**SIZES, "n_clusters": 30, "init": "random", "random_state": 42, "max_iter": 1}),
        ]
    ):
        root = tmp_path / str(number)
        summary = dedup(write(rows, root / "input", order), root / "output", n_probes="exact", **sizes, **parameters)
        found.append(by_id(duplicates(summary)))
    assert found[0]
    assert found == [found[0]] * len(found)


def test_rows_that_are_not_of_length_one_are_found(tmp_path: Path) -> None:
    """With assume_normalized a score is a product; lengths from 0.7 to 1.4 reach far beyond a cluster's border."""
    rng = np.random.default_rng(5)
    rows = blobs(6, 300, 8, 40, 0.3) * np.exp(rng.uniform(-0.35, 0.35, (300, 1))).astype(np.float32)
    summary = dedup(
        write(rows, tmp_path / "input"), tmp_path, eps=0.05, n_probes="exact", assume_normalized=True, n_clusters=20
    )
    true = expected(summary, RANKINGS["hard"][1], 0.05)
    assert by_id(comparisons(summary)) == true
    assert len(true) > 50


def test_integer_vectors_of_one_dimension_and_clusters_without_rows(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    vectors = pa.array(np.random.default_rng(0).integers(1, 9, (80, 3)).tolist(), pa.list_(pa.int8(), 3))
    pq.write_table(pa.table({"id": np.arange(80), "embeddings": vectors}), tmp_path / "input" / "a.parquet")
    given = np.concatenate([np.eye(3), np.eye(3), -np.eye(3)]).astype(np.float32)
    summary = dedup(tmp_path / "input", tmp_path, eps=1e-3, n_probes="exact", init=given, max_iter=0, n_clusters=9)
    assert by_id(comparisons(summary)) == expected(summary, RANKINGS["hard"][1], 1e-3)


def test_what_was_matched_within_the_reach_serves_every_smaller_eps(dataset: Path, tmp_path: Path) -> None:
    parameters = {"n_probes": "exact", "reach": 0.3, **SIZES}
    dedup(dataset, tmp_path, eps=0.05, **parameters)
    summary = dedup(dataset, tmp_path, eps=0.25, **parameters)
    assert summary.stages["pairwise"].units_done == 0
    assert by_id(duplicates(summary)) == {
        id_: match for id_, match in expected(summary, RANKINGS["hard"][1], 0.3).items() if match[1] >= 0.75
    }


def test_another_reach_writes_no_segment_again(dataset: Path, tmp_path: Path) -> None:
    first = dedup(dataset, tmp_path, eps=0.02, n_probes="exact", **SIZES)
    again = dedup(dataset, tmp_path, eps=0.2, n_probes="exact", **SIZES)
    assert first.paths["kmeans_results"] == again.paths["kmeans_results"]
    assert again.stages["assign"].units_done == 0
    assert by_id(duplicates(again)) == expected(again, RANKINGS["hard"][1], 0.2)


@pytest.mark.slow
def test_workers_find_the_same(dataset: Path, whole: Path, tmp_path: Path) -> None:
    runner = {"name": "direct", "num_workers": 2}
    together = dedup(dataset, tmp_path / "two", runner, eps=0.1, n_probes="exact", **SIZES)
    assert duplicates(together) == read_parquet(whole / "duplicates").sort_by("id")


def test_a_small_memory_deals_visits_out_in_parts(dataset: Path, tmp_path: Path) -> None:
    """A unit's visits in several files, and a key's visitors in several units."""
    sizes = {"n_clusters": 9, "memory_budget": 40_000, "assign_unit_bytes": 60 * 4 * DIMENSION}
    summary = dedup(dataset, tmp_path, eps=0.9, n_probes="exact", **sizes)
    assert by_id(comparisons(summary)) == expected(summary, RANKINGS["hard"][1], 0.9)
    names = {file.name for file in tmp_path.rglob("*.arrow")}
    assert any(name.endswith("+1.arrow") for name in names)
    assert any(name.endswith("-visitors1.arrow") for name in names)
    for file in Path(summary.paths["pairwise_results"]).glob("*.*"):
        file.unlink()
    again = dedup(dataset, tmp_path, eps=0.9, n_probes="exact", **sizes)
    assert duplicates(again) == duplicates(summary)


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a finished run with eps=0.1, n_probes=exact and SIZES."""
    output = tmp_path_factory.mktemp("whole")
    dedup(dataset, output, eps=0.1, n_probes="exact", **SIZES)
    return output


@pytest.mark.parametrize("lost", ["visits", "matches", "basis.npy"])
def test_what_is_lost_of_an_unfinished_run_is_made_again(dataset: Path, whole: Path, tmp_path: Path, lost: str) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    (pairwise,), (kmeans,) = (out / "pairwise_results").iterdir(), (out / "kmeans_results").iterdir()
    for file in [*pairwise.glob("*.json"), *pairwise.glob("*.parquet")]:
        file.unlink()
    root = pairwise if lost == "matches" else kmeans
    found = [file for file in root.rglob("*") if file.is_file() and lost in file.relative_to(root).as_posix()]
    for number, file in enumerate(sorted(found)):
        file.write_bytes(b"no such file") if number % 2 else file.unlink()
    assert found
    again = dedup(dataset, out, eps=0.1, n_probes="exact", **SIZES)
    assert duplicates(again) == read_parquet(whole / "duplicates").sort_by("id")
    assert again.stages["assign"].units_done == 0


@pytest.mark.parametrize(
    "value", [np.nan, *(pytest.param(value, marks=pytest.mark.slow) for value in (np.inf, 1e30, 0.5))]
)
def test_directions_with_other_values_lose_nothing(tmp_path: Path, value: float) -> None:
    rows = unit_rows(7, 900, 256)
    rows[:20] = rows[100:120] + 0.2 * unit_rows(8, 20, 256)
    rows /= np.sqrt(1 + np.arange(256, dtype=np.float32))  # some directions hold more than others
    dataset = write(rows, tmp_path / "input")
    parameters = {"eps": 0.05, "n_probes": "exact", "n_clusters": 9}
    whole = dedup(dataset, tmp_path / "out", **parameters)
    basis = next(Path(whole.paths["kmeans_results"]).rglob("basis.npy"))
    vectors = np.load(basis)
    assert vectors.shape[1] > 0
    vectors[0, 0] = value
    np.save(basis, vectors)
    for file in Path(whole.paths["pairwise_results"]).rglob("*.*"):
        file.unlink()
    again = dedup(dataset, tmp_path / "out", **parameters)
    assert by_id(comparisons(again)) == expected(again, RANKINGS["hard"][1], 0.05)
    assert duplicates(again) == duplicates(whole)


def test_rows_are_removed_that_lie_in_other_clusters_than_what_they_resemble(dataset: Path, tmp_path: Path) -> None:
    summary = dedup(dataset, tmp_path, eps=0.4, n_probes="exact", remove=True, **{**SIZES, "n_clusters": 60})
    removed = set(expected(summary, RANKINGS["hard"][1], 0.4))
    kept = pa.concat_tables(pq.read_table(file) for file in (tmp_path / "deduplicated").rglob("*.parquet"))
    assert set(kept.column("id").to_pylist()) == {f"row {i}" for i in range(ROWS)} - removed
    clusters = dict(zip(*(segments(summary).column(n).to_pylist() for n in ("id", "centroid")), strict=True))
    found = duplicates(summary)
    pairs = zip(found.column("id").to_pylist(), found.column("max_id").to_pylist(), strict=True)
    assert any(clusters[one] != clusters[other] for one, other in pairs)


def test_one_probe_is_what_a_run_without_it_is(dataset: Path, tmp_path: Path) -> None:
    plain, one = dedup(dataset, tmp_path, **SIZES), dedup(dataset, tmp_path, n_probes=1, **SIZES)
    assert plain.paths["pairwise_results"] == one.paths["pairwise_results"]
    assert one.stages["pairwise"].units_done == 0


def test_the_command_takes_n_probes_and_a_sweep_compares_once(dataset: Path, tmp_path: Path) -> None:
    ended = finish(
        start(
            [f"input_path={dataset}", "output_path=out", "n_clusters=9", "n_probes=exact", "eps=0.02,0.3,0.1", "-m"],
            tmp_path,
        )
    )
    assert ended.code == 0, ended.err
    for eps in ("0.02", "0.3", "0.1"):
        table = read_parquet(tmp_path / "out" / f"eps={eps}" / "duplicates")
        assert min(table.column("cosine_sim_score").to_pylist()) >= 1 - float(eps)
    assert len(list((tmp_path / "out" / "pairwise_results").iterdir())) == 1


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"n_probes": "exact", "eps": None}, "n_probes=exact needs eps"),
        ({"n_probes": "exact", "eps": 0.2, "reach": 0.1}, "reach=0.1 is below eps=0.2"),
        ({"reach": 0.1, "recall_sample": 0}, "n_probes above 1 only"),
        ({"n_probes": 0}, "n_probes=0 is out of range"),
        ({"n_probes": "all"}, "n_probes='all': expected an integer or exact"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        dedup(tmp_path, tmp_path / "out", **parameters)
