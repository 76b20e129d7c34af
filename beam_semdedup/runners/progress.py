"""What a person sees while a pipeline runs: one bar per stage, fed by the finished units that lie in storage.

Looking at the files works the same on every runner, and needs no channel from the workers to the driver.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from beam_semdedup.text import printable, without_secrets

_LOG = logging.getLogger(__name__)
_LOG_SECONDS = 5.0
CONSOLE = Console(stderr=True, soft_wrap=True)


@contextmanager
def logged(verbose: bool, by_caller: bool = True) -> Iterator[None]:
    """Shows this project's log, while within it, where the caller's logging sends it, else on standard error.

    Beam's is kept quiet meanwhile, and cannot set logging up, which would keep the caller from doing so later.

    Args:
        verbose: false shows warnings and errors only.
        by_caller: false shows it on standard error in any case.
    """
    ours, beam, root = logging.getLogger("beam_semdedup"), logging.getLogger("apache_beam"), logging.getLogger()
    # Nobody chose what `logging` makes by itself for the first message of all, which one of Beam's imports has.
    chosen = any(h.formatter and h.formatter._fmt != logging.BASIC_FORMAT for h in root.handlers)
    by_us = not ours.handlers and not (by_caller and chosen)
    if by_us:
        _log_to_console()
    levels, nothing = (ours.level, beam.level), logging.NullHandler()
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    beam.setLevel(logging.CRITICAL if ours.handlers else logging.WARNING)
    root.addHandler(nothing)
    try:
        yield
    finally:
        root.removeHandler(nothing)
        ours.setLevel(levels[0])
        beam.setLevel(levels[1])
        if by_us:
            ours.handlers.clear()
            ours.propagate = True


@contextmanager
def importing_beam() -> Iterator[None]:
    """Keeps back, while within it, what Beam warns of on import: packages that this project does not use."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _log_to_console() -> None:
    """Shows this project's log on standard error, above the bars where there are some."""
    if CONSOLE.is_terminal:
        shown: logging.Handler = RichHandler(console=CONSOLE, show_path=False, show_level=False)
        shown.setFormatter(_ForPeople("%(message)s"))
    else:
        shown = logging.StreamHandler(sys.stderr)
        shown.setFormatter(_ForPeople("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    ours = logging.getLogger("beam_semdedup")
    ours.handlers[:] = [shown]
    ours.propagate = False


class _ForPeople(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(without_secrets(super().format(record)))


@dataclass(frozen=True)
class StageProgress:
    """Names a stage, how many units it has (None: it is only done or not), and how many are done now."""

    name: str
    total: int | None
    done: Callable[[], int]


def interval(url: str) -> float:
    """Returns how often, in seconds, `url` may be looked at: a local disk more often than a remote store."""
    return 5.0 if "://" in url else 0.5


@contextmanager
def shown(stages: Sequence[StageProgress], verbose: bool, seconds: float) -> Iterator[None]:
    """Shows the progress of the stages, while within it: bars on a terminal, lines in a log otherwise.

    Args:
        verbose: false shows nothing.
        seconds: how often the storage is asked, such as `interval` says.
    """
    if not verbose or not stages:
        yield
        return
    show = _bars if CONSOLE.is_terminal else _lines
    stop = threading.Event()
    thread = threading.Thread(target=show, args=(stages, stop, seconds), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bars(stages: Sequence[StageProgress], stop: threading.Event, seconds: float) -> None:
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("units"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=CONSOLE) as bars:
        tasks = [bars.add_task(stage.name, total=stage.total, start=False) for stage in stages]
        for counts in _counts(stages, stop, seconds):
            running = next((i for i, (s, n) in enumerate(zip(stages, counts, strict=True)) if n < (s.total or 1)), -1)
            for index, (task, stage, count) in enumerate(zip(tasks, stages, counts, strict=True)):
                if index == running or count:
                    bars.start_task(task)
                finished = count >= (stage.total or 1)
                bars.update(task, completed=count, total=(stage.total or 1) if finished else stage.total)
                if finished:
                    bars.stop_task(task)


def _lines(stages: Sequence[StageProgress], stop: threading.Event, seconds: float) -> None:
    said: dict[str, int] = {}
    last = 0.0
    for counts in _counts(stages, stop, seconds):
        for stage, count in zip(stages, counts, strict=True):
            finished = count >= (stage.total or 1)
            if count and count != said.get(stage.name) and (finished or time.monotonic() - last > _LOG_SECONDS):
                _LOG.info("%s: %s of %s units", stage.name, count, stage.total or 1)
                said[stage.name], last = count, time.monotonic()


def _counts(stages: Sequence[StageProgress], stop: threading.Event, seconds: float) -> Iterator[list[int]]:
    """Yields how many units each stage has done, now and then, and once more at the end."""
    ended = False
    while not ended:
        ended = stop.wait(seconds)
        try:
            yield [stage.done() for stage in stages]
        except Exception as error:  # of whatever kind the storage raises: a bar is not worth a run
            _LOG.debug("cannot look for finished units: %s", error)
