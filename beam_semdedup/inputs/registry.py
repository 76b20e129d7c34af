"""The formats of input files by the names that `input_filetype` has for them."""

from __future__ import annotations

from beam_semdedup.errors import InputError
from beam_semdedup.inputs.base import Copier, Format
from beam_semdedup.inputs.jsonl import Jsonl
from beam_semdedup.inputs.parquet import Parquet

FORMATS: dict[str, Format] = {
    "parquet": Parquet(),
    "jsonl": Jsonl(),
}


def copier(filetype: str) -> Copier:
    """Returns what copies files of a format without some of their rows; InputError where nothing does."""
    kind = FORMATS[filetype]
    if not isinstance(kind, Copier):
        raise InputError(
            f"input_filetype={filetype}: rows cannot be removed from files of this format; the ids of those that a run "
            "finds are in duplicates/"
        )
    return kind
