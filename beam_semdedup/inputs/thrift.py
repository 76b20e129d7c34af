"""Structs of Thrift's compact protocol, which parquet's footers are written in, without knowledge of their fields.

What is not known stays as it is: a struct that is read and written again has the same bytes.
"""

from __future__ import annotations

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
"""The types of fields, as the protocol numbers them."""

_DEEPEST = 64


class Struct(dict[int, Any]):
    """The fields of a struct by their ids: numbers, `bytes`, `List`s, `Struct`s; `types` has the type of each."""

    def __init__(self) -> None:
        self.types: dict[int, int] = {}

    def put(self, field: int, type_: int, value: Any) -> None:
        """Sets a field that may be new."""
        self[field], self.types[field] = value, type_

    def drop(self, *fields: int) -> None:
        """Removes fields, if they are there."""
        for field in fields:
            self.pop(field, None)

    def copy(self) -> Struct:
        """Returns a struct with the same fields, whose values are shared."""
        new = Struct()
        new.update(self)
        new.types.update(self.types)
        return new


class List(list[Any]):
    """The elements of a list or set, of one `type_`."""

    def __init__(self, type_: int, values: Any = ()) -> None:
        super().__init__(values)
        self.type_ = type_


def read(data: bytes, start: int = 0) -> tuple[Struct, int]:
    """Reads a struct.

    Returns:
        The struct, and where it ends.

    Raises:
        ValueError: `data` holds no struct there, or half of one.
    """
    try:
        reader = _Reader(data, start)
        return reader.struct(0), reader.position
    except IndexError as error:
        raise ValueError("a Thrift struct is cut off") from error


def write(struct: Struct) -> bytes:
    """Returns a struct as bytes."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    def struct(self, depth: int) -> Struct:
        if depth > _DEEPEST:
            raise ValueError(f"Thrift structs are nested more than {_DEEPEST} deep")
        result, field = Struct(), 0
        while head := self._byte():
            type_ = head & 15
            field = field + (head >> 4) if head >> 4 else self._integer()
            result[field] = type_ == TRUE if type_ <= FALSE else self._value(type_, depth)
            result.types[field] = type_
        return result

    def _value(self, type_: int, depth: int) -> Any:
        if type_ in (I16, I32, I64):
            return self._integer()
        if type_ == BINARY:
            return self._bytes(self._varint())
        if type_ == STRUCT:
            return self.struct(depth + 1)
        if type_ in (LIST, SET):
            head = self._byte()
            return self._list(head & 15, head >> 4 if head >> 4 < 15 else self._varint(), depth + 1)
        if type_ in (TRUE, FALSE, BYTE):
            return self._byte()
        if type_ == DOUBLE:
            return self._bytes(8)
        raise ValueError(f"a Thrift field of type {type_} is not known")

    def _list(self, type_: int, size: int, depth: int) -> List:
        if size > len(self._data) - self.position or depth > _DEEPEST:
            raise ValueError(f"a Thrift list claims {size} elements, more than there can be")
        return List(type_, [self._value(type_, depth) for _ in range(size)])

    def _byte(self) -> int:
        byte = self._data[self.position]
        self.position += 1
        return byte

    def _bytes(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise IndexError
        value = self._data[self.position : end]
        self.position = end
        return value

    def _varint(self) -> int:
        byte = self._byte()
        result, shift = byte & 127, 7
        while byte > 127:
            byte = self._byte()
            result |= (byte & 127) << shift
            shift += 7
        return result

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)


def _write_struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for field in sorted(struct):
        type_, value = struct.types[field], struct[field]
        if type_ <= FALSE:
            type_ = TRUE if value else FALSE
        if 0 < field - last < 16:
            out.append((field - last) << 4 | type_)
        else:
            out.append(type_)
            _write_integer(out, field)
        if type_ > FALSE:
            _write_value(out, type_, value)
        last = field
    out.append(0)


def _write_value(out: bytearray, type_: int, value: Any) -> None:
    if type_ in (I16, I32, I64):
        _write_integer(out, value)
    elif type_ == STRUCT:
        _write_struct(out, value)
    elif type_ == BINARY:
        _write_varint(out, len(value))
        out += value
    elif type_ in (LIST, SET):
        out.append(min(len(value), 15) << 4 | value.type_)
        if len(value) >= 15:
            _write_varint(out, len(value))
        for element in value:
            _write_value(out, value.type_, element)
    elif type_ == DOUBLE:
        out += value
    else:
        out.append(value)


def _write_integer(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 if value >= 0 else ~(value << 1))


def _write_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
