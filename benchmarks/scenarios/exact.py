"""The whole job, fit included, that finds every similar pair, against one cluster alone and against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.bench import Bench, Goal, Result, found, python_module
from benchmarks.data import Dataset
from benchmarks.measure import Contender, interleaved, medians, raw
from benchmarks.peers.vectors import load
from benchmarks.recall import read_pairs, recall

EPS = (0.01, 0.03, 0.05, 0.1)
SIZES = (250_000, 1_000_000)
AFFORDABLE = 300_000
"""Rows up to which brute force takes minutes; of more, a part of the rows is searched for."""
PART = 10_000
GIVEN_EPS = 0.03
ONE, _SCREENED, EXACT, _BRUTE = "n_probes=1", "n_probes=1, screened", "exact", "brute force"
_GIVEN, _BARE = "n_probes=1, screened, given centroids", "bare, given centroids"
_LOOK_AT = 2000


def run(bench: Bench) -> Result:
    """Each eps on the real set and on two mixed ones: what is compared takes turns.

    Brute force runs once for a set, with the largest eps. What the report holds of other sets and values stays in it.
    """
    result = Result()
    real = bench.real()
    if real and real.rows in bench.sizes([real.rows]):
        _compare(bench, real, result)
    for size in bench.sizes(SIZES):
        dataset = bench.mixed(size)
        if real:
            result.notes.append(f"{size:,} mixed rows ({_looks(dataset)}); the real ones ({_looks(real)})")
        _compare(bench, dataset, result)
        if not bench.eps or GIVEN_EPS in bench.eps:
            _given(bench, dataset, result)
    new = {_key(row) for row in result.table}
    result.table += [row for row in bench.stored("exact") if _key(row) not in new]
    result.table.sort(key=lambda row: (row["rows"], row["eps"]))
    result.goals += _goals(result.table, bench.interpreter.peak_bytes / 1e6)
    return result


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("rows", "eps", "who"))


def _compare(bench: Bench, dataset: Dataset, result: Result) -> None:
    part = [PART] if bench.part or dataset.rows > AFFORDABLE else []
    of_part = f", of {PART:,} rows" if part else ""
    target = bench.work / f"pairs-{dataset.name}.parquet"
    if not target.exists():
        command = python_module("benchmarks.probes.pairs", dataset.path, target, EPS[-1], *part)
        brute = interleaved([Contender(_BRUTE, command)], 1)[_BRUTE]
        columns = {"rows": dataset.rows, "eps": EPS[-1], "who": _BRUTE + of_part, **medians(brute)}
        result.table.append({**columns, "recall": 1.0})
    for eps in [eps for eps in EPS if not bench.eps or eps in bench.eps]:
        ours = bench.contenders(
            bench.ours(ONE, dataset, eps=eps),
            bench.ours(_SCREENED, dataset, "precision=screened", eps=eps),
            bench.ours("n_probes=2", dataset, "n_probes=2", eps=eps),
            bench.ours(EXACT, dataset, "n_probes=exact", eps=eps),
        )
        options = ["--queries", str(PART)] if part else []
        faiss = bench.contenders(bench.peer("faiss_range", dataset, *options, eps=eps))
        runs = {**interleaved(ours, bench.rounds), **interleaved(faiss, 1)}
        pairs = read_pairs(target, eps)
        for contender in [*ours, *faiss]:
            name, measured, whole = contender.name, runs[contender.name], contender in ours or not part
            reference = runs.get(ONE, ()) if contender in ours else ()
            row = {"rows": dataset.rows, "eps": eps, "who": name if whole else name + of_part}
            row |= medians(measured, reference)
            if whole:
                ids = found(contender.output)
                row |= {"duplicates": len(ids), "recall": recall(pairs, ids)}
            result.table.append(row)
        result.runs[f"{dataset.rows}, {eps}"] = raw(runs)


def _goals(table: list[dict[str, Any]], interpreter: float) -> list[Goal]:
    """What was asked for, in wall time and in CPU time, which other work on the machine disturbs less."""
    goals, by_key = [], {_key(row): row for row in table}
    for (rows, eps, who), row in by_key.items():
        for wall, ratio in (("seconds", "ratio"), ("CPU seconds", "CPU ratio")):
            label = f"{rows:,} rows, eps={eps}: {{}} ({'CPU' if 'CPU' in wall else 'wall'})"
            if who == EXACT and ratio in row:
                goals.append(Goal(label.format("exact / n_probes=1"), row[ratio], 1.3 if eps <= 0.05 else 2))
            if who == _SCREENED and ratio in row:
                goals.append(Goal(label.format("n_probes=1, screened / as it is"), row[ratio], 0.8))
            brute = by_key.get((rows, EPS[-1], _BRUTE))
            if who == EXACT and brute and rows == SIZES[0]:
                goals.append(Goal(label.format("brute force / exact"), brute[wall] / row[wall], 20, at_most=False))
        if who == EXACT and rows == SIZES[-1]:
            above = (row["peak MB"] - interpreter) / 1000
            goals.append(Goal(f"{rows:,} rows, eps={eps}: exact, peak above interpreter", above, 1.2, "GB"))
        bare = by_key.get((rows, eps, _BARE))
        if who == _GIVEN and bare:
            slower = row["seconds"] / bare["seconds"]
            goals.append(Goal(f"{rows:,} rows, given centroids: screened / bare", slower, 0.9))
    return goals


def _given(bench: Bench, dataset: Dataset, result: Result) -> None:
    """Compares the whole job with given centroids with one NumPy process."""
    centroids = bench.centroids(dataset)
    bare = bench.peer("bare", dataset, "--centroids", centroids, eps=GIVEN_EPS)
    given = [f"init={centroids}", "max_iter=0", "precision=screened"]
    contenders = bench.contenders(bare, bench.ours(_GIVEN, dataset, *given, eps=GIVEN_EPS))
    runs = interleaved(contenders, bench.rounds)
    for contender in contenders:
        who = _BARE if contender is bare else contender.name
        columns = {"rows": dataset.rows, "eps": GIVEN_EPS, "who": who, **medians(runs[contender.name])}
        result.table.append({**columns, "duplicates": len(found(contender.output))})
    result.runs[f"{dataset.rows}, given"] = raw(runs)


def _looks(dataset: Dataset) -> str:
    """Says what the comparison depends on: where the energy is, how near neighbours are, how many rows repeat."""
    _, rows = load(dataset.path)
    rng = np.random.default_rng(0)
    asked = rng.choice(len(rows), min(_LOOK_AT, len(rows)), replace=False)
    cosines = rows[asked] @ rows.T
    cosines[np.arange(len(asked)), asked] = -1
    nearest = cosines.max(axis=1)
    some = rows[rng.choice(len(rows), min(20_000, len(rows)), replace=False)].astype(np.float64)
    energy = np.linalg.eigvalsh(some.T @ some / len(some))[::-1].cumsum()
    quartiles = ", ".join(f"{value:.2f}" for value in np.quantile(nearest, [0.1, 0.25, 0.5, 0.75]))
    near = ", ".join(f"{np.mean(nearest >= 1 - eps):.0%}" for eps in EPS)
    held = ", ".join(f"{energy[m - 1]:.2f}" for m in (1, 8, 32, 128))
    return (
        f"energy in 1, 8, 32 and 128 directions {held}; cosine with the nearest row, at 10, 25, 50 and 75 % of the "
        f"rows {quartiles}; rows with another within {', '.join(map(str, EPS))}: {near}"
    )
