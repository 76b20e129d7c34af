"""Which files the input is, and what lies there besides."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Sequence
from typing import Protocol

from beam_semdedup.errors import InputError, RunError
from beam_semdedup.inputs.registry import format_named
from beam_semdedup.inputs.table_logs import check_no_table
from beam_semdedup.storage.filesystems import Options
from beam_semdedup.storage.folder import FileInfo, Folder
from beam_semdedup.storage.search import is_vague
from beam_semdedup.text import counted

_LOG = logging.getLogger(__name__)
_WITHOUT_EXTENSION = re.compile(r"part-(?:[a-z]-)?\d{5,}[^.]*|\d{6}_\d+(?:_copy_\d+)?")
"""How Spark, Hadoop and Hive call their files where these have no extension."""


class InputPlace(Protocol):
    """The parameters that say where the input is."""

    @property
    def input_path(self) -> Sequence[str]: ...
    @property
    def input_filetype(self) -> str: ...
    @property
    def input_file_extensions(self) -> Sequence[str] | None: ...
    @property
    def read_options(self) -> Options: ...


def list_files(
    p: InputPlace, *, warn: bool = True, name: str = "input_path", may_be_none: bool = False
) -> list[FileInfo]:
    """Returns the input files, each once, sorted by URL.

    A path that names a file is taken whatever its extension; directories and globs are filtered by it.

    Args:
        warn: of files that are there, but not read.
        name: of the parameter that says where they are, for messages.
        may_be_none: whether it is no error that a path does not exist, or that no file is left.

    Raises:
        InputError: a path does not exist, no file is left, or it is a table whose log says which files count.
        StorageError: a place cannot be listed.
    """
    given = p.input_file_extensions
    wanted = tuple(given or format_named(p.input_filetype).extensions)
    endings = tuple(ending.lower() for ending in wanted)

    def is_wanted(name: str) -> bool:
        return name.lower().endswith(endings) or (not given and bool(_WITHOUT_EXTENSION.fullmatch(name)))

    listed: dict[str, FileInfo] = {}
    for path in p.input_path:
        place = Folder.at(path, p.read_options)
        found = place.search()
        check_no_table(place, found, name)
        files = found.files
        if not files and not may_be_none:
            besides = f" but {counted(len(found.hidden), 'hidden one')}" if found.hidden else ""
            raise InputError(f"{name}: no files at {path}{besides}")
        matching = [f for f in files if is_wanted(f.name) or (f.url == place.url and not given)]
        others = sorted({f.url for f in files} - {f.url for f in matching})
        if not matching and not may_be_none:
            raise InputError(
                f"{name}: no {' or '.join(wanted)} files at {path}; it has {len(files)} with {_endings(others)}: "
                "set input_filetype or input_file_extensions"
            )
        if warn:
            hidden = sum(is_wanted(posixpath.basename(url)) for url in found.hidden)
            _warn(f"{name}={path}", matching, others, hidden)
        listed.update((f.url, f) for f in matching)
    return [listed[url] for url in sorted(listed)]


def _warn(place: str, matching: Sequence[FileInfo], others: Sequence[str], hidden: int) -> None:
    """Warns of files that lie at a place, but are not read, and of those whose changes may not be noticed."""
    left_out = [f"{len(others):,} with other endings ({_endings(others)})"] if others else []
    left_out += [f"{hidden:,} hidden by the _ or . before the name"] if hidden else []
    if left_out:
        number = counted(len(matching) + len(others) + hidden, "file")
        _LOG.warning("%s: %s of %s are read; not %s", place, len(matching), number, ", ".join(left_out))
    vague = [file.url for file in matching if is_vague(file.version)]
    if vague:
        _LOG.warning(
            "%s: no version and no time is known of %s, %s first: a change of one that keeps its size may "
            "not be noticed",
            place,
            counted(len(vague), "file"),
            vague[0],
        )


def _endings(urls: Sequence[str]) -> str:
    """Returns how the names of some files end, for a message."""
    names = [posixpath.basename(url) for url in urls]
    return ", ".join(sorted({name[name.index(".", 1) :] if "." in name[1:] else "no extension" for name in names})[:5])


def check_unchanged(p: InputPlace, files: Sequence[FileInfo], *, warn: bool = True, name: str = "input_path") -> None:
    """Checks that the input files are those that were listed; warns (unless told not to) of files that appeared since.

    Raises:
        RunError: one of those changed since, or is gone.
    """
    try:
        now = {file.url: file for file in list_files(p, warn=False, name=name)}
    except InputError:  # there is no file any more
        now = {}
    if changed := [file.url for file in files if now.pop(file.url, None) != file]:
        raise RunError(f"input files changed during the run: {_first_of(changed)}; run again")
    if warn and now:
        _LOG.warning("input files appeared during the run and are not in its results: %s", _first_of(sorted(now)))


def _first_of(urls: Sequence[str]) -> str:
    return urls[0] + (f" and {counted(len(urls) - 1, 'other')}" if urls[1:] else "")
