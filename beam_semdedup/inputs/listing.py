"""Which files the input is, and what lies there besides."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Sequence
from typing import Protocol

from beam_semdedup.errors import InputError, RunError
from beam_semdedup.inputs import saved_datasets
from beam_semdedup.inputs.registry import FORMATS, format_named
from beam_semdedup.inputs.table_logs import check_no_table
from beam_semdedup.storage.filesystems import Options
from beam_semdedup.storage.folder import FileInfo, Folder
from beam_semdedup.storage.search import is_vague
from beam_semdedup.storage.threads import in_io_threads
from beam_semdedup.text import counted

_LOG = logging.getLogger(__name__)
_START_BYTES = 4096
_WITHOUT_EXTENSION = re.compile(r"part-(?:[a-z]-)?\d{5,}[^.]*|\d{6}_\d+(?:_copy_\d+)?")
"""How Spark, Hadoop and Hive call their files where these have no extension."""


class InputPlace(Protocol):
    """The parameters that say where the input is."""

    @property
    def input_path(self) -> Sequence[str]: ...
    @property
    def input_filetype(self) -> str | None: ...
    @property
    def input_file_extensions(self) -> Sequence[str] | None: ...
    @property
    def read_options(self) -> Options: ...


class IdPlace(InputPlace, Protocol):
    """The parameters that say where the input is, and its ids."""

    @property
    def id_field(self) -> str | None: ...
    @property
    def ids_path(self) -> str | None: ...


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
    kinds = FORMATS if p.input_filetype is None else [p.input_filetype]
    wanted = tuple(given or (ending for kind in kinds for ending in format_named(kind).extensions))
    endings = tuple(ending.lower() for ending in wanted)

    def is_wanted(name: str) -> bool:
        return name.lower().endswith(endings) or (not given and bool(_WITHOUT_EXTENSION.fullmatch(name)))

    listed: dict[str, FileInfo] = {}
    for path in p.input_path:
        place = Folder.at(path, p.read_options)
        found = place.search()
        check_no_table(place, found, name)
        for kind in kinds:
            found = format_named(kind).chosen(found)
        files = saved_datasets.without_others(found.files)
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


def filetype_of(files: Sequence[FileInfo]) -> str:
    """Returns the format that all these input files have.

    It is what the name of a file says; of one whose name says nothing, what its first bytes do.

    Raises:
        InputError: a file has none that is known, or there are two.
    """
    kinds = {name: format_named(name) for name in FORMATS}

    def found(file: FileInfo) -> str | None:
        name = file.name.lower()
        if by_name := next((kind for kind in kinds if name.endswith(kinds[kind].extensions)), None):
            return by_name
        with file.open() as source:
            start = source.read(_START_BYTES)
        return next((kind for kind in kinds if kinds[kind].begins_so(start)), None)

    examples = dict(zip(reversed(in_io_threads(found, files)), reversed(files), strict=True))
    if None in examples:
        raise InputError(
            f"{examples[None]}: neither its name nor how it begins tells its format: give input_filetype, one of "
            f"{', '.join(kinds)}"
        )
    if len(examples) > 1:
        which = " and ".join(f"{kind} ({file})" for kind, file in reversed(examples.items()))
        raise InputError(f"input_path: files of several formats, {which}: give input_filetype to read those of one")
    (filetype,) = examples
    assert filetype is not None
    return filetype


def relative_names(p: InputPlace, files: Sequence[FileInfo]) -> list[str]:
    """Returns the names that input files have in their input_path."""
    roots = [Folder.at(path, p.read_options).fixed_part() for path in p.input_path]

    def name(file: FileInfo) -> str:
        root = max((r for r in roots if file.is_inside(r)), key=lambda r: len(r.url), default=None)
        return (root and root.name_of(file)) or file.name

    return [name(file) for file in files]


def list_ids(p: IdPlace, files: Sequence[FileInfo]) -> list[FileInfo] | None:
    """Returns the files with the ids of the input files, in their order.

    They are none where the ids are the places of the rows, and None where the input files hold the ids.

    Raises:
        InputError: there is none for a file, or two.
        StorageError: the place cannot be listed.
    """
    if p.ids_path is None:
        return [] if p.id_field is None else None
    if p.input_filetype is not None and format_named(p.input_filetype).pinned:
        raise InputError(
            f"ids_path: rows of {p.input_filetype} have their ids in a column, id_field, or are called by their places "
            "with id_field=null"
        )
    place = Folder.at(p.ids_path, p.read_options)
    found = place.find()
    if len(found) == 1 and found[0].url == place.url:
        if len(files) > 1:
            raise InputError(
                f"ids_path={p.ids_path} is one file, the input {len(files):,}: give a directory with the ids of each "
                "under its name, such as a.npy or a.parquet for a.npy"
            )
        return found
    by_stem: dict[str, FileInfo] = {}
    for file in found:
        stem = _stem(place.name_of(file))
        if stem in by_stem:
            raise InputError(f"ids_path: {by_stem[stem]} and {file} have one name: which is it?")
        by_stem[stem] = file
    stems = [_stem(name) for name in relative_names(p, files)]
    for file, stem in zip(files, stems, strict=True):
        if stem not in by_stem:
            raise InputError(f"ids_path={p.ids_path}: nothing there is called {stem}, as the ids of {file} would be")
    if len(set(stems)) < len(stems):
        raise InputError(f"ids_path={p.ids_path}: two input files have one name; give their directory as input_path")
    return [by_stem[stem] for stem in stems]


def _stem(name: str) -> str:
    """Returns the name of a file without its extension."""
    return posixpath.splitext(name)[0]


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


def check_unchanged(
    p: IdPlace,
    files: Sequence[FileInfo],
    ids: Sequence[FileInfo] = (),
    *,
    warn: bool = True,
    name: str = "input_path",
) -> None:
    """Checks that the input files are those that were listed; warns (unless told not to) of files that appeared since.

    Files of a format that pins them need no check.

    Args:
        ids: the files with their ids, where there are such.

    Raises:
        RunError: one of those changed since, or is gone.
    """
    if p.input_filetype is not None and format_named(p.input_filetype).pinned:
        return
    try:
        now = {file.url: file for file in list_files(p, warn=False, name=name)}
        ids_now = {file.url: file for file in list_ids(p, files) or ()} if ids else {}
    except InputError:  # there is no file any more
        now, ids_now = {}, {}
    changed = [file.url for file in files if now.pop(file.url, None) != file]
    if changed := [*changed, *(file.url for file in ids if ids_now.get(file.url) != file)]:
        raise RunError(f"input files changed during the run: {_first_of(changed)}; run again")
    if warn and now:
        _LOG.warning("input files appeared during the run and are not in its results: %s", _first_of(sorted(now)))


def _first_of(urls: Sequence[str]) -> str:
    return urls[0] + (f" and {counted(len(urls) - 1, 'other')}" if urls[1:] else "")
