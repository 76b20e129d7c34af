"""How fast this machine is at what a run does, measured with the run's own functions."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.compute.threads import cores
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.fit.lloyd import in_this_process, lloyd
from beam_semdedup.fit.shard import Shard
from beam_semdedup.inputs.sample import VectorColumn
from beam_semdedup.plan.locate import locate
from beam_semdedup.plan.planning import Plan, make_plan
from beam_semdedup.plan.probes import multiplications_of
from beam_semdedup.plan.rates import REFERENCE, Rates, computed_scores
from beam_semdedup.stages.assign import AssignResult, assign_unit, find_assigned
from beam_semdedup.stages.duplicates import select_duplicates
from beam_semdedup.stages.fit import fit_centroids
from beam_semdedup.stages.index import index_all
from beam_semdedup.stages.matches import find_matches, match_units, merge_matches
from beam_semdedup.stages.pairwise import PairwiseResult, compare_unit, pairwise_units
from beam_semdedup.stages.visits import find_basis, visit_clusters
from beam_semdedup.storage import scratch as scratches
from beam_semdedup.storage import segments
from beam_semdedup.storage.folder import Folder
from beam_semdedup.storage.segments import SegmentFile

_ROWS, _TINY_ROWS = 32_768, 64
_FEW, _SOME, _MORE, _MANY = 8, 64, 256, 1024  # numbers of centroids: clusters of 4096, 512, 128 and 32 rows
_KEYS = 32
_TINY_REACH, _REACH = 1e-6, 0.01  # within which rows visit next to nothing, and some of `_MORE` clusters
_ITERATIONS, _REPEATS = 3, 7
_DISK_BYTES = 1 << 30
_THREADS = "OMP_NUM_THREADS"
_T = TypeVar("_T")


def calibrate(dimension: int, number_of_cores: int | None = None) -> Rates:
    """Measures the rates of this machine for vectors of `dimension` values, in about half a minute on generated rows.

    Each is the least of a few short measurements, so that a busy neighbour falsifies it less. What the runner takes for
    worker processes and references is the reference machine's, in proportion to the start.

    Args:
        number_of_cores: of a worker; None: all that this process may use.
    """
    number = min(number_of_cores or cores(), cores())
    with scratches.directory() as scratch, _in_threads(number):
        return _Calibration(Path(scratch), dimension).rates(number)


@dataclass(frozen=True)
class _Assigned:
    """A plan, the seconds of its one assign unit, and what that refers to."""

    plan: Plan
    seconds: float
    unit: AssignResult


@dataclass(frozen=True)
class _Probed:
    """The seconds of the stages that visit and match, the visits, and the operations of the short products."""

    visiting: float
    matching: float
    merging: float
    visits: int
    flops: float


class _Calibration:
    """One calibration in a directory: rows around `_SOME` centers, in `_FEW` families."""

    def __init__(self, directory: Path, dimension: int) -> None:
        self._directory, self._dimension = directory, dimension
        rng = np.random.default_rng(0)
        families = rng.standard_normal((_FEW, dimension), dtype=np.float32)
        centers = np.repeat(families, _SOME // _FEW, axis=0)
        centers += rng.standard_normal(centers.shape, dtype=np.float32) / 2
        self._rows = np.tile(centers, (_ROWS // _SOME, 1))
        self._rows += rng.standard_normal(self._rows.shape, dtype=np.float32)
        self._rows /= np.linalg.norm(self._rows, axis=1, keepdims=True)
        many = self._rows[rng.choice(_ROWS, _MANY, replace=False)]
        for number, rows in {_FEW: families, _SOME: centers, _MORE: many[:_MORE], _MANY: many}.items():
            np.save(directory / f"{number}.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))
        for name, number in (("rows", _ROWS), ("tiny", _TINY_ROWS)):
            type_ = pa.list_(pa.float32(), dimension)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(self._rows[:number].reshape(-1)), type=type_)
            pq.write_table(pa.table({"id": np.arange(number), "embeddings": vectors}), directory / f"{name}.parquet")

    def rates(self, number_of_cores: int) -> Rates:
        """Measures each rate as a difference between two measurements that differ in what it is a rate of."""
        d, batch = self._dimension, Parameters.pairwise_batch_size
        tiny, few, some = self._assign("tiny", _FEW), self._assign("rows", _FEW), self._assign("rows", _SOME)
        many, spread = self._assign("rows", _MANY), self._assign("rows", _MANY, unit_rows=1)
        (tiny_seconds, _), (few_seconds, in_few), (some_seconds, in_some) = map(self._compare, (tiny, few, some))
        fit_some, fit_many = self._iteration(_SOME), self._iteration(_MANY)
        more = 2 * d * _ROWS * (_MANY - _SOME)
        fit_flops = _rate(more, fit_many - fit_some, fit_many)
        assign_flops = _rate(more, many.seconds - some.seconds, many.seconds)
        flops_few, flops_some = (2 * d * computed_scores(found.pairs, _ROWS, batch) for found in (in_few, in_some))
        compare_flops = _rate(flops_few - flops_some, few_seconds - some_seconds, few_seconds)
        probed_few, probed_some = self._probe(_FEW, _TINY_REACH), self._probe(_SOME, _TINY_REACH)
        probed_none, probed_more = (self._probe(_MORE, reach, _ROWS // _KEYS) for reach in (_TINY_REACH, _REACH))
        match_flops = _rate(
            probed_few.flops - probed_some.flops, probed_few.matching - probed_some.matching, probed_few.matching
        )
        visits = max(1, probed_more.visits - probed_none.visits)
        products = (probed_more.flops - probed_none.flops) / match_flops
        start = self._start()
        slower = start / REFERENCE.start
        return Rates(
            cores=number_of_cores,
            dimension=d,
            fit_flops=fit_flops,
            assign_flops=assign_flops,
            compare_flops=compare_flops,
            read_value=self._read() / self._rows.size,
            fit_value=_positive(fit_some - 2 * d * _ROWS * _SOME / fit_flops) / self._rows.size,
            assign_value=_positive(some.seconds - tiny.seconds - 2 * d * _ROWS * _SOME / assign_flops)
            / self._rows.size,
            compare_value=_positive(some_seconds - tiny_seconds - flops_some / compare_flops) / self._rows.size,
            row=self._select(some.plan, in_some) / _ROWS,
            visit_value=_positive(probed_some.visiting - tiny_seconds - 2 * d * _ROWS * _SOME / assign_flops)
            / self._rows.size,
            visit=_positive(probed_more.visiting - probed_none.visiting) / visits,
            visitor=_positive(probed_more.matching - probed_none.matching - products) / visits,
            match_flops=match_flops,
            merge=_positive(probed_some.merging - tiny_seconds) / _ROWS,
            segment=_positive(spread.seconds - many.seconds) / (_MANY - 1) + self._read_segment(spread),
            unit=max(tiny.seconds, tiny_seconds),
            disk=self._disk(),
            start=start,
            start_workers=REFERENCE.start_workers * slower,
            reference=REFERENCE.reference * slower,
        )

    def _plan(self, name: str, number: int, unit_rows: int = _ROWS, reach: float | None = None) -> Plan:
        """Plans a run with `number` given centroids, in one assign unit; with a reach, one that visits."""
        parameters = resolve(
            {
                "input_path": str(self._directory / f"{name}.parquet"),
                "output_path": str(self._directory / f"out-{name}-{number}-{unit_rows}"),
                "init": str(self._directory / f"{number}.npy"),
                "max_iter": 0,
                "eps": reach or 0.05,
                "n_probes": "exact" if reach else 1,
                "comparison_rows": unit_rows,
                "assign_unit_bytes": 4 * self._rows.size,
                "memory_budget": 64 * self._rows.size,
                "max_cluster_rows": _ROWS,
                "verbose": False,
            }
        )
        return make_plan(locate(parameters))

    def _assign(self, name: str, number: int, unit_rows: int = _ROWS) -> _Assigned:
        plan = self._plan(name, number, unit_rows)
        fitted = fit_centroids(plan.job)

        def assign() -> AssignResult:
            plan.job.segments.delete_tree()
            return assign_unit(plan.job, plan.units[0], fitted)

        return _Assigned(plan, *_least(assign))

    def _compare(self, assigned: _Assigned) -> tuple[float, PairwiseResult]:
        """Returns the seconds of the one comparison unit of a plan, and its result."""
        job = assigned.plan.job
        fitted = fit_centroids(job)
        (key,) = index_all(job, [assigned.unit.file])
        (work,) = pairwise_units(job, key)

        def compare() -> PairwiseResult:
            _delete(job.pairwise, ".parquet")
            return compare_unit(job, work, fitted)

        return _least(compare)

    def _probe(self, number: int, reach: float, unit_rows: int = _ROWS) -> _Probed:
        """Measures the stages of a run with `number` given centroids that visits what is within `reach`."""
        plan = self._plan("rows", number, unit_rows, reach)
        job, fitted = plan.job, fit_centroids(plan.job)
        rows = assign_unit(job, plan.units[0], fitted).file

        def visit() -> tuple[SegmentFile, ...]:
            _delete(job.visits, ".arrow")  # not the directions, which a run chooses once
            return visit_clusters(job, rows, fitted)

        visit()
        visiting, visits = _least(visit)
        units = [unit for key in index_all(job, [rows, *visits]) for unit in match_units(job, key)]

        def match() -> list[SegmentFile]:
            job.matches.delete_tree()
            return [find_matches(job, unit, fitted) for unit in units]

        matching, matches = _least(match)
        keys = index_all(job, [rows, *matches])

        def merge() -> int:
            _delete(job.pairwise, ".parquet")
            return sum(found.pairs for key in keys if (found := merge_matches(job, key, fitted)))

        merging, pairs = _least(merge)
        found = find_basis(job)
        assert found is not None
        multiplications = pairs * (multiplications_of(found[0].width) or self._dimension)
        num_visits = sum(file.num_rows for file in visits)
        return _Probed(visiting, matching, merging, num_visits, 2 * multiplications)

    def _read(self) -> float:
        plan = self._plan("rows", _SOME)
        field = plan.job.input_schema.field("embeddings")
        column = VectorColumn(plan.job.input_format, field, self._dimension, True, {})

        def read() -> None:
            for _ in column.read(plan.units[0].parts[0]):
                pass

        return _least(read)[0]

    def _iteration(self, number: int) -> float:
        def fit() -> None:
            run = in_this_process(Shard(self._rows))
            lloyd(run, self._rows[:: _ROWS // number], _ROWS, _ROWS, 0, 0, _ITERATIONS)

        return _least(fit)[0] / _ITERATIONS

    def _read_segment(self, spread: _Assigned) -> float:
        """Returns the seconds that one more segment takes to be read."""
        job = spread.plan.job
        found = find_assigned(job, spread.unit.file.name).segments

        def read(number: int) -> float:
            return _least(lambda: segments.read(job.segments, found[:number], job.segment_schema))[0]

        number = len(found)
        return _positive(read(number) - read(1)) / (number - 1)

    def _select(self, plan: Plan, compared: PairwiseResult) -> float:
        return _least(lambda: select_duplicates(plan.job, 0, [compared]))[0]

    def _disk(self) -> float:
        """Writes and reads much, and once only: what was just freed is written to much faster than what a run finds."""
        path, block = self._directory / "disk", self._rows.tobytes()
        number = -(-_DISK_BYTES // len(block))
        started = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(number):
                file.write(block)
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
        seconds = time.perf_counter() - started
        path.unlink()
        return 2 * number * len(block) / seconds

    def _start(self) -> float:
        p = self._plan("tiny", _FEW).job.parameters
        arguments = [f"{name}={getattr(p, name)}" for name in ("init", "max_iter", "eps", "verbose")]
        arguments += [f"input_path={p.input_path[0]}", "reuse_cache=false", f"output_path={self._directory / 'start'}"]
        command = [sys.executable, "-m", "beam_semdedup", *arguments]
        return _least(lambda: subprocess.run(command, check=True, capture_output=True), 2)[0]


def _delete(folder: Folder, ending: str) -> None:
    folder.delete([name for name in folder.names() if name.endswith(ending)])


@contextlib.contextmanager
def _in_threads(number: int) -> Iterator[None]:
    """Has this process and those it starts compute in so many threads, as a worker of the runners does."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = str(number)
    try:
        yield
    finally:
        os.environ.pop(_THREADS)
        if before is not None:
            os.environ[_THREADS] = before


def _least(action: Callable[[], _T], repeats: int = _REPEATS) -> tuple[float, _T]:
    """Returns the least seconds that the action takes, and its result."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = action()
        times.append(time.perf_counter() - started)
    return min(times), result


def _rate(operations: float, seconds: float, at_most: float) -> float:
    """Returns operations a second; where noise made a difference of two negative, of the longer one."""
    return operations / (seconds if seconds > 0 else at_most)


def _positive(seconds: float) -> float:
    """Returns a difference of two measurements, or 0 where noise made it negative."""
    return max(0.0, seconds)
