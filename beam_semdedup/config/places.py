"""The one place where an error of storage becomes a message that names the parameter with the place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from beam_semdedup.errors import StorageError, reason

_OPTIONS = {
    "input_path": "read_kwargs",
    "against": "against_kwargs",
    "ids_path": "read_kwargs",
    "corpus_path": "corpus_kwargs",
    "init": "read_kwargs",
    "output_path": "write_kwargs",
    "cache_path": "cache_kwargs",
    "duplicates_path": "duplicates_kwargs",
}
"""The parameters that say where something is, and those with its storage options."""


@contextmanager
def naming_places(parameters: Any, kind: type[Exception]) -> Iterator[None]:
    """Turns errors of storage, and of the operating system, into `kind`, with the parameter that names the place."""
    try:
        yield
    except OSError as error:
        raise kind(_message(parameters, error)) from error


def _message(parameters: Any, error: OSError) -> str:
    url = error.url if isinstance(error, StorageError) else str(error.filename or "")
    said = str(error) if isinstance(error, StorageError) else f"{url}{': ' if url else ''}{reason(error)}"
    named = [
        (len(root), name, path)
        for name in _OPTIONS
        for path in _paths(getattr(parameters, name, None))
        if url == (root := _root(path)) or url.startswith(f"{root.rstrip('/')}/")
    ]
    if not named:
        return said
    _, name, path = max(named)
    hint = f"; check the address, and {_OPTIONS[name]}.storage_options" if "://" in path else ""
    return f"{name}={path}: {said}{hint}"


def _paths(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [path for path in value or [] if isinstance(path, str)]


def _root(path: str) -> str:
    """Returns the part of a path that is no pattern, as places are spelled."""
    fixed, *pattern = re.split(r"[*?[]", path, maxsplit=1)
    fixed = fixed.rpartition("/")[0] if pattern else fixed
    return fixed.rstrip("/") if "://" in path else os.path.abspath(fixed)  # noqa: PTH100 - resolve() would follow links
