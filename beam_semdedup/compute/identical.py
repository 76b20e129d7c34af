"""Rows that are copies of an earlier one, bit for bit, found by their hashes."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute import cuda
from beam_semdedup.compute.arrays import namespace, to_host
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.types import Array, RankedVectors

_ODD = np.uint64(0x9E3779B97F4A7C15)  # of all bits, so that equal rows of two clusters differ in their hashes


def first_identical(rows: RankedVectors, high: int, batch: int, cluster: Array = None) -> Array:
    """Finds for each of the first `high` rows the position of the first bit-identical one; (high,) int64.

    Args:
        rows: n >= high rows.
        batch: rows that are hashed, or compared with as many others, at once.
        cluster: (high,) which cluster each row is of, where rows of several are not to be taken for identical.
    """
    hashes = in_threads(lambda part: hash_rows(rows[part]), slices(0, high, batch))
    joined = namespace(hashes[0]).concatenate(hashes)
    return first_of_hash(rows, joined if cluster is None else joined + cluster.astype(np.uint64) * _ODD, batch)


def first_of_hash(rows: RankedVectors, hashes: Array, batch: int) -> Array:
    """Finds for each row the position of the first with the same of these hashes (n,), if it is equal; (n,) int64.

    A row that differs from it, as rows with one hash may, has its own position.
    """
    xp = namespace(hashes)
    _, firsts, inverse = xp.unique(hashes, return_index=True, return_inverse=True)
    result = firsts[inverse]
    repeated = to_host(xp.flatnonzero(result != xp.arange(len(result))))
    for part in slices(0, len(repeated), batch):
        later = repeated[part]
        equal = (rows[later] == rows[to_host(result[later])]).all(axis=1)
        unequal = later[~to_host(equal)]
        result[unequal] = xp.asarray(unequal)
    return result


def hash_rows(matrix: Array) -> Array:
    """Computes a 64-bit hash of the bits of each row of a float32 matrix (n, d), the same on a GPU; (n,) uint64."""
    weights = _weights(matrix.shape[1])
    if namespace(matrix) is not np:
        return cuda.hash_rows(matrix, weights)
    return np.einsum("ij,j->i", np.ascontiguousarray(matrix).view(np.uint32), weights)


@functools.cache
def _weights(dimension: int) -> npt.NDArray[np.uint64]:
    """Returns odd numbers (dimension,), always the same."""
    return np.random.default_rng(0).integers(0, 2**63, dimension, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
