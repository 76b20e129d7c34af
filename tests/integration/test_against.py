"""Runs against references: rows that remove rows of the input and stay, held against a brute force over both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import comparisons, dedup, duplicates, finish, segments_in, start, vectors
from strategies import blobs, unit_rows

from beam_semdedup import InputError, RunError, Summary

ROWS, REFERENCES, DIMENSION = 240, 130, 16
SIZES = {"comparison_rows": 60, "assign_unit_bytes": 60 * 4 * DIMENSION, "max_cluster_rows": 30, "n_clusters": 7}
"""Many units, keys of several centroids, and split clusters."""
HARD = [("cosine_dist_to_cent", False), ("id", False)]


def all_rows() -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the input and of the references, with near and exact copies within each and of each other."""
    rng = np.random.default_rng(5)
    rows = np.concatenate([blobs(1, 300, DIMENSION, 9, 0.12), unit_rows(2, ROWS + REFERENCES - 300, DIMENSION)])
    rows = rng.permutation(rows)
    for low, high in ((20, 50), (60, 90), (250, 270), (300, 330)):
        near = rng.choice([0, 0, 1e-7, 1e-4, 0.03], (high - low, 1)) * unit_rows(low, high - low, DIMENSION)
        rows[low:high] = rows[rng.integers(0, len(rows), high - low)] + near
    rows = rows.astype(np.float32)
    return rows[:ROWS], rows[ROWS:]


def write(file: Path, rows: np.ndarray, ids: Any, **columns: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    pq.write_table(pa.table({"id": ids, "embeddings": vectors, **columns}), file, row_group_size=40)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The directories of the input, in two files, and of the references, in two; both have the ids from 0 on."""
    root = tmp_path_factory.mktemp("against")
    rows, references = all_rows()
    quality = np.random.default_rng(0).integers(0, 5, ROWS)
    for number, part in enumerate((slice(0, 100), slice(100, ROWS))):
        ids = pa.array(range(ROWS)[part], pa.int64())
        write(root / "input" / f"{number}.parquet", rows[part], ids, quality=quality[part])
    for name, part in (("a", slice(0, 50)), ("b", slice(50, REFERENCES))):
        write(root / "references" / f"{name}.parquet", references[part], pa.array(range(REFERENCES)[part], pa.int32()))
    return root / "input", root / "references"


def assigned(summary: Summary) -> tuple[pa.Table, pa.Table]:
    """The rows of the input and those of the references, as they are assigned."""
    own = Path(summary.paths["kmeans_results"])
    (theirs,) = (folder for folder in own.parent.iterdir() if folder != own)
    return segments_in(own), segments_in(theirs)


def compare(summary: Summary, keys: list[tuple[str, bool]], within: bool, exact: float | None) -> tuple[dict, set[int]]:
    """What comparing all with all gives: by id, the max_id, the source and the score; and the resembled references.

    With `exact`, an eps, over the whole dataset, else within the clusters.
    """
    own, theirs = assigned(summary)
    number, rows = theirs.num_rows, np.concatenate([vectors(theirs), vectors(own)])
    ids = theirs.column("id").to_pylist() + own.column("id").to_pylist()
    labels = np.concatenate([part.column("centroid").to_numpy() for part in (theirs, own)])
    orders = []
    for part, first in ((theirs, 0), (own, number)):
        columns = [(part.column(n).to_pylist(), up) for n, up in keys if n in part.column_names]
        orders += [first + i for i in oracle.rank_order([0] * part.num_rows, columns)]
    is_reference = np.arange(len(rows)) < number
    met = np.ones((len(rows), len(rows)), bool) if exact is not None else labels[:, None] == labels
    met &= ~(is_reference[:, None] & is_reference) if within else is_reference[:, None] != is_reference
    sources = [f"{'ab'[i >= 50]}.parquet" for i in ids[:number]]
    result = {}
    if exact is not None:
        scores, winners = oracle.best_earlier(rows, orders, met, exact)
        found = {i: (winners[i], scores[i]) for i in range(number, len(rows)) if not np.isnan(scores[i])}
    else:
        found = {}
        for place, i in enumerate(orders[number:], number):
            earlier = [j for j in orders[:place] if met[i, j]]
            if earlier:
                score, winner = oracle.best_of(rows[earlier], rows[i])
                found[i] = (earlier[winner], score)
    for i, (j, score) in found.items():
        result[ids[i]] = (ids[j], sources[j] if j < number else "input", float(score))
    alike = oracle.products(rows[:number], rows[number:]) * met[:number, number:]
    return result, {ids[j] for j in np.flatnonzero((alike >= 1 - summary.eps).any(axis=1))}


def found(table: pa.Table) -> dict:
    table = table.filter(table.column("max_source").is_valid())
    columns = (table.column(n).to_pylist() for n in ("id", "max_id", "max_source", "cosine_sim_score"))
    return {i: (j, source.rpartition("/")[2], score) for i, j, source, score in zip(*columns, strict=True)}


def check(summary: Summary, keys: list[tuple[str, bool]], within: bool, exact: float | None) -> dict:
    """Compares a run with the brute force; returns its duplicates."""
    true, resembled = compare(summary, keys, within, exact)
    similar = {i: match for i, match in true.items() if match[2] >= 1 - summary.eps}
    assert found(comparisons(summary)) == true
    assert found(duplicates(summary)) == similar
    assert summary.num_duplicates == len(similar) > 0
    assert summary.rows_kept == ROWS - len(similar)
    for name, ids in (("a", range(50)), ("b", range(50, REFERENCES))):
        (file,) = (file for file in summary.references if file.file.endswith(f"{name}.parquet"))
        assert (file.rows, file.rejected) == (len(ids), 0)
        assert file.resembled == len(resembled & set(ids)) > 0
        assert file.removes == sum(match[1] == f"{name}.parquet" for match in similar.values())
    return similar


@pytest.mark.parametrize(
    ("within", "exact", "eps"),
    [
        (True, True, 0.05),
        (False, True, 0.0),
        pytest.param(False, True, 1.2, marks=pytest.mark.slow),
        (True, False, 0.05),
        (False, False, 1.2),
    ],
)
def test_what_comparing_all_with_all_gives(
    places: tuple[Path, Path], tmp_path: Path, within: bool, exact: bool, eps: float
) -> None:
    parameters = {"n_probes": "exact" if exact else 1, "within": within}
    summary = dedup(places[0], tmp_path, against=str(places[1]), eps=eps, **SIZES, **parameters)
    check(summary, HARD, within, eps if exact else None)
    assert not summary.without_clusters


def test_columns_that_rank_are_those_of_the_input(places: tuple[Path, Path], tmp_path: Path) -> None:
    parameters = {"n_probes": "exact", "metadata_fields": ["quality"]}
    ranking = {"metadata_cols": ["quality"], "ascending": [False]}
    summary = dedup(
        places[0], tmp_path, against=str(places[1]), eps=0.1, ranking_strategy=ranking, **SIZES, **parameters
    )
    check(summary, [("quality", False), ("id", True)], True, 0.1)
    assert duplicates(summary).column_names[-2:] == ["max_source", "quality"]


def test_of_few_references_all_are_compared_and_nothing_is_fitted(places: tuple[Path, Path], tmp_path: Path) -> None:
    parameters = {"n_clusters": REFERENCES, "n_probes": "exact", "eps": 0.1}
    summary = dedup(places[0], tmp_path, against=str(places[1]), within=False, **{**SIZES, **parameters})
    assert summary.without_clusters
    assert "fit" not in summary.stages
    clustered = check(summary, HARD, False, None)
    by_pairs = {i: match for i, match in compare(summary, HARD, False, 0.1)[0].items() if match[2] >= 0.9}
    assert clustered.keys() == by_pairs.keys()
    assert [match[2] for match in clustered.values()] == pytest.approx([by_pairs[i][2] for i in clustered], abs=1e-6)


@pytest.mark.slow
def test_processes_the_order_of_files_and_a_second_run_find_the_same(places: tuple[Path, Path], tmp_path: Path) -> None:
    parameters = {"eps": 0.1, "n_probes": "exact", **SIZES}
    once = dedup(places[0], tmp_path / "one", against=str(places[1]), **parameters)
    files = [str(places[1] / f"{name}.parquet") for name in "ba"]
    runner = {"name": "direct", "num_workers": 2}
    there = dedup(places[0], tmp_path / "two", runner, against=files, **{**parameters, "max_cluster_rows": 1000})
    assert duplicates(there) == duplicates(once)
    again = dedup(places[0], tmp_path / "one", against=str(places[1]), **{**parameters})
    assert {stage.units_done for stage in again.stages.values()} == {0}
    assert duplicates(again) == duplicates(once)
    assert again.references == once.references


def test_rows_are_removed_by_their_own_ids(places: tuple[Path, Path], tmp_path: Path) -> None:
    summary = dedup(
        places[0], tmp_path, against=str(places[1]), eps=0.1, within=False, remove=True, metadata_fields=[], **SIZES
    )
    removed = compare(summary, HARD, False, None)[0]
    removed = {i for i, match in removed.items() if match[2] >= 0.9}
    kept = pa.concat_tables(pq.read_table(file) for file in (tmp_path / "deduplicated").rglob("*.parquet"))
    assert set(kept.column("id").to_pylist()) == set(range(ROWS)) - removed


@pytest.mark.parametrize(
    ("probes", "lost"),
    [(1, "segments"), pytest.param("exact", "resembled", marks=pytest.mark.slow), ("exact", "visits")],
)
def test_what_is_lost_is_made_again(places: tuple[Path, Path], tmp_path: Path, probes: Any, lost: str) -> None:
    parameters = {"against": str(places[1]), "eps": 0.1, "n_probes": probes, **SIZES}
    before = dedup(places[0], tmp_path, **parameters)
    found = duplicates(before)
    if lost != "resembled":
        for file in Path(before.paths["pairwise_results"]).glob("*.*"):
            file.unlink()
    own = before.paths["kmeans_results"]
    files = [f for f in tmp_path.rglob("*.*") if f.parent.name == lost or f.parent.parent.name == lost]
    files = [f for f in files if lost == "resembled" or not f.is_relative_to(own)]
    files[0].write_bytes(b"no such file")
    if lost != "visits":
        with pytest.raises(RunError, match="the same command computes it again"):
            dedup(places[0], tmp_path, **parameters)
    after = dedup(places[0], tmp_path, **parameters)
    assert duplicates(after) == found
    assert after.references == before.references


def test_other_columns_formats_and_ids_of_references(places: tuple[Path, Path], tmp_path: Path) -> None:
    _, references = all_rows()
    lines = [{"key": i, "vector": v.tolist()} for i, v in enumerate(references)] + [{"key": None, "vector": []}]
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parameters = {"eps": 0.05, "within": False, **SIZES}
    names = {"against_filetype": "jsonl", "against_id_field": "key", "against_embedding_field": "vector"}
    summary = dedup(places[0], tmp_path / "out", against=str(tmp_path / "bench"), **names, **parameters)
    (file,) = summary.references
    assert (file.rows, file.rejected) == (REFERENCES + 1, 1)
    plain = dedup(places[0], tmp_path / "plain", against=str(places[1]), **parameters)
    assert file.resembled == sum(file.resembled for file in plain.references)
    columns = ["id", "max_id", "cosine_sim_score"]
    assert duplicates(summary).select(columns) == duplicates(plain).select(columns)
    assert duplicates(summary).schema.field("max_id").type == pa.int64()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": pa.array(map(str, range(8)))}, r"ids are int64 in input_path \(id\) and string in against \(id\)"),
        ({"rows": unit_rows(0, 8, 5)}, "vectors have 16 values in input_path and 5 in against"),
        ({"against": "nowhere"}, "against: no files at|No such file|nowhere"),
        ({"against": None}, "within=false compares with the rows of against alone"),
        ({"against": None, "within": True, "against_id_field": "x"}, "against_id_field is given without against"),
        ({"against": "input"}, "is a file of input_path too"),
        ({"output_path": "against"}, "output_path=.* lies inside against="),
    ],
)
def test_what_does_not_fit_is_said(places: tuple[Path, Path], tmp_path: Path, change: dict, said: str) -> None:
    here = tmp_path / "bench"
    write(here / "x.parquet", change.pop("rows", unit_rows(0, 8, DIMENSION)), change.pop("ids", list(range(8))))
    output = here / "out" if change.pop("output_path", None) else tmp_path / "out"
    against = change.pop("against", here)
    against = {"nowhere": tmp_path / "nowhere", "input": places[0]}.get(against, against)
    given = {"within": False, "eps": 0.1, **({} if against is None else {"against": str(against)}), **change}
    with pytest.raises(InputError, match=said):
        dedup(places[0], output, **given)
    assert not (output / "kmeans_results").exists()


def test_the_command_tells_of_each_file(places: tuple[Path, Path], tmp_path: Path) -> None:
    ended = finish(
        start(
            [f"input_path={places[0]}", f"against={places[1]}", "within=false", "eps=0.1", "output_path=out"], tmp_path
        )
    )
    assert ended.code == 0, ended.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    for file in summary["references"]:
        (line,) = (line for line in ended.out.splitlines() if file["file"] in line)
        assert line.split()[-4:] == [str(file[n]) for n in ("rows", "rejected", "resembled", "removes")]
    assert "against" in ended.err
