"""The footer of a parquet file as the Thrift structs that it is made of, and as Arrow's metadata."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.inputs import thrift
from beam_semdedup.inputs.thrift import Struct

MAGIC = b"PAR1"


class FileField:
    """The fields of FileMetaData, as parquet.thrift numbers them; so do the classes below."""

    VERSION, SCHEMA, NUM_ROWS, ROW_GROUPS, KEY_VALUES, CREATED_BY, COLUMN_ORDERS, ENCRYPTION = range(1, 9)


class Element:
    """The fields of SchemaElement."""

    TYPE, LENGTH, REPETITION, NAME, CHILDREN, CONVERTED, SCALE, PRECISION, ID, LOGICAL = range(1, 11)


class Group:
    """The fields of RowGroup."""

    COLUMNS, BYTES, NUM_ROWS, SORTING, OFFSET, COMPRESSED_BYTES, ORDINAL = range(1, 8)


class Chunk:
    """The fields of ColumnChunk."""

    PATH, OFFSET, METADATA, OFFSETS_AT, OFFSETS_SIZE, INDEX_AT, INDEX_SIZE, CRYPTO, ENCRYPTED = range(1, 10)


class Column:
    """The fields of ColumnMetaData."""

    TYPE, ENCODINGS, PATH, CODEC, NUM_VALUES, BYTES, COMPRESSED_BYTES, KEY_VALUES = range(1, 9)
    DATA_AT, INDEX_AT, DICTIONARY_AT, STATISTICS, PAGES, BLOOM_AT, BLOOM_SIZE, SIZES = range(9, 17)


def read(source: pa.NativeFile) -> Struct:
    """Returns the FileMetaData at the end of a file; ValueError where there is none that can be read."""
    size = source.size()
    length = int.from_bytes(source.read_at(8, max(0, size - 8))[:4], "little")
    return thrift.read(source.read_at(length, max(0, size - 8 - length)))[0]


def framed(footer: Struct) -> bytes:
    """Returns a footer as it stands at the end of a file."""
    encoded = thrift.write(footer)
    return encoded + len(encoded).to_bytes(4, "little") + MAGIC


def as_metadata(footer: Struct) -> pq.FileMetaData:
    """Returns a footer as Arrow reads it."""
    return pq.read_metadata(pa.BufferReader(MAGIC + framed(footer)))
