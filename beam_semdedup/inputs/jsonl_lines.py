"""Lines of JSON: whole lines from a stream, which of them are blank, and the well-formed ones as a table."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pj

_SPACE = ord(" ")
AROUND_OBJECT = b" \t\r\n\xef\xbb\xbf"
_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{")
_CARRIAGE_RETURN = re.compile(rb"\}[ \t]*\r+[ \t]*\{")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_LONGEST_LINE = 256 << 20
_DEEPEST = 100


def blocks(stream: IO[bytes], block_bytes: int, length: int = sys.maxsize, start: bytes = b"") -> Iterator[bytes]:
    """Yields runs of whole lines of about `block_bytes` from the next `length` bytes of a stream, or from all.

    Args:
        start: what was read of the stream before, which comes first.

    Raises:
        ValueError: a line is longer than any row is.
    """
    rest: list[bytes] = []
    waiting = 0
    while data := start or stream.read(min(length, block_bytes)):
        length, start = length - len(data), b""
        cut = data.rfind(b"\n") + 1
        if cut:
            yield b"".join((*rest, data[:cut]))
            rest, waiting = [], 0
        rest.append(data[cut:])
        waiting += len(data) - cut
        if waiting > _LONGEST_LINE:
            raise ValueError(f"a line is longer than {_LONGEST_LINE:,} bytes")
    if waiting:
        yield b"".join(rest)


def what_is_no_lines(start: bytes) -> str:
    """Says what a file is that begins so and does not have an object a line; nothing where it may have."""
    if _ARRAY.match(start):
        first, _, others = start.strip(AROUND_OBJECT).partition(b"\n")
        if not first.rstrip().endswith(b"]") or not others.strip():
            return "it is one JSON array, not an object a line: `jq -c '.[]'` writes its objects as lines"
    if b"\n" not in start and _CARRIAGE_RETURN.search(start):
        return "its lines end in a carriage return alone: `tr '\\r' '\\n'` writes line feeds in their place"
    return ""


def spans(block: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the starts and ends of the lines of a block that are not blank, and how many lines stand before each."""
    data = np.frombuffer(block, dtype=np.uint8)
    newlines = np.flatnonzero(data == ord("\n"))
    ends = newlines if block.endswith(b"\n") else np.append(newlines, len(block))
    starts = np.concatenate([[0], newlines + 1])[: len(ends)]
    blank = np.zeros(len(starts), dtype=bool)
    for index in np.flatnonzero(data[starts] <= _SPACE):
        blank[index] = not block[starts[index] : ends[index]].strip()
    kept = np.flatnonzero(~blank)
    return starts[kept], ends[kept], kept


def cut(block: bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> list[bytes]:
    """Returns the lines between these places of a block."""
    return [block[start:end] for start, end in zip(starts, ends, strict=True)]


def parse(lines: Sequence[bytes], schema: pa.Schema) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """Returns the table of the well-formed ones of n lines, with the columns of `schema`, and which they are, (n,)."""
    good = may_be_objects(lines)
    if not good.any():
        return schema.empty_table(), good
    table, good[good] = _parse_objects(list(itertools.compress(lines, good)), schema)
    return table, good


def may_be_objects(lines: Sequence[bytes]) -> npt.NDArray[np.bool_]:
    """Says which of n lines begin and end as an object does, and are not nested deeper than any row is, (n,).

    Lines that do can be parsed together: no JSON value has a `}`, a newline and a `{` in a row in it, so that
    each is a row of its own or an error. And a line `null`, or one of 100,000 brackets, would crash Arrow's parser.
    """
    stripped = (line.strip(AROUND_OBJECT) for line in lines)
    return np.fromiter(
        (line[:1] == b"{" and line[-1:] == b"}" and not _is_deep(line) for line in stripped), bool, len(lines)
    )


def _is_deep(line: bytes) -> bool:
    """Says whether values are nested in more than `_DEEPEST` others."""
    if line.count(b"[") + line.count(b"{") <= _DEEPEST:
        return False
    bare = np.frombuffer(_STRING.sub(b"", line), dtype=np.uint8)
    opens, closes = (np.isin(bare, np.frombuffer(brackets, dtype=np.uint8)) for brackets in (b"[{", b"]}"))
    return bool(np.cumsum(opens.astype(np.int64) - closes).max(initial=0) > _DEEPEST)


def read_json(lines: Sequence[bytes], schema: pa.Schema | None) -> pa.Table:
    """Returns objects as a table with the types of `schema`, or those that are found; pa.ArrowInvalid if it cannot."""
    data = b"\n".join(lines)
    return pj.read_json(
        pa.BufferReader(data),
        read_options=pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pj.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
        ),
    )


def _parse_objects(lines: Sequence[bytes], schema: pa.Schema) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """Does what `parse` does; halves what does not parse as a whole."""
    try:
        table = read_json(lines, schema)
        if table.num_rows == len(lines):
            table.validate(full=True)  # strings that are not UTF-8
            return table.select(schema.names), np.ones(len(lines), dtype=bool)
    except pa.ArrowInvalid:
        pass
    if len(lines) == 1:
        return schema.empty_table(), np.zeros(1, dtype=bool)
    middle = len(lines) // 2
    halves = [_parse_objects(lines[:middle], schema), _parse_objects(lines[middle:], schema)]
    return pa.concat_tables([h[0] for h in halves]), np.concatenate([h[1] for h in halves])
