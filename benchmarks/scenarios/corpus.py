"""Growth of a corpus: ten batches added one after the other, and one run over everything; n_probes=exact.

Of rows mixed from real ones.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.bench import Bench, Goal, Result
from benchmarks.data import Dataset
from benchmarks.measure import Run, interleaved, measure, medians, raw

BATCHES, SMALL, LARGE = 10, 10_000, 100_000


def run(bench: Bench) -> Result:
    """Batches have 10,000 rows, or as many as `--rows` says; the goals are those of 100,000."""
    result = Result()
    size = bench.rows[0] if bench.rows else SMALL
    whole = bench.mixed(BATCHES * size)
    corpus, options = bench.work / "corpus", ("n_probes=exact", f"n_clusters={round(whole.rows**0.5)}")
    shutil.rmtree(corpus, ignore_errors=True)
    found, added = 0, list[Run]()
    for number, batch in enumerate(_batches(bench.work, whole, size)):
        contender = bench.ours(f"batch {number}", Dataset(batch, size, 0), f"corpus_path={corpus}", *options)
        assert contender.output
        shutil.rmtree(contender.output, ignore_errors=True)
        added.append(measure(contender.command))
        found += (of_batch := _duplicates(contender.output))
        row = {"what": f"batch {number + 1}", "rows": size, **medians(added[-1:]), **_stages(contender.output)}
        result.table.append({**row, "duplicates": of_batch})
        result.runs |= raw({contender.name: added[-1:]})
        print(f"  {result.table[-1]}", flush=True)
    everything = bench.ours("everything", whole, *options)
    assert everything.output
    (run,) = interleaved([everything], 1)["everything"]
    row = {"what": "one run over everything", "rows": whole.rows, **medians([run]), **_stages(everything.output)}
    result.table.append({**row, "duplicates": _duplicates(everything.output)})
    result.runs |= raw({"everything": [run]})
    for what, tenth, second, all_ in (
        ("seconds", added[9].seconds, added[1].seconds, run.seconds),
        ("CPU", added[9].cpu_seconds, added[1].cpu_seconds, run.cpu_seconds),
    ):
        result.goals.append(Goal(f"{size:,} rows a batch, {what}: the tenth / the second", tenth / second, 2))
        result.goals.append(Goal(f"{size:,} rows a batch, {what}: the tenth / everything", tenth / all_, 0.25))
    result.notes.append(f"The batches have {found:,} duplicates together: rows rank by their batch first.")
    if size < LARGE:
        result.notes.append("The goals are of batches of 100,000 rows; with less the start of the command counts most.")
    return result


def _duplicates(output: Path) -> int:
    return int(json.loads((output / "summary.json").read_text())["num_duplicates"])


def _stages(output: Path) -> dict[str, float]:
    """Returns the seconds between the begin and the end of the stages of a run, as its summary has them."""
    stages = json.loads((output / "summary.json").read_text())["stages"]
    return {f"{name}, s": stage["seconds"] for name, stage in stages.items() if "seconds" in stage}


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
