"""Parquet files that Arrow does not write: those of other writers, made by hand from what it does write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beam_semdedup.inputs import thrift
from beam_semdedup.inputs.thrift import BINARY, I32, STRUCT, Struct

TYPE, LENGTH, REPETITION, NAME, CHILDREN, CONVERTED, SCALE, PRECISION, FIELD_ID, LOGICAL = range(1, 11)
TYPES = {"boolean": 0, "int32": 1, "int64": 2, "int96": 3, "float": 4, "double": 5, "bytes": 6, "fixed": 7}


def read_footer(path: Path) -> Struct:
    data = path.read_bytes()
    return thrift.read(data[-8 - int.from_bytes(data[-8:-4], "little") : -8])[0]


def write_footer(path: Path, footer: Struct) -> None:
    data, encoded = path.read_bytes(), thrift.write(footer)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:start] + encoded + len(encoded).to_bytes(4, "little") + b"PAR1")


def element(
    name: str,
    *children: list[Struct],
    type_: str | None = None,
    repetition: str = "optional",
    length: int | None = None,
    converted: int | None = None,
    logical: Mapping[int, Any] | None = None,
    **digits: int,
) -> list[Struct]:
    """An element of a schema, and the elements of its children, each as it comes from here."""
    made = Struct()
    if type_:
        made.put(TYPE, I32, TYPES[type_])
    if length:
        made.put(LENGTH, I32, length)
    made.put(REPETITION, I32, ("required", "optional", "repeated").index(repetition))
    made.put(NAME, BINARY, name.encode())
    if children:
        made.put(CHILDREN, I32, len(children))
    if converted is not None:
        made.put(CONVERTED, I32, converted)
    for key, value in digits.items():
        made.put({"scale": SCALE, "precision": PRECISION}[key], I32, value)
    if logical is not None:
        union = Struct()
        for kind in logical:
            union.put(kind, STRUCT, Struct())
        made.put(LOGICAL, STRUCT, union)
    return [made, *(inner for child in children for inner in child)]


def respell(path: Path, *columns: list[Struct]) -> None:
    """Gives the columns of a file other elements in the schema, which are stored in the same way."""
    footer = read_footer(path)
    footer[2] = thrift.List(STRUCT, [footer[2][0], *(inner for column in columns for inner in column)])
    footer[2][0][CHILDREN] = len(columns)
    footer.drop(5)  # what Arrow knows of its own schema
    leaves = [e for e in footer[2] if not e.get(CHILDREN)]
    for group in footer[4]:
        for leaf, chunk, way in zip(leaves, group[1], _ways(footer[2]), strict=True):
            chunk[3][1], chunk[3][3] = leaf[TYPE], thrift.List(BINARY, way)
            chunk[3].drop(12)
    write_footer(path, footer)


def _ways(schema: list[Struct]) -> list[list[bytes]]:
    result: list[list[bytes]] = []

    def walk(place: int, way: list[bytes]) -> int:
        way = [*way, schema[place][NAME]]
        if not schema[place].get(CHILDREN):
            result.append(way[1:])
        after = place + 1
        for _ in range(schema[place].get(CHILDREN, 0)):
            after = walk(after, way)
        return after

    walk(0, [])
    return result
