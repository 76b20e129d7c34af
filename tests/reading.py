"""What the tests of the input share: small files, what is known of them, all that their units hold, and copies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_semdedup.inputs import dataset
from beam_semdedup.inputs.base import Copier, FileFacts, Format, InputUnit, RowBatch
from beam_semdedup.inputs.dataset import Columns, InputFacts
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.inputs.registry import format_named
from beam_semdedup.inputs.sample import VectorColumn, sample
from beam_semdedup.inputs.units import units
from beam_semdedup.storage.folder import File, FileInfo, Folder

VECTORS = pa.list_(pa.float32())
SCHEMA = pa.schema([("id", pa.int64()), ("embeddings", VECTORS)])


@dataclass(frozen=True)
class Place:
    """Where input is, as the parameters of a run say it."""

    input_path: Sequence[str]
    input_filetype: str = "parquet"
    input_file_extensions: Sequence[str] | None = None
    read_options: dict[str, Any] = field(default_factory=dict)


def write(path: Path, ids: Any, vectors: Any, rows_per_group: int = 1000, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": ids if isinstance(ids, pa.Array) else pa.array(ids),
            "embeddings": vectors if isinstance(vectors, pa.Array) else pa.array(vectors, VECTORS),
            **columns,
        }
    )
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


def write_lines(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def facts(path: Path | str, kind: Format) -> FileFacts:
    (file,) = Folder(str(path)).find()
    return kind.inspect(file)


def inspect(
    *paths: Any,
    filetype: str = "parquet",
    carried: Sequence[str] = (),
    embedding_dim: int | None = None,
    ids: Sequence[FileInfo] | None = None,
) -> InputFacts:
    files = list_files(Place([str(p) for p in paths], filetype))
    return dataset.inspect(files, format_named(filetype), Columns("id", "embeddings", carried, embedding_dim, ids))


def input_of(kind: Format, *files: FileFacts) -> InputFacts:
    """An input of these files, which have vectors of one value."""
    return InputFacts(kind, files, SCHEMA, 1)


def made_up(part_rows: list[list[int]]) -> InputFacts:
    """An input of parquet files with these row groups."""
    files = []
    for number, rows in enumerate(part_rows):
        starts = np.concatenate([[0], np.cumsum(rows)]).tolist()
        parts = tuple(InputUnit(f"f{number}", 0, starts[g], n, (g,)) for g, n in enumerate(rows) if n)
        files.append(FileFacts(FileInfo(f"f{number}", {}, 1, ""), SCHEMA, sum(rows), parts))
    return input_of(Parquet(), *files)


def sampled(
    found: InputFacts,
    size: int,
    *,
    seed: int = 0,
    rows_per_unit: int = 10**6,
    normalize: bool = True,
    field: pa.Field | None = None,
) -> np.ndarray:
    column = VectorColumn(found.format, field or pa.field("embeddings", VECTORS), found.dimension, normalize, {})
    return sample(parts_of(found, rows_per_unit), column, size, seed)


def parts_of(found: InputFacts, rows_per_unit: int) -> list[InputUnit]:
    """What the units of an input read, file by file."""
    return [part for unit in units(found, rows_per_unit) for part in unit.parts]


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


def copied(kind: Copier, source: Path, gone: Iterable[Any], batch_bytes: int = 1 << 20) -> tuple[Path, tuple[int, int]]:
    """A copy of the file without the rows with these ids, and how many rows were read and left out."""
    listed, target = pa.array(gone), source.with_name("copy")

    def is_listed(ids: pa.ChunkedArray) -> np.ndarray:
        return pc.is_in(ids, listed.cast(ids.type)).to_numpy()

    counts = kind.copy_without(FileInfo(str(source)), [target], pa.field("id", listed.type), is_listed, batch_bytes)
    return target, counts[:2]
