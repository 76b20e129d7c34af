"""A unit of an embedding: neighbouring rows of texts, and the file with their embeddings."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from beam_semdedup.embed.encoder import Encoder
from beam_semdedup.embed.plan import EmbeddedUnit, EmbeddingManifest, EmbedJob
from beam_semdedup.errors import naming_unit
from beam_semdedup.inputs.base import RowBatch
from beam_semdedup.inputs.rows import read
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.plan.stored import Counts
from beam_semdedup.storage import tables

_GROUP_ROWS = 16_384
_TYPES = {"float16": pa.float16(), "float32": pa.float32()}


def embed_unit(job: EmbedJob, unit: AssignUnit, encoder: Encoder) -> EmbeddedUnit:
    """Writes the file of a unit, unless an earlier attempt did."""
    name, p = job.name(unit), job.parameters
    file = job.output.file(name)
    found = tables.read_facts(file, EmbeddedUnit) if file.exists() else None
    if found is not None and found.name == name:
        return replace(found, reused=True)
    with naming_unit(" to ".join(map(job.input_format.describe, dict.fromkeys([unit.parts[0], unit.parts[-1]])))):
        found_rows: list[RowBatch] = []
        for part in unit.parts:
            found_rows += read(job.input_format, job.input_file(part.path), part, job.schema)
        table = pa.concat_tables([job.schema.empty_table(), *(rows.table.cast(job.schema) for rows in found_rows)])
        texts = table.column(p.text_field).combine_chunks()
        vectors = encoder.encode(texts.drop_null().to_pylist())
        column = _column(vectors, texts.is_valid().to_numpy(zero_copy_only=False), _TYPES[p.dtype])
        names = [p.id_column, *p.metadata_fields]
        written = table.select(names).append_column(p.embedding_field, column).replace_schema_metadata(None)
        schema = pa.schema([field.remove_metadata() for field in written.schema])
        malformed = sum(len(rows.malformed) for rows in found_rows)
        facts = EmbeddedUnit(name, table.num_rows, texts.null_count, malformed)
        tables.write(file, written.cast(schema), facts, p.write_kwargs.get("compression", "zstd"), _GROUP_ROWS)
    return facts


def finish(job: EmbedJob, units: Iterable[EmbeddedUnit]) -> None:
    """Writes the manifest."""
    units = sorted(units, key=lambda unit: unit.name)
    manifest = EmbeddingManifest(
        counts=Counts.of(units),
        finished=time.time(),
        key=job.key,
        files=tuple(unit.name for unit in units),
        nulls=sum(unit.nulls for unit in units),
        malformed=sum(unit.malformed for unit in units),
    )
    manifest.store(job.output)


def _column(vectors: np.ndarray, there: np.ndarray, type_: pa.DataType) -> pa.Array:
    """Returns embeddings as a column, with nulls where there is none."""
    ends = np.cumsum(there) * vectors.shape[1]
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32), mask=np.append(~there, False))
    with np.errstate(over="ignore"):
        values = pa.array(vectors.astype(type_.to_pandas_dtype()).reshape(-1), type_)
    return pa.ListArray.from_arrays(offsets, values)
