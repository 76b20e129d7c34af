"""Whole runs and removals over arrays, as a user has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import Ended, dedup, duplicates

from beam_semdedup.cli import commands

ROWS = np.random.default_rng(6).normal(size=(300, 16)).astype(np.float32)
COPIES = {250: 3, 251: 8, 299: 12}
"""Rows that are others again."""
for _copy, _row in COPIES.items():
    ROWS[_copy] = ROWS[_row]


def pairs(table: pa.Table) -> set[frozenset[object]]:
    return {frozenset(pair) for pair in zip(*table.select(["id", "max_id"]).to_pydict().values(), strict=True)}


@pytest.mark.parametrize(
    ("order", "dtype"),
    [
        *(("C", "<f4"), ("F", ">f8"), ("F", "<f2")),
        *(pytest.param(*kind, marks=pytest.mark.slow) for kind in (("C", ">f8"), ("C", "<f2"), ("F", "<f4"))),
    ],
)
def test_a_run_over_shards_finds_the_copies_by_their_places(tmp_path: Path, dtype: str, order: str) -> None:
    (tmp_path / "in").mkdir()
    for number, first in enumerate((0, 100, 250)):
        rows = ROWS[first : (100, 250, 300)[number]]
        np.save(tmp_path / f"in/{number}.npy", np.asarray(rows.astype(dtype), order=order))
    np.save(tmp_path / "in/none.npy", ROWS[:0])
    given = {"id_field": None, "eps": 1e-4, "n_probes": "exact", "assign_unit_bytes": 60 * 64}
    summary = dedup(tmp_path / "in", tmp_path / "out", **given)
    assert (summary.rows_read, summary.num_duplicates) == (300, 3)

    def place(row: int) -> str:
        number = np.searchsorted([100, 250], row, side="right")
        return f"{tmp_path}/in/{number}.npy:{row - (0, 100, 250)[number]}"

    assert pairs(duplicates(summary)) == {frozenset((place(a), place(b))) for a, b in COPIES.items()}


@pytest.mark.parametrize("kind", ["npy of integers", "npy of texts", "parquet"])
def test_the_command_takes_ids_of_a_second_file_and_writes_the_numbers_of_kept_rows(
    tmp_path: Path, kind: str, called: Callable[..., Ended]
) -> None:
    ids = np.array([f"doc-{7 * row % 300}" for row in range(300)]) if "texts" in kind else 7 * np.arange(300) % 300
    np.save(tmp_path / "vectors.npy", ROWS)
    if kind == "parquet":
        pq.write_table(pa.table({"n": range(300), "id": ids}), tmp_path / "ids.parquet", row_group_size=50)
    else:
        np.save(tmp_path / "ids.npy", ids)
    given = [
        f"input_path={tmp_path}/vectors.npy",
        f"ids_path={tmp_path}/ids.{'parquet' if kind == 'parquet' else 'npy'}",
    ]
    run = [f"output_path={tmp_path}/out", "eps=0.0001", "n_probes=exact", "n_clusters=5", "remove=true"]
    ended = called(commands.main, *given, *run)
    assert ended.code == 0, ended.err
    found = pq.read_table(tmp_path / "out/duplicates")
    expected = {frozenset((ids[a], ids[b])) for a, b in COPIES.items()}
    assert pairs(found) == expected
    gone = np.flatnonzero(np.isin(ids, found.column("id").to_pylist()))
    kept = np.setdiff1d(np.arange(300), gone)
    written = tmp_path / "out/deduplicated"
    assert sorted(path.name for path in written.iterdir()) == ["_removal.json", "vectors.kept.npy"]
    np.testing.assert_array_equal(np.load(written / "vectors.kept.npy"), kept)
    removal = [f"duplicates_path={tmp_path}/out", f"output_path={tmp_path}/clean", "write_arrays=true"]
    assert called(commands.remove_main, *given, *removal).code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "clean/vectors.npy"), ROWS[kept])
    np.testing.assert_array_equal(np.load(tmp_path / "clean/vectors.kept.npy"), kept)
    one_removed = called(commands.remove_main, *given, *removal[:-1])  # and without, the array goes
    assert one_removed.code == 0
    assert sorted(path.name for path in (tmp_path / "clean").iterdir()) == ["_removal.json", "vectors.kept.npy"]


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_shards_with_ids_of_their_own(num_workers: int, tmp_path: Path) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "ids/a").mkdir(parents=True)
    for name, rows in (("a/x", slice(0, 200)), ("a/y", slice(200, 300))):
        np.save(tmp_path / f"in/{name}.npy", ROWS[rows])
        np.save(tmp_path / f"ids/{name}.npy", np.arange(300)[rows])
    runner = {"name": "direct", "num_workers": num_workers}
    summary = dedup(
        tmp_path / "in",
        tmp_path / "out",
        runner,
        ids_path=str(tmp_path / "ids"),
        eps=1e-4,
        n_probes="exact",
        remove=True,
    )
    assert pairs(duplicates(summary)) == {frozenset(pair) for pair in COPIES.items()}
    kept = [np.load(tmp_path / f"out/deduplicated/a/{name}.kept.npy") for name in "xy"]
    gone = set(duplicates(summary).column("id").to_pylist())
    assert [*kept[0], *(kept[1] + 200)] == [row for row in range(300) if row not in gone]


def test_mistakes_end_with_2_and_say_what_to_give(tmp_path: Path, called: Callable[..., Ended]) -> None:
    np.save(tmp_path / "vectors.npy", ROWS)
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).permutation(299))
    given = [f"input_path={tmp_path}/vectors.npy", f"output_path={tmp_path}/out"]
    ended = called(commands.main, *given)
    assert ended.code == 2
    assert "where the rows have no ids, give id_field=null, or a file of ids as ids_path" in ended.err
    ended = called(commands.main, *given, f"ids_path={tmp_path}/ids.npy")
    assert ended.code == 2
    assert f"{tmp_path}/vectors.npy has 300 rows, and {tmp_path}/ids.npy, in ids_path, 299 ids" in ended.err
    np.save(tmp_path / "vectors.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    ended = called(commands.main, *given, "id_field=null")
    assert ended.code == 2
    assert "vectors.npy: an array of Python objects" in ended.err
    assert not (tmp_path / "out").exists()
