"""The formats of input files by the names that `input_filetype` has for them.

This module is imported by all that reads the parameters: what reads files is imported when a format is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from beam_semdedup.errors import InputError

if TYPE_CHECKING:
    from beam_semdedup.inputs.base import Copier, Format, Marker, Versioned


def _parquet() -> Format:
    from beam_semdedup.inputs.parquet import Parquet

    return Parquet()


def _jsonl() -> Format:
    from beam_semdedup.inputs.jsonl import Jsonl

    return Jsonl()


def _npy() -> Format:
    from beam_semdedup.inputs.npy import Npy

    return Npy()


def _arrow() -> Format:
    from beam_semdedup.inputs.arrow import Arrow

    return Arrow()


def _lance() -> Format:
    from beam_semdedup.inputs.lance import Lance

    return Lance()


FORMATS: dict[str, Callable[[], Format]] = {
    "parquet": _parquet,
    "jsonl": _jsonl,
    "npy": _npy,
    "arrow": _arrow,
    "lance": _lance,
}
"""What makes a format: a function, or its class."""


def format_named(filetype: str) -> Format:
    """Returns a format."""
    return FORMATS[filetype]()


def copier(filetype: str) -> Copier:
    """Returns what copies files of a format without some of their rows; InputError where nothing does."""
    from beam_semdedup.inputs.base import Copier

    kind = format_named(filetype)
    if not isinstance(kind, Copier):
        raise InputError(
            f"input_filetype={filetype}: rows cannot be removed from files of this format; the ids of those that a run "
            "finds are in duplicates/"
        )
    return kind


def marker(filetype: str) -> Marker:
    """Returns what adds columns to files of a format; InputError where nothing does."""
    from beam_semdedup.inputs.base import Marker

    kind = format_named(filetype)
    if not isinstance(kind, Marker):
        raise InputError(
            f"input_filetype={filetype}: columns cannot be added to files of this format; duplicates/ says of each "
            "duplicate what mode=mark would"
        )
    return kind


def versioned(filetype: str) -> Versioned | None:
    """Returns what makes versions of the datasets that files of a format are of; None where they are of none."""
    from beam_semdedup.inputs.base import Versioned

    kind = format_named(filetype)
    return kind if isinstance(kind, Versioned) else None
