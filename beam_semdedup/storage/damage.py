"""Files of the program's own that cannot be read: what tells damage from a storage that does not answer."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from beam_semdedup.storage.folder import File

_KINDS = (pa.ArrowException, ValueError, LookupError, TypeError, EOFError)


class DamagedFile(RuntimeError):
    """A file does not hold what was written to it, or is gone."""

    def __init__(self, file: File, why: object) -> None:
        super().__init__(f"{file} is damaged or gone: {why}")
        self.file = file


def is_damage(error: BaseException) -> bool:
    """Says whether an error is of what was read and not of the reading; Arrow raises OSError for both."""
    if isinstance(error, MemoryError):
        return False
    return isinstance(error, _KINDS) or (type(error) is OSError and error.errno is None)


@contextmanager
def as_damage(file: File) -> Iterator[None]:
    """Turns what a damaged or missing file makes go wrong into a `DamagedFile`."""
    try:
        yield
    except DamagedFile:
        raise
    except Exception as error:
        gone = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.EIO)
        if not gone and not isinstance(error, FileNotFoundError) and not is_damage(error):
            raise
        said = str(error).splitlines()
        raise DamagedFile(file, said[0] if said else type(error).__name__) from error
