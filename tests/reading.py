"""What the tests of the formats share: a file's facts, and all that its units hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from beam_semdedup import storage
from beam_semdedup.formats import FileFacts, Format, InputUnit, RowBatch

VECTORS = pa.list_(pa.float32())
SCHEMA = pa.schema([("id", pa.int64()), ("embeddings", VECTORS)])


def facts(path: Path | str, kind: Format) -> FileFacts:
    (info,) = storage.find(str(path))
    return kind.inspect(info, {})


def read(units: Sequence[InputUnit], kind: Format, schema: pa.Schema = SCHEMA) -> tuple[pa.Table, list[RowBatch]]:
    """All that the units hold, as one table and as it came."""
    rows = [r for unit in units for r in kind.read(unit, schema, {})]
    return pa.concat_tables([schema.empty_table(), *(r.table for r in rows)], promote_options="permissive"), rows


def numbers(rows: list[RowBatch]) -> list[int]:
    return [n for r in rows for n in r.numbers.tolist()]


def malformed(rows: list[RowBatch]) -> list[int]:
    return [n for r in rows for n in r.malformed.tolist()]


def positions(rows: list[RowBatch]) -> list[int]:
    return [n for r in rows for n in r.positions.tolist()]
