"""Parquet files of every make, and damaged ones, each with what is in it."""

from __future__ import annotations

import datetime
import decimal
import io
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz import parquet_reader
from fuzz.cases import Case
from fuzz.damage import EXTREMES, damaged, varint
from fuzz.judge import File
from fuzz.parquet_reader import Content, Damaged, Unknown

ID, VECTORS = "id", "embeddings"
_ODD_TEXTS = ("", " ", "a/b", "é", "日本", "\U0001f600", "\x00", "\n", "x" * 300, "None", "NaN", "1", "01", "A", "a")
_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
_NUMBERS = (pa.float16(), pa.float32(), pa.float64())
_DAYS = tuple(datetime.datetime(year, 1, 1) for year in (1816, 1970, 2024, 2262))
_DECIMALS = tuple(decimal.Decimal(number) / 100 for number in (-1, 0, 12345))


def structured(rng: random.Random) -> Case:
    """Returns whole files: types, row groups, pages, encodings, nulls, ids and vectors as odd as they may be."""
    dimension = rng.choice([1, 2, 3, 5])
    id_type, list_type = _id_type(rng), _list_type(rng, dimension)
    make_id = _ids(rng, id_type)
    make_vector = _vectors(rng, list_type, dimension)
    extras = [_EXTRAS[name] for name in rng.sample(sorted(_EXTRAS), rng.choice([0, 0, 1, 3]))]
    files, contents = {}, []
    for number in range(rng.choice([1, 1, 2, 3])):
        rows = rng.choice([0, 1, 5, 12, 30])
        ids, vectors = [make_id() for _ in range(rows)], [make_vector() for _ in range(rows)]
        columns = {ID: pa.array(ids, id_type), VECTORS: _list_array(vectors, list_type)}
        for place, (type_, values) in enumerate(extras):
            columns[f"extra{place}"] = pa.array([rng.choice([None, *values]) for _ in range(rows)], type_)
        names = rng.sample(list(columns), len(columns))
        name = f"part-{number}.parquet"
        files[name], groups = _written(rng, pa.table({name: columns[name] for name in names}))
        contents.append(File(name, ids, vectors, groups))
    return Case(files, [contents], dimension, whole=True)


def bytewise(rng: random.Random) -> Case:
    """Returns files of which one is damaged somewhere, often where it hurts."""
    dimension, rows = 3, 24
    id_type = rng.choice([pa.int64(), pa.int64(), pa.string()])
    list_type = rng.choice(
        [pa.list_(pa.float32()), pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), 3)]
    )
    make_id, make_vector = _ids(rng, id_type, odd=False), _vectors(rng, list_type, dimension, odd=rng.random() < 0.5)
    files, contents = {}, []
    for number in range(rng.choice([1, 2])):
        ids, vectors = [make_id() for _ in range(rows)], [make_vector() for _ in range(rows)]
        table = pa.table(
            {
                ID: pa.array(ids, id_type),
                VECTORS: _list_array(vectors, list_type),
                "text": [f"text {i % 7}" for i in range(rows)],
            }
        )
        name = f"part-{number}.parquet"
        files[name], groups = _written(rng, table, empty=False)
        contents.append(File(name, ids, vectors, groups))
    hit = rng.randrange(len(files))
    name = contents[hit].name
    whole = parquet_reader.read(files[name])
    files[name], how = _hurt(files[name], whole, rng)
    candidates, changed_schema = [contents], False
    try:
        content = parquet_reader.read(files[name])
        changed_schema = content.schema != whole.schema
        now = File(
            name,
            [id_ if _is_id(id_, id_type) else None for id_ in content.columns[ID]],
            content.columns[VECTORS],
            content.groups,
        )
        candidates = [[*contents[:hit], now, *contents[hit + 1 :]]]
        state = "as another reader reads it"
    except Damaged as error:
        state = f"damaged: {error}"
    except (Unknown, KeyError) as error:
        state, changed_schema = f"unknown: {error}", True
    return Case(files, candidates, dimension, whole=False, judged=not changed_schema, about=f"{name}: {how}; {state}")


def _hurt(data: bytes, content: Content, rng: random.Random) -> tuple[bytes, str]:
    kind = rng.choice(
        ["anywhere", "footer", "number", "number", "header", "repetition", "definition", "values", "page", "magic"]
    )
    if kind == "number":  # of the footer; what follows in it moves, and its length with it
        start, stop = rng.choice(content.numbers)
        new = varint(rng.choice(EXTREMES) + rng.choice([0, 0, 1])) if rng.random() < 0.7 else varint(rng.randrange(300))
        length = int.from_bytes(data[-8:-4], "little") + len(new) - (stop - start)
        return data[:start] + new + data[stop:-8] + struct.pack("<I", length) + data[-4:], f"number at byte {start}"
    regions = [region for region in content.regions if region.kind == kind]
    used = [region for region in regions if region.column in (ID, VECTORS)]
    if regions and kind != "anywhere":
        region = rng.choice(used or regions)
        changed, how = damaged(data, rng, region.start, region.stop)
        return changed, f"{kind} of {region.column}, {how}"
    return damaged(data, rng)


def _is_id(id_: Any, type_: pa.DataType) -> bool:
    return isinstance(id_, str if type_ == pa.string() else int)


def _id_type(rng: random.Random) -> pa.DataType:
    texts = (pa.string(), pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
    return rng.choice([*_INTEGERS[1:], *texts, pa.binary(), pa.large_binary(), pa.binary(16), pa.uuid()])


def _ids(rng: random.Random, type_: pa.DataType, odd: bool = True) -> Callable[[], Any]:
    """Returns what makes ids, a few of them null, and with `odd` a few repeated."""
    used: set[Any] = set()
    nulls = rng.choice([0, 0, 0.1]) if odd else 0
    again = rng.choice([0, 0, 0, 0.1]) if odd else 0

    def one() -> Any:
        if pa.types.is_integer(type_):
            signed = pa.types.is_signed_integer(type_)
            low, high = (
                (-(2 ** (type_.bit_width - 1)), 2 ** (type_.bit_width - 1) - 1)
                if signed
                else (0, 2**type_.bit_width - 1)
            )
            return rng.choice([low, high, 0, *(rng.randint(max(low, -99), min(high, 999)) for _ in range(9))])
        if type_ == pa.uuid() or pa.types.is_fixed_size_binary(type_):
            return rng.randbytes(16)
        text = (
            rng.choice(_ODD_TEXTS) + rng.choice(["", str(rng.randrange(999))]) if odd else f"row-{rng.randrange(10**6)}"
        )
        return text.encode() if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) else text

    def make() -> Any:
        if rng.random() < nulls:
            return None
        if used and rng.random() < again:
            return rng.choice(sorted(used))
        id_ = one()
        for _ in range(10_000):
            if id_ not in used:
                break
            id_ = one()
        used.add(id_)
        return id_

    return make


def _list_type(rng: random.Random, dimension: int) -> pa.DataType:
    value = rng.choice([*_NUMBERS, pa.float32(), pa.float32(), pa.float32(), *_INTEGERS])
    kind = rng.choice(["list", "list", "large", "fixed", "tensor"])
    if kind == "list":
        return pa.list_(rng.choice([value, pa.field("element", value, nullable=False)]))
    if kind == "large":
        return pa.large_list(value)
    if kind == "fixed" or not pa.types.is_floating(value):
        return pa.list_(value, dimension)
    return pa.fixed_shape_tensor(value, [dimension])


def _vectors(rng: random.Random, type_: pa.DataType, dimension: int, odd: bool = True) -> Callable[[], Any]:
    """Returns what makes vectors: copies, near ones, others, and with `odd` such as cannot be used."""
    storage = type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_
    value, fixed = storage.value_type, pa.types.is_fixed_size_list(storage)
    floating, unsigned = pa.types.is_floating(value), pa.types.is_unsigned_integer(value)
    pool = [[rng.gauss(0, 1) for _ in range(dimension)] for _ in range(5)]
    share = rng.choice([0, 0.1, 0.2]) if odd else 0
    scales = [1.0, 1.0, 100.0] if value != pa.float64() or not odd else [1.0, 1e200, 1e-60, 1e30]

    def rounded(x: float) -> Any:
        if not floating:
            return abs(round(x * 30)) % 128 if unsigned else max(-128, min(127, round(x * 30)))
        return float(np.float16(x) if value == pa.float16() else np.float32(x) if value == pa.float32() else x)

    def make() -> Any:
        noise, scale = rng.choice([0, 0, 1e-3, 0.3]), rng.choice(scales) if floating else 1.0
        vector: list[Any] = [rounded((x + rng.gauss(0, 1) * noise) * scale) for x in rng.choice(pool)]
        if rng.random() >= share:
            return vector
        spoilt = rng.choice(["null", "zero", "nan", "inf", "empty", "short", "long", "element", "tiny", "large"])
        place = rng.randrange(dimension)
        if spoilt == "null":
            return None
        if spoilt == "zero":
            return [rounded(0)] * dimension
        if floating and spoilt in ("nan", "inf"):
            vector[place] = float(rng.choice(["nan", "inf", "-inf"]) if spoilt == "inf" else "nan")
        if floating and spoilt in ("tiny", "large") and value != pa.float16():
            return [rounded(x * (1e-37 if spoilt == "tiny" else 1e36)) for x in vector]
        if not fixed:
            if spoilt == "element" and storage.value_field.nullable:
                vector[place] = None
            return {"empty": [], "short": vector[:-1], "long": [*vector, vector[0]]}.get(spoilt, vector)
        return vector

    return make


def _list_array(vectors: list[Any], type_: pa.DataType) -> pa.Array:
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, _list_array(vectors, type_.storage_type))
    if type_.value_type == pa.float16():
        vectors = [v and [None if x is None else np.float16(x) for x in v] for v in vectors]
    return pa.array(vectors, type_)


_EXTRAS: dict[str, tuple[pa.DataType, tuple[Any, ...]]] = {
    "text": (pa.string(), ("a", "b" * 50, "")),
    "nested": (
        pa.struct([("x", pa.int32()), ("y", pa.list_(pa.string()))]),
        ({"x": 1, "y": ["a", None]}, {"x": None, "y": []}),
    ),
    "map": (pa.map_(pa.string(), pa.int64()), ([("k", 1)], [])),
    "decimal": (pa.decimal128(12, 2), _DECIMALS),
    "time": (pa.timestamp("us"), _DAYS),
    "zoned": (pa.timestamp("ms", "Europe/Berlin"), _DAYS),
    "day": (pa.date32(), tuple(day.date() for day in _DAYS)),
    "bool": (pa.bool_(), (True, False)),
    "dictionary": (pa.dictionary(pa.int16(), pa.string()), ("x", "y")),
    "lists": (pa.list_(pa.list_(pa.int8())), ([[1], [], None], [])),
    "binary": (pa.binary(), (b"\x00\xff", b"")),
    "null": (pa.null(), (None,)),
}


def _written(rng: random.Random, table: pa.Table, empty: bool = True) -> tuple[bytes, list[int]]:
    """Writes a table in one of many ways; returns the bytes, and the rows of each row group."""
    sink = io.BytesIO()
    size = rng.choice([1, 3, 8, 10, 1000]) if empty else rng.choice([8, 10, 1000])
    options = {
        "compression": rng.choice(["NONE", "NONE", "snappy", "zstd", "gzip", "lz4", "brotli"]),
        "data_page_version": rng.choice(["1.0", "2.0"]),
        "use_dictionary": rng.choice([True, False]),
        "write_page_checksum": rng.choice([True, False, False]),
        "write_statistics": rng.choice([True, False]),
        "store_schema": rng.choice([True, True, False]),
        "data_page_size": rng.choice([64, 1 << 20]),
        "write_batch_size": rng.choice([4, 1024]),
        "write_page_index": rng.choice([True, False]),
        "use_compliant_nested_type": rng.choice([True, True, False]),
    }
    groups: list[int] = []
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        for start in range(0, table.num_rows, size):
            if empty and rng.random() < 0.05:
                writer.write_table(table.slice(0, 0))
            writer.write_table(table.slice(start, size))
    data = sink.getvalue()
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return data, groups
