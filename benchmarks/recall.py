"""How many of the similar pairs of a whole set a contender resolves, whatever rule it removes rows by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks import data
from benchmarks.bench import Bench, probe
from benchmarks.data import EPS, Dataset

AFFORDABLE = 70_000
"""Rows up to which brute force over all pairs is worth its time."""


def similar_pairs(bench: Bench, dataset: Dataset, eps: float = EPS) -> tuple[np.ndarray, np.ndarray] | None:
    """The ids of both rows of each pair with a cosine of at least 1 - eps in the whole set.

    Known where the set is generated, by brute force where that is affordable, else None.
    """
    known = data.truth(dataset)
    if known and eps == EPS:
        return _pairs_of_groups(*known)
    if dataset.rows > AFFORDABLE:
        return None
    path = bench.work / f"pairs-{dataset.name}-{eps}.parquet"
    if not path.exists():
        print(f"  brute force over all pairs of {dataset.name}", flush=True)
        probe("pairs", dataset.path, path, eps)
    return read_pairs(path, eps)


def read_pairs(path: Path, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """The ids of both rows of each pair within eps that the probe `pairs` has written, perhaps for a larger one."""
    table = pq.read_table(path)
    near = np.flatnonzero(table.column("cosine").to_numpy() >= 1 - eps)
    return tuple(np.asarray(table.column(side).to_numpy()[near], dtype=object) for side in ("a", "b"))


def recall(pairs: tuple[np.ndarray, np.ndarray], removed: set[Any]) -> float:
    """The share of the pairs of which at least one row was removed."""
    gone = [np.fromiter((id_ in removed for id_ in side.tolist()), dtype=bool, count=len(side)) for side in pairs]
    return float((gone[0] | gone[1]).mean())


def _pairs_of_groups(ids: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(groups, kind="stable")
    ids, groups = ids[order], groups[order]
    first, second = [], []
    for distance in range(1, np.bincount(groups).max()):
        same = groups[:-distance] == groups[distance:]
        first.append(ids[:-distance][same])
        second.append(ids[distance:][same])
    return np.concatenate(first), np.concatenate(second)
