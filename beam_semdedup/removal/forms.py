"""Ids in a form in which equal ones have equal values, whatever types a list and a dataset have them in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_UUID = r"(?i)^(urn:uuid:)?\{?[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}\}?$"
_NOT_HEX = r"(?i)urn:uuid:|[-{}]"
_NIBBLES = np.zeros(256, dtype=np.uint8)
for _digit in b"0123456789abcdefABCDEF":
    _NIBBLES[_digit] = int(chr(_digit), 16)


@dataclass(frozen=True)
class Form:
    """How ids are compared: integers by their value, others by their bytes.

    Attributes:
        type_: what they are cast to.
        uuids: whether a text that is a UUID is the same as its 16 bytes.
    """

    type_: pa.DataType
    uuids: bool = False

    @classmethod
    def common(cls, a: pa.DataType, b: pa.DataType) -> Form:
        """Returns the form in which ids of these types are compared."""
        if not pa.types.is_integer(a):
            return cls(pa.large_binary(), _has_16_bytes(a) != _has_16_bytes(b))
        if pa.uint64() not in (a, b):
            return cls(pa.int64())
        return cls(a if a == b else pa.decimal128(20))  # negative numbers of the one type, large ones of the other

    def of(self, ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """Returns ids in this form."""
        values = ids.cast(self.type_)
        return _with_bytes_of_uuids(values) if self.uuids and not _has_16_bytes(ids.type) else values


def _has_16_bytes(type_: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_binary(type_) and type_.byte_width == 16)


def _with_bytes_of_uuids(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns texts with the 16 bytes of a UUID in place of those that are one, in whichever spelling."""
    is_uuid = pc.fill_null(pc.match_substring_regex(ids, _UUID), False)
    if not pc.any(is_uuid).as_py():
        return ids
    digits = pc.replace_substring_regex(ids.filter(is_uuid), _NOT_HEX, "").cast(pa.binary(32)).combine_chunks()
    start = 32 * digits.offset
    text = np.frombuffer(digits.buffers()[1], dtype=np.uint8)[start : start + 32 * len(digits)]
    nibbles = _NIBBLES[text].reshape(-1, 2)
    packed = pa.py_buffer((nibbles[:, 0] << 4 | nibbles[:, 1]).tobytes())
    uuids = pa.Array.from_buffers(pa.binary(16), len(digits), [None, packed]).cast(ids.type)
    return pa.chunked_array([pc.replace_with_mask(ids.combine_chunks(), is_uuid.combine_chunks(), uuids)])
