"""Threads that wait for storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_THREADS = 16
_T = TypeVar("_T")
_R = TypeVar("_R")


def in_io_threads(function: Callable[[_T], _R], files: Iterable[_T]) -> list[_R]:
    """Returns the function's results for the files, in their order; many of them are waited for at a time.

    After Ctrl-C none is waited for.
    """
    pool, waits = ThreadPoolExecutor(_THREADS), True
    try:
        return list(pool.map(function, files))
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        pool.shutdown(waits, cancel_futures=True)
