"""What the driver does by itself: CPU seconds for each input file, planned unit and row of `duplicates/`, as JSON."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup import SemanticDeduplicationWorkflow
from beam_semdedup.stages.repeated import repeated_in_files
from beam_semdedup.storage.folder import File

_FILES, _DIMENSION, _UNITS, _DUPLICATES = 2000, 64, 10_000, 4_000_000


def main() -> None:
    """Measures each in a directory that it removes."""
    took: dict[str, float] = {}

    @contextmanager
    def each(what: str, number: int) -> Iterator[None]:
        started = time.process_time()
        yield
        took[what] = (time.process_time() - started) / number

    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        given = {"n_clusters": 2, "eps": 0.1, "verbose": False}
        _write(work / "files", _FILES, 10)
        with each("file: listed, its footer read", _FILES):
            SemanticDeduplicationWorkflow(input_path=work / "files", output_path=work / "out", **given).plan()
        _write(work / "units", 1, _UNITS)
        one_row = {"assign_unit_bytes": 4 * _DIMENSION, "output_path": work / "two"}
        with each("unit: planned and stored", _UNITS):
            plan = SemanticDeduplicationWorkflow(input_path=work / "units", **one_row, **given).plan()
        assert len(plan.units) == _UNITS
        ids = np.random.default_rng(0).permutation(_DUPLICATES)
        pq.write_table(pa.table({"id": ids}), work / "ids.parquet")
        with each("duplicate: looked for again", _DUPLICATES):
            repeated_in_files([File(str(work / "ids.parquet"), {})], "id", _DUPLICATES, 1 << 30)
    print(json.dumps(took))


def _write(directory: Path, files: int, rows: int) -> None:
    directory.mkdir()
    vectors = np.random.default_rng(0).standard_normal((rows, _DIMENSION)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), _DIMENSION)
    for number in range(files):
        table = pa.table({"id": np.arange(rows) + number * rows, "embeddings": column})
        pq.write_table(table, directory / f"{number:06d}.parquet")


if __name__ == "__main__":
    main()
