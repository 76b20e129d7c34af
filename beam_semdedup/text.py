"""How numbers and texts are written for people, and what is kept from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
"""What stands in the place of a credential."""
EXAMPLES = 5
"""How many of many things are named in a message or a summary."""
_LONGEST = 200
"""How many characters of one value a message shows."""
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal would act on rather than show: control characters but for tabs and line ends, and changes of the
direction of writing; and what stands for bytes that are no text."""


def counted(number: int, what: str) -> str:
    """Writes a number of things for people: `2 files`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def in_time(seconds: float) -> str:
    """Writes a duration for people: `1.5 s`, `2.0 h`."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def in_bytes(number: float) -> str:
    """Writes a number of bytes for people: `1.5 GiB`."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1024 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:,.0f} B" if units[0] == "B" else f"{number:,.1f} {units[0]}"


def printable(text: str) -> str:
    """Returns a text, which may come from a file, as a terminal can show it: with escapes for control characters."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(text: str) -> str:
    """Returns a text as far as a message has room for it."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def shown(value: Any) -> str:
    """Returns a value as Python writes it, as far as a message has room for it."""
    return shortened(repr(value))


def without_secrets(values: Any) -> Any:
    """Copies nested `values` for files and messages: with `***` for storage_options and for user:password@ in URLs."""
    if isinstance(values, Mapping):
        return {
            k: {name: HIDDEN for name in v} if k == "storage_options" and isinstance(v, Mapping) else without_secrets(v)
            for k, v in values.items()
        }
    if isinstance(values, str):
        return re.sub(r"(?<=://)[^/\n]*@", f"{HIDDEN}@", values)
    return [without_secrets(v) for v in values] if isinstance(values, (list, tuple)) else values
