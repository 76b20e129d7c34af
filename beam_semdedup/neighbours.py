"""Items that are dealt with together because each alone would be little."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def neighbours(items: Iterable[_T], size: Callable[[_T], int], limit: int) -> Iterator[list[_T]]:
    """Yields runs of consecutive items whose sizes add up to at most `limit`, or a larger item alone.

    >>> list(neighbours([3, 1, 9, 2, 2, 2], int, 4))
    [[3, 1], [9], [2, 2], [2]]
    """
    run: list[_T] = []
    total = 0
    for item in items:
        added = size(item)
        if run and total + added > limit:
            yield run
            run, total = [], 0
        run.append(item)
        total += added
    if run:
        yield run
