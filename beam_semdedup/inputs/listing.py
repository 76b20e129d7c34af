"""Which files the input is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from beam_semdedup.errors import InputError
from beam_semdedup.inputs.registry import format_named
from beam_semdedup.storage.filesystems import Options
from beam_semdedup.storage.folder import FileInfo, Folder


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


def list_files(p: InputPlace) -> list[FileInfo]:
    """Returns the input files, each once, sorted by URL.

    A path that names a file is taken whatever its extension; directories and globs are filtered by it.

    Raises:
        InputError: a path does not exist, or no file is left.
    """
    given = p.input_file_extensions
    wanted = tuple(given or format_named(p.input_filetype).extensions)
    found: dict[str, FileInfo] = {}
    for path in p.input_path:
        place = Folder.at(path, p.read_options)
        roots = place.matching() if place.is_pattern() else [place]
        files = [file for root in roots for file in root.find()]
        if not files:
            raise InputError(f"input_path: no files at {path}")
        matching = [f for f in files if f.url.endswith(wanted) or (f.url == place.url and not given)]
        if not matching:
            others = ", ".join(sorted({_extension(f.name) for f in files})[:5])
            raise InputError(
                f"input_path: no {' or '.join(wanted)} files at {path}; it has {len(files)} with {others}: "
                "set input_filetype or input_file_extensions"
            )
        found.update((f.url, f) for f in matching)
    return [found[url] for url in sorted(found)]


def _extension(name: str) -> str:
    """Returns how the name of a file ends, for a message."""
    return name[name.index(".", 1) :] if "." in name[1:] else "no extension"
