"""Whole runs with a GPU (a stand-in for one), without one, and with screened products."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import comparisons, dedup, duplicates

from beam_semdedup import InputError
from beam_semdedup.compute import screens, short_vectors, small_clusters

GIVEN = {"max_iter": 0, "n_clusters": None}


@pytest.mark.parametrize(
    ("largest", "split"),
    [(1024, None), (40, 20), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((1024, 20), (40, None)))],
)
def test_a_gpu_finds_what_numpy_finds(
    split: int | None,
    largest: int,
    device: Any,
    parquet_dataset: Any,
    given_centroids: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(small_clusters, "LARGEST", largest)
    init = given_centroids(parquet_dataset.embeddings[:5].astype(np.float32))
    common = {**GIVEN, "init": init, "max_cluster_rows": split}
    here = dedup(parquet_dataset.path, tmp_path / "cpu", device="cpu", **common)
    there = dedup(parquet_dataset.path, tmp_path / "gpu", device="gpu", **common)
    assert comparisons(there).drop_columns("cosine_sim_score") == comparisons(here).drop_columns("cosine_sim_score")
    scores = (comparisons(summary).column("cosine_sim_score").to_numpy() for summary in (there, here))
    np.testing.assert_allclose(*scores, rtol=0, atol=6e-8)
    assert here.num_duplicates == there.num_duplicates >= 30


@pytest.mark.parametrize("within", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_gpu_finds_what_numpy_finds_against_references(
    within: bool, device: Any, parquet_dataset: Any, given_centroids: Any, tmp_path: Path
) -> None:
    init = given_centroids(parquet_dataset.embeddings[:5].astype(np.float32))
    common = {**GIVEN, "init": init, "against": parquet_dataset.files[2], "within": within}
    here = dedup(list(parquet_dataset.files[:2]), tmp_path / "cpu", device="cpu", **common)
    there = dedup(list(parquet_dataset.files[:2]), tmp_path / "gpu", device="gpu", **common)
    assert duplicates(there).drop_columns("cosine_sim_score") == duplicates(here).drop_columns("cosine_sim_score")
    assert here.references == there.references
    assert here.references[0].resembled


@pytest.mark.slow
def test_a_fit_on_a_gpu_ends_in_the_same_clusters(device: Any, parquet_dataset: Any, tmp_path: Path) -> None:
    here = dedup(parquet_dataset.path, tmp_path / "cpu", device="cpu")
    there = dedup(parquet_dataset.path, tmp_path / "gpu", device="gpu")
    assert duplicates(there).column("id") == duplicates(here).column("id")


@pytest.mark.parametrize("kind", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])
def test_screened_products_find_the_same_duplicates(
    kind: str, device: Any, parquet_dataset: Any, tmp_path: Path
) -> None:
    exact = dedup(parquet_dataset.path, tmp_path / "out", device=kind)
    screened = dedup(parquet_dataset.path, tmp_path / "out", device=kind, precision="screened")
    assert duplicates(screened).column("id") == duplicates(exact).column("id")
    assert (screened.stages["assign"].units_done, exact.num_duplicates) == (0, screened.num_duplicates)
    assert screened.paths["pairwise_results"] != exact.paths["pairwise_results"]


def test_short_vectors_find_the_same_duplicates_of_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "LEAST_ROWS", 30)
    monkeypatch.setattr(short_vectors, "_PAIR", 1000)  # else so few rows, with so many copies, are multiplied in full
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 256)) / np.arange(1, 257)
    rows[300:] = rows[rng.integers(0, 300, 200)] + rng.choice([0, 0.02], (200, 1)) * rng.normal(size=(200, 256)) / 16
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), 256)
    pq.write_table(pa.table({"id": np.arange(500), "embeddings": embeddings}), tmp_path / "a.parquet")
    found = [
        dedup(tmp_path / "a.parquet", tmp_path / "out", device="cpu", precision=precision, max_cluster_rows=split)
        for precision in ("exact", "screened")
        for split in (None, 25)
    ]
    assert all(duplicates(summary) == duplicates(found[0]) for summary in found)
    assert found[0].num_duplicates > 100
    assert comparisons(found[2]) == comparisons(found[3]) != comparisons(found[0])


def test_screened_similarities_belong_to_their_eps(parquet_dataset: Any, tmp_path: Path) -> None:
    first, other = (dedup(parquet_dataset.path, tmp_path / "out", precision="screened", eps=e) for e in (0.05, 0.1))
    assert other.stages["pairwise"].units_done > 0
    assert first.paths["pairwise_results"] != other.paths["pairwise_results"]
    again = dedup(parquet_dataset.path, tmp_path / "out", precision="screened", eps=0.05)
    assert again.stages["pairwise"].units_done == 0
    exact, sweep = (dedup(parquet_dataset.path, tmp_path / "out", eps=e) for e in (0.05, 0.1))
    assert sweep.paths["pairwise_results"] == exact.paths["pairwise_results"]


def test_the_device_is_in_no_key(device: Any, parquet_dataset: Any, tmp_path: Path) -> None:
    dedup(parquet_dataset.path, tmp_path / "out", device="cpu")
    again = dedup(parquet_dataset.path, tmp_path / "out", device="gpu")
    assert (again.stages["assign"].units_done, again.stages["pairwise"].units_done) == (0, 0)


def test_a_missing_gpu_or_cuml_is_an_error_before_anything_is_done(
    no_gpu: None, parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuml", None)
    for asked, said in (({"device": "gpu"}, "device=gpu, but there is no GPU"), ({"kmeans": "cuml"}, "kmeans=cuml: ")):
        with pytest.raises(InputError, match=said):
            dedup(parquet_dataset.path, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()
