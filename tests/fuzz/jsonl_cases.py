"""Files of JSON lines of every make, and damaged ones, each with what Python's own parser finds in them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import math
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from fuzz.cases import Case
from fuzz.damage import damaged
from fuzz.judge import File

_IDS = (
    *("", " ", "é", "\u65e5", "\U0001f600", "a\nb", 'quo"te', "back\\slash", "1", "null", "\x7f"),
    *("2024-01-01", "2024-01-01T00:00:00"),  # which Arrow takes for times
)
_WRONG_LINES = (
    *(b"null", b"[]", b"1", b'"text"', b"{}", b"{", b"}", b"{]", b"not json", b"[1, 2]", b"true", b"{'id': 1}"),
    *(b"\xff\xfe", b"\x00", b"{\x00}", b'// {"id": 1}', b'{"id": 1, "embeddings": [1, 2, 3'),
    *(b'{"id": 1, "embeddings": [1, 2, 3],}', b'{"id": 1 "embeddings": [1, 2, 3]}'),
    *(b'{"id": 1, "embeddings": [1, 2, 3]} {"id": 2}', b'{"id": 01, "embeddings": [1, 2, 3]}'),
    *(b'{"id": 1, "embeddings": [NaN, 2, 3]}', b'{"id": 1, "embeddings": [1, 2, Infinity]}'),
    *(b'{"id": 1, "embeddings": [1,, 3]}', b'{"id": 1, "embeddings": [.5, 1., +2]}'),
    *(b'{"id": "\xff", "embeddings": [1, 2, 3]}', b'{"id": 1, "embeddings": "1 2 3"}'),
    *(b'{"id": 1, "embeddings": {"0": 1}}', b'{"id": 1, "embeddings": [[1, 2, 3]]}'),
    *(b'{"id": 1, "embeddings": ["1", "2", "3"]}', b'{"id": 1, "embeddings": true}'),
    b'{"id": 1, "embeddings": [true, 2, 3]}',
)
_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
_UNPACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda data: pa.CompressedInputStream(io.BytesIO(data), "zstd").read(),
}


def structured(rng: random.Random) -> Case:
    """Returns whole files with lines as odd as they may be, some of which are no rows."""
    files, contents = {}, []
    dimension, text_ids = rng.choice([1, 2, 3]), rng.random() < 0.5
    used: set[Any] = set()
    for number in range(rng.choice([1, 1, 2])):
        lines = _lines(rng, rng.choice([0, 1, 10, 25, 25, 25]), dimension, text_ids, used)
        wrong, ending = rng.choice([0, 0, 0.1, 0.3]), rng.choice([b"\n", b"\n", b"\r\n"])
        lines = [_wrong_line(rng, text_ids) if rng.random() < wrong else line for line in lines]
        if wrong and rng.random() < 0.05:
            lines.insert(0, _deep(rng.choice([50, 500, 100_000]), dimension))
        lines = [blank for line in lines for blank in (*[rng.choice([b"", b" ", b"\t"])] * (rng.random() < 0.05), line)]
        if rng.random() < 0.05:  # a JSON array with an object a line
            lines = [b"[", *(line + b"," for line in lines), b"]"]
        data = ending.join(lines) + (ending if rng.random() < 0.8 else b"")
        if rng.random() < 0.05:
            data = b"\xef\xbb\xbf" + data
        packed = rng.choice(["", "", "", *_PACKERS])
        name = f"part-{number}.jsonl{packed}"
        files[name] = _PACKERS[packed](data)
        contents.append(_content(name, data))
    return Case(files, [contents], dimension, whole=not _mixed(contents), filetype="jsonl")


def bytewise(rng: random.Random) -> Case:
    """Returns files of which one is damaged somewhere."""
    dimension, text_ids = 3, rng.random() < 0.5
    files, contents = {}, []
    used: set[Any] = set()
    for number in range(rng.choice([1, 2])):
        packed = rng.choice([*[""] * 9, *_PACKERS])
        data = b"".join(line + b"\n" for line in _lines(rng, 15, dimension, text_ids, used))
        name = f"part-{number}.jsonl{packed}"
        files[name] = _PACKERS[packed](data)
        contents.append(_content(name, data))
    hit = rng.randrange(len(files))
    name = contents[hit].name
    how = ""
    for _ in range(rng.choice([1, 1, 3])):
        files[name], what = damaged(files[name], rng)
        how += f"{what}; "
    candidates = [contents]
    try:
        data = _UNPACKERS[f".{name.rpartition('.')[2]}" if not name.endswith("jsonl") else ""](files[name])
        candidates = [[*contents[:hit], _content(name, data), *contents[hit + 1 :]]]
    except (OSError, EOFError, ValueError, lzma.LZMAError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        how += f"damaged: {error}"
    return Case(files, candidates, dimension, whole=False, about=f"{name}: {how}", filetype="jsonl")


def _lines(rng: random.Random, number: int, dimension: int, text_ids: bool, used: set[Any]) -> list[bytes]:
    pool = [[rng.gauss(0, 1) for _ in range(dimension)] for _ in range(4)]
    odd, again = rng.choice([0, 0.1]), rng.choice([0, 0, 0.05])
    lines = []
    for _ in range(number):
        id_: Any = rng.choice([2**63 - 1, -(2**63), 0, *(rng.randrange(10**6) for _ in range(20))])
        if text_ids:
            id_ = rng.choice([*_IDS, *(f"row-{id_}" for _ in _IDS)])
        if id_ in used and rng.random() >= again:
            id_ = f"other-{len(used)}" if text_ids else 10**7 + len(used)
        used.add(id_)
        vector: Any = [round(x + rng.gauss(0, 1) * rng.choice([0, 0, 1e-3]), 6) for x in rng.choice(pool)]
        spoilt = (
            rng.choice(["null", "absent", "id", "no id", "zero", "short", "element", "integers"])
            if rng.random() < odd
            else ""
        )
        row = {"id": None if spoilt == "id" else id_, "embeddings": vector}
        if spoilt in ("null", "absent"):
            row["embeddings"] = None
        if spoilt in ("zero", "integers"):
            row["embeddings"] = [0 if spoilt == "zero" else round(10 * x) for x in vector]
        if spoilt == "short":
            row["embeddings"] = vector[:-1]
        if spoilt == "element":
            row["embeddings"] = [None, *vector[1:]]
        if spoilt in ("absent", "no id"):
            del row["embeddings" if spoilt == "absent" else "id"]
        if rng.random() < 0.2:
            row["extra"] = rng.choice([1, 1.5, "x", None, [1, "a"], {"a": {"b": [None]}}, True])
        items = rng.sample(list(row.items()), len(row))
        lines.append(json.dumps(dict(items), ensure_ascii=rng.random() < 0.5).encode())
    return lines


def _wrong_line(rng: random.Random, text_ids: bool) -> bytes:
    id_ = rng.randrange(10**9)
    return rng.choice(_WRONG_LINES).replace(b'"id": 1', b'"id": ' + (b'"wrong-%d"' % id_ if text_ids else b"%d" % id_))


def _deep(depth: int, dimension: int) -> bytes:
    # Python's parser gives up somewhere between; a reader may use the row, or reject it.
    row = json.dumps({"id": 1, "embeddings": [1.0] * dimension, "deep": None}).encode()
    return row.replace(b"null", b"[" * depth + b"]" * depth)


def _content(name: str, data: bytes) -> File:
    """Returns what Python's parser finds in the lines."""
    ids, vectors, numbers, lines, either = [], [], [], [], set()
    for number, line in enumerate(data.split(b"\n"), 1):
        whole = line + b"\n"
        if not line.strip():
            lines.append((whole, None))
            continue
        id_, vector, unsure = _row(line)
        if unsure:
            either.add(len(ids))
        ids.append(id_)
        vectors.append(vector)
        numbers.append(number)
        lines.append((whole, id_))
    if lines:
        lines[-1] = (lines[-1][0][:-1], lines[-1][1])
    return File(name, ids, vectors, (), numbers, frozenset(either), lines)


def _row(line: bytes) -> tuple[Any, Any, bool]:
    """Returns the id and the vector of a line, None for what is not there, and whether readers disagree about it."""
    unsure = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal unsure
        unsure |= len({name for name, _ in items}) < len(items)  # the first or the last of them
        return dict(items)

    def number(text: str) -> float:
        nonlocal unsure
        unsure |= not math.isfinite(float(text))  # too large, or infinite
        return float(text)

    try:
        text = line.strip(b" \t\r\n\xef\xbb\xbf").decode(errors="replace")
        row = json.loads(text, object_pairs_hook=pairs, parse_float=number)
    except ValueError:
        return None, None, False
    except RecursionError:  # a line of `_deep`
        return 1, json.loads(line[line.index(b"[") : line.index(b"]") + 1]), True
    if not isinstance(row, dict):
        return None, None, False
    id_, vector = row.get("id"), row.get("embeddings")
    unsure |= line.count(b"[") > 50  # of `_deep`
    unsure |= "\\ud" in text.lower() or "\\u0000" in text  # halves of surrogates
    if not is_utf8(line):
        unsure = True  # where it is not in what is read, it does not matter
        id_ = None if isinstance(id_, str) and "\ufffd" in id_ else id_
    return id_, vector if isinstance(vector, list) else None, unsure


def is_utf8(line: bytes) -> bool:
    """Says whether it is text."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _mixed(contents: list[File]) -> bool:
    """Says whether the ids are of several types, or of one that ids cannot have."""
    types = {
        type(id_) if not isinstance(id_, int) or -(2**63) <= id_ < 2**63 else float
        for file in contents
        for id_ in file.ids
    }
    return len(types - {type(None)}) > 1 or bool(types & {float, bool, list, dict})
