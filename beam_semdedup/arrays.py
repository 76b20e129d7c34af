"""Which array library computes, and how many cores it may use.

Kernels take arrays and ask `namespace` for the library that the arrays belong to, so that the same code runs
on NumPy and CuPy; nothing else in the project decides that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_ROW_DOT_BYTES = 256 << 10  # the float64 copies stay in the cache: more than twice as fast as with 8 MiB


def namespace(array: Any) -> Any:
    """The module (`numpy` or `cupy`) whose functions take `array`."""
    if isinstance(array, np.ndarray):
        return np
    import cupy

    return cupy.get_array_module(array)


def row_dot(a: Any, b: Any) -> Any:
    """Dot products of corresponding rows, (n,) float64.

    Each is computed in float64 from its two rows alone, so that it does not depend on what else is in the
    arrays (a matrix product's last bits depend on the shape of the tile).

    Args:
        a, b: (n, d) float32.
    """
    xp = namespace(a)
    result = xp.empty(len(a), dtype=xp.float64)
    step = max(1, _ROW_DOT_BYTES // (8 * max(1, a.shape[1])))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        # In one memory order, since the order of the additions follows it.
        left, right = (m[rows].astype(xp.float64, order="C") for m in (a, b))
        xp.einsum("ij,ij->i", left, right, out=result[rows])
    return result


def rounding_error(dimension: int) -> float:
    """How far a float32 matrix product of unit rows may be from the exact value.

    Rounding errors of `dimension` additions grow like a random walk, and faster where all products are equal
    (binary embeddings): with OpenBLAS at most 2.15 times the root of the dimension, found at 306 of 1 to 9000.
    """
    return float(np.finfo(np.float32).eps) * max(4.0, 2.5 * dimension**0.5)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def core_limit(number: int) -> Iterator[None]:
    """Within it, BLAS and OpenMP use at most `number` threads."""
    import threadpoolctl

    with threadpoolctl.threadpool_limits(limits=number):
        yield
