"""Small files whose columns `x` take 20 MB in memory: texts that repeat, in the ways that writers store them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1000


def texts(kinds: int = 3) -> pa.Array:
    return pa.array([f"{row % kinds:05d}" * 4000 for row in range(ROWS)])


def _write(path: Path, column: Any, **options: Any) -> None:
    pq.write_table(pa.table({"id": range(len(column)), "x": column}), path, **options)


def dictionary(path: Path) -> None:
    _write(path, texts())


def categories(path: Path) -> None:
    _write(path, texts().dictionary_encode())


def delta(path: Path) -> None:
    _write(path, texts(1), use_dictionary=False, column_encoding={"x": "DELTA_BYTE_ARRAY"})


def nested(path: Path) -> None:
    _write(path, pa.ListArray.from_arrays(pa.array(range(ROWS + 1), pa.int32()), texts()))


def dictionary_that_grew_too_large(path: Path) -> None:
    others = pa.array([f"{row}" * 4000 for row in range(200)])
    _write(path, pa.concat_arrays([texts(), others]), dictionary_pagesize_limit=50_000)


def polars(path: Path) -> None:
    pl.DataFrame({"id": range(ROWS), "x": pl.from_arrow(texts())}).write_parquet(path)


WRITERS: list[Callable[[Path], None]] = [dictionary, categories, delta, nested, dictionary_that_grew_too_large, polars]
