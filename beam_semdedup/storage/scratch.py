"""Files and directories that are there for a while: locked as long as they are used, and swept once nobody does.

Who is killed leaves them behind. The system drops the locks of a dead process, which is how the next one that writes
to the same place tells what is left from what is in use, also by others at the same time.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from beam_semdedup.errors import InputError, reason

_PREFIX, _SUFFIX = "semdedup-", ".tmp"
_OWN_FILE = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_OWN_DIRECTORY = re.compile(r"semdedup-\w+\.tmp")


def name_beside(path: str) -> Path:
    """Returns a hidden name beside `path` that no other attempt to write it has."""
    return Path(path).parent / f".{Path(path).name}.{uuid.uuid4().hex}{_SUFFIX}"


@contextlib.contextmanager
def file_beside(path: str) -> Iterator[Path]:
    """Yields an empty file in the directory of `path`, to be renamed to it; it goes if it is not."""
    _sweep(str(Path(path).parent))
    while True:
        scratch = name_beside(path)
        lock = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            if not _is_kept(lock, scratch):
                continue
            yield scratch
            return
        finally:
            with contextlib.suppress(OSError):  # it was renamed, or the directory is gone
                scratch.unlink()
            os.close(lock)


@contextlib.contextmanager
def directory(within: Path | None = None) -> Iterator[str]:
    """Yields a new directory on the local disk; it goes with what is in it.

    Args:
        within: the directory for it; None: that of the system for temporary files.

    Raises:
        InputError: none can be made.
    """
    while True:
        try:
            place = tempfile.gettempdir() if within is None else str(within)
            _sweep(place)
            made = tempfile.TemporaryDirectory(prefix=_PREFIX, suffix=_SUFFIX, dir=place, ignore_cleanup_errors=True)
        except OSError as error:
            raise InputError(
                f"no temporary directory can be made: {reason(error)}; set TMPDIR to one for it"
            ) from error
        with made as name:
            lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if not _is_kept(lock, Path(name)):
                    continue
                yield name
                return
            finally:
                os.close(lock)


def _is_kept(lock: int, path: Path) -> bool:
    """Locks what was just made, and says whether it is there: another's sweep may have come between."""
    with contextlib.suppress(OSError):  # a file system without locks, in which nothing is swept
        fcntl.flock(lock, fcntl.LOCK_EX)
    return path.exists()


@functools.cache
def _sweep(place: str) -> None:
    """Removes from a directory what dead processes left there; once in a process."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        left = [e for e in entries if _OWN_FILE.fullmatch(e.name) or _OWN_DIRECTORY.fullmatch(e.name)]
        for entry in left:
            with contextlib.suppress(OSError):
                _remove_unused(entry.path)


def _remove_unused(path: str) -> None:
    """Removes a file or a directory of this user's; OSError where it is in use, or cannot be locked."""
    status = os.lstat(path)
    is_directory = stat.S_ISDIR(status.st_mode)
    if status.st_uid != os.geteuid() or not (is_directory or stat.S_ISREG(status.st_mode)):
        return
    lock = os.open(path, os.O_NOFOLLOW | (os.O_RDONLY if is_directory else os.O_RDWR))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_directory:
            shutil.rmtree(path)
        else:
            Path(path).unlink()
    finally:
        os.close(lock)
