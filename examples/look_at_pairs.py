"""Looks at a run: what each eps would find, and pairs near the threshold and at random, with their metadata_fields.

python examples/look_at_pairs.py OUTPUT_PATH [EPS]
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

STEPS = (0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
BAR, LONGEST = 40, 300


def main() -> None:
    """Reads the arguments, and prints what there is to see."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output_path", help="of a finished run")
    parser.add_argument("eps", type=float, nargs="?", help="the threshold to look at; without: the run's")
    parser.add_argument("-n", type=int, default=5, help="pairs of each kind (5)")
    given = parser.parse_args()
    try:
        summary = json.loads(_read(f"{given.output_path}/summary.json"))
    except FileNotFoundError:
        parser.error(f"no summary.json in {given.output_path}: give the output_path of a finished run")
    run = summary["configuration"]
    eps = run["eps"] if given.eps is None else given.eps
    if eps is None:
        parser.error("the run had no eps: give one")
    if not 0 <= eps < 2:
        parser.error(f"eps={eps}: it is at least 0 and below 2")
    if summary["rows_read"] == summary["rows_rejected"]:
        parser.error("no row of the run could be used")
    try:
        rows = _dataset(summary["paths"]["pairwise_results"])
    except FileNotFoundError as error:
        parser.error(f"the run's cache is not where the run left it: {error}")
    scores = rows.to_table(columns=["id", "max_id", "cosine_sim_score"])
    scores = scores.filter(pc.field("id") != pc.field("max_id"))  # these rank first in their cluster: like no other
    reach = None if run["n_probes"] == 1 else run["reach"] or run["eps"]
    if reach is not None and eps > reach:
        parser.error(f"the scores of this run end at eps={reach}: run it with reach={eps}")
    print_histogram(scores["cosine_sim_score"], summary["rows_read"], eps, run["precision"] == "screened", reach)

    scores = scores.sort_by([("cosine_sim_score", "descending"), ("id", "ascending")])
    number = found(scores["cosine_sim_score"], eps)
    drawn = random.Random(0).sample(range(number), min(given.n, number))
    kinds = {
        "duplicates, the least alike": range(number - 1, max(-1, number - 1 - given.n), -1),
        "kept, the most alike": range(number, min(len(scores), number + given.n)),
        "duplicates at random": sorted(drawn),
    }
    chosen = {kind: scores.take(pa.array(places, pa.int64())).to_pylist() for kind, places in kinds.items()}
    pairs = [pair for group in chosen.values() for pair in group]
    names = [name for name in rows.schema.names if name in run["metadata_fields"]]
    known = _metadata(rows, {pair[name] for pair in pairs for name in ("id", "max_id")}, names)
    for kind, group in chosen.items():
        print(f"\n{kind[0].upper()}{kind[1:]}, at eps={eps}:" + ("" if group else " none"))
        for pair in group:
            print(f"\n{pair['cosine_sim_score']:.6f}  {pair['id']}{known[pair['id']]}")
            print(f"{'is like':>8}  {pair['max_id']}{known[pair['max_id']]}")


def found(scores: pa.ChunkedArray, eps: float) -> int:
    """How many rows are duplicates at `eps`."""
    return pc.sum(pc.greater_equal(pc.cast(scores, pa.float64()), 1 - eps)).as_py() or 0


def print_histogram(scores: pa.ChunkedArray, rows: int, eps: float, screened: bool, reach: float | None) -> None:
    """Prints how many rows each eps up to the reach would find, with a bar for those that the one before would not."""
    steps = sorted(step for step in {*STEPS, eps} if reach is None or step <= reach)
    counts = [found(scores, step) for step in steps]
    bands = [after - before for before, after in zip([0, *counts], counts, strict=False)]
    print(f"{'eps':>6}{'duplicates':>14}{'share':>9}   more than with the eps before")
    for step, count, band in zip(steps, counts, bands, strict=True):
        bar = "█" * round(BAR * band / max(1, *bands)) or ("▏" if band else "")
        print(f"{step:>6g}{count:>14,}{count / rows:>9.2%}   {bar} {band:,}{'  <- this' if step == eps else ''}")
    if reach is not None:
        print(f"The scores of this run end at eps={reach}: reach=… takes them further.")
    if screened:
        print("precision=screened: the scores of this run are exact near its own eps only")


def _metadata(rows: ds.Dataset, ids: set, names: Sequence[str]) -> dict:
    """The metadata of some rows by their id, as text to print after it."""
    wanted = pa.array(sorted(ids), rows.schema.field("id").type)
    table = rows.to_table(columns=["id", *names], filter=ds.field("id").isin(wanted))
    texts = {}
    for row in table.to_pylist():
        values = [f"{row[name]}" if len(names) == 1 else f"{name}={row[name]}" for name in names]
        texts[row["id"]] = "".join(f"  {value[:LONGEST]}" for value in values)
    return texts


def _dataset(directory: str) -> ds.Dataset:
    files, path = _filesystem(directory)
    names = [info.path for info in files.get_file_info(fs.FileSelector(path)) if info.base_name[0] != "."]
    return ds.dataset([name for name in names if name.endswith(".parquet")], filesystem=files)


def _read(url: str) -> bytes:
    files, path = _filesystem(url)
    with files.open_input_stream(path) as source:
        return source.read()


def _filesystem(url: str) -> tuple[fs.FileSystem, str]:
    return fs.FileSystem.from_uri(url) if "://" in url else (fs.LocalFileSystem(), str(Path(url).resolve()))


if __name__ == "__main__":
    main()
