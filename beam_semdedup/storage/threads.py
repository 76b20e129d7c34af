"""Threads that wait for storage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

IO_THREADS = 16
_T = TypeVar("_T")
_R = TypeVar("_R")


def in_io_threads(function: Callable[[_T], _R], files: Iterable[_T]) -> list[_R]:
    """Returns the function's results for the files, in their order; many of them are waited for at a time.

    After Ctrl-C none is waited for.
    """
    return list(read_ahead(function, files))


def read_ahead(function: Callable[[_T], _R], files: Iterable[_T]) -> Iterator[_R]:
    """Yields the function's results for the files, in their order, while those of the next ones are waited for.

    After Ctrl-C none is waited for.

    Raises:
        Exception: the first that the function raised; what was not begun by then is left out.
    """
    waiting: deque[Future[_R]] = deque()
    pool, waits = ThreadPoolExecutor(IO_THREADS, "storage"), True
    try:
        for file in files:
            waiting.append(pool.submit(function, file))
            if len(waiting) > IO_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        pool.shutdown(waits, cancel_futures=True)
