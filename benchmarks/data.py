"""The sets of embeddings that the benchmarks run on: generated ones with known duplicates, and real ones.

A generated set is a directory of parquet files with the columns `id` (int64), `embeddings`
(fixed_size_list<float32> or <float16>) and `group` (int32: the rows of a group resemble each other, those of
group -1 nothing), in row groups of 50,000 rows. It depends on its parameters alone and is written once.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.vectors import load, normalize

SKEW = 35
"""How many times larger than the mean the largest cluster of a generated set is."""

EPS = 0.03
"""Rows of a group have a cosine similarity of at least 1 - EPS, any other two rows less."""

ROW_GROUP = 50_000
ROWS_PER_FILE = 5 * ROW_GROUP
_REDUNDANT = 0.1
_LARGEST_GROUP = 64
_FIT_ROWS, _FIT_ITERATIONS = 100_000, 10

# A row is the sum of its center, of noise along few directions (as real embeddings have, so that clusters touch)
# and of noise along all (so that no two rows are too similar by chance); the squares of the weights add up to 1.
_CENTER, _ALONG_FEW, _ALONG_ALL = np.sqrt([0.5, 0.38, 0.12])
_FEW = 32
_OWN = 0.25  # of a center, next to its family: one copy in 150 has another nearest center than its original
_COPY_NOISE = np.sqrt(0.02)  # two copies of a row: cosine 1 / (1 + 0.02)


@dataclass(frozen=True)
class Dataset:
    """A directory of parquet files with `rows` rows, made of `clusters` clusters (0 where that is not known)."""

    path: Path
    rows: int
    clusters: int

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def num_bytes(self) -> int:
        """Bytes of the files."""
        return sum(file.stat().st_size for file in self.path.glob("*.parquet"))


def generate(
    work: Path, rows: int, clusters: int, dimension: int = 384, dtype: str = "float32", seed: int = 0
) -> Dataset:
    """A generated set in `work`, written unless it stands there already; beside it its centers for `centroids`.

    A tenth of the rows are redundant: copies, exact or with a little noise, of a row elsewhere in the set. Sizes of
    clusters follow a power law whose largest is `SKEW` times the mean; sizes of groups have a heavy tail too.
    """
    directory = work / f"generated-{rows}x{dimension}-{clusters}-{dtype}-{seed}"
    if not directory.exists():
        scratch = directory.with_name(f".{directory.name}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        centers = _write(scratch, rows, clusters, dimension, dtype, seed)
        np.save(work / f"centroids-{directory.name}-{clusters}.npy", centers)
        scratch.rename(directory)
    return Dataset(directory, rows, clusters)


def existing(path: Path) -> Dataset:
    """The set in a directory of parquet files that somebody else made."""
    return Dataset(path, sum(pq.read_metadata(file).num_rows for file in path.glob("*.parquet")), 0)


def centroids(work: Path, dataset: Dataset, number: int) -> Path:
    """An .npy file with `number` centroids (number, d) float32 of a set, for all peers alike.

    The generating centers where there are as many, else a short fit on a sample.
    """
    path = work / f"centroids-{dataset.name}-{number}.npy"
    if not path.exists():
        np.save(path, _short_fit(dataset, number))
    return path


def cluster_shares(clusters: int) -> np.ndarray:
    """The share of the rows that each cluster has, descending: a power law, the largest `SKEW` times the mean."""
    skew = min(SKEW, max(1.0, clusters / 4))
    low, high = 0.0, 4.0
    for _ in range(60):
        exponent = (low + high) / 2
        shares = np.arange(1, clusters + 1) ** -exponent
        shares /= shares.sum()
        low, high = (exponent, high) if shares[0] * clusters < skew else (low, exponent)
    return shares


def truth(dataset: Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    """The ids and groups (n,) of the rows of a generated set that are in a group; None for other sets."""
    if not dataset.clusters:
        return None
    table = pq.read_table(dataset.path, columns=["id", "group"])
    ids, groups = (table.column(name).to_numpy() for name in table.column_names)
    return ids[groups >= 0], groups[groups >= 0]


def _write(directory: Path, rows: int, clusters: int, dimension: int, dtype: str, seed: int) -> np.ndarray:
    """Writes the files and returns the centers, (clusters, dimension) float32."""
    rng = np.random.default_rng(seed)
    shares = cluster_shares(clusters)
    centers = _centers(rng, clusters, dimension)
    basis = rng.normal(size=(_FEW, dimension)).astype(np.float32)
    basis *= (np.arange(1, _FEW + 1) ** -0.25)[:, None].astype(np.float32)
    basis /= np.linalg.norm(basis)

    def draw(rng: np.random.Generator, number: int) -> np.ndarray:
        few = rng.standard_normal((number, _FEW), dtype=np.float32) @ basis
        result = _ALONG_FEW * few + _ALONG_ALL * _noise(rng, number, dimension)
        result += centers[rng.choice(clusters, number, p=shares)]
        return result

    sizes = _group_sizes(rng, rows)
    originals = draw(rng, len(sizes))
    groups = np.full(rows, -1, dtype=np.int32)
    groups[: sizes.sum()] = np.repeat(np.arange(len(sizes)), sizes)
    rng.shuffle(groups)
    type_ = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), dimension)
    schema = pa.schema([("id", pa.int64()), ("embeddings", type_), ("group", pa.int32())])
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        stop = min(start + ROWS_PER_FILE, rows)
        with pq.ParquetWriter(directory / f"part-{number:05d}.parquet", schema, use_dictionary=False) as writer:
            for low in range(start, stop, ROW_GROUP):
                part = groups[low : min(low + ROW_GROUP, stop)]
                block = np.random.default_rng([seed, low])
                vectors = draw(block, len(part)) * block.uniform(5, 7, (len(part), 1)).astype(np.float32)
                copies = np.flatnonzero(part >= 0)
                vectors[copies] = 6 * originals[part[copies]]
                noisy = copies[block.random(len(copies)) < 0.5]
                lengths = np.linalg.norm(vectors[noisy], axis=1, keepdims=True)
                vectors[noisy] += _COPY_NOISE * lengths * _noise(block, len(noisy), dimension)
                values = pa.array(vectors.astype(dtype).reshape(-1))
                columns = [
                    np.arange(low, low + len(part)),
                    pa.FixedSizeListArray.from_arrays(values, type=type_),
                    part,
                ]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=ROW_GROUP)
    return centers


def _centers(rng: np.random.Generator, clusters: int, dimension: int) -> np.ndarray:
    """Centers of one length in families, so that some are near each other."""
    families = rng.normal(size=(max(1, round(clusters**0.5)), dimension))
    centers = families[rng.integers(len(families), size=clusters)] + _OWN * rng.normal(size=(clusters, dimension))
    return normalize(centers.astype(np.float32)) * np.float32(_CENTER)


def _noise(rng: np.random.Generator, number: int, dimension: int) -> np.ndarray:
    """Rows of about length 1 in all directions."""
    return rng.standard_normal((number, dimension), dtype=np.float32) / np.float32(dimension**0.5)


def _group_sizes(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Sizes of groups, of at least 2, so that a tenth of the rows are redundant."""
    wanted = round(_REDUNDANT * rows)
    copies = np.minimum(rng.zipf(2.2, wanted), _LARGEST_GROUP - 1)
    copies = copies[: np.searchsorted(np.cumsum(copies), wanted) + 1]
    copies[-1] -= copies.sum() - wanted
    return copies[copies > 0] + 1


def _short_fit(dataset: Dataset, number: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(0)
    rows = load(dataset.path)[1]
    rows = rows[np.sort(rng.choice(len(rows), min(len(rows), max(_FIT_ROWS, 50 * number)), replace=False))]
    start = rows[rng.choice(len(rows), number, replace=False)]
    model = KMeans(number, init=start, n_init=1, max_iter=_FIT_ITERATIONS, copy_x=False).fit(rows)
    return model.cluster_centers_.astype(np.float32)


def main() -> None:
    """Writes one generated set."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float32")
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    print(generate(**arguments).path)


if __name__ == "__main__":
    main()
