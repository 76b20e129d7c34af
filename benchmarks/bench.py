"""What all scenarios share: where things are, how often to measure, and the shape of a result."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from beam_semdedup.storage.folder import File
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import Segment, read_index
from benchmarks import data, mixed
from benchmarks.data import EPS, Dataset
from benchmarks.measure import Contender, Run, measure

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


@dataclass(frozen=True)
class Goal:
    """A number of the issue that asked for speed: `measured` should be at most (or at least) `limit`."""

    what: str
    measured: float
    limit: float
    unit: str = "×"
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    @property
    def verdict(self) -> str:
        """Met, or by how much it is missed."""
        if self.met:
            return "met"
        return (
            f"missed by {abs(self.measured / self.limit - 1):.0%}" if self.limit else f"missed by {-self.measured:.2g}"
        )


@dataclass
class Result:
    """What a scenario found: rows of a table, goals, remarks, and all runs."""

    table: list[dict[str, Any]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    runs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """Where the sets lie, how much is measured, and in which `report` the results will be.

    `rows`, `peers` and `eps`, where given, limit the scenarios to sets of these sizes, to these contenders and values.
    `source` has the real embeddings that others are mixed from. `part` has what compares all rows with all do so for a
    part of them.
    """

    work: Path
    descriptions: Path
    rounds: int = 3
    rows: Sequence[int] = ()
    peers: Sequence[str] = ()
    report: Path | None = None
    eps: Sequence[float] = ()
    source: Path = mixed.EXAMPLES
    part: bool = False

    def stored(self, scenario: str) -> list[dict[str, Any]]:
        """The table of a scenario that is in the report already; empty where it is not."""
        if self.report is None or not self.report.exists():
            return []
        return json.loads(self.report.read_text())["scenarios"].get(scenario, {}).get("table", [])

    def generated(self, rows: int, clusters: int | None = None) -> Dataset:
        """A generated set; by default of as many clusters as our default, the square root of the rows."""
        return data.generate(self.work, rows, clusters or round(rows**0.5))

    def mixed(self, rows: int) -> Dataset:
        """A set of rows mixed from real ones, with their spectrum."""
        return mixed.generate(self.work, rows, self.source)

    def sizes(self, sizes: Sequence[int]) -> list[int]:
        """Those of the sizes that were asked for."""
        return [size for size in sizes if not self.rows or size in self.rows]

    def real(self) -> Dataset | None:
        """The descriptions; None, with a word about it, where they are not on this machine."""
        if any(self.descriptions.glob("*.parquet")):
            return data.existing(self.descriptions)
        print(f"  no parquet files at {self.descriptions}: going on without real data")
        return None

    def centroids(self, dataset: Dataset, number: int | None = None) -> Path:
        """The centroids that all peers use."""
        return data.centroids(self.work, dataset, number or dataset.clusters or round(dataset.rows**0.5))

    def ours(
        self, name: str, dataset: Dataset, *overrides: str, env: dict[str, str] | None = None, eps: float | None = EPS
    ) -> Contender:
        """The `semdedup` command."""
        output = self.work / "out" / name.replace(" ", "-").replace("=", "-").replace(",", "")
        command = [semdedup(), f"input_path={dataset.path}", f"output_path={output}", *overrides]
        return Contender(name, command if eps is None else [*command, f"eps={eps}"], output, env or {})

    def peer(self, name: str, dataset: Dataset, *options: str | Path, eps: float = EPS) -> Contender:
        """A module of `benchmarks.peers`."""
        output = self.work / "out" / f"{name}.parquet"
        output.parent.mkdir(exist_ok=True)
        command = python_module(f"benchmarks.peers.{name}", dataset.path, output, "--eps", eps, *options)
        return Contender(name, command, output)

    def contenders(self, *contenders: Contender) -> list[Contender]:
        """Those that were asked for."""
        return [c for c in contenders if not self.peers or c.name in self.peers]

    @functools.cached_property
    def rates(self) -> dict[str, float]:
        """This machine's rates: `gflops` of a float32 matrix product at 384 dimensions, `copy` in bytes/s."""
        return probe("kernel", "rates")

    @functools.cached_property
    def interpreter(self) -> Run:
        """A process that imports Beam and what our command needs, and does nothing."""
        return measure([sys.executable, "-c", "import beam_semdedup.transforms, beam_semdedup.workflow.run"])


def semdedup() -> Path:
    """Our command, of the environment that this runs in."""
    return Path(sys.executable).with_name("semdedup")


def python_module(module: str, *arguments: Any) -> list[str]:
    """The command that runs a module in this environment."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def probe(module: str, *arguments: Any, env: dict[str, str] | None = None) -> Any:
    """What a module of `benchmarks.probes` prints."""
    command = python_module(f"benchmarks.probes.{module}", *arguments)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **(env or {})})
    return json.loads(done.stdout.splitlines()[-1])


def found(output: Path) -> set[Any]:
    """The ids that a contender took for duplicates."""
    place = output / "duplicates" if (output / "duplicates").is_dir() else output
    return set(pq.read_table(place, columns=["id"]).column(0).to_pylist())


@dataclass(frozen=True)
class _AnyFacts(Record):
    """Whatever a segment file says of itself."""


def references(output: Path, place: str = "segments") -> Iterator[Segment]:
    """The segments that a run wrote: of rows (`segments`), `visits`, `matches` or their `index`."""
    for path in output.glob(f"*_results/*/{place}/**/*.arrow"):
        index = read_index(File.at(str(path), {}), _AnyFacts)
        assert index
        yield from index[1].segments


def cluster_sizes(output: Path) -> np.ndarray:
    """Rows of each cluster, from what our command left."""
    files = (output / "pairwise_results").glob("*/*.parquet")
    labels = [pq.read_table(file, columns=["centroid"]).column(0).to_numpy() for file in files]
    return np.bincount(np.concatenate(labels))


def needed_flops(rows: int, clusters: int, sizes: np.ndarray, dimension: int) -> tuple[float, float]:
    """Operations of the assignment, and of the products of each row with those before it in its cluster."""
    sizes = sizes.astype(np.float64)
    return 2.0 * rows * clusters * dimension, float((sizes * (sizes - 1)).sum()) * dimension
