"""What the tests of the formats share: a file's facts, all that its units hold, and a copy of it without some rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.inputs.base import FileFacts, Format, InputUnit, RowBatch
from beam_semdedup.storage.folder import File, Folder

VECTORS = pa.list_(pa.float32())
SCHEMA = pa.schema([("id", pa.int64()), ("embeddings", VECTORS)])


def facts(path: Path | str, kind: Format) -> FileFacts:
    (file,) = Folder(str(path)).find()
    return kind.inspect(file)


def read(units: Sequence[InputUnit], kind: Format, schema: pa.Schema = SCHEMA) -> tuple[pa.Table, list[RowBatch]]:
    """All that the units hold, as one table and as it came."""
    rows = [r for unit in units for r in kind.read(File(unit.path), unit, schema)]
    return pa.concat_tables([schema.empty_table(), *(r.table for r in rows)], promote_options="permissive"), rows


def numbers(rows: list[RowBatch]) -> list[int]:
    return [n for r in rows for n in r.numbers.tolist()]


def malformed(rows: list[RowBatch]) -> list[int]:
    return [n for r in rows for n in r.malformed.tolist()]


def positions(rows: list[RowBatch]) -> list[int]:
    return [n for r in rows for n in r.positions.tolist()]


def copied(kind: Format, source: Path, gone: Iterable[Any], batch_bytes: int = 1 << 20) -> tuple[Path, tuple[int, int]]:
    """A copy of the file without the rows with these ids, and how many rows were read and left out."""
    listed, target = pa.array(gone), source.with_name("copy")

    def is_listed(ids: pa.ChunkedArray) -> np.ndarray:
        return pc.is_in(ids, listed.cast(ids.type)).to_numpy()

    return target, kind.copy_without(File(str(source)), target, pa.field("id", listed.type), is_listed, batch_bytes)
