"""The rows of a unit with all columns of the input, also those that its file does not hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pyarrow as pa

from beam_semdedup.inputs import ids, partitions, vectors
from beam_semdedup.inputs.base import Format, InputUnit, RowBatch
from beam_semdedup.inputs.vectors import Lookup, VectorFiles
from beam_semdedup.storage.folder import File

_MARKS = (partitions.MARK, ids.MARK, vectors.MARK)


def read(
    kind: Format, file: File, unit: InputUnit, schema: pa.Schema, vector_files: VectorFiles | None = None
) -> Iterator[RowBatch]:
    """Yields what the format reads of a unit with the columns of `schema`: those of partitions, ids and vectors too.

    Args:
        vector_files: where the input file holds no vectors.
    """
    stored = pa.schema([field for field in schema if field.metadata not in _MARKS])
    if len(stored) == len(schema):
        yield from kind.read(file, unit, schema)
        return
    named = {field.name: ids.of_file(file, unit.ids, field.name) for field in schema if field.metadata == ids.MARK}
    if not stored and vector_files:
        stored = pa.schema([vector_files.texts])  # by which there are rows
    lookup = Lookup(vector_files, unit) if vector_files else None
    for rows in kind.read(file, unit, stored):
        columns = []
        for field in schema:
            if field.metadata == partitions.MARK:
                columns.append(partitions.constant(field, file.url, rows.table.num_rows))
            elif field.name in named:
                columns.append(
                    named[field.name].of(rows.positions if rows.places is None else rows.places).cast(field.type)
                )
            elif field.metadata == vectors.MARK and lookup:
                columns.append(lookup.of(rows.positions))
            else:
                columns.append(rows.table.column(field.name))
        yield dataclasses.replace(rows, table=pa.table(columns, names=schema.names))
