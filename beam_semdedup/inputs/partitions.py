"""Hive partitions: columns that stand in the names of directories, such as `lang=en`, in place of the files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

import pyarrow as pa

_NULL = "__HIVE_DEFAULT_PARTITION__"
MARK = {b"semdedup": b"partition"}
"""The metadata of such a column."""


def column(name: str, urls: Sequence[str]) -> pa.Field | None:
    """Returns the column that all files have by their directories; None where one of them has none of that name.

    It is of integers if all its values are written as such, without zeros before them, and of strings otherwise.
    """
    found = [_values(url) for url in urls]
    if not all(name in values for values in found):
        return None
    texts = {text for values in found if (text := values[name]) is not None}
    is_integer = bool(texts) and all(map(_is_integer, texts))
    return pa.field(name, pa.int64() if is_integer else pa.string(), metadata=MARK)


def constant(field: pa.Field, url: str, num_rows: int) -> pa.Array:
    """Returns such a column of some rows of a file."""
    return pa.repeat(pa.scalar(_values(url)[field.name], pa.string()).cast(field.type), num_rows)


def _values(url: str) -> dict[str, str | None]:
    """Returns the values of the columns in the directories of a file."""
    parts = [part.partition("=") for part in url.split("/")[:-1] if "=" in part]
    return {unquote(name): None if value == _NULL else unquote(value) for name, _, value in parts}


def _is_integer(text: str) -> bool:
    """Says whether an integer of 64 bits is written so, and in no other way."""
    return re.fullmatch(r"0|-?[1-9][0-9]{0,18}", text) is not None and abs(int(text)) < 1 << 63
