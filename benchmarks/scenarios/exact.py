"""The whole job, fit included, that finds every similar pair, against one cluster alone and against brute force."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.bench import Bench, Goal, Result, found, python_module
from benchmarks.data import Dataset
from benchmarks.measure import Contender, Run, interleaved, medians, raw
from benchmarks.peers.vectors import load
from benchmarks.recall import read_pairs, recall

EPS = (0.01, 0.03, 0.05, 0.1)
SIZES = (250_000, 1_000_000)
AFFORDABLE = 300_000
"""Rows up to which brute force takes minutes; of more, a part of the rows is searched for."""
PART = 10_000
GIVEN_EPS = 0.03
_ONE, _SCREENED, _EXACT, _BRUTE = "n_probes=1", "n_probes=1, screened", "exact", "brute force"
_LOOK_AT = 2000


def run(bench: Bench) -> Result:
    """Each eps on the real set and on two mixed ones: what is compared takes turns."""
    result = Result()
    real = bench.real()
    if real and real.rows in bench.sizes([real.rows]):
        _compare(bench, real, result)
    for size in bench.sizes(SIZES):
        dataset = bench.mixed(size)
        if real:
            result.notes.append(f"{size:,} mixed rows ({_looks(dataset)}); the real ones ({_looks(real)})")
        _compare(bench, dataset, result)
        _given(bench, dataset, result)
    return result


def _compare(bench: Bench, dataset: Dataset, result: Result) -> None:
    values = [eps for eps in EPS if not bench.eps or eps in bench.eps]
    part = [] if dataset.rows <= AFFORDABLE else [PART]
    name = f"{_BRUTE}, of {PART:,} rows" if part else _BRUTE
    target = bench.work / "out" / f"pairs-{dataset.name}.parquet"
    target.parent.mkdir(exist_ok=True)
    brute = Contender(name, python_module("benchmarks.probes.pairs", dataset.path, target, max(values), *part), target)
    runs = {max(values): interleaved([brute], 1)}
    for eps in values:
        faiss = bench.peer("faiss_range", dataset, *(["--queries", str(PART)] if part else []), eps=eps)
        ours = bench.contenders(
            bench.ours(_ONE, dataset, eps=eps),
            bench.ours(_SCREENED, dataset, "precision=screened", eps=eps),
            bench.ours("n_probes=2", dataset, "n_probes=2", eps=eps),
            bench.ours(_EXACT, dataset, "n_probes=exact", eps=eps),
        )
        measured = {**interleaved(ours, bench.rounds), **runs.get(eps, {})}
        if not bench.peers or faiss.name in bench.peers:
            measured |= interleaved([faiss], 1)
        pairs = read_pairs(target, eps)
        for who, found_by in measured.items():
            output = next((c.output for c in [*ours, faiss] if c.name == who and not (part and c is faiss)), None)
            ids = found(output) if output else None
            reference = measured.get(_ONE, ())
            row = {
                "rows": dataset.rows,
                "eps": eps,
                "who": f"{who}, of {PART:,} rows" if part and who == faiss.name else who,
            }
            row |= medians(found_by, reference if len(reference) == len(found_by) else ())
            row |= {"duplicates": len(ids) if ids is not None else None, "recall": recall(pairs, ids) if ids else None}
            result.table.append(row)
        result.runs[f"{dataset.rows}, {eps}"] = raw(measured)
        _goals(dataset.rows, eps, measured, runs[max(values)][name] if not part else [], result)
        peak = [run.peak_bytes for run in measured.get(_EXACT, ())]
        if peak and dataset.rows == SIZES[-1]:
            above = (statistics.median(peak) - bench.interpreter.peak_bytes) / 1e9
            result.goals.append(
                Goal(f"{dataset.rows:,} rows, eps={eps}: exact, peak above interpreter", above, 1.2, "GB")
            )


def _goals(rows: int, eps: float, runs: dict[str, list[Run]], brute: Sequence[Run], result: Result) -> None:
    """Adds what was asked for, in wall time and in CPU time, which other work on the machine disturbs less."""
    for what in ("seconds", "cpu_seconds"):
        unit = "wall" if what == "seconds" else "CPU"

        def ratio(who: Sequence[Run], of: Sequence[Run], what: str = what) -> float:
            return statistics.median(getattr(a, what) / getattr(b, what) for a, b in zip(who, of, strict=False))

        label = f"{rows:,} rows, eps={eps}: {{}} ({unit})"
        if _ONE in runs and _EXACT in runs:
            limit = 1.3 if eps <= 0.05 else 2
            result.goals.append(Goal(label.format("exact / n_probes=1"), ratio(runs[_EXACT], runs[_ONE]), limit))
        if _ONE in runs and _SCREENED in runs:
            screened = ratio(runs[_SCREENED], runs[_ONE])
            result.goals.append(Goal(label.format("n_probes=1, screened / as it is"), screened, 0.8))
        if brute and _EXACT in runs and rows == SIZES[0]:
            slower = ratio(brute, runs[_EXACT])
            result.goals.append(Goal(label.format("brute force / exact"), slower, 20, at_most=False))


def _given(bench: Bench, dataset: Dataset, result: Result) -> None:
    """Compares the whole job with given centroids with one NumPy process."""
    centroids = bench.centroids(dataset)
    bare = bench.peer("bare", dataset, "--centroids", centroids, eps=GIVEN_EPS)
    given = [f"init={centroids}", "max_iter=0"]
    ours = bench.ours("n_probes=1, screened, given centroids", dataset, *given, "precision=screened", eps=GIVEN_EPS)
    contenders = bench.contenders(bare, ours)
    runs = interleaved(contenders, bench.rounds)
    for contender in contenders:
        columns = {"rows": dataset.rows, "eps": GIVEN_EPS, "who": contender.name, **medians(runs[contender.name])}
        result.table.append({**columns, "duplicates": len(found(contender.output))})
    result.runs[f"{dataset.rows}, given"] = raw(runs)
    if len(contenders) == 2:
        taken = [[r.seconds for r in runs[c.name]] for c in contenders]
        ratio = statistics.median(b / a for a, b in zip(*taken, strict=True))
        result.goals.append(Goal(f"{dataset.rows:,} rows, given centroids: screened / bare (wall)", ratio, 0.9))


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
