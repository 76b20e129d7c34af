"""Sets of any size that look like a real one, made of its rows: with its spectrum, and about its share of duplicates.

With real rows u, v and w drawn at random, their mean m, and a weight s, the row

    m + ((u - m) + s (v - w)) / √(1 + 2 s²)

has the mean and the covariance of the real ones, whatever s is. Small s make it more like the other rows with the same
u, large ones less: s is uniform between two bounds that give the cosines of nearest neighbours about the spread that
they have in real texts. Copies stand at cosines drawn from what the 63,541 descriptions have, in a direction v - w. A
set depends on the real rows and its parameters alone and is written once, in the layout of `data`.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import ROW_GROUP, ROWS_PER_FILE, Dataset
from benchmarks.peers.vectors import load, normalize

EXAMPLES = Path(__file__).parents[1] / "examples/data"
_WEIGHTS = 0.25, 0.9
_EPS = (0, 0, 0.001, 0.01, 0.03, 0.05, 0.1)
_EARLIER = (0, 0.0585, 0.0588, 0.0644, 0.0913, 0.1296, 0.2260)  # rows with an earlier one within eps, of descriptions
COPIES = _EARLIER[-1]
"""The share of rows that are copies of another row; each is within 0.1 of it."""
_COPIED = 0.18  # of all rows there are copies, one or more


def generate(work: Path, rows: int, source: Path = EXAMPLES, seed: int = 0) -> Dataset:
    """A set in `work` of rows mixed from those in the parquet files at `source`, written unless it stands there."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(source.glob("*.parquet")))).hexdigest()[:8]
    directory = work / f"mixed-{rows}-{digest}-{seed}"
    if not directory.exists():
        scratch = directory.with_name(f".{directory.name}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        _write(scratch, Mixture.draw(load(source)[1], rows, seed))
        scratch.rename(directory)
    return Dataset(directory, rows, 0)


@dataclass(frozen=True)
class Mixture:
    """Which real rows (s, d) each of n rows is made of, and how.

    Attributes:
        parts: (n, 3) the rows u, v and w.
        weights: (n,) float32.
        originals: (n,) of which row each is a copy, its own number where of none.
        cosines: (n,) float32 with that row.
    """

    source: np.ndarray
    parts: np.ndarray
    weights: np.ndarray
    originals: np.ndarray
    cosines: np.ndarray

    @classmethod
    def draw(cls, source: np.ndarray, rows: int, seed: int) -> Mixture:
        """Draws a mixture of real rows of length 1."""
        rng = np.random.default_rng(seed)
        parts = rng.integers(0, len(source), (rows, 3))
        weights = rng.uniform(*_WEIGHTS, rows).astype(np.float32)
        copies = rng.random(rows) < COPIES
        originals = np.arange(rows)
        copied = rng.choice(np.flatnonzero(~copies), max(1, round(_COPIED * rows)), replace=False)
        originals[copies] = rng.choice(copied, np.count_nonzero(copies))
        cosines = 1 - np.interp(rng.uniform(0, COPIES, rows), _EARLIER, _EPS)
        return cls(source, parts, weights, originals, cosines.astype(np.float32))

    def rows(self, part: slice) -> np.ndarray:
        """The rows (m, d) float32 of length 1."""
        whole = np.arange(len(self.parts))[part]
        result = self._mixed(self.originals[whole])
        inexact = np.flatnonzero((self.originals[whole] != whole) & (self.cosines[whole] < 1))
        own, cosines = result[inexact], self.cosines[whole[inexact], None]
        _, v, w = self.parts[whole[inexact]].T
        away = self.source[v] - self.source[w]
        away -= np.einsum("ij,ij->i", away, own)[:, None] * own
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), np.float32(1e-6))
        result[inexact] = normalize(cosines * own + np.sqrt(1 - cosines**2) * away)
        return result

    def _mixed(self, at: np.ndarray) -> np.ndarray:
        (u, v, w), s = self.parts[at].T, self.weights[at, None]
        mean = self.source.mean(axis=0)
        return normalize(
            mean + ((self.source[u] - mean) + s * (self.source[v] - self.source[w])) / np.sqrt(1 + 2 * s**2)
        )


def _write(directory: Path, mixture: Mixture) -> None:
    rows = len(mixture.parts)
    type_ = pa.list_(pa.float32(), mixture.source.shape[1])
    schema = pa.schema([("id", pa.int64()), ("embeddings", type_)])
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        stop = min(start + ROWS_PER_FILE, rows)
        with pq.ParquetWriter(directory / f"part-{number:05d}.parquet", schema, use_dictionary=False) as writer:
            for low in range(start, stop, ROW_GROUP):
                part = slice(low, min(low + ROW_GROUP, stop))
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(mixture.rows(part).reshape(-1)), type=type_)
                writer.write_table(pa.table([np.arange(rows)[part], vectors], schema=schema), row_group_size=ROW_GROUP)


def main() -> None:
    """Writes one set."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--source", type=Path, default=EXAMPLES, help="directory of parquet files with real embeddings")
    parser.add_argument("--seed", type=int, default=0)
    print(generate(**vars(parser.parse_args())).path)


if __name__ == "__main__":
    main()
