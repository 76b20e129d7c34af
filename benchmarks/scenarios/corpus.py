"""Growth of a corpus: ten batches added one after the other, and one run over everything; n_probes=exact."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.bench import Bench, Goal, Result
from benchmarks.data import Dataset
from benchmarks.measure import interleaved, measure, medians, raw

BATCHES, SMALL, LARGE = 10, 10_000, 100_000


def run(bench: Bench) -> Result:
    """Batches have 10,000 rows, or as many as `--rows` says; the goals are those of 100,000."""
    result = Result()
    size = bench.rows[0] if bench.rows else SMALL
    whole = bench.generated(BATCHES * size)
    corpus, everything = bench.work / "corpus", bench.ours("everything", whole, "n_probes=exact")
    shutil.rmtree(corpus, ignore_errors=True)
    seconds = []
    for number, batch in enumerate(_batches(bench.work, whole, size)):
        options = (f"corpus_path={corpus}", "n_probes=exact", f"n_clusters={whole.clusters}")
        contender = bench.ours(f"batch {number}", Dataset(batch, size, 0), *options)
        shutil.rmtree(contender.output or "", ignore_errors=True)
        measured = measure(contender.command)
        seconds.append(measured.seconds)
        result.table.append({"what": f"batch {number + 1}", "rows": size, **medians([measured])})
        result.runs |= raw({contender.name: [measured]})
    runs = interleaved([everything], 1)
    result.table.append({"what": "one run over everything", "rows": whole.rows, **medians(runs["everything"])})
    result.runs |= raw(runs)
    result.goals = [
        Goal(f"{size:,} rows a batch: the tenth / the second", seconds[9] / seconds[1], 2),
        Goal(f"{size:,} rows a batch: the tenth / everything", seconds[9] / runs["everything"][0].seconds, 0.25),
    ]
    if size < LARGE:
        result.notes.append("The goals are of batches of 100,000 rows; with less the start of the command counts most.")
    return result


def _batches(work: Path, whole: Dataset, size: int) -> list[Path]:
    """The rows of a set in directories of `size` rows each, in their order."""
    places = [work / f"{whole.path.name}-batches" / f"{number}" for number in range(BATCHES)]
    if places[-1].exists():
        return places
    shutil.rmtree(places[0].parent, ignore_errors=True)
    left, parts = size, list[pa.RecordBatch]()
    pending = iter(places)
    for batch in ds.dataset(whole.path).to_batches(batch_size=10_000):
        while len(batch):
            parts.append(batch.slice(0, left))
            batch = batch.slice(len(parts[-1]))
            left -= len(parts[-1])
            if not left:
                place = next(pending)
                place.mkdir(parents=True)
                pq.write_table(pa.Table.from_batches(parts), place / "a.parquet", row_group_size=10_000)
                left, parts = size, []
    return places
