"""A unit of an embedding: neighbouring rows of texts, and the file with their embeddings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from beam_semdedup.embed.models import AnyEncoder
from beam_semdedup.embed.plan import EmbeddedUnit, EmbeddingManifest, EmbedJob, InputJob
from beam_semdedup.errors import naming_unit
from beam_semdedup.inputs.base import InputUnit
from beam_semdedup.inputs.rows import read
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.plan.stored import Counts
from beam_semdedup.storage import tables
from beam_semdedup.text import EXAMPLES, shortened

_GROUP_ROWS = 16_384
_TYPES = {"float16": pa.float16(), "float32": pa.float32()}


def embed_unit(job: EmbedJob, unit: AssignUnit, encoder: AnyEncoder) -> EmbeddedUnit:
    """Writes the file of a unit, unless an earlier attempt did."""
    name, p = job.name(unit), job.parameters
    file = job.output.file(name)
    found = tables.read_facts(file, EmbeddedUnit) if file.exists() else None
    if found is not None and found.name == name:
        return replace(found, reused=True)
    with naming_unit(unit.describe(job.input_format)):
        names = [p.id_column, *p.metadata_fields]
        tables_, columns, broken = [job.schema.empty_table().select(names)], [], []
        malformed = nulls = 0
        for part, table, lost in _tables(job, unit):
            malformed += lost
            source = table.column(p.source_field)
            embedded = encoder.embed(source, job.images(part.path))
            broken += [_broken(table.column(p.id_column)[row], why) for row, why in embedded.broken]
            nulls += source.null_count
            tables_.append(table.select(names))
            columns.append(embedded.column)
        table = pa.concat_tables(tables_)
        with np.errstate(over="ignore"):
            column = pa.chunked_array(columns, pa.list_(pa.float32())).cast(pa.list_(_TYPES[p.dtype]))
        written = table.append_column(p.embedding_field, column).replace_schema_metadata(None)
        schema = pa.schema([field.remove_metadata() for field in written.schema])
        facts = EmbeddedUnit(
            name, table.num_rows, nulls, malformed, broken=len(broken), examples=tuple(broken[:EXAMPLES])
        )
        tables.write(file, written.cast(schema), facts, p.write_kwargs.get("compression", "zstd"), _GROUP_ROWS)
    return facts


def _tables(job: EmbedJob, unit: AssignUnit) -> Iterator[tuple[InputUnit, pa.Table, int]]:
    """Yields the rows of a unit, each time with how many of them are malformed.

    Texts come together, as they are sorted by their lengths; images, which are large, as they are read.
    """
    waiting, lost = [job.schema.empty_table()], 0
    for part in unit.parts:
        for rows in read(job.input_format, job.input_file(part.path), part, job.schema):
            table = rows.table.cast(job.schema)
            if job.parameters.image_field is not None:
                yield part, table, len(rows.malformed)
            else:
                waiting.append(table)
                lost += len(rows.malformed)
    if job.parameters.image_field is None:
        yield unit.parts[0], pa.concat_tables(waiting), lost


def _broken(id_: pa.Scalar, why: str) -> str:
    return shortened(f"{id_.as_py()}: {why}")


def embed_input(job: InputJob, unit: AssignUnit, encoder: AnyEncoder) -> EmbeddedUnit:
    """Writes the files with the vectors of a unit's parts that are not there."""
    files = job.files
    missing = [part for part in unit.parts if not files.file(part.vectors, part.first_row).exists()]
    first = files.file(unit.parts[0].vectors, unit.parts[0].first_row).name
    with naming_unit(unit.describe(job.input_format)):
        texts = pa.chunked_array([chunk for part in missing for chunk in _texts(job, part).chunks], pa.string())
        column = encoder.embed(texts, job.input_file(unit.parts[0].path).parent).column
        for part in missing:
            files.write(part, column[: part.num_rows], job.parameters.cache_compression)
            column = column[part.num_rows :]
    return EmbeddedUnit(first, unit.num_rows, texts.null_count, 0, not missing)


def _texts(job: InputJob, part: InputUnit) -> pa.ChunkedArray:
    """Returns the texts of a part (n,), null also where a row cannot be read."""
    found = list(read(job.input_format, job.input_file(part.path), part, pa.schema([job.files.texts])))
    texts = pa.chunked_array([chunk for rows in found for chunk in rows.table.column(0).chunks], pa.string())
    places = np.full(part.num_rows, -1)
    places[np.concatenate([np.empty(0, np.int64), *(rows.positions for rows in found)]) - part.first_row] = np.arange(
        len(texts)
    )
    return texts.take(pa.array(places, mask=places < 0))


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
        broken=sum(unit.broken for unit in units),
        examples=tuple(example for unit in units for example in unit.examples)[:EXAMPLES],
    )
    manifest.store(job.output)
