"""What lies below a folder, on any file system: where something cannot be listed it is an error, never left out.

The searches of fsspec leave out what they cannot list, and so does `os.walk`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import pyarrow as pa
from fsspec.implementations.ftp import FTPFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from beam_semdedup.storage.filesystems import is_object_store

Info: TypeAlias = dict[str, Any]
"""What fsspec says of a file or a directory: `name`, its path, `type`, `size`, and more."""

HIDDEN = (".", "_")
WILDCARDS = "*?["
_PAGE = "text/html"  # how a directory looks over HTTP
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "sha", "mtime", "LastModified", "last_modified"),
    *("Last-Modified", "modify", "modificationTime", "modification_time", "modified", "updated", "created"),
)
_SAMPLE = "sample-"
_SAMPLES, _SAMPLE_BYTES, _END_BYTES = 16, 4096, 65_536


def is_hidden(name: str) -> bool:
    """Says whether a name is hidden, as Spark and Hive have it: `.` or `_` before it, or before one of its parts."""
    return name.startswith(HIDDEN) or "/." in name or "/_" in name


def info(fs: fsspec.AbstractFileSystem, path: str) -> Info:
    """Returns what is said of a file or a directory; FileNotFoundError only where there is none."""
    try:
        found: Info = fs.info(path)
        return found
    except FileNotFoundError as error:
        cause = error.__cause__  # HTTP's file system calls whatever goes wrong so
        refused = getattr(cause, "status", 404) not in (404, 410)
        if refused or (isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)):
            raise cause from None  # type: ignore[misc]
        raise


def files(fs: fsspec.AbstractFileSystem, path: str) -> tuple[list[Info], list[str]]:
    """Returns the files below a directory, or the file itself that has this path, and the paths of what is hidden.

    Links to local directories are followed; hidden ones are not searched.
    """
    shown: dict[str, Info] = {}
    hidden = []
    for found in _local_tree(path, HIDDEN) if isinstance(fs, LocalFileSystem) else _tree(fs, path):
        name = found["name"]
        if is_hidden(name[len(path) :] if name.startswith(path) else name):
            hidden.append(name)
        elif found["type"] != "directory":
            with contextlib.suppress(FileNotFoundError):  # it was just deleted
                shown[name] = _local_info(name) if isinstance(fs, LocalFileSystem) else found
    return [shown[name] for name in sorted(shown)], sorted(hidden)


def matching(fs: fsspec.AbstractFileSystem, pattern: str) -> tuple[list[Info], list[str], list[str]]:
    """Returns the files that match a pattern, the paths of directories that do, and those of what is hidden.

    Hidden is what matches and has a part that begins so, unless one in the pattern begins alike, and any such directory
    on the way. What lies in a directory that matches is left to a search of that directory.
    """
    fixed = re.split(f"[{re.escape(WILDCARDS)}]", pattern, maxsplit=1)[0].rpartition("/")[0]
    levels = None if "**" in pattern else pattern[len(fixed) :].lstrip("/").count("/") + 1
    left_out = tuple({*HIDDEN} - {part[0] for part in pattern.split("/") if part})
    matches = re.compile(glob_translate(pattern)).match
    is_local = isinstance(fs, LocalFileSystem)
    shown: list[Info] = []
    directories: list[str] = []
    hidden = []
    try:
        found = _local_tree(fixed or "/", left_out) if is_local and levels is None else _below(fs, fixed or "/", levels)
        entries = {entry["name"].rstrip("/"): entry for entry in found}
    except FileNotFoundError:
        return [], [], []
    for name in sorted(entries, key=lambda name: name.split("/")):
        is_directory = entries[name]["type"] == "directory"
        if left_out and any(part.startswith(left_out) for part in name[len(fixed) :].split("/")):
            hidden += [name] if is_directory or matches(name) else []
        elif directories and name.startswith(f"{directories[-1]}/"):
            continue
        elif is_directory:
            directories += [name] if matches(name) else []
        elif matches(name):
            shown.append(_local_info(name) if is_local else entries[name])
        elif is_local and os.path.islink(name):  # noqa: PTH114
            _local_info(name)  # raises where it leads nowhere: it may have been one to a directory
    return shown, directories, hidden


def version(found: Info) -> str:
    """Returns what changes when a file's content does, where its file system says such a thing."""
    return str(next((found[key] for key in _VERSIONS if found.get(key)), ""))


def sampled(source: pa.NativeFile) -> str:
    """Returns a hash of some places of a file and of its end, where the footer of a parquet file is."""
    size = source.size()
    digest = hashlib.sha256()
    places = [(size * i // _SAMPLES, _SAMPLE_BYTES) for i in range(_SAMPLES)] + [(size - _END_BYTES, _END_BYTES)]
    for start, length in places if size > _END_BYTES + _SAMPLES * _SAMPLE_BYTES else [(0, size)]:
        source.seek(start)
        digest.update(source.read(length))
    return f"{_SAMPLE}{digest.hexdigest()[:16]}"


def is_vague(version: str) -> bool:
    """Says whether a version may stay the same although the content changes."""
    return not version or version.startswith(_SAMPLE)


def _tree(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Info]:
    """Yields what lies below a directory, or the file itself; nothing where neither is there."""
    if not is_object_store(fs):
        with contextlib.suppress(FileNotFoundError):  # a directory that may be listed, while the one above may not
            itself = info(fs, path)
            if itself["type"] == "file" and itself.get("mimetype") != _PAGE:
                yield itself
                return
    with contextlib.suppress(FileNotFoundError):
        yield from _below(fs, path, None)


def _below(fs: fsspec.AbstractFileSystem, path: str, levels: int | None) -> Iterator[Info]:
    """Yields files and directories below a directory, down to some level; FileNotFoundError where it is not there."""
    if levels is None and is_object_store(fs):  # one listing
        yield from fs.find(path, withdirs=True, detail=True).values()
        return
    level = [path]
    while level and levels != 0:
        below = []
        for place in level:
            try:
                entries = _entries(fs, place)
            except FileNotFoundError as error:
                if place is path:
                    raise
                raise PermissionError(f"{place} is listed, but cannot be read") from error
            yield from entries
            below += [entry["name"] for entry in entries if entry["type"] == "directory"]
        level, levels = below, None if levels is None else levels - 1


def _entries(fs: fsspec.AbstractFileSystem, path: str) -> list[Info]:
    """Returns what lies directly in a directory; links to nowhere are directories, which cannot be read."""
    if isinstance(fs, LocalFileSystem):
        with os.scandir(path) as entries:
            return [
                {"name": posixpath.join(path, entry.name), "type": "file" if _is_file(entry) else "directory"}
                for entry in entries
            ]
    found: list[Info] = fs.ls(path, detail=True)
    if not found and isinstance(fs, FTPFileSystem) and path not in fs.dircache:
        raise PermissionError(f"the server does not list {path}")  # of which fsspec makes an empty directory
    return [entry for entry in found if entry["name"].rstrip("/") != path.rstrip("/") and "/?" not in entry["name"]]


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Says whether an entry is no directory, nor a link to nowhere, which may have been one to a directory."""
    return not entry.is_dir() and (not entry.is_symlink() or Path(entry.path).exists())


def _local_tree(root: str, left_out: tuple[str, ...]) -> Iterator[Info]:
    """Yields what lies below a directory, or the file `root` itself; directories whose names begin so are not searched.

    A directory is searched once: by its own name where it has one below `root`, else by the first link to it. A link
    to a directory that it lies in itself leads nowhere new.
    """
    try:
        os.lstat(root)
    except (FileNotFoundError, NotADirectoryError):
        return
    if not os.path.isdir(root):  # noqa: PTH112 - as everywhere here, a path is a string
        yield {"name": root, "type": "file"}
        return
    searched = set()
    starts = [root.rstrip("/") or "/"]
    for start in starts:  # which grows by the links that are found
        for place, directories, names in os.walk(start, onerror=_raise_unless_gone):
            real = os.path.realpath(place)
            if real in searched:
                directories.clear()
                continue
            searched.add(real)
            yield from ({"name": posixpath.join(place, name), "type": "directory"} for name in directories)
            directories[:] = [name for name in sorted(directories) if not name.startswith(left_out)]
            links = [link for link in (posixpath.join(place, name) for name in directories) if Path(link).is_symlink()]
            starts += [link for link in links if not f"{real}/".startswith(f"{os.path.realpath(link).rstrip('/')}/")]
            yield from ({"name": f"{place.rstrip('/')}/{name}", "type": "file"} for name in names)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _local_info(path: str) -> Info:
    """Returns what is known of the file itself, not of a link to it, whose time says nothing about the content."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        if not os.path.islink(path):  # noqa: PTH114
            raise  # it was just deleted
        raise OSError(errno.ENOLINK, "a link to what does not exist", path) from None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    return {"name": path, "type": "file", "size": status.st_size, "mtime": status.st_mtime_ns}
