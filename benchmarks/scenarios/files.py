"""Many small files against one file with the same rows, removal included; given centroids."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bench import Bench, Goal, Result, found
from benchmarks.data import ROW_GROUP, Dataset
from benchmarks.measure import interleaved, medians, raw

_ROWS, _CLUSTERS, _PER_FILE = 1_000_000, 1000, 100


def run(bench: Bench) -> Result:
    """Both write the whole dataset again, without its duplicates."""
    result = Result()
    if not bench.sizes([_ROWS]):
        return result
    dataset = bench.generated(_ROWS, _CLUSTERS)
    given = [f"init={bench.centroids(dataset)}", "max_iter=0", "remove=true"]
    one, many = (_in_files(bench.work, dataset, rows) for rows in (_ROWS, _PER_FILE))
    contenders = [bench.ours("one file", one, *given), bench.ours("many files", many, *given)]
    runs = interleaved(contenders, bench.rounds)
    result.runs = raw(runs)
    for contender, files in zip(contenders, (1, _ROWS // _PER_FILE), strict=True):
        result.table.append({"files": files, "rows": _ROWS, **medians(runs[contender.name])})
    if found(contenders[0].output) != found(contenders[1].output):
        raise RuntimeError("many files have other duplicates than one")
    pairs = list(zip(*runs.values(), strict=True))
    label = f"{_ROWS // _PER_FILE:,} files of {_PER_FILE} rows / one file"
    result.goals.append(Goal(label, statistics.median(b.seconds / a.seconds for a, b in pairs), 3))
    result.goals.append(Goal(f"{label}, CPU", statistics.median(b.cpu_seconds / a.cpu_seconds for a, b in pairs), 3))
    return result


def _in_files(work: Path, dataset: Dataset, rows: int) -> Dataset:
    """The rows of a set in files with so many each, written unless they stand there already."""
    directory = work / f"{dataset.name}-by-{rows}"
    if not directory.exists():
        scratch = directory.with_name(f".{directory.name}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        tables = (pq.read_table(file) for file in sorted(dataset.path.glob("*.parquet")))
        if rows >= dataset.rows:
            tables = iter([pa.concat_tables(tables)])
        for number, table in enumerate(tables):
            for start in range(0, table.num_rows, rows):
                path = scratch / f"part-{number:03d}-{start:07d}.parquet"
                pq.write_table(table.slice(start, rows), path, row_group_size=ROW_GROUP, use_dictionary=False)
        scratch.rename(directory)
    return Dataset(directory, dataset.rows, dataset.clusters)
