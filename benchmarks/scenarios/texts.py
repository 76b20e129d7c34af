"""SemHash against our job from texts: the same model, whole processes."""

from __future__ import annotations

import pyarrow.parquet as pq

from benchmarks import data
from benchmarks.bench import Bench, Goal, Result, found
from benchmarks.data import Dataset
from benchmarks.measure import interleaved, medians, ratio, raw
from benchmarks.mixed import EXAMPLES
from benchmarks.recall import recall, similar_pairs
from tests import sentence_model

EPS = 0.1


def run(bench: Bench) -> Result:
    """Both on the 5,000 committed texts, or the first of them, embedded by all-MiniLM-L6-v2 in 8 bits."""
    model, texts, eps = bench.work / "all-MiniLM-L6-v2", _texts(bench), (bench.eps or [EPS])[0]
    if not model.exists():
        sentence_model.model_in(model)
    given = (f"model={model}", "text_field=text")
    theirs = bench.peer("semhash_texts", texts, "--model", model, eps=eps)
    ours = bench.ours("ours, from texts", texts, *given, eps=eps)
    exact = bench.ours("ours, from texts, exact", texts, *given, "n_probes=exact", eps=eps)
    runs = interleaved([theirs, ours, exact], bench.rounds)
    result = Result(runs=raw(runs))
    pairs = similar_pairs(bench, texts, eps)
    recalls = {}
    for contender in (theirs, ours, exact):
        ids = found(contender.output)
        recalls[contender.name] = recall(pairs, ids)
        columns = {"rows": texts.rows, "who": contender.name, **medians(runs[contender.name], runs[theirs.name])}
        result.table.append({**columns, "duplicates": len(ids), "recall": recalls[contender.name]})
    label = f"{texts.rows:,} texts, eps={eps}"
    slower = ratio(runs[exact.name], runs[theirs.name])
    result.goals += [
        Goal(f"{label}: time, ours exact / SemHash", slower, 1),
        Goal(f"{label}: recall, ours exact - SemHash", recalls[exact.name] - recalls[theirs.name], 0, "", False),
    ]
    result.notes += [
        f"Pairs: {len(pairs[0]):,} within eps by the embeddings that come with the texts, of the same model in 32 "
        "bits: what 8 bits round apart is missing for both",
        "SemHash is given our encoder, so that embedding takes both the same: what differs is all else",
    ]
    return result


def _texts(bench: Bench) -> Dataset:
    """The committed texts; with `--rows` the first of them."""
    if not bench.rows:
        return data.existing(EXAMPLES)
    place = bench.work / f"texts-{min(bench.rows)}"
    place.mkdir(exist_ok=True)
    pq.write_table(pq.read_table(EXAMPLES).slice(0, min(bench.rows)), place / "part-00000.parquet")
    return data.existing(place)
