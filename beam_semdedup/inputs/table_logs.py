"""Directories in which a log says which files count: read as files, they give rows that were deleted long ago."""

from __future__ import annotations

from collections.abc import Iterator

from beam_semdedup.errors import InputError
from beam_semdedup.storage.folder import Folder, Found

_LOGS = {
    "_delta_log": ("Delta table", "file_uris() of deltalake's DeltaTable names them, if it has no deletion vectors"),
    ".hoodie": ("Hudi table", "if it is one of copy-on-write"),
    "metadata": ("Iceberg table", "plan_files() of a scan in pyiceberg names them, if it has no delete files"),
}
"""Where each kind of table has its log, what it is called, and how its files are found."""
_ICEBERG = ".metadata.json"


def check_no_table(place: Folder, found: Found, name: str = "input_path") -> None:
    """Raises InputError where an input path is, holds, or lies in a table with a log; files that are named are taken.

    Args:
        found: what a search of the place found.
    """
    if [file.url for file in found.files] == [place.url]:
        return
    for url in [*found.hidden, *(file.url for file in found.files if file.url.endswith(_ICEBERG))]:
        parts = url.split("/")
        log = next((part for part in parts if part in _LOGS), None)
        if log and (log != "metadata" or url.endswith(_ICEBERG)):
            raise _is_table(name, "/".join(parts[: parts.index(log)]), log)
    for folder in _around(place.fixed_part()):
        for log in _LOGS:
            if (folder / log).exists() and (log != "metadata" or _has_iceberg_log(folder / log)):
                raise _is_table(name, folder.url, log)


def _has_iceberg_log(folder: Folder) -> bool:
    return any(name.endswith(_ICEBERG) for name in folder.names())


def _around(folder: Folder) -> Iterator[Folder]:
    """Yields a folder, and those above it as far as they may belong to one table: above `data` and partitions."""
    yield folder
    while (folder.name == "data" or "=" in folder.name) and not folder.parent.url.endswith(":/"):
        folder = folder.parent
        if "=" not in folder.name:
            yield folder


def _is_table(name: str, url: str, log: str) -> InputError:
    kind, files = _LOGS[log]
    return InputError(
        f"{name}: {url} is a {kind} ({log}): its directory also holds the files of rows that it has deleted or "
        "changed. Export its rows to parquet with a program that knows such tables, or give the files of its present "
        f"version as a list ({files})"
    )
