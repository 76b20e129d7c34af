"""Directories of Hugging Face `datasets`: which files in them are rows, and what belongs to them besides.

`save_to_disk` writes Arrow streams and `state.json`, which names them in their order; maps and filters of such a
dataset leave others beside them, which hold its rows again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from beam_semdedup.errors import InputError
from beam_semdedup.storage.folder import File, FileInfo, Folder
from beam_semdedup.storage.layout import fingerprint

STATE, INFO, DICT = "state.json", "dataset_info.json", "dataset_dict.json"
"""What is written beside the rows of a dataset, and in the directory of several of them."""
_CACHED = re.compile(r"cache-[0-9a-f]{16}.*\.arrow|tmp\w{8}")


def without_others(files: Sequence[FileInfo]) -> list[FileInfo]:
    """Returns the files that are not in the directory of a dataset, and those of the rows of one.

    Raises:
        InputError: a file that the state of a dataset names is not there, or its rows are not those in its files.
    """
    folders = {file.parent.url for file in files if file.name == INFO}
    states = {file.parent.url: read_state(file) for file in files if file.name == STATE and file.parent.url in folders}
    for folder, state in states.items():
        _check_there(folder, state, files)

    def is_own(file: FileInfo) -> bool:
        if file.parent.url in states:
            return file.name in _names(states[file.parent.url])
        if file.parent.url in folders:
            return file.name != INFO and not _CACHED.fullmatch(file.name)
        return file.name != DICT

    return list(filter(is_own, files)) if folders else list(files)


def read_state(file: File) -> dict[str, Any]:
    """Returns the state of a dataset; InputError where it is none."""
    try:
        state = json.loads(file.read_bytes())
        _names(state)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the state of a dataset, though {INFO} lies beside it: {error!r}") from error
    if state.get("_indices_data_files"):
        raise InputError(f"{file}: the rows of the dataset are chosen by an index: save it after flatten_indices()")
    return dict(state)


def companions(files: Sequence[File]) -> list[File]:
    """Returns what belongs to the datasets of which all files are given, and lies beside them: their state and info.

    Of several datasets in a directory, such as train and test, also what says so.
    """
    urls, found = {file.url for file in files}, []
    parents = {file.parent.url: file.parent for file in files}
    whole: list[Folder] = []
    for folder in parents.values():
        if {STATE, INFO} <= folder.names():
            names = _names(read_state(folder.file(STATE)))
            if all(folder.file(name).url in urls for name in names):
                whole.append(folder)
                found += [folder.file(STATE), folder.file(INFO)]
    for parent in {folder.parent.url: folder.parent for folder in whole}.values():
        if DICT in parent.names() and _is_of(parent, whole):
            found.append(parent.file(DICT))
    return found


def changed(file: File, key: str) -> bytes:
    """Returns what belongs to a dataset as it is for other rows, which `key` names.

    The fingerprint in the state names the rows: `datasets` takes what it has stored for a fingerprint.
    """
    if file.name != STATE:
        return file.read_bytes()
    state = read_state(file)
    state["_fingerprint"] = fingerprint([state.get("_fingerprint"), key])[:16]
    return json.dumps(state, indent=2, sort_keys=True).encode()


def _names(state: dict[str, Any]) -> list[str]:
    """Returns the names of the files with the rows."""
    names = [data["filename"] for data in state["_data_files"]]
    if not all(isinstance(name, str) and name and "/" not in name for name in names):
        raise ValueError(f"files called {names}")
    return names


def _check_there(folder: str, state: dict[str, Any], files: Sequence[FileInfo]) -> None:
    there = {file.name for file in files if file.parent.url == folder}
    missing = [name for name in _names(state) if name not in there]
    if missing:
        raise InputError(f"{folder}/{missing[0]}: not there, though {STATE} names it: the dataset is not whole")


def _is_of(parent: Folder, whole: Sequence[Folder]) -> bool:
    """Says whether all datasets of a directory of several are whole."""
    try:
        splits = json.loads(parent.file(DICT).read_bytes())["splits"]
        return {(parent / name).url for name in splits} <= {folder.url for folder in whole}
    except (ValueError, KeyError, TypeError, InputError):
        return False
