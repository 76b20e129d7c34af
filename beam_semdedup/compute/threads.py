"""The threads of a process that compute, each with one BLAS thread.

What follows a product then runs on all cores too, and threads of BLAS never wait for each other, which on a busy
machine costs more than the product.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Returns how many threads of this process compute: as many as OMP_NUM_THREADS says, else one per core.

    The runners set it in the worker processes that they start, Ray in its actors.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(said)) if said.isdigit() else cores()


def slices(start: int, stop: int, step: int) -> Iterator[slice]:
    """Yields `[start, stop)` in consecutive slices of at most `step`."""
    return (slice(low, min(low + step, stop)) for low in range(start, stop, step))


def in_threads(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Returns the function's results for the items, in their order, computed in `threads()` threads.

    A single item is computed in the calling thread. A function that calls this again has its items computed in its own
    thread, one after the other. Items are taken from an iterator as they are needed, a few ahead of the computation.

    Raises:
        Exception: the first that the function raised; what was not begun by then is not computed.
    """
    with _one_blas_thread():
        number = 1 if getattr(_HERE, "computes", False) else threads()
        if number == 1:
            return [function(item) for item in items]
        coming = iter(items)
        first = list(itertools.islice(coming, 2))
        if len(first) < 2:
            with alone():
                return [function(item) for item in first]
        results: list[_R] = []
        waiting: deque[Future[_R]] = deque()
        with ThreadPoolExecutor(number, "compute", _mark_as_computing) as pool:
            try:
                for item in itertools.chain(first, coming):
                    waiting.append(pool.submit(function, item))
                    if len(waiting) > 2 * number:
                        results.append(waiting.popleft().result())
                results.extend(future.result() for future in waiting)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return results


@contextmanager
def alone() -> Iterator[None]:
    """Lets `in_threads` compute in the calling thread alone."""
    before, _HERE.computes = getattr(_HERE, "computes", False), True
    try:
        yield
    finally:
        _HERE.computes = before


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
    """Lets BLAS use one thread, until no thread of the process is within it."""
    with _LIMIT:
        _LIMITED.append(_LIMITED[0] if _LIMITED else _blas().limit(limits=1))
    try:
        yield
    finally:
        with _LIMIT:
            limit = _LIMITED.pop()
            if not _LIMITED:
                limit.restore_original_limits()
