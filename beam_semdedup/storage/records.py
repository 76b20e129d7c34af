"""What the program stores for itself: frozen dataclasses as JSON, read only where they are as they were written."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from beam_semdedup.storage.folder import File

_LOG = logging.getLogger(__name__)
_CHECKSUM = "checksum"


class Record:
    """A base of frozen dataclasses of plain values, tuples, dictionaries and such dataclasses."""

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Returns the record that `to_json` made.

        Values of others stay out of it, and one without a checksum is believed: earlier versions wrote none.

        Raises:
            ValueError: it is no JSON, values are missing or wrong, or are not those that were written.
        """
        kind: Any = cls
        record: Self = _adapter(kind).validate_json(data, strict=True)
        document = json.loads(data)
        if document.pop(_CHECKSUM, None) not in (None, _checksum(document)):
            raise ValueError("its values are not those that were written: the checksum is of others")
        return record

    def to_json(self) -> bytes:
        """Returns the record as a JSON document, with a checksum of its values."""
        kind: Any = type(self)
        document = _adapter(kind).dump_python(self, mode="json")
        return json.dumps({**document, _CHECKSUM: _checksum(document)}).encode()

    @classmethod
    def read(cls, file: File) -> Self | None:
        """Returns the record in a file; None, with a warning if there is one, where it is not a whole record."""
        try:
            return cls.from_json(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            _LOG.warning("%s is taken for unfinished: %s", file, _what(error))
            return None

    def write(self, file: File) -> None:
        """Writes the record, whole."""
        file.write_bytes(self.to_json())


def _what(error: ValueError) -> str:
    """Returns what is wrong with a document, and where in it, in a line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _checksum(document: Any) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
