"""A parquet reader of the fuzzer's own, from the format's specification: slow, small, and strict where files disagree.

It knows flat columns and lists of them, the encodings PLAIN, dictionary, RLE and BYTE_STREAM_SPLIT, and both kinds of
data pages. Arrow only decompresses. It says too where in the file what lies, so that damage can be aimed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

Struct = dict[int, Any]
"""A Thrift struct: its values by the numbers of its fields."""

_CODECS = {0: None, 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_PLAIN = {0: "?", 1: "<i", 2: "<q", 4: "<f", 5: "<d"}
_BYTE_ARRAY, _FIXED = 6, 7
_UINTS = {11: 8, 12: 16, 13: 32, 14: 64}
_UTF8 = 0


class Damaged(Exception):
    """The file contradicts itself or the specification."""


class Unknown(Exception):
    """The file may be right, but has what this reader does not know."""


@dataclass(frozen=True)
class Region:
    """Some bytes of a file, and what they are: footer, magic, header, repetition, definition, values or page."""

    kind: str
    column: str
    start: int
    stop: int


@dataclass
class Content:
    """The values of the columns in order, the row groups' numbers of rows, what stands where, the schema.

    `numbers` are where the footer's integers stand, each as a varint.
    """

    columns: dict[str, list[Any]]
    groups: list[int]
    regions: list[Region] = field(default_factory=list)
    schema: list[Struct] = field(default_factory=list)
    numbers: list[tuple[int, int]] = field(default_factory=list)


def read(data: bytes) -> Content:
    """Returns what is in a file; Damaged or Unknown where that cannot be said."""
    try:
        return _File(data).read()
    except (Damaged, Unknown):
        raise
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, RecursionError, struct.error, OSError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error


class Thrift:
    """Reads Thrift's compact protocol."""

    def __init__(self, data: bytes, position: int, stop: int) -> None:
        self.data, self.position, self.stop = data, position, stop
        self.numbers: list[tuple[int, int]] = []

    def struct(self, depth: int = 0) -> Struct:
        """Reads a struct."""
        if depth > 32:
            raise Damaged("a struct in a struct, 32 times")
        fields: Struct = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int, in_list: bool = False) -> Any:
        if kind in (1, 2):
            return self._byte() == 1 if in_list else kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            start, value = self.position, self._zigzag()
            self.numbers.append((start, self.position))
            return value
        if kind == 7:
            return struct.unpack("<d", self._take(8))[0]
        if kind == 8:
            return self._take(self._varint())
        if kind in (9, 10):
            head = self._byte()
            size = head >> 4 if head >> 4 != 15 else self._varint()
            if size > self.stop - self.position:
                raise Damaged(f"a list of {size}")
            return [self._value(head & 15, depth + 1, True) for _ in range(size)]
        if kind == 12:
            return self.struct(depth + 1)
        raise Damaged(f"a value of kind {kind}")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        if size > self.stop - self.position:
            raise Damaged("a value that is longer than what holds it")
        self.position += size
        return self.data[self.position - size : self.position]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise Damaged("a number of more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


@dataclass(frozen=True)
class _Leaf:
    """A column as the schema has it; `listed` is the level from which on a list is there, of a column of lists."""

    name: str
    element: Struct
    max_definition: int
    max_repetition: int
    listed: int


@dataclass
class _Chunk:
    """What was read of a column in a row group."""

    repetition: list[int] = field(default_factory=list)
    definition: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


class _File:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.regions: list[Region] = []

    def read(self) -> Content:
        data = self.data
        if len(data) < 12 or data[:4] != b"PAR1" or data[-4:] != b"PAR1":
            raise Damaged("no magic")
        length = int.from_bytes(data[-8:-4], "little")
        start = len(data) - 8 - length
        if start < 4:
            raise Damaged("a footer that is longer than the file")
        self._region("footer", "", start, len(data) - 8)
        self._region("magic", "", len(data) - 8, len(data))
        thrift = Thrift(data, start, len(data) - 8)
        footer = thrift.struct()
        leaves = list(self._leaves(footer[2]))
        columns: dict[str, list[Any]] = {leaf.name: [] for leaf in leaves}
        groups = []
        for group in footer[4]:
            if len(group[1]) != len(leaves) or group[3] < 0:
                raise Damaged("a row group of other columns")
            groups.append(group[3])
            for leaf, column in zip(leaves, group[1], strict=True):
                rows = _rows(leaf, self._chunk(leaf, column[3]))
                if len(rows) != group[3]:
                    raise Damaged(f"{len(rows)} rows of {leaf.name}, {group[3]} in the footer")
                columns[leaf.name] += rows
        if sum(groups) != footer[3]:
            raise Damaged(f"{footer[3]} rows, {sum(groups)} in the row groups")
        return Content(columns, groups, self.regions, footer[2], thrift.numbers)

    def _region(self, kind: str, column: str, start: int, stop: int) -> None:
        if start < stop:
            self.regions.append(Region(kind, column, start, stop))

    def _leaves(self, elements: list[Struct]) -> Iterator[_Leaf]:
        position = 1

        def below(count: int, name: str, definition: int, repetition: int, listed: int) -> Iterator[_Leaf]:
            nonlocal position
            for _ in range(count):
                element = elements[position]
                position += 1
                kind, own = element.get(3, 0), name or element[4].decode()
                inner = definition + (kind != 0)
                if kind == 2:
                    listed_at = definition
                elif kind in (0, 1):
                    listed_at = listed
                else:
                    raise Damaged(f"a repetition of kind {kind}")
                if element.get(5):
                    yield from below(element[5], own, inner, repetition + (kind == 2), listed_at)
                else:
                    if repetition + (kind == 2) > 1:
                        raise Unknown("lists of lists")
                    yield _Leaf(own, element, inner, repetition + (kind == 2), listed_at)

        yield from below(elements[0][5], "", 0, 0, 0)
        if position != len(elements):
            raise Damaged("a schema with more in it than its root")

    def _chunk(self, leaf: _Leaf, meta: Struct) -> _Chunk:
        if meta[1] != leaf.element[1]:
            raise Damaged("a column of another type than the schema's")
        if meta[4] not in _CODECS:
            raise Unknown(f"codec {meta[4]}")
        position = meta.get(11) or meta[9]
        stop = position + meta[7]
        if not 4 <= position <= stop <= len(self.data):
            raise Damaged("a column outside the file")
        chunk, dictionary = _Chunk(), None
        while len(chunk.definition) < meta[5]:
            thrift = Thrift(self.data, position, stop)
            header = thrift.struct()
            body = thrift.position
            size = header[3]
            if size < 0 or size > stop - body:
                raise Damaged("a page that is longer than its column")
            self._region("header", leaf.name, position, body)
            page = self.data[body : body + size]
            if 4 in header and zlib.crc32(page) != header[4] & 0xFFFFFFFF:
                raise Damaged("a page whose checksum is another")
            if header[1] == 2:
                self._region("page", leaf.name, body, body + size)
                dictionary = _plain(leaf.element, self._unpacked(page, meta[4], header[2]), header[7][1])[0]
            elif header[1] in (0, 3):
                read_page = self._first if header[1] == 0 else self._second
                read_page(leaf, meta, header, page, body, chunk, dictionary)
            position = body + size
        if len(chunk.definition) != meta[5]:
            raise Damaged(f"{len(chunk.definition)} values, {meta[5]} in the footer")
        return chunk

    def _unpacked(self, page: bytes, codec: int, size: int) -> bytes:
        name = _CODECS[codec]
        if name is None:
            if len(page) != size:
                raise Damaged("a page of another size than it says")
            return page
        if not 0 <= size < 1 << 26:
            raise Damaged(f"a page of {size} bytes")
        try:
            if name == "gzip":
                plain = zlib.decompressobj(47).decompress(page, size + 1)
            else:
                plain = pa.decompress(page, decompressed_size=size, codec=name).to_pybytes()
        except (pa.ArrowException, OSError, zlib.error) as error:
            raise Damaged(str(error)) from error
        if len(plain) != size:
            raise Damaged("a page of another size than it says")
        return plain

    def _first(
        self, leaf: _Leaf, meta: Struct, header: Struct, page: bytes, body: int, chunk: _Chunk, dictionary: Any
    ) -> None:
        facts, plain, position = header[5], self._unpacked(page, meta[4], header[2]), 0
        count = facts[1]
        for kind, most, encoding, levels in (
            ("repetition", leaf.max_repetition, facts[4], chunk.repetition),
            ("definition", leaf.max_definition, facts[3], chunk.definition),
        ):
            if not most:
                levels += [0] * count
                continue
            if encoding != 3:
                raise Damaged(f"levels in encoding {encoding}")
            length = int.from_bytes(plain[position : position + 4], "little")
            if length > len(plain) - position - 4:
                raise Damaged("levels that are longer than their page")
            if meta[4] == 0:
                self._region(kind, leaf.name, body + position, body + position + 4 + length)
            levels += _hybrid(plain[position + 4 : position + 4 + length], most.bit_length(), count, most)
            position += 4 + length
        present = sum(level == leaf.max_definition for level in chunk.definition[-count:]) if count else 0
        self._region(
            "values" if meta[4] == 0 else "page", leaf.name, body + position if meta[4] == 0 else body, body + len(page)
        )
        chunk.values += _decoded(leaf.element, plain[position:], facts[2], present, dictionary)

    def _second(
        self, leaf: _Leaf, meta: Struct, header: Struct, page: bytes, body: int, chunk: _Chunk, dictionary: Any
    ) -> None:
        facts = header[8]
        count, repetition, definition = facts[1], facts[6], facts[5]
        if repetition < 0 or definition < 0 or repetition + definition > len(page):
            raise Damaged("levels that are longer than their page")
        self._region("repetition", leaf.name, body, body + repetition)
        self._region("definition", leaf.name, body + repetition, body + repetition + definition)
        self._region("values", leaf.name, body + repetition + definition, body + len(page))
        before = len(chunk.definition)
        for most, data, levels in (
            (leaf.max_repetition, page[:repetition], chunk.repetition),
            (leaf.max_definition, page[repetition : repetition + definition], chunk.definition),
        ):
            levels += _hybrid(data, most.bit_length(), count, most) if most else [0] * count
        packed, size = page[repetition + definition :], header[2] - repetition - definition
        codec = meta[4] if facts.get(7, True) and packed else 0
        rows = sum(level == 0 for level in chunk.repetition[before:])
        if rows != facts[3]:
            raise Damaged(f"{rows} rows in a page of {facts[3]}")
        present = sum(level == leaf.max_definition for level in chunk.definition[before:])
        chunk.values += _decoded(leaf.element, self._unpacked(packed, codec, size), facts[4], present, dictionary)


def _rows(leaf: _Leaf, chunk: _Chunk) -> list[Any]:
    """Puts values and levels together."""
    values, rows = iter(chunk.values), []
    for repetition, definition in zip(chunk.repetition, chunk.definition, strict=True):
        value = next(values) if definition == leaf.max_definition else None
        if not leaf.max_repetition:
            rows.append(value)
        elif repetition == 0:
            rows.append(None if definition < leaf.listed else [] if definition == leaf.listed else [value])
        elif not rows or not rows[-1] or definition <= leaf.listed:
            raise Damaged("a list that goes on where there is none")
        else:
            rows[-1].append(value)
    return rows


def _decoded(element: Struct, data: bytes, encoding: int, count: int, dictionary: list[Any] | None) -> list[Any]:
    if encoding == 0:
        return _plain(element, data, count)[0]
    if encoding in (2, 8):
        if dictionary is None:
            raise Damaged("values of a dictionary that is not there")
        if not count:
            return []
        if data[0] > 32:
            raise Damaged(f"values of {data[0]} bits")
        return [dictionary[index] for index in _hybrid(data[1:], data[0], count, len(dictionary) - 1)]
    if encoding == 3:
        return [bool(value) for value in _hybrid(data[4 : 4 + int.from_bytes(data[:4], "little")], 1, count, 1)]
    if encoding == 9:
        width = struct.calcsize(_PLAIN[element[1]])
        if len(data) != width * count:
            raise Damaged("values of another size")
        return _plain(element, b"".join(data[i::count] for i in range(count)), count)[0]
    raise Unknown(f"encoding {encoding}")


def _plain(element: Struct, data: bytes, count: int) -> tuple[list[Any], int]:
    """Returns values of a type, and how many bytes they took."""
    kind, converted = element[1], element.get(6)
    if kind == 0:
        if count > 8 * len(data):
            raise Damaged("fewer values than there are")
        return [bool(data[i >> 3] >> (i & 7) & 1) for i in range(count)], (count + 7) // 8
    if kind in _PLAIN:
        code = _PLAIN[kind].upper() if converted in _UINTS else _PLAIN[kind]
        size = count * struct.calcsize(code)
        if size > len(data):
            raise Damaged("fewer values than there are")
        return list(struct.unpack(f"<{count}{code[1:]}", data[:size])), size
    values, position = [], 0
    for _ in range(count):
        if kind == _FIXED:
            length = element[2]
        elif kind == _BYTE_ARRAY:
            length = int.from_bytes(data[position : position + 4], "little")
            position += 4
        else:
            raise Unknown(f"type {kind}")
        if not 0 <= length <= len(data) - position:
            raise Damaged("a value that is longer than its page")
        values.append(data[position : position + length])
        position += length
    return [_text(value) for value in values] if converted == _UTF8 else values, position


def _text(value: bytes) -> Any:
    """Returns the text, or the bytes that are none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _hybrid(data: bytes, width: int, count: int, most: int) -> list[int]:
    """Returns numbers that are stored as runs and packed bits."""
    values: list[int] = []
    thrift = Thrift(data, 0, len(data))
    while len(values) < count:
        head = thrift._varint()
        if head & 1:
            size = (head >> 1) * width
            bits = int.from_bytes(thrift._take(min(size, len(data) - thrift.position)), "little")
            held = 8 * min(size, len(data)) // width if width else count
            number = min((head >> 1) * 8, count - len(values))
            if number > held:
                raise Damaged("fewer numbers than there are")
            values += [bits >> (i * width) & ((1 << width) - 1) for i in range(number)]
        else:
            value = int.from_bytes(thrift._take((width + 7) // 8), "little")
            values += [value] * min(head >> 1, count - len(values))
            if not head >> 1:
                raise Damaged("a run of none")
    if any(value > most for value in values):
        raise Damaged(f"a number above {most}")
    return values
