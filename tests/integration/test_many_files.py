"""Many small files are one unit: what a run finds in them is what it finds in one file with the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import comparisons, dedup, duplicates

from beam_semdedup import Summary
from beam_semdedup.errors import RunError

ROWS, DIMENSION, PER_FILE = 600, 8, 5
FIXED = {"n_clusters": 5, "eps": 0.05, "metadata_fields": ["text"], "max_iter": 0}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The same rows in `one/` file and in `many/`, some unusable or copies of others; one of the many is empty."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ROWS, DIMENSION)).astype(np.float32)
    vectors[rng.permutation(ROWS)[:200]] = vectors[rng.integers(0, ROWS, 200)]
    np.save(tmp_path / "init.npy", vectors[:5])
    vectors[[7, 300, 301]] = 0
    given = vectors.tolist()
    given[450] = None
    text = [f"row {number}" for number in range(ROWS)]
    table = pa.table({"id": range(ROWS), "embeddings": pa.array(given, pa.list_(pa.float32())), "text": text})
    for folder in ("one", "many"):
        (tmp_path / folder).mkdir()
    pq.write_table(table, tmp_path / "one" / "a.parquet", row_group_size=70)
    for number, start in enumerate(range(0, ROWS, PER_FILE)):
        pq.write_table(table.slice(start, PER_FILE), tmp_path / "many" / f"{number:04d}.parquet", row_group_size=3)
    pq.write_table(table.slice(0, 0), tmp_path / "many" / "0003-empty.parquet")
    return tmp_path


def run(data: Path, folder: str, **parameters: object) -> Summary:
    return dedup(data / folder, data / f"out-{folder}", init=str(data / "init.npy"), **{**FIXED, **parameters})


def rejected(summary: Summary) -> list[tuple[object, object]]:
    found = pq.read_table(summary.paths["rejected"], columns=["id", "reason"]).to_pylist()
    return sorted((row["id"], row["reason"]) for row in found)


def left(data: Path, folder: str) -> list[int]:
    files = sorted((data / f"out-{folder}" / "deduplicated").glob("*.parquet"))
    return [i for file in files for i in pq.read_table(file, columns=["id"]).column(0).to_pylist()]


@pytest.mark.parametrize(
    "parameters",
    [pytest.param({}, marks=pytest.mark.slow), {"assign_unit_bytes": 4 * DIMENSION * 77, "comparison_rows": 100}],
)
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_they_give_what_one_file_gives(data: Path, workers: int, parameters: dict[str, int]) -> None:
    one = run(data, "one", remove=True, **parameters)
    many = run(data, "many", remove=True, runner={"name": "direct", "num_workers": workers}, **parameters)
    assert comparisons(many).equals(comparisons(one))
    assert duplicates(many).equals(duplicates(one))
    assert many.num_duplicates > 100
    assert rejected(many) == rejected(one)
    assert len(rejected(many)) == 4
    assert left(data, "many") == left(data, "one")
    assert len(list((data / "out-many" / "deduplicated").glob("*.parquet"))) == ROWS // PER_FILE + 1
    assert many.stages["assign"].units_done == (1 if not parameters else 8)


def test_rejected_rows_say_which_file_they_are_in(data: Path) -> None:
    summary = run(data, "many")
    found = pq.read_table(summary.paths["rejected"]).sort_by("id").to_pylist()
    places = [(Path(row["source_file"]).name, row["row_group"], row["row"], row["id"]) for row in found]
    assert places == [
        ("0001.parquet", 0, 2, 7),
        ("0060.parquet", 0, 0, 300),
        ("0060.parquet", 0, 1, 301),
        ("0090.parquet", 0, 0, 450),
    ]


def test_a_file_that_cannot_be_read_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beam_semdedup.inputs.parquet import Parquet

    original = Parquet.read

    def fail(self: Parquet, file: object, *rest: object) -> object:
        if str(file).endswith("0042.parquet"):
            raise OSError("gone")
        return original(self, file, *rest)

    monkeypatch.setattr(Parquet, "read", fail)
    with pytest.raises(RunError, match=r"/many/0042\.parquet \(row groups 0 to 1, rows 0 to 4\): OSError: gone"):
        run(data, "many")


def test_the_units_that_were_finished_are_not_computed_again(data: Path) -> None:
    sizes = {"assign_unit_bytes": 4 * DIMENSION * 77}
    first = run(data, "many", **sizes)
    for lost in (data / "out-many").glob("*_results/*/manifest.json"):
        lost.unlink()
    min((data / "out-many").glob("kmeans_results/*/segments/*")).unlink()
    again = run(data, "many", **sizes)
    assert (again.stages["assign"].units_done, again.stages["assign"].units_reused) == (1, 7)
    assert comparisons(again).equals(comparisons(first))
