"""What the program stores for itself: frozen dataclasses as JSON, read only where they are whole and of their types."""

from __future__ import annotations

import functools
import logging
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from beam_semdedup.storage.folder import File

_LOG = logging.getLogger(__name__)


class Record:
    """A base of frozen dataclasses of plain values, tuples, dictionaries and such dataclasses."""

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Returns the record that `to_json` made; ValueError where it is no JSON, or values are missing or wrong."""
        kind: Any = cls
        record: Self = _adapter(kind).validate_json(data, strict=True)
        return record

    def to_json(self) -> bytes:
        """Returns the record as a JSON document."""
        kind: Any = type(self)
        return _adapter(kind).dump_json(self)

    @classmethod
    def read(cls, file: File) -> Self | None:
        """Returns the record in a file; None, with a warning if there is one, where it is not a whole record."""
        try:
            return cls.from_json(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            _LOG.warning("%s is taken for unfinished: %s%s", file, f"{where}: " if where else "", first["msg"])
            return None

    def write(self, file: File) -> None:
        """Writes the record, whole."""
        file.write_bytes(self.to_json())


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
