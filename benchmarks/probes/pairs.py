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


def similar_pairs(rows: np.ndarray, threshold: float, queries: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions (p, 2) of all pairs that reach it, and their cosines: float32 products propose, float64 decides.

    With `queries`, of the pairs that as many random rows are in; a pair of two of them stands there twice.
    """
    pairs, cosines = [np.empty((0, 2), dtype=np.int64)], [np.empty(0)]
    sample = np.sort(np.random.default_rng(0).choice(len(rows), queries, replace=False))
    asked, others = (rows[sample], rows) if queries else (rows, rows)
    for start in range(0, len(asked), _TILE):
        columns = asked[start : start + _TILE].T.copy()
        for low in range(0 if queries else start, len(others), _TILE):
            near = np.argwhere(others[low : low + _TILE] @ columns >= threshold - _ROUNDING)
            near += np.array([low, start])
            if queries:
                near[:, 1] = sample[near[:, 1]]
            near = near[near[:, 0] != near[:, 1]] if queries else near[near[:, 0] > near[:, 1]]
            a, b = (rows[near[:, side]].astype(np.float64) for side in (0, 1))
            found = np.einsum("ij,ij->i", a, b)
            pairs.append(near[found >= threshold])
            cosines.append(found[found >= threshold])
    return np.concatenate(pairs), np.concatenate(cosines)


def main() -> None:
    """Writes the pairs of the set at a path to a file, for an eps, and perhaps for so many rows only."""
    source, target, eps, *queries = sys.argv[1:]
    ids, rows = load(Path(source))
    pairs, cosines = similar_pairs(rows, 1 - float(eps), *map(int, queries))
    columns = {side: ids.take(pa.array(pairs[:, i])) for i, side in enumerate(("a", "b"))}
    pq.write_table(pa.table({**columns, "cosine": cosines}), target)
    print(json.dumps({"pairs": len(pairs)}))


if __name__ == "__main__":
    main()
