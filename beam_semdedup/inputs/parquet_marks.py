"""Parquet files copied with columns added: what is stored is copied as bytes, and the footer says what is new."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.inputs import parquet_footer, thrift
from beam_semdedup.inputs.base import Marks
from beam_semdedup.inputs.parquet_copy import Copy, StoredFile
from beam_semdedup.inputs.parquet_footer import Element, FileField
from beam_semdedup.inputs.thrift import Struct
from beam_semdedup.storage.folder import File

_KEY, _VALUE = 1, 2  # the fields of KeyValue
_ARROW, _SPARK = b"ARROW:schema", b"org.apache.spark.sql.parquet.row.metadata"


def copy_marked(
    file: File, source: pa.NativeFile, sink: IO[bytes], id_field: str | None, marks: Marks, batch_bytes: int
) -> int:
    """Copies a parquet `file`, open as `source`, with columns added; see `Marker.copy_marked`."""
    stored, copy = StoredFile.open(file, source), Copy.begin(file, sink)
    none = marks(None)
    footer, rows_read = _with_columns(stored.footer, none), 0
    id_column = None if id_field is None else stored.number(id_field)
    for number, group in enumerate(stored.row_groups):
        if id_column is None:
            numbers = np.arange(rows_read, rows_read + group[parquet_footer.Group.NUM_ROWS])
            added = marks(pa.chunked_array([pa.array(numbers)]))
        else:
            ids = stored.read_group(number, batch_bytes, [id_column])
            added = pa.concat_tables([none, *(marks(pa.chunked_array([batch.column(0)])) for batch in ids)])
        for _ in stored.read_group(number, batch_bytes):
            pass  # what is damaged is no copy
        written = _written(added)
        (new,) = parquet_footer.read(written)[FileField.ROW_GROUPS]
        copy.append((source, group), (written, new))
        rows_read += added.num_rows
    copy.finish(footer)
    return rows_read


def _written(added: pa.Table) -> pa.NativeFile:
    """Returns a file of one row group with the columns."""
    sink = pa.BufferOutputStream()
    pq.write_table(added, sink, row_group_size=max(1, added.num_rows), store_schema=False, compression="zstd")
    return pa.BufferReader(sink.getvalue())


def _with_columns(footer: Struct, added: pa.Table) -> Struct:
    """Returns a footer whose schema has columns more, also as Arrow and Spark say it in the file's metadata."""
    footer, new = footer.copy(), parquet_footer.read(_written(added))
    root, *elements = footer[FileField.SCHEMA]
    root = root.copy()
    root[Element.CHILDREN] += added.num_columns
    footer[FileField.SCHEMA] = thrift.List(thrift.STRUCT, [root, *elements, *new[FileField.SCHEMA][1:]])
    if FileField.COLUMN_ORDERS in footer:
        orders = [*footer[FileField.COLUMN_ORDERS], *new[FileField.COLUMN_ORDERS]]
        footer[FileField.COLUMN_ORDERS] = thrift.List(thrift.STRUCT, orders)
    if FileField.KEY_VALUES in footer:
        pairs = thrift.List(thrift.STRUCT)
        for pair in footer[FileField.KEY_VALUES]:
            change = _CHANGES.get(pair[_KEY])
            if change and _VALUE in pair:
                pair = pair.copy()
                pair[_VALUE] = change(pair[_VALUE], added.schema)
            pairs.append(pair)
        footer[FileField.KEY_VALUES] = pairs
    return footer


def _arrow_schema(value: bytes, added: pa.Schema) -> bytes:
    schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(value)))
    metadata = dict(schema.metadata or {})
    if _SPARK in metadata:
        metadata[_SPARK] = _spark_schema(metadata[_SPARK], added)
    whole = pa.schema([*schema, *added], metadata or None)
    return base64.b64encode(whole.serialize())


def _spark_schema(value: bytes, added: pa.Schema) -> bytes:
    schema: dict[str, Any] = json.loads(value)
    types = {pa.float32(): "float", pa.bool_(): "boolean", pa.int64(): "long", pa.string(): "string"}
    for field in added:
        told = {"name": field.name, "type": types.get(field.type, "binary"), "nullable": True, "metadata": {}}
        schema["fields"].append(told)
    return json.dumps(schema).encode()


_CHANGES: dict[bytes, Callable[[bytes, pa.Schema], bytes]] = {_ARROW: _arrow_schema, _SPARK: _spark_schema}
