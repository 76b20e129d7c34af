"""The benchmarks' sets are what they promise, and the bare peer does the same task as the command."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_semdedup import SemanticDeduplicationWorkflow
from benchmarks import data, dense, mixed, recall, report
from benchmarks.bench import Bench, Goal, Result, found
from benchmarks.measure import measure_roles
from benchmarks.mixed import EXAMPLES, Mixture
from benchmarks.peers.bare import assign
from benchmarks.peers.vectors import load
from benchmarks.probes.pairs import similar_pairs
from benchmarks.scenarios import scale


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("work"), Path("nowhere"))


@pytest.fixture(scope="module")
def dataset(bench: Bench) -> data.Dataset:
    return data.generate(bench.work, 6000, 200, dimension=384)


def test_the_largest_cluster_has_the_promised_skew(bench, dataset):
    assert data.cluster_shares(500).sum() == pytest.approx(1)
    assert data.cluster_shares(500)[0] * 500 == pytest.approx(data.SKEW, rel=1e-3)
    _, rows = load(dataset.path)
    sizes = np.bincount(assign(rows, np.load(bench.centroids(dataset))))
    assert sizes.max() / sizes.mean() == pytest.approx(data.SKEW, rel=0.15)


def test_similar_pairs_are_the_planted_ones(bench, dataset):
    ids, rows = load(dataset.path)
    ids = ids.to_numpy()
    brute = {tuple(sorted(pair)) for pair in ids[similar_pairs(rows, 1 - data.EPS)[0]].tolist()}
    known = recall.similar_pairs(bench, dataset)
    assert {tuple(sorted(map(int, pair))) for pair in zip(*known, strict=True)} == brute
    _, groups = data.truth(dataset)
    assert len(groups) - len(np.unique(groups)) == dataset.rows // 10


def test_a_set_depends_on_its_parameters_alone(tmp_path):
    first, again = (data.generate(tmp_path / name, 500, 20, dimension=8, dtype="float16") for name in "ab")
    assert pq.read_table(first.path).equals(pq.read_table(again.path))
    (file,) = first.path.glob("*.parquet")
    assert pq.read_schema(file).field("embeddings").type == pa.list_(pa.float16(), 8)


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return Mixture.draw(load(EXAMPLES)[1], 6000, 0)


def test_mixed_rows_have_the_mean_and_the_spectrum_of_the_real_ones(mixture):
    rows, real = (x.astype(np.float64) for x in (mixture.rows(slice(0, 6000)), mixture.source))
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(rows.mean(axis=0) - real.mean(axis=0)) < 0.05
    of_rows, of_real = (np.linalg.eigvalsh(x.T @ x / len(x))[::-1].cumsum() for x in (rows, real))
    assert of_rows == pytest.approx(of_real, abs=0.02)


def test_mixed_rows_have_copies_at_the_cosines_that_were_drawn(mixture):
    rows = mixture.rows(slice(0, 6000))
    copies = np.flatnonzero(mixture.originals != np.arange(6000))
    assert len(copies) == pytest.approx(mixed.COPIES * 6000, rel=0.1)
    cosines = np.einsum("ij,ij->i", rows[copies], rows[mixture.originals[copies]])
    assert cosines == pytest.approx(mixture.cosines[copies], abs=1e-4)
    assert np.mean(cosines >= 1 - 0.03) * len(copies) / 6000 == pytest.approx(0.0913, rel=0.15)
    same = copies[mixture.cosines[copies] == 1]
    assert len(same) > 200
    assert np.array_equal(rows[same], rows[mixture.originals[same]])
    assert np.array_equal(mixture.rows(slice(10, 99)), rows[10:99])


@pytest.mark.parametrize("cosine", [0.97, 1])
def test_rows_of_dense_groups_resemble_their_texts(mixture, tmp_path, cosine):
    rows = dense.Groups(2000, 900, 3, cosine).draw(mixture.source)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    near = (rows @ rows.T >= cosine - 0.02).sum(axis=1)
    assert np.count_nonzero(near >= 290) == pytest.approx(900, rel=0.05)
    assert (len(np.unique(rows, axis=0)) <= 1103) == (cosine == 1)
    first, again = (dense.generate(tmp_path, dense.Groups(90, 30, 1, cosine)) for _ in range(2))
    assert first == again
    assert pq.read_table(first.path).num_rows == 90


def test_a_sample_of_queries_has_its_share_of_the_pairs(dataset):
    _, rows = load(dataset.path)
    all_pairs, cosines = similar_pairs(rows, 1 - data.EPS)
    some, _ = similar_pairs(rows, 1 - data.EPS, 1500)
    asked = set(some[:, 1].tolist())
    expected = {(a, b) for pair in all_pairs.tolist() for a, b in (pair, pair[::-1]) if b in asked}
    assert set(map(tuple, some.tolist())) == expected
    assert len(expected) == pytest.approx(len(all_pairs) / 2, rel=0.2)
    assert cosines.min() >= 1 - data.EPS


@pytest.mark.parametrize("name", ["bare", pytest.param("batches", marks=pytest.mark.slow)])
def test_a_peer_and_ours_find_the_same(name, bench, dataset, tmp_path):
    centroids = bench.centroids(dataset)
    peer = bench.peer(name, dataset, "--centroids", centroids)
    subprocess.run(peer.command, check=True, cwd=Path(__file__).parents[1])
    if name == "batches":
        assert int(peer.output.with_suffix(".bytes").read_text()) > 4 * 384 * dataset.rows
    SemanticDeduplicationWorkflow(
        input_path=str(dataset.path),
        output_path=str(tmp_path / "out"),
        init=str(centroids),
        max_iter=0,
        eps=data.EPS,
        verbose=False,
    ).run()
    assert found(peer.output) == found(tmp_path / "out")
    assert recall.recall(recall.similar_pairs(bench, dataset), found(peer.output)) > 0.95


def test_the_report_has_goals_tables_and_remarks(tmp_path):
    pytest.importorskip("matplotlib")
    goals = [Goal("quick", 2.0, 1.0, "s"), Goal("good", 2.0, 1.0, "", at_most=False)]
    path = tmp_path / "results.json"
    report.update(path, "start", Result([{"what": "it", "seconds": 2.0}], goals, ["a remark"]), 1)
    text = report.write(path)
    assert "| quick | at most 1 s | 2 s | missed by 100% |" in text
    assert "| good | at least 1 " in text
    assert "met |" in text
    assert "| it | 2 |" in text
    assert "a remark" in text
    assert path.with_suffix(".svg").exists()


def test_what_the_processes_of_a_command_take_is_told_by_their_roles():
    child = (
        "import time; held = bytearray(60 << 20); end = time.process_time() + 0.5\nwhile time.process_time() < end: 0"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, 'busy'])"
    took = measure_roles([sys.executable, "-c", parent], lambda _, command: "worker" if "busy" in command else "other")
    assert took.cpu_seconds["worker"] > 0.2 > took.cpu_seconds["driver"]
    assert took.peak_bytes["worker"] > 60 << 20 > took.peak_bytes["driver"]
    assert "other" not in took.peak_bytes
    with pytest.raises(RuntimeError, match="ended with 3"):
        measure_roles([sys.executable, "-c", "raise SystemExit(3)"], lambda *_: "worker")


def test_what_a_segment_takes_is_the_difference_of_two_runs():
    rows = [
        {
            "runner": "direct",
            "n_probes": "1",
            "segments indexed": n,
            "driver, CPU s": 2 + n / 1e5,
            "engine, MB": None,
        }
        for n in (1000, 5000, 101_000)
    ]
    (each,) = scale._slopes([*rows, {**rows[0], "runner": "ray"}])
    assert each["driver, CPU s"] == pytest.approx(10)
    assert (each["runner"], each["n_probes"], "engine, MB" in each) == ("direct", "1", False)


@pytest.mark.slow
def test_the_scenario_of_scale_has_as_many_segments_as_it_says(bench, monkeypatch):
    monkeypatch.setattr(scale, "SHAPES", ((20, 30),))
    monkeypatch.setattr(scale, "RUNNERS", {"direct": ()})
    inside, across = scale.run(dataclasses.replace(bench, rows=[600])).table
    assert 0.8 * 600 < inside["segments indexed"] <= 600
    assert across["segments indexed"] > 2 * inside["segments indexed"]
    for row in (inside, across):
        assert row["workers, CPU s"] > 1
        assert row["driver, MB"] > 50
        assert row["engine, MB"] is None
    assert inside["planned segments"] > 300


def test_the_command_names_its_scenarios():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 2
    assert "there are start, kernel, given" in done.stderr
