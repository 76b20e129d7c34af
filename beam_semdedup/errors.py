"""The errors of a run, and how its cause is found in what a runner raises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_AFTER = re.compile(
    r"\n(?=\S*(?:During handling|The above|Traceback)|\s*(?:at \S+\(.*\)|\.\.\. \d+ more|Caused by: |Suppressed: ))"
)
"""The end of the message in a text: from there on Python, and Java around it, print tracebacks."""


class InputError(ValueError):
    """The parameters or the input are wrong; the message names which, and what to do."""


class StorageError(OSError):
    """A place cannot be reached, read or written; the message says which, and why."""

    url: str = ""

    @classmethod
    def of(cls, url: str, what: str, error: Exception) -> StorageError:
        """Returns the error of whatever a file system raised at a place; `what` could not be done."""
        made = cls(f"{url}: {what}: {reason(error)}")
        made.url = url
        return made


class RunError(RuntimeError):
    """A run failed; what was finished is kept, and the same command goes on from there once the cause is gone."""


class UnitError(RunError):
    """A unit of work failed; the message says which one and why."""


class WorkerLost(RunError):
    """A worker died or went away, which says nothing of the run itself: it may be tried again."""


def reason(error: Exception) -> str:
    """Returns what a library's error says, in a line; of one of the system not which file, which is named beside it."""
    said = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return f"{type(error).__name__}{f': {said[0]}' if said else ''}"


@contextmanager
def naming_unit(unit: Any) -> Iterator[None]:
    """Puts the unit's name before whatever goes wrong in it."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:
        raise UnitError(f"{unit}: {type(error).__name__}: {error}") from error


@contextmanager
def as_input_error(what: str) -> Iterator[None]:
    """Turns whatever goes wrong into an InputError that begins with `what`; a StorageError names its place itself."""
    try:
        yield
    except (InputError, StorageError):
        raise
    except Exception as error:
        raise InputError(f"{what}: {reason(error)}") from error


def known_cause(error: Exception) -> InputError | RunError | None:
    """Returns the error that a unit or a worker raised for people, or None for any other kind.

    Beam hands it on as a text with its own traceback around it.
    """
    if isinstance(error, (InputError, RunError)):
        message = _without_transform(str(error))
        return error if message == str(error) else type(error)(message)
    text = f"{type(error).__module__}.{type(error).__name__}: {error}"
    for kind in (InputError, UnitError, RunError):
        names = f"{kind.__module__}.{kind.__name__}: "
        start = text.rfind(names)
        if start >= 0:
            message = _without_transform(_AFTER.split(text[start + len(names) :])[0].strip())
            return InputError(message) if kind is InputError else RunError(message)
    return None


def _without_transform(message: str) -> str:
    """Returns a message without the name of the transform that Beam adds to it."""
    return re.sub(r" \[while running '[^']*'\]\s*$", "", message)


def is_interrupt(error: BaseException | None) -> bool:
    """Says whether Ctrl-C is behind an error: inside a transform, Beam raises another in its place."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
