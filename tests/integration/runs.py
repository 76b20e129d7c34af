"""How the integration tests start runs, and read what the runs left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup import SemanticDeduplicationWorkflow, Summary

DEMO = Path(__file__).parents[2] / "examples" / "data"
COMMAND = Path(sys.executable).with_name("semdedup")
SIZES = {"comparison_rows": 100, "assign_unit_bytes": 200 * 4 * 384}
"""Small units, so that there are many moments between them."""


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


def dedup(input_path: Any, output_path: Any, runner: Any = None, **parameters: Any) -> Summary:
    """A run through the Python API, with parameters that suit the small datasets.

    Without an estimate of the recall, which makes up a third of so small a run; the commands have one.
    """
    defaults = {"n_clusters": 5, "eps": 0.05, "verbose": False, "recall_sample": 0}
    workflow = SemanticDeduplicationWorkflow(
        input_path=input_path, output_path=output_path, **{**defaults, **parameters}
    )
    return workflow.run(runner=runner)


def start(arguments: Sequence[Any], cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Starts the command in a process of its own."""
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def starting(cwd: Path, given: Mapping[str, Any]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """What starts the command with these parameters and those of its call, with its results in `out`, and ends it."""
    processes = []

    def call(**parameters: Any) -> subprocess.Popen[str]:
        values = {"output_path": cwd / "out", **given, **parameters}
        processes.append(start([f"{name}={value}" for name, value in values.items()], cwd))
        return processes[-1]

    yield call
    for process in processes:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str], seconds: float = 120) -> Ended:
    """Waits for a command that was started."""
    out, err = process.communicate(timeout=seconds)
    return Ended(process.returncode, out, err)


def wait(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """What `condition` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.002)
    raise AssertionError(f"not within {seconds} s")


def comparisons(summary: Summary, options: dict[str, Any] | None = None) -> pa.Table:
    """All rows of the pairwise stage, by centroid and in rank order, without the file that each is from."""
    return read_parquet(summary.paths["pairwise_results"], options).drop_columns(["source_file"])


def duplicates(summary: Summary, options: dict[str, Any] | None = None) -> pa.Table:
    """The rows of duplicates/, sorted by id."""
    return read_parquet(summary.paths["duplicates"], options).sort_by("id")


def read_parquet(directory: str | Path, options: dict[str, Any] | None = None) -> pa.Table:
    """The parquet files of a directory, one after the other in the order of their names."""
    fs, path = fsspec.core.url_to_fs(str(directory), **(options or {}))
    tables = []
    for name in sorted(fs.glob(f"{path}/*.parquet")):
        with fs.open(name, "rb") as source:
            tables.append(pq.read_table(source).replace_schema_metadata(None))
    return pa.concat_tables(tables)


def segments(summary: Summary) -> pa.Table:
    """All rows of the segment files."""
    return segments_in(Path(summary.paths["kmeans_results"]))


def segments_in(folder: Path) -> pa.Table:
    """All rows of the segment files of a folder of assigned rows."""
    files = sorted((folder / "segments").glob("*.arrow"))
    return pa.concat_tables(pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files)


def centroids(summary: Summary) -> np.ndarray:
    """The centroids of a run."""
    return np.load(Path(summary.paths["kmeans_results"], "centroids.npy"))


def vectors(table: pa.Table) -> np.ndarray:
    """The vectors of segment rows, (n, d) float32."""
    return table.column("embedding").combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)


def by_oracle(summary: Summary, *keys: tuple[str, bool]) -> oracle.Compared:
    """What the oracle finds in the segments of a run whose rows are ranked by these columns (name, ascending)."""
    table = segments(summary)
    labels = table.column("centroid").to_numpy()
    order = oracle.rank_order(labels, [(table.column(name).to_pylist(), ascending) for name, ascending in keys])
    return oracle.compare(vectors(table), labels, table.column("id").to_pylist(), order)


def assert_equals_oracle(found: pa.Table, expected: oracle.Compared) -> None:
    """The comparisons of a run are the oracle's, to the last bit of the scores."""
    assert found.column("id").to_pylist() == expected.ids
    assert found.column("max_id").to_pylist() == expected.max_ids
    np.testing.assert_array_equal(found.column("cosine_sim_score").to_numpy(), expected.scores)
    np.testing.assert_array_equal(found.column("centroid").to_numpy(), expected.labels)


def unit_files(directory: Path) -> dict[str, tuple[int, int]]:
    """The finished units of a stage by name, with inode and modification time, which change when one is rewritten.

    Without indexes, whose names say of which files they are.
    """
    found = [f for f in directory.rglob("*.arrow") if f.parent.name != "index"]
    found += directory.glob("pairwise_results/*/*.parquet")
    return {
        str(f.relative_to(directory)): (f.stat().st_ino, f.stat().st_mtime_ns)
        for f in found
        if not f.name.startswith(".")
    }
