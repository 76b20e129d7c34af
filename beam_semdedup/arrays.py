"""Which array library computes, and on how many cores.

Kernels take arrays and ask `namespace` for the library that the arrays belong to, so that the same code runs
on NumPy and CuPy; nothing else in the project decides that. On NumPy they compute their tiles `in_threads`, each with
one BLAS thread: what follows a product then runs on all cores too, and threads of BLAS never wait for each other, which
on a busy machine costs more than the product.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

_T = TypeVar("_T")
_R = TypeVar("_R")
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


def threads() -> int:
    """How many threads of this process compute: as many as OMP_NUM_THREADS says, else one per core.

    The runners set it in the worker processes that they start, Ray in its actors.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(said)) if said.isdigit() else cores()


def in_threads(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """The function's results for the items, in their order, computed in `threads()` threads.

    Within such a thread, where it calls this again, one after the other. Items are taken from an iterator as they are
    needed, a few ahead of the computation.
    """
    with _one_blas_thread():
        number = 1 if getattr(_HERE, "computes", False) else threads()
        if number == 1:
            return [function(item) for item in items]
        results: list[_R] = []
        waiting: deque[Future[_R]] = deque()
        with ThreadPoolExecutor(number, "compute", _mark_as_computing) as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(function, item))
                    if len(waiting) > 2 * number:
                        results.append(waiting.popleft().result())
                results.extend(future.result() for future in waiting)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return results


_HERE = threading.local()
_LIMIT = threading.Lock()
_LIMITED: list[Any] = []
"""What ends the limit of BLAS threads, once for each block that is within it."""


def _mark_as_computing() -> None:
    _HERE.computes = True


@functools.cache
def _blas() -> Any:
    import threadpoolctl

    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Within it, and until no other thread of the process is within it, BLAS uses one thread."""
    with _LIMIT:
        _LIMITED.append(_LIMITED[0] if _LIMITED else _blas().limit(limits=1))
    try:
        yield
    finally:
        with _LIMIT:
            limit = _LIMITED.pop()
            if not _LIMITED:
                limit.restore_original_limits()
