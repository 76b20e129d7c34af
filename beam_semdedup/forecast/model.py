"""What a run will take, before it starts: sizes, operations, bytes, memory and seconds of each stage.

The sizes come from the functions that a run chooses them with, the seconds from a worker's `Rates`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from beam_semdedup.config.parameters import ForecastParameters
from beam_semdedup.inputs.dataset import InputFacts
from beam_semdedup.inputs.units import units
from beam_semdedup.plan.probes import Comparison, Spread
from beam_semdedup.plan.rates import Rates, computed_scores
from beam_semdedup.plan.sizes import SEGMENT_BYTES, Sizes, Sizing, default_clusters, index_units
from beam_semdedup.storage import segments

PROCESS_BYTES = 220 << 20
"""Of a process that imported everything and has no work."""
ELEMENT_BYTES = 750
"""What the local runner holds in the driver for a file of segments, and for a unit that compares rows: it stands in the
input and in the output of a shuffle, encoded; measured with 300,000 of them."""
_INDEX_BYTES, _FILE_REQUESTS = 64, 3  # of a segment in the index of its file, and what opening that takes
_REQUEST_SECONDS = 2e-3
"""What a ranged read of an object store takes a worker that makes many at the same time; assumed."""
_RESULT_BYTES = 28  # of a compared row: two ids, score, centroid
_RECORD_BYTES = 40  # of what a row visits in a key, besides its short vector: its cluster, place, and what orders rows
_MATCH_BYTES, _MATCHES = 45, 0.2  # of a match, and how many a row has: assumed
_ASSIGN_COPIES, _COMPARE_COPIES = 4, 2  # of a unit's rows that are in memory at the same time
_FIT_SECONDS = 3600.0
_SMALL_SEGMENT, _MANY_SEGMENTS = SEGMENT_BYTES // 4, 100_000
_ROWS_PER_CLUSTER = 50
_WORTH = 1.1
_PROBING = ("visits", "matches", "merge")
_ELEMENTS = 4
"""As what a file, or a unit, goes through shuffles: itself, what becomes of it, and each again where stages end."""


@dataclass(frozen=True)
class Machines:
    """What the run has: `workers` processes with `cores` and `memory` bytes each, and `gpus` together.

    `fit_workers` of them fit. `storage_bandwidth`, in bytes/s, is that of a worker to an object store; None stands for
    the local disk.
    """

    workers: int = 1
    cores: int = 1
    memory: int = 4 << 30
    gpus: int = 0
    fit_workers: int = 1
    storage_bandwidth: int | None = None


@dataclass(frozen=True)
class Earlier:
    """Rows that rank before all of the input.

    Attributes:
        references: rows of `against`, which the run assigns.
        corpus: rows of a corpus, which are assigned.
        stored_bytes: of a row of `against`, in the files that the run reads.
        files: segment files of the corpus; None where it is not known.
        n_clusters, centroids_per_key: that they are assigned to; None where it is not known.
    """

    references: int = 0
    corpus: int = 0
    stored_bytes: int = 0
    files: int | None = None
    n_clusters: int | None = None
    centroids_per_key: int | None = None

    @property
    def rows(self) -> int:
        """All of them."""
        return self.references + self.corpus


@dataclass(frozen=True)
class Data:
    """The rows to deduplicate, of `stored_bytes` each in the input files; `input` where they are there already."""

    rows: int
    dimension: int
    carried_bytes: int = 0
    stored_bytes: int = 0
    input: InputFacts | None = None
    earlier: Earlier = Earlier()

    def of_size(self, rows: int) -> Data:
        """Returns the same with another number of rows."""
        return self if rows == self.rows else dataclasses.replace(self, rows=rows, input=None)

    def units(self, unit_rows: int) -> int:
        """Says in how many units of about `unit_rows` rows they are read."""
        return len(units(self.input, unit_rows)) if self.input else -(-self.rows // unit_rows)


@dataclass(frozen=True)
class Stage:
    """A stage: floating-point operations and bytes of it, and the seconds for each of what may bound it."""

    name: str
    units: int
    flops: float = 0.0
    bytes_read: float = 0.0
    bytes_written: float = 0.0
    parts: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The seconds of all its parts."""
        return sum(self.parts.values())

    @property
    def bottleneck(self) -> str:
        """The part that takes most of the seconds."""
        return max(self.parts, key=self.parts.__getitem__) if self.seconds else ""


@dataclass(frozen=True)
class Limit:
    """Where the design breaks: `what`, in a few words, and what to do about it."""

    what: str
    advice: str


@dataclass(frozen=True)
class Forecast:
    """What a run will do and take; bytes and seconds where nothing else is said.

    `visits` are those of a row to other clusters, `visits_bytes` those of all of them, whose short vectors have `width`
    coordinates.
    """

    data: Data
    sizes: Sizes
    units: int
    comparisons: int
    segments: int
    segment_rows: float
    segment_bytes: float
    driver_memory: float
    worker_memory: float
    visits: float
    visits_bytes: float
    width: int
    stages: tuple[Stage, ...]
    limits: tuple[Limit, ...]

    @property
    def seconds(self) -> float:
        """The seconds of the whole run."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def comparing(self) -> float:
        """The seconds of what finds the similar rows, once they are assigned."""
        return sum(stage.seconds for stage in self.stages if stage.name in ("compare", *_PROBING))

    @property
    def bottleneck(self) -> str:
        """The part that takes most of the whole run's seconds."""
        totals: dict[str, float] = {}
        for stage in self.stages:
            for name, seconds in stage.parts.items():
                totals[name] = totals.get(name, 0.0) + seconds
        return max(totals, key=totals.__getitem__)


def forecast(
    p: ForecastParameters,
    data: Data,
    n_clusters: int,
    machines: Machines,
    rates: Rates,
    spread: Spread | None = None,
) -> Forecast:
    """Predicts what a run with `n_clusters` clusters on these machines will do and take.

    Args:
        spread: what the rows visit; None: nothing, with n_probes=1.
    """
    n, d, k = data.rows, data.dimension, n_clusters
    sizing = Sizing(p, n, d, data.carried_bytes, k, machines.memory)
    asked, affordable = (sizing.asked_sample, sizing.affordable_sample) if p.fit_iterations else (0, 0)
    sample = min(asked, affordable)
    earlier = data.earlier
    sizes = sizing.sizes(sample)
    sizes = dataclasses.replace(sizes, centroids_per_key=earlier.centroids_per_key or sizes.centroids_per_key)
    keys, units, unit_rows = sizes.num_keys, data.units(sizes.assign_rows), min(sizes.assign_rows, n)
    # Rows fall into keys at random: some keys have none of a unit where there are about as many keys as rows.
    of_references = -(-earlier.references // sizes.assign_rows)
    new_units = units + of_references
    new_segments = _segments(units, n, keys) + _segments(of_references, earlier.references, keys)
    segment_start, segment_row = segments.num_bytes(d)
    assigned_bytes = n * data.carried_bytes + (n + earlier.references) * segment_row + new_segments * segment_start
    key_rows = -(-(n + earlier.rows if spread else n) // keys)
    bounds = sizing.blocks(sizes.centroids_per_key).bounds(-(-n // keys), key_rows)
    blocks, block = len(bounds), bounds[0][1]
    old_files = earlier.files or -(-earlier.corpus // sizes.assign_rows)
    old_segments = _segments(old_files, earlier.corpus, keys)
    all_rows, all_units = n + earlier.rows, new_units + old_files
    comparison = Comparison(n, d, k, keys, spread, p.skew, earlier.rows, earlier.corpus, p.within)
    width = spread.width if spread else 0
    visits_bytes = comparison.records * (4 * (width + 1) + _RECORD_BYTES) + 4 * comparison.visits
    stages = _Stages(p, data, machines, rates, comparison, visits_bytes)
    of_visits = round(all_units * _expected(keys, comparison.records / all_units))
    of_matches = round(keys * blocks * _expected(keys, _MATCHES * n / (keys * blocks))) if spread else 0
    files, match_files = all_units * (2 if spread else 1), keys * blocks if spread else 0
    of_rows = new_segments + old_segments
    indexed = [(files, of_rows + of_visits if spread else of_rows)]
    if spread:  # those of rows again, to be merged
        indexed.append((all_units + match_files, of_rows + of_matches))
    read_again = assigned_bytes + earlier.corpus * segment_row + old_segments * segment_start
    found = Forecast(
        data=data,
        sizes=sizes,
        units=new_units,
        comparisons=keys * blocks,
        segments=of_rows,
        segment_rows=all_rows / of_rows,
        segment_bytes=read_again / of_rows,
        driver_memory=PROCESS_BYTES + (files + keys * blocks + match_files) * _ELEMENTS * ELEMENT_BYTES,
        worker_memory=PROCESS_BYTES
        + max(
            (segment_row + data.carried_bytes) * _ASSIGN_COPIES * unit_rows,
            _COMPARE_COPIES
            * (
                (segment_row + data.carried_bytes) * min(block, key_rows)
                + segment_row * earlier.rows / keys
                + visits_bytes / keys
            ),
            4 * d * sample // machines.fit_workers,
        )
        + 4 * d * k,
        visits=comparison.visits / all_rows,
        visits_bytes=visits_bytes,
        width=width,
        stages=(
            stages.start(),
            *([stages.fit(k, sample)] if sample else []),
            stages.assign(k, new_units, new_segments, assigned_bytes),
            *([stages.visits(new_units, new_segments, of_visits, assigned_bytes)] if spread else []),
            stages.index(keys, indexed),
            *(
                stages.probing(keys, blocks, of_rows, of_visits + of_matches, read_again)
                if spread
                else [stages.compare(keys, blocks, of_rows, read_again)]
            ),
            stages.duplicates(max(1, n // sizing.rows_per_file)),
        ),
        limits=(),
    )
    return dataclasses.replace(found, limits=tuple(_limits(found, machines, asked, affordable)))


def _segments(files: int, rows: int, keys: int) -> int:
    """Returns how many segments the rows have that are in so many files."""
    return round(files * _expected(keys, rows / files)) if files else 0


def _expected(keys: int, rows: float) -> float:
    """Returns how many keys have at least one of so many rows, which fall into keys at random."""
    return keys * -math.expm1(-rows / keys)


def recommend(
    p: ForecastParameters, data: Data, machines: Machines, rates: Rates, spread: Spread | None = None
) -> Forecast:
    """Returns the forecast with the fewest clusters, which lose few pairs, that takes little more than the fastest.

    Where some number of clusters reaches fewer limits of the design than others, only such are taken.
    """
    rows = data.rows + data.earlier.rows
    usual = default_clusters(rows)
    numbers = sorted({min(rows, max(1, round(usual * 2 ** (step / 4)))) for step in range(-16, 13)})
    made = [forecast(p, data, number, machines, rates, spread) for number in numbers]
    fewest = min(len(f.limits) for f in made)
    made = [f for f in made if len(f.limits) == fewest]
    least = min(f.seconds for f in made)
    return next(f for f in made if f.seconds <= _WORTH * least)


class _Stages:
    """Predicts the stages of a run."""

    def __init__(
        self,
        p: ForecastParameters,
        data: Data,
        machines: Machines,
        rates: Rates,
        comparison: Comparison,
        visits_bytes: float,
    ) -> None:
        self._p, self._data, self._machines, self._rates = p, data, machines, rates
        self._comparison, self._visits_bytes = comparison, visits_bytes
        self._values = data.rows * data.dimension

    def start(self) -> Stage:
        workers = self._rates.start_workers if self._machines.workers > 1 else 0.0
        return Stage("start", 1, parts={"start": self._rates.start + workers})

    def fit(self, k: int, sample: int) -> Stage:
        """Predicts the fit; choosing the initial centroids is about as much work as an iteration."""
        data, rates, workers = self._data, self._rates, self._machines.fit_workers
        flops = 2.0 * data.dimension * sample * k * (self._p.fit_iterations + 1)
        values = self._values * rates.read_value + sample * data.dimension * self._p.fit_iterations * rates.fit_value
        read = data.rows * data.stored_bytes
        parts = {
            "products": flops / self._flops(rates.fit_flops, workers),
            "memory": values / workers,
            "storage": self._transfer(read) / workers,
        }
        return Stage("fit", workers, flops, read, 4.0 * k * data.dimension, parts)

    def assign(self, k: int, units: int, references: int, written: float) -> Stage:
        data, rates, earlier = self._data, self._rates, self._data.earlier
        values = self._values + earlier.references * data.dimension
        flops, read = 2.0 * values * k, data.rows * data.stored_bytes + earlier.references * earlier.stored_bytes
        return self._shared(
            Stage("assign", units, flops, read, written),
            products=flops / self._flops(rates.assign_flops),
            memory=values * rates.assign_value,
            segments=references * rates.segment + units * rates.unit,
            storage=self._transfer(read + written),
        )

    def index(self, keys: int, indexed: Sequence[tuple[int, int]]) -> Stage:
        """Predicts the stage that finds the segments of each key.

        Args:
            indexed: how many files, and how many segments in them, each time.
        """
        units = [index_units(number, keys) for _, number in indexed]
        read = sum(times * _INDEX_BYTES * number for times, (_, number) in zip(units, indexed, strict=True))
        opened = sum(times * files for times, (files, _) in zip(units, indexed, strict=True))
        remote = self._machines.storage_bandwidth is not None
        return self._shared(
            Stage("index", max(units), bytes_read=read),
            segments=sum(number for _, number in indexed) * self._rates.reference,
            requests=opened * _FILE_REQUESTS * _REQUEST_SECONDS if remote else 0.0,
            storage=self._again(read),
        )

    def visits(self, units: int, references: int, of_visits: int, assigned: float) -> Stage:
        """Predicts the stage that says which rows are compared in which other clusters; on the CPU."""
        compared, written = self._comparison, self._visits_bytes
        parts = self._on_cores(compared.visiting(self._rates))
        parts["segments"] = (references + of_visits) * self._rates.segment + units * self._rates.unit
        flops = 2.0 * (compared.all_rows - compared.visited) * self._data.dimension * compared.n_clusters
        stage = Stage("visits", units, flops, assigned, written)
        return self._shared(stage, **parts, storage=self._transfer(written) + self._again(assigned))

    def probing(self, keys: int, blocks: int, references: int, others: int, assigned: float) -> list[Stage]:
        """Predicts the stages that compare rows with visitors and put their matches together; on the CPU."""
        data, rates, compared = self._data, self._rates, self._comparison
        remote = self._machines.storage_bandwidth is not None
        read, visits = assigned * (blocks if remote else 1), self._visits_bytes
        parts = self._on_cores(compared.matching(rates))
        parts["segments"] = keys * blocks * rates.unit + others * rates.segment
        parts["requests"] = (references + others) * blocks * _REQUEST_SECONDS if remote else 0.0
        matches = data.rows * _MATCHES * _MATCH_BYTES
        match = Stage("matches", keys * blocks, 2.0 * compared.multiplications, read + visits, matches)
        written = data.rows * (_RESULT_BYTES + data.carried_bytes)
        merge = Stage("merge", keys, bytes_read=matches, bytes_written=written)
        storage = self._again(read + visits) + self._transfer(matches)
        return [
            self._shared(match, **parts, storage=storage),
            self._shared(
                merge,
                **compared.merging(rates),
                segments=keys * rates.unit,
                storage=self._again(matches) + self._transfer(written),
            ),
        ]

    def compare(self, keys: int, blocks: int, references: int, assigned: float) -> Stage:
        data, rates, pairs = self._data, self._rates, self._comparison.native_pairs
        scores = computed_scores(pairs, data.rows, self._p.pairwise_batch_size)
        remote = self._machines.storage_bandwidth is not None
        times = blocks if remote and self._p.within else 1  # else a block has segments of its own
        read, written = assigned * times, data.rows * (_RESULT_BYTES + data.carried_bytes)
        return self._shared(
            Stage("compare", keys * blocks, 2 * data.dimension * pairs, read, written),
            products=2 * data.dimension * scores / self._flops(rates.compare_flops),
            memory=self._comparison.all_rows * data.dimension * rates.compare_value,
            segments=keys * blocks * rates.unit,
            requests=references * times * _REQUEST_SECONDS if remote else 0.0,
            storage=self._transfer(read + written),
        )

    def duplicates(self, files: int) -> Stage:
        data = self._data
        read = data.rows * (_RESULT_BYTES + data.carried_bytes)
        return self._shared(
            Stage("duplicates", files, bytes_read=read),
            memory=data.rows * self._rates.row,
            storage=self._transfer(read),
        )

    def _shared(self, stage: Stage, **parts: float) -> Stage:
        """Shares the seconds of one worker among all; the last of the units run beside idle workers."""
        rounds = -(-stage.units // self._machines.workers) / stage.units
        return dataclasses.replace(stage, parts={name: seconds * rounds for name, seconds in parts.items()})

    def _on_cores(self, parts: dict[str, float]) -> dict[str, float]:
        """Returns the seconds of parts where products are computed by all cores of a worker."""
        return {**parts, "products": parts["products"] * self._rates.cores / self._machines.cores}

    def _again(self, number_of_bytes: float) -> float:
        """Returns the seconds to read what was just written: of a local disk, none."""
        return self._transfer(number_of_bytes) if self._machines.storage_bandwidth else 0.0

    def _flops(self, of_worker: float, workers: int = 1) -> float:
        """Returns the operations a second of some workers: of their GPUs if they have any, else by their cores."""
        if self._machines.gpus:
            return self._machines.gpus / self._machines.workers * workers * self._rates.gpu_flops
        return of_worker * self._machines.cores / self._rates.cores * workers

    def _transfer(self, number_of_bytes: float) -> float:
        return number_of_bytes / (self._machines.storage_bandwidth or self._rates.disk)


def _limits(made: Forecast, machines: Machines, asked: int, affordable: int) -> list[Limit]:
    """Returns what breaks, in the order of the pipeline."""
    found = []
    if affordable < min(asked, _ROWS_PER_CLUSTER * made.sizes.n_clusters):
        few = affordable / made.sizes.n_clusters
        found.append(Limit(f"fit on {few:.2g} rows a cluster", "more memory_budget: it holds the fit's sample"))
    fit = next((stage for stage in made.stages if stage.name == "fit"), None)
    if fit and fit.seconds > max(_FIT_SECONDS, made.seconds / 2):
        where = "one process" if machines.fit_workers == 1 else f"{machines.fit_workers} processes"
        found.append(Limit(f"fit in {where}", "more actors (fit_workers), or init=<centroids of a smaller fit>"))
    if made.segment_bytes < _SMALL_SEGMENT and made.segments > _MANY_SEGMENTS:
        row = 4 * made.data.dimension
        memory = 8 * (row + made.data.carried_bytes) * math.isqrt(made.data.rows * SEGMENT_BYTES // row)
        larger = f"memory_budget={-(-memory // 2**30)}GiB: units and keys, and so segments, grow with it"
        found.append(Limit(f"segments of {made.segment_rows:.2g} rows", larger))
    return found
