"""A process takes little more memory than `memory_budget`, whatever the values are."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BUDGET, ABOVE = 100_000_000, 250_000_000
ROWS, DIMENSION = 60_000, 384


def private_peak(arguments: Sequence[object]) -> int:
    """Runs the command; the most bytes that it had in memory, without the files that were mapped into it."""
    command = [str(Path(sys.executable).with_name("semdedup")), *map(str, arguments), f"memory_budget={BUDGET}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = 0
    while process.poll() is None:
        found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(found[1]) << 10) if found else peak
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
    assert peak < BUDGET + ABOVE
