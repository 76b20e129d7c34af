"""Temporary names, which say what process of what machine they are of: what a killed one left can be cleared."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
import tempfile
import uuid
from pathlib import Path
from typing import Any

import psutil

_MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_MARK = re.compile(rf"(?<![0-9a-f]){_MACHINE}-(?P<process>\d+)-[0-9a-f]{{32}}(?![0-9a-f])")
_PREFIX = "semdedup-"


def mark() -> str:
    """Returns what makes a name one of this process, and no other's."""
    return f"{_MACHINE}-{os.getpid()}-{uuid.uuid4().hex}"


def is_left(name: str) -> bool:
    """Says whether a name has the mark of a process of this machine that runs no more."""
    found = _MARK.search(name)
    return found is not None and not _runs(int(found["process"]))


def directory(**options: Any) -> tempfile.TemporaryDirectory[str]:
    """Returns a new temporary directory, after clearing what killed processes left; `options` are `tempfile`'s."""
    sweep()
    return tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{mark()}-", **options)


def file() -> Any:
    """Returns a new temporary file that is open, as `tempfile.NamedTemporaryFile` does."""
    sweep()
    return tempfile.NamedTemporaryFile(prefix=f"{_PREFIX}{mark()}-")


@functools.cache
def sweep() -> None:
    """Clears what killed processes left in the temporary directory; once a process."""
    for place in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if not is_left(place.name) or place.lstat().st_uid != os.getuid():
                continue
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink()


def _runs(process: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    return False
