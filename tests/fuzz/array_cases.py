"""Arrays of NumPy with a file of ids, and Arrow files and streams, whole and damaged, each with what is in it."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pyarrow as pa
from fuzz import parquet_cases
from fuzz.cases import Case
from fuzz.damage import damaged
from fuzz.judge import File

_DTYPES = ("<f2", "<f4", ">f4", "<f8", ">f8", "i1", "<i2", ">i4", "<u8")


def npy(rng: random.Random) -> Case:
    """Returns one or two arrays with their ids, of which half are damaged somewhere."""
    dimension, texts = rng.choice([1, 2, 3]), rng.random() < 0.5
    files, ids, contents = {}, {}, []
    for number in range(rng.choice([1, 1, 2])):
        rows, name = rng.choice([0, 1, 5, 20]), f"part-{number}.npy"
        array = _array(rng, rows, dimension)
        names = [f"{number}-{row}" for row in range(rows)] if texts else [100 * number + row for row in range(rows)]
        files[name] = _npy_bytes(array)
        ids[name] = _npy_bytes(np.array(names, dtype="U9" if texts else rng.choice(["<i4", ">i8", "<u2"])))
        contents.append(_arrays(name, array, names))
    if rng.random() < 0.5:
        return Case(files, [contents], dimension, whole=True, filetype="npy", ids=ids)
    hit = rng.choice(list(files))
    which = files if rng.random() < 0.7 else ids
    which[hit], how = damaged(which[hit], rng)
    candidates, judged = [contents], True
    try:
        array, names = (np.load(io.BytesIO(data), allow_pickle=False) for data in (files[hit], ids[hit]))
        found = _arrays(hit, array, names.tolist())
        candidates = [[found if content.name == hit else content for content in contents]]
        judged = names.dtype.kind in "iu" or all(value.isprintable() for value in names.tolist())
    except Exception as error:  # what NumPy raises of damaged headers has nothing in common
        how += f"; damaged: {error}"
    return Case(files, candidates, dimension, whole=False, judged=judged, about=how, filetype="npy", ids=ids)


def arrow(rng: random.Random) -> Case:
    """Returns files and streams of which half are damaged somewhere."""
    whole, dimension = rng.random() < 0.5, 3
    id_type = rng.choice([pa.int64(), pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
    list_type = rng.choice([pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 3)])
    make_id = parquet_cases._ids(rng, id_type, odd=whole)
    make_vector = parquet_cases._vectors(rng, list_type, dimension, odd=whole or rng.random() < 0.5)
    files, contents = {}, []
    for number in range(rng.choice([1, 2])):
        rows, name = rng.choice([0, 1, 24, 24]), f"part-{number}.arrow"
        ids, vectors = [make_id() for _ in range(rows)], [make_vector() for _ in range(rows)]
        columns = {"id": pa.array(ids, id_type), "embeddings": parquet_cases._list_array(vectors, list_type)}
        table = pa.table({**columns, "text": [f"text {row % 7}" for row in range(rows)]})
        files[name] = _arrow_bytes(rng, table)
        contents.append(File(name, ids, vectors, (), range(rows)))
    if whole:
        return Case(files, [contents], dimension, whole=True, filetype="arrow")
    hit = rng.choice(list(files))
    files[hit], how = damaged(files[hit], rng)
    candidates, judged = [contents], True
    try:
        table = _arrow_table(files[hit])
        found = File(hit, table["id"].to_pylist(), table["embeddings"].to_pylist(), (), range(table.num_rows))
        candidates = [[found if content.name == hit else content for content in contents]]
        judged = table.schema.field("id").type == id_type and table.schema.field("embeddings").type == list_type
    except (pa.ArrowException, OSError, KeyError, ValueError, MemoryError) as error:
        # What is not needed may be damaged.
        how, judged = f"{how}; damaged: {error}", False
    return Case(files, candidates, dimension, whole=False, judged=judged, about=f"{hit}: {how}", filetype="arrow")


def _array(rng: random.Random, rows: int, dimension: int) -> np.ndarray:
    dtype = np.dtype(rng.choice(_DTYPES))
    pool = [[rng.gauss(0, 1) * 10 for _ in range(dimension)] for _ in range(4)]
    values = np.array([rng.choice(pool) for _ in range(rows)]).reshape(rows, dimension)
    if dtype.kind == "u":
        values = np.abs(values)
    if dtype.kind == "f" and rows and rng.random() < 0.2:
        values[rng.randrange(rows)] = rng.choice([0, np.nan, np.inf])
    return np.asarray(values.astype(dtype), order=rng.choice("CF"))


def _npy_bytes(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def _arrays(name: str, array: Any, ids: list[Any]) -> File:
    vectors = [[float(value) for value in row] for row in np.asarray(array)]
    if len(ids) != len(vectors):
        raise ValueError("not as many ids as rows")
    return File(name, ids, vectors, (), range(len(vectors)))


def _arrow_bytes(rng: random.Random, table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=rng.choice([None, None, "lz4", "zstd"]))
    make = rng.choice([pa.ipc.new_file, pa.ipc.new_stream])
    with make(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rng.choice([1, 5, 100]))
    return bytes(sink.getvalue())


def _arrow_table(data: bytes) -> pa.Table:
    opened = pa.ipc.open_file if data.startswith(b"ARROW1") else pa.ipc.open_stream
    table = opened(pa.BufferReader(data)).read_all()
    table.validate(full=True)
    return table
