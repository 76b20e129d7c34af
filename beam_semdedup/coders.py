"""The coder of the references that travel through Beam: small frozen dataclasses, as JSON lists."""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from typing import Any

from apache_beam import coders


class ReferenceCoder(coders.Coder):
    """Encodes a frozen dataclass of plain values, tuples and such dataclasses as a JSON list."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    @classmethod
    def from_type_hint(cls, typehint: Any, registry: Any) -> typing.Self:
        """Makes the coder of an element type, as Beam's registry asks for it."""
        return cls(typehint)

    def encode(self, value: Any) -> bytes:
        """Returns the element as bytes; equal elements have equal bytes."""
        return json.dumps(to_list(value), separators=(",", ":")).encode()

    def decode(self, encoded: bytes) -> Any:
        """Returns the element that `encode` was given."""
        return from_list(self._kind, json.loads(encoded))

    def is_deterministic(self) -> bool:
        """Says that equal elements have equal bytes, so that they can be keys."""
        return True

    def to_type_hint(self) -> type:
        """Returns the element type."""
        return self._kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReferenceCoder) and other._kind is self._kind

    def __hash__(self) -> int:
        return hash(self._kind)


def register(*kinds: type) -> None:
    """Has Beam encode elements of these dataclasses with `ReferenceCoder`."""
    for kind in kinds:
        coders.registry.register_coder(kind, ReferenceCoder)


def to_list(value: Any) -> Any:
    """Returns a dataclass as a list of its values, with lists in place of the dataclasses and tuples within."""
    if isinstance(value, tuple):
        return [to_list(item) for item in value]
    kind: Any = type(value)
    names = _fields(kind)
    return [to_list(getattr(value, name)) for name in names] if names else value


def from_list(kind: Any, values: Any) -> Any:
    """Returns `values`, as JSON gives it back, as an instance of a dataclass, a tuple of them, or itself."""
    fields = _fields(kind)
    if fields:
        return kind(*(from_list(hint, value) for hint, value in zip(fields.values(), values, strict=True)))
    if typing.get_origin(kind) is tuple:
        return tuple(from_list(typing.get_args(kind)[0], value) for value in values)
    return values


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    """Returns a dataclass's fields with their types, none for any other type; cached, for millions of references."""
    return typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
