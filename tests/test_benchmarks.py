"""The benchmarks' sets are what they promise, and the bare peer does the same task as the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_semdedup import SemanticDeduplicationWorkflow
from benchmarks import data, recall, report
from benchmarks.bench import Bench, Goal, Result, found
from benchmarks.peers.bare import assign
from benchmarks.peers.vectors import load
from benchmarks.probes.pairs import similar_pairs


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
    brute = {tuple(sorted(pair)) for pair in ids[similar_pairs(rows, 1 - data.EPS)].tolist()}
    known = recall.similar_pairs(bench, dataset)
    assert {tuple(sorted(map(int, pair))) for pair in zip(*known, strict=True)} == brute
    _, groups = data.truth(dataset)
    assert len(groups) - len(np.unique(groups)) == dataset.rows // 10


def test_a_set_depends_on_its_parameters_alone(tmp_path):
    first, again = (data.generate(tmp_path / name, 500, 20, dimension=8, dtype="float16") for name in "ab")
    assert pq.read_table(first.path).equals(pq.read_table(again.path))
    (file,) = first.path.glob("*.parquet")
    assert pq.read_schema(file).field("embeddings").type == pa.list_(pa.float16(), 8)


@pytest.mark.parametrize("name", ["bare", "batches"])
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


def test_the_command_names_its_scenarios():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 2
    assert "there are start, kernel, given" in done.stderr
