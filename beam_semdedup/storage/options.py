"""The storage options of fsspec, which may hold credentials: they are neither shown nor pickled; what travels is a key.

A pipeline is pickled, and reaches its workers over ports and through services that others may read. A worker finds the
options by their key among those that it was started with, which are in its environment.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from beam_semdedup.errors import InputError
from beam_semdedup.text import HIDDEN

VARIABLE = "SEMDEDUP_STORAGE_OPTIONS"
"""The environment variable with the options that a worker knows: a JSON list of mappings."""
_ROUNDS = 100_000
_KNOWN: dict[str, StorageOptions] = {}


class StorageOptions(dict[str, Any]):
    """Holds what a file system is reached with; its values are left out where it is shown or pickled.

    Raises:
        InputError: when it is unpickled in a process that does not know it.
    """

    def __init__(self, given: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__(given)
        if self:
            _remembered(self)

    def __repr__(self) -> str:
        return repr(dict.fromkeys(self, HIDDEN))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (_found, (_remembered(self),)) if self else (StorageOptions, ())


def told() -> dict[str, str]:
    """Returns the variables by which another process knows the options that this one knows.

    Raises:
        InputError: there are options that are no plain values.
    """
    _learn_from_environment()
    try:
        return {VARIABLE: json.dumps(list(_KNOWN.values()))} if _KNOWN else {}
    except TypeError as error:
        raise InputError(
            f"storage_options: {error}: workers can be given text, numbers, lists and mappings only; leave it out, or "
            "use runner=direct with one worker"
        ) from error


class Carried:
    """Is unpickled as the value that it is made with, in a process that then knows the options of this one.

    It is for what goes to an actor of a cluster by itself, and not in a pipeline.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _second, (_Told(), self._value)  # unpickled in this order


class _Told:
    def __reduce__(self) -> tuple[Any, ...]:
        return learn, (told().get(VARIABLE, "[]"),)


def _second(_: None, value: Any) -> Any:
    return value


def learn(given: str) -> None:
    """Takes what `told` gives as the value of the variable.

    Raises:
        InputError: it is something else.
    """
    try:
        for options in json.loads(given):
            StorageOptions(options)
    except (ValueError, TypeError) as error:  # whose text would show what was given
        raise InputError(f"{VARIABLE}: expected a JSON list of storage_options, such as [{{…}}]") from error


def _remembered(options: StorageOptions) -> str:
    key = _key(json.dumps(options, sort_keys=True, default=repr))
    _KNOWN[key] = options
    return key


def _found(key: str) -> StorageOptions:
    if key not in _KNOWN:
        _learn_from_environment()
    if key not in _KNOWN:
        raise InputError(
            "the storage_options of this run are not known to the worker, since they do not travel in the pipeline: "
            f"give the same, as a JSON list, in the environment variable {VARIABLE} of whatever starts the workers"
        )
    return _KNOWN[key]


def _learn_from_environment() -> None:
    learn(os.environ.get(VARIABLE, "[]"))


@functools.cache
def _key(options: str) -> str:
    """Returns what names some options, from which they cannot be guessed in reasonable time."""
    return hashlib.pbkdf2_hmac("sha256", options.encode(), b"beam-semdedup", _ROUNDS).hex()[:32]
