"""A process takes little more memory than `memory_budget`, whatever the values are."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

BUDGET, ABOVE = 100_000_000, 153_000_000
ROWS, DIMENSION = 60_000, 384


@functools.cache
def limit() -> int:
    """The most bytes that a command may have: its start (where Beam imports pandas if it can), the budget, a little."""
    code = "import beam_semdedup.transforms; print(open('/proc/self/status').read())"
    status = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return BUDGET + ABOVE + anonymous(status)


def anonymous(status: str) -> int:
    """The bytes of memory that no file is mapped into, in what Linux says of a process; 0 of one that has ended."""
    found = re.search(r"RssAnon:\s+(\d+)", status)
    return int(found[1]) << 10 if found else 0


def private_peak(arguments: Sequence[object], command: str = "semdedup") -> int:
    """Runs a command; the most bytes that it had in memory, without the files that were mapped into it."""
    line = [str(Path(sys.executable).with_name(command)), *map(str, arguments), f"memory_budget={BUDGET}"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous(Path(f"/proc/{process.pid}/status").read_text()))
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 0, process.stdout and process.stdout.read()
    return peak


def vectors(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "quantised":
        return (rng.integers(0, 2, (ROWS, DIMENSION), dtype=np.int8) * 2 - 1).astype(np.float32)
    return np.tile(rng.standard_normal(DIMENSION).astype(np.float32), (ROWS, 1))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("kind", ["quantised", "identical"])
def test_rows_whose_values_repeat_are_no_larger_than_others(kind: str, tmp_path: Path) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors(kind).reshape(-1)), DIMENSION)
    pq.write_table(pa.table({"id": range(ROWS), "embeddings": column}), tmp_path / "a.parquet", row_group_size=50_000)
    peak = private_peak(
        [f"input_path={tmp_path}/a.parquet", f"output_path={tmp_path}/out", "eps=0.05", "verbose=false"]
    )
    assert peak < limit()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_rows_that_visit_all_clusters_are_visitors_a_few_at_a_time(tmp_path: Path) -> None:
    """Templates: all rows within eps of each other, so that each of 30,000 visits each of 200 clusters."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal(64) + 0.1 * rng.standard_normal((30_000, 64))).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 64)
    pq.write_table(pa.table({"id": range(len(rows)), "embeddings": column}), tmp_path / "a.parquet")
    where = [f"input_path={tmp_path}/a.parquet", f"output_path={tmp_path}/out", "verbose=false"]
    assert private_peak([*where, "eps=0.1", "n_probes=exact", "n_clusters=200"]) < limit()


def repeated_texts(path: Path, rows: int) -> None:
    """Writes a file of few texts that are long and in many rows; the vectors of neighbours are the same."""
    rng = np.random.default_rng(0)
    texts = pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 3, rows), pa.int32()), [c * 80_000 for c in "abc"])
    vectors = np.repeat(rng.standard_normal((rows // 2, 16)).astype(np.float32), 2, axis=0)
    column = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), 16)
    pq.write_table(pa.table({"id": range(rows), "embeddings": column, "text": texts}), path, store_schema=False)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("rows", [pytest.param(rows, marks=pytest.mark.slow) for rows in (20_000, 100_000)])
def test_a_removal_keeps_texts_that_repeat_as_they_are_stored(rows: int, tmp_path: Path) -> None:
    source = tmp_path / "a.parquet"
    repeated_texts(source, rows)
    pq.write_table(pa.table({"id": range(0, rows, 3)}), tmp_path / "list.parquet")
    where = [f"input_path={source}", f"duplicates_path={tmp_path}/list.parquet", f"output_path={tmp_path}/out"]
    assert private_peak([*where, "partial=allow"], "semdedup-remove") < limit()
    before, after = (
        pq.read_table(path, columns=["id", "text"], read_dictionary=["text"])
        for path in (source, tmp_path / "out/a.parquet")
    )
    assert_same(after, before.filter(pa.array(np.arange(rows) % 3 != 0)))
    assert (tmp_path / "out/a.parquet").stat().st_size <= source.stat().st_size


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("rows", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_run_carries_texts_that_repeat_a_few_at_a_time(rows: int, tmp_path: Path) -> None:
    source = tmp_path / "a.parquet"
    repeated_texts(source, rows)
    where = [f"input_path={source}", f"output_path={tmp_path}/out"]
    peak = private_peak([*where, "metadata_fields=[text]", "eps=0.01", f"n_clusters={rows // 100}", "verbose=false"])
    assert peak < limit()
    files = sorted((tmp_path / "out/duplicates").glob("*.parquet"))
    found = pa.concat_tables([pq.read_table(f, columns=["id", "text"], read_dictionary=["text"]) for f in files])
    found = found.sort_by("id")
    ids = found.column("id").to_numpy()
    before = pq.read_table(source, columns=["id", "text"], read_dictionary=["text"])
    assert len(ids) == len(np.unique(ids // 2)) == rows // 2
    assert_same(found, before.take(pa.array(ids)))


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    """Checks ids and texts, the latter by their first letters."""
    assert found.column("id").equals(expected.column("id"))
    letters = []
    for table in (found, expected):
        chunks = [chunk.cast(pa.dictionary(pa.int32(), pa.string())) for chunk in table.column("text").chunks]
        first = [pa.DictionaryArray.from_arrays(c.indices, pc.utf8_slice_codeunits(c.dictionary, 0, 1)) for c in chunks]
        assert all(pc.all(pc.equal(pc.binary_length(c.dictionary), 80_000)).as_py() for c in chunks)
        letters.append(np.concatenate([c.cast(pa.string()).to_numpy(zero_copy_only=False) for c in first]))
    assert (letters[0] == letters[1]).all()
