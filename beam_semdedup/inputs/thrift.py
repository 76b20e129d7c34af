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
        return _read_struct(data, start, 0)
    except IndexError as error:
        raise ValueError("a Thrift struct is cut off") from error


def write(struct: Struct) -> bytes:
    """Returns a struct as bytes."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


def _read_struct(data: bytes, at: int, depth: int) -> tuple[Struct, int]:
    """Returns a struct and where it ends; what is frequent, small integers, is read without a call."""
    if depth > _DEEPEST:
        raise ValueError(f"Thrift structs are nested more than {_DEEPEST} deep")
    result, field = Struct(), 0
    types = result.types
    while head := data[at]:
        type_ = head & 15
        at += 1
        if head > 15:
            field += head >> 4
        else:
            field, at = _read_integer(data, at)
        value: Any
        if I16 <= type_ <= I64:
            number = data[at]
            if number < 128:
                value, at = (number >> 1) ^ -(number & 1), at + 1
            else:
                value, at = _read_integer(data, at)
        elif type_ <= FALSE:
            value = type_ == TRUE
        else:
            value, at = _read_value(data, at, type_, depth)
        result[field], types[field] = value, type_
    return result, at + 1


def _read_value(data: bytes, at: int, type_: int, depth: int) -> tuple[Any, int]:
    if type_ in (I16, I32, I64):
        return _read_integer(data, at)
    if type_ == STRUCT:
        return _read_struct(data, at, depth + 1)
    if type_ == BINARY:
        size, at = _read_varint(data, at)
        return _read_bytes(data, at, size)
    if type_ in (LIST, SET):
        return _read_list(data, at, depth + 1)
    if type_ in (TRUE, FALSE, BYTE):
        return data[at], at + 1
    if type_ == DOUBLE:
        return _read_bytes(data, at, 8)
    raise ValueError(f"a Thrift field of type {type_} is not known")


def _read_list(data: bytes, at: int, depth: int) -> tuple[List, int]:
    type_, size = data[at] & 15, data[at] >> 4
    at += 1
    if size == 15:
        size, at = _read_varint(data, at)
    if size > len(data) - at or depth > _DEEPEST:
        raise ValueError(f"a Thrift list claims {size} elements, more than there can be")
    result = List(type_)
    for _ in range(size):
        value, at = _read_value(data, at, type_, depth)
        result.append(value)
    return result, at


def _read_bytes(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise IndexError
    return data[at : at + size], at + size


def _read_integer(data: bytes, at: int) -> tuple[int, int]:
    number, at = _read_varint(data, at)
    return (number >> 1) ^ -(number & 1), at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while (byte := data[at]) > 127:
        result |= (byte & 127) << shift
        shift += 7
        at += 1
    return result | byte << shift, at + 1


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
        if I16 <= type_ <= I64 and 0 <= value < 64:
            out.append(value << 1)
        elif type_ > FALSE:
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
