"""Brute force: all pairs of rows of a set whose cosine similarity is at least 1 - eps, by their ids."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.vectors import load

_TILE = 4096
_ROUNDING = 1e-5


def similar_pairs(rows: np.ndarray, threshold: float) -> np.ndarray:
    """Positions (p, 2) of all pairs that reach it: float32 products propose, float64 decides."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(rows), _TILE):
        columns = rows[start : start + _TILE].T.copy()
        for low in range(start, len(rows), _TILE):
            near = np.argwhere(rows[low : low + _TILE] @ columns >= threshold - _ROUNDING)
            near += np.array([low, start])
            near = near[near[:, 0] > near[:, 1]]
            a, b = (rows[near[:, side]].astype(np.float64) for side in (0, 1))
            pairs.append(near[np.einsum("ij,ij->i", a, b) >= threshold])
    return np.concatenate(pairs)


def main() -> None:
    """Writes the pairs of the set at a path to a file, for an eps."""
    source, target, eps = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    ids, rows = load(source)
    pairs = similar_pairs(rows, 1 - eps)
    pq.write_table(pa.table({side: ids.take(pa.array(pairs[:, i])) for i, side in enumerate(("a", "b"))}), target)
    print(json.dumps({"pairs": len(pairs)}))


if __name__ == "__main__":
    main()
