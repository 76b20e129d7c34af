"""`python -m benchmarks.gpu`: our kernels on a GPU, next to a PyTorch loop and to what the device can do.

Needs CuPy; without PyTorch the loop is left out, and without Beam the whole job.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from beam_semdedup.compute import arrays, tiles
from beam_semdedup.compute.assignment import assign, assign_with_distances
from beam_semdedup.compute.screens import EXACT, Rounded, Screen
from beam_semdedup.compute.similarity import max_similarity
from beam_semdedup.compute.small_clusters import LARGEST, max_similarity_of_each
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.fit import lloyd as fitting
from beam_semdedup.fit.shard import Shard
from benchmarks import report
from benchmarks.bench import Goal, Result
from benchmarks.data import EPS

_LOOP_ROWS = 1024
_COPIES, _MADE_ROWS = 0.1, 1 << 18
_LIBRARIES = ("cupy-cuda12x", "cupy-cuda13x", "torch", "numpy", "cuml-cu12", "cuml-cu13")


@dataclass
class Sizes:
    """How much is measured; `main` shrinks it."""

    dimension: int = 768
    large: int = 65_536
    mixed: tuple[int, int, int] = (1000, 65, 6500)
    small: tuple[int, int] = (50_000, 100)
    assigned: int = 4_000_000
    clusters: tuple[int, ...] = (1000, 16_384)
    fitted: int = 1_000_000
    job: int = 1_000_000
    matrix: int = 16_384
    copied: int = 4 << 30
    rounds: int = 3

    def shrunk(self, share: float) -> Sizes:
        """All numbers of rows, clusters and bytes times `share`."""

        def less(number: int) -> int:
            return max(16, round(number * share))

        rows = {name: less(getattr(self, name)) for name in ("large", "assigned", "fitted", "job", "matrix", "copied")}
        mixed, small = (less(self.mixed[0]), *self.mixed[1:]), (less(self.small[0]), self.small[1])
        return replace(self, mixed=mixed, small=small, clusters=tuple(map(less, self.clusters)), **rows)


class GpuBench:
    """The device, its rates, and what was found."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self.xp, self.result = sizes, arrays.library("gpu"), Result()
        self.torch: Any = None
        if find_spec("torch"):
            import torch

            torch.backends.cuda.matmul.allow_tf32 = False
            self.torch = torch
        else:
            self.result.notes.append("Without PyTorch there is nothing to compare with.")

    def seconds(self, action: Callable[[], Any]) -> float:
        """The median of some rounds after a first one that is not counted."""
        times = []
        for _ in range(self.sizes.rounds + 1):
            self.xp.cuda.Device().synchronize()
            started = time.perf_counter()
            action()
            self.xp.cuda.Device().synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])

    def unit_rows(self, rows: int) -> Any:
        """Rows on the device, a tenth of them near copies of a row at most 50 before."""
        xp, generator, rng = self.xp, self.xp.random.default_rng(0), np.random.default_rng(0)
        xp.get_default_memory_pool().free_all_blocks()
        if self.torch:
            self.torch.cuda.empty_cache()
        made = xp.empty((rows, self.sizes.dimension), dtype=xp.float32)
        for part in (made[start : start + _MADE_ROWS] for start in range(0, rows, _MADE_ROWS)):
            part[:] = xp.asarray(generator.standard_normal(part.shape, dtype=xp.float32))
            copies = rng.permutation(np.arange(1, len(part)))[: int(len(part) * _COPIES)]
            originals = np.maximum(copies - rng.integers(1, 51, len(copies)), 0)
            part[copies] = part[originals] + part[copies] * xp.float32(0.15)
            part /= xp.sqrt(arrays.row_dot(part, part)).astype(xp.float32)[:, None]
        return made

    def add(self, case: str, who: str, seconds: float, pairs: float, rows: int, rate: float | None = None) -> None:
        """A row of the table; `rate` is the device's, in operations per second."""
        operations = 2.0 * pairs * self.sizes.dimension / seconds
        self.result.table.append(
            {
                "case": case,
                "who": who,
                "seconds": seconds,
                "rows/s": rows / seconds,
                "TFLOP/s needed": operations / 1e12,
                "share of the device's": operations / rate if rate else None,
            }
        )
        print(f"  {case}, {who}: {seconds:.4g} s", flush=True)

    def goal(self, what: str, measured: float, limit: float, unit: str = "×", at_most: bool = False) -> None:
        """Notes whether a goal is met."""
        self.result.goals.append(Goal(what, measured, limit, unit, at_most))


def run(sizes: Sizes) -> GpuBench:
    """Measures everything."""
    bench = GpuBench(sizes)
    with arrays.exclusive(bench.xp):
        rates = _rates(bench)
        _large(bench, rates)
        _mixed(bench, rates)
        _small(bench, rates)
        _fit(bench)
    _assign(bench, rates)
    _job(bench)
    return bench


def _rates(bench: GpuBench) -> dict[str, float]:
    """Operations per second of products of both kinds, and bytes per second read and written by a copy."""
    xp, size, d = bench.xp, bench.sizes.matrix, bench.sizes.dimension
    rates = {}
    a = bench.unit_rows(size)
    for name, operand in (("float32", a), ("float16", Rounded(1 - EPS).prepared(a))):
        seconds = bench.seconds(lambda operand=operand: tiles.multiply(operand, operand))
        rates[name] = 2.0 * size * size * d / seconds
        bench.add(f"products {size:,} × {size:,}, {name}", "the device", seconds, float(size) * size, size)
    source = xp.zeros(bench.sizes.copied, dtype=xp.uint8)
    rates["copy"] = 2 * bench.sizes.copied / bench.seconds(source.copy)
    bench.result.notes.append(f"A copy reads and writes {rates['copy'] / 1e9:,.0f} GB/s.")
    return rates


def _loop(bench: GpuBench, rows: Any, bounds: list[tuple[int, int]], dtype: str) -> Callable[[], Any]:
    """What NeMo Curator's `pairwise_cosine_similarity_batched` computes, for each cluster."""
    torch = bench.torch
    tensor = torch.from_dlpack(rows).to(getattr(torch, dtype))

    def compare() -> None:
        for start, stop in bounds:
            cluster = tensor[start:stop]
            for first in range(0, stop - start, _LOOP_ROWS):
                products = cluster @ cluster[first : first + _LOOP_ROWS].T
                torch.triu(products, diagonal=1 - first).max(dim=0)

    return compare


def _ours(bench: GpuBench, rows: Any, bounds: list[tuple[int, int]], screen: Screen) -> Callable[[], np.ndarray]:
    """Our scores of all clusters."""
    xp = bench.xp
    starts, stops = np.array(bounds).T
    small = stops - starts <= LARGEST

    def compare() -> np.ndarray:
        scores = np.zeros(len(rows), dtype=np.float32)
        if small.any():
            found, _ = max_similarity_of_each(rows, starts[small], stops[small], arrays.tile_bytes(xp), screen)
            scores[np.repeat(small, stops - starts)] = found
        for start, stop in zip(starts[~small], stops[~small], strict=True):
            batch = arrays.tile_rows(xp, _LOOP_ROWS)
            scores[start:stop], _ = max_similarity(rows[start:stop], 0, stop - start, batch, screen)
        return scores

    return compare


def _compare(bench: GpuBench, case: str, sizes: np.ndarray, rates: dict[str, float]) -> dict[str, float]:
    """Both precisions and both loops on clusters of these sizes; the seconds of each."""
    rows, ends = bench.unit_rows(int(sizes.sum())), np.cumsum(sizes)
    bounds = list(zip((ends - sizes).tolist(), ends.tolist(), strict=True))
    pairs = float((sizes * (sizes - 1.0) / 2).sum())
    seconds = {}
    exact, screened = _ours(bench, rows, bounds, EXACT), _ours(bench, rows, bounds, Rounded(1 - EPS))
    contenders = {"exact": (exact, "float32"), "screened": (screened, "float16")}
    for dtype in ("float32", "float16") if bench.torch else ():
        contenders[f"PyTorch {dtype}"] = (_loop(bench, rows, bounds, dtype), dtype)
    for who, (action, dtype) in contenders.items():
        seconds[who] = bench.seconds(action)
        bench.add(case, who, seconds[who], pairs, len(rows), rates[dtype])
    found, wanted = (np.flatnonzero(action() >= 1 - EPS) for action in (screened, exact))
    differ = len(np.setxor1d(found, wanted))
    bench.goal(f"{case}: duplicates of exact or screened alone", differ, 0, "", at_most=True)
    bench.result.notes.append(f"{case}: {len(wanted):,} of {len(rows):,} rows are duplicates at eps={EPS}.")
    if bench.torch:
        bench.goal(f"{case}: PyTorch float32 over exact", seconds["PyTorch float32"] / seconds["exact"], 2.5)
        bench.goal(f"{case}: PyTorch float16 over screened", seconds["PyTorch float16"] / seconds["screened"], 2)
    return seconds


def _large(bench: GpuBench, rates: dict[str, float]) -> None:
    size = bench.sizes.large
    case = f"one cluster of {size:,}"
    seconds = _compare(bench, case, np.array([size]), rates)
    needed = float(size) * (size - 1) * bench.sizes.dimension
    for who, dtype in (("exact", "float32"), ("screened", "float16")):
        bench.goal(f"{case}: {who}, needed products over the device's", needed / seconds[who] / rates[dtype], 0.6, "")


def _mixed(bench: GpuBench, rates: dict[str, float]) -> None:
    number, least, most = bench.sizes.mixed
    sizes = np.exp(np.random.default_rng(0).uniform(np.log(least), np.log(most), number)).astype(np.int64)
    _compare(bench, f"{number:,} clusters of {least} to {most:,}", sizes, rates)


def _small(bench: GpuBench, rates: dict[str, float]) -> None:
    number, size = bench.sizes.small
    case = f"{number:,} clusters of {size}"
    seconds = _compare(bench, case, np.full(number, size), rates)
    floor = 4.0 * number * size * bench.sizes.dimension / rates["copy"]
    for who in ("exact", "screened"):
        bench.goal(f"{case}: {who}, seconds over those of reading the rows", seconds[who] / floor, 3, at_most=True)


def _assign(bench: GpuBench, rates: dict[str, float]) -> None:
    rows, batch = arrays.to_host(bench.unit_rows(bench.sizes.assigned)), 32_768
    part = bench.xp.asarray(rows[:batch])
    for k in bench.sizes.clusters:
        centroids = rows[:: max(1, len(rows) // k)][:k]
        on_device, case = bench.xp.asarray(centroids), f"assign {len(rows):,} to {k:,}"
        seconds = bench.seconds(lambda c=centroids: assign_with_distances(rows, c, batch, bench.xp))
        bench.add(case, "from the host, with distances", seconds, float(len(rows)) * k, len(rows), rates["float32"])
        with arrays.exclusive(bench.xp):
            seconds = bench.seconds(lambda c=on_device: assign(part, c, batch))
        bench.add(case, f"{len(part):,} rows on the device", seconds, float(len(part)) * k, len(part), rates["float32"])


def _fit(bench: GpuBench) -> None:
    rows, k = bench.unit_rows(bench.sizes.fitted), bench.sizes.clusters[0]
    p = Parameters(input_path=["-"], output_path="-", n_clusters=min(k, len(rows)))
    shards = fitting.in_this_process(Shard(rows, batch=p.max_samples_per_batch))
    fitting.fit_shards(shards, None, dataclasses.replace(p, max_iter=1))  # CuPy compiles what it calls first
    started = time.perf_counter()
    fit = fitting.fit_shards(shards, None, p)
    seconds = time.perf_counter() - started
    pairs = float(len(rows)) * k * fit.iterations
    bench.add(f"fit {len(rows):,}, k={k:,}, {fit.iterations} iterations", "local", seconds, pairs, len(rows))


def _job(bench: GpuBench) -> None:
    """The whole job, with reading and writing of files."""
    if not find_spec("apache_beam"):
        bench.result.notes.append("The whole job was left out: Beam is not installed.")
        return
    from beam_semdedup import SemanticDeduplicationWorkflow
    from benchmarks import data

    size = bench.sizes.job
    with tempfile.TemporaryDirectory() as work:
        dataset = data.generate(Path(work), size, max(1, round(size**0.5)), dimension=bench.sizes.dimension)
        started = time.perf_counter()
        SemanticDeduplicationWorkflow(
            input_path=str(dataset.path), output_path=f"{work}/out", eps=EPS, device="gpu", verbose=False
        ).run()
        seconds = time.perf_counter() - started
    bench.add(f"whole job, {size:,} rows", "ours", seconds, 0.0, size)
    bench.goal(f"whole job, {size:,} rows", size / seconds, 83_000, "rows/s")


def write(bench: GpuBench, path: Path) -> str:
    """Writes JSON and Markdown to `path` with these endings, and returns the Markdown."""
    name = bench.xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    stored = {"device": {"device:": name, **report.versions(_LIBRARIES)}, **report.as_stored(bench.result)}
    report.write_json(stored, path.with_suffix(".json"))
    device = ", ".join(f"{k} {v}" for k, v in stored["device"].items())
    tables = [report.goals_table(stored["goals"]), report.table(stored["table"])]
    text = "\n\n".join(["# On a GPU", device, *tables, *stored["notes"]]) + "\n"
    path.with_suffix(".md").write_text(text)
    return text


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of all sizes, for a short run")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu", help="of the report")
    options = parser.parse_args()
    sizes = Sizes() if options.share == 1 else Sizes().shrunk(options.share)
    sizes.rounds = options.rounds
    print(write(run(sizes), options.out))


if __name__ == "__main__":
    main()
