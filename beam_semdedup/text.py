"""How numbers and texts are written for people, and what is kept from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
"""What stands in the place of a credential."""
_NAMED = (
    r"pass(?:word|wd|phrase)|secret|token|credential|signature|\bsig\b|\bauth\b|authorization"
    r"|(?:access|account|api|private|sas|shared)[-_]?key|key-pair|\bpolicy\b"
)
"""What is a part of the names of what gives access."""
_COUNTS = ("batch_tokens", "max_tokens")
"""What is called like that, and gives none: numbers of what texts are cut into."""
_USER = re.compile(r"(?<=://)(?:[^/\n]*|[^/:\s]*:(?!\d*/)(?:(?!://)\S)*)@")
"""The user and the password in a URL, which may have a slash in it, unlike a port."""
_SIGNATURE = re.compile(rf"""([?&;](?:(?![=&\s]).)*(?:{_NAMED})[^=&\s]*=)[^&\s'"<>]+""", re.IGNORECASE)
_LEFT_OUT = re.compile(rf"^{re.escape(HIDDEN)}$|://{re.escape(HIDDEN)}@|[?&;][^=&\s]*={re.escape(HIDDEN)}")
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
    """Copies nested `values` for files and messages, with `***` for what gives access.

    That is: all of `storage_options` and `env_vars`, what is named as a password, token or key, and in URLs the user
    with the password, and signatures.
    """
    if isinstance(values, Mapping):
        return {key: _hidden(value) if _gives_access(key) else without_secrets(value) for key, value in values.items()}
    if isinstance(values, str):
        return _SIGNATURE.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", values))
    return [without_secrets(v) for v in values] if isinstance(values, (list, tuple)) else values


def hidden_in(values: Any, name: str) -> str | None:
    """Returns the name of a value that `without_secrets` left out, in nested ones called `name`; None if none was."""
    if isinstance(values, Mapping):
        inner = [(value, f"{name}.{key}") for key, value in values.items()]
    elif isinstance(values, (list, tuple)):
        inner = [(value, name) for value in values]
    else:
        return name if isinstance(values, str) and _LEFT_OUT.search(values) else None
    return next((found for value, key in inner if (found := hidden_in(value, key))), None)


def _gives_access(name: Any) -> bool:
    if name in _COUNTS:
        return False
    return name in ("storage_options", "env_vars") or bool(re.search(_NAMED, str(name), re.IGNORECASE))


def _hidden(value: Any) -> Any:
    return dict.fromkeys(value, HIDDEN) if isinstance(value, Mapping) else value if value in (None, "") else HIDDEN
