"""Parquet files copied without some of their rows: what is stored moves, and what it means stays in the footer.

A row group without a listed row is copied as bytes. Of any other one Arrow reads the stored values, by a footer that
keeps the structure of the columns and leaves out their meaning, and writes them as they were encoded and compressed.
The copy's footer is the file's own, with other places and counts in it: names, types and metadata are never translated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.inputs import parquet_footer, thrift
from beam_semdedup.inputs.base import IsListed, listed_rows
from beam_semdedup.inputs.parquet_footer import MAGIC, Chunk, Column, Element, FileField, Group
from beam_semdedup.inputs.parquet_pages import column_in_group, read_batches
from beam_semdedup.inputs.parquet_sizes import DATA_PAGES, DICTIONARY, ColumnSizes, is_dictionary, stored_bytes
from beam_semdedup.inputs.thrift import I32, I64, Struct
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.tables import opened

_INT96, _BYTE_ARRAY, _FIXED = 3, 6, 7
_CODECS = ("NONE", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4")
"""How Arrow calls the codecs; Hadoop's LZ4, which it reads only, becomes the LZ4 that took its place."""
_ENCODINGS = {
    0: "PLAIN",
    3: "RLE",
    5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY",
    7: "DELTA_BYTE_ARRAY",
    9: "BYTE_STREAM_SPLIT",
}
_DECIMAL, _UINT32, _UINT64, _INTERVAL = 5, 13, 14, 21
"""Of the converted types; decimals have the same number among the logical ones."""
_INTEGER, _FLOAT16 = 10, 15
_ORDERED = (1, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15)
"""The logical types that have an order: all but groups, and those of places on earth."""


@dataclass
class StoredFile:
    """A parquet `file` that is open as `source`, by its footer, whose structs are those of the file."""

    file: File
    source: pa.NativeFile
    footer: Struct

    @classmethod
    def open(cls, file: File, source: pa.NativeFile) -> StoredFile:
        """Reads the footer; InputError where it is none."""
        with as_input_error(f"{file}: not a readable parquet file"):
            return cls(file, source, parquet_footer.read(source))

    @property
    def row_groups(self) -> list[Struct]:
        """The row groups."""
        groups: list[Struct] = self.footer[FileField.ROW_GROUPS]
        return groups

    @cached_property
    def leaves(self) -> list[int]:
        """The places of the columns' elements in the schema."""
        return [i for i, element in enumerate(self.schema) if not element.get(Element.CHILDREN)]

    @property
    def schema(self) -> list[Struct]:
        """The elements of the schema, each before its children."""
        schema: list[Struct] = self.footer[FileField.SCHEMA]
        return schema

    def number(self, name: str) -> int:
        """Returns the place of a column's element in the schema; the column is none of several."""
        place = 1
        while self.schema[place][Element.NAME] != name.encode():
            open_ = 1
            while open_:
                open_ += self.schema[place].get(Element.CHILDREN, 0) - 1
                place += 1
        return place

    @cached_property
    def stored_schema(self) -> thrift.List:
        """The elements by their numbers in place of names, without what Arrow would change stored values by.

        What is kept tells the order of values for the statistics that are written.
        """
        result = thrift.List(thrift.STRUCT)
        for number, element in enumerate(self.schema):
            kept = element.copy()
            kept.put(Element.NAME, thrift.BINARY, str(number).encode())
            if kept.get(Element.TYPE) == _INT96 and not kept.get(Element.CHILDREN):
                kept[Element.TYPE] = _FIXED
                kept.put(Element.LENGTH, I32, 12)
            kept.drop(Element.ID)
            if not _order_needs_type(element):
                kept.drop(Element.CONVERTED, Element.SCALE, Element.PRECISION, Element.LOGICAL)
            result.append(kept)
        return result

    def read_group(
        self, number: int, batch_bytes: int, columns: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yields the rows of a row group in batches of about `batch_bytes`, in the types that they are stored in.

        Texts that are all in a dictionary stay there, unless only some columns are read.

        Args:
            number: of the row group.
            batch_bytes: of all columns that are read.
            columns: the places of their elements in the schema; None: all.

        Raises:
            InputError: a page is damaged; names the column.
        """

        def called(name: str, _: int) -> str:
            return column_in_group(self.schema[int(name.split(".")[0])][Element.NAME].decode(errors="replace"), number)

        footer = self._footer_of(self.row_groups[number])
        metadata = parquet_footer.as_metadata(footer)
        rows, options = metadata.num_rows, dict[str, Any](arrow_extensions_enabled=False)
        sizes = ColumnSizes(self.file, opened(self.source, metadata, **options), footer, called)
        chosen = {i for i, leaf in enumerate(self.leaves) if not columns or leaf in columns}
        kept = set() if columns else {i for i in chosen if sizes.is_dictionary(0, i)}
        num_bytes = stored_bytes(metadata, 0, kept) + sizes.decoded(0, chosen - kept)
        if kept:
            options["read_dictionary"] = [metadata.schema.column(i).path for i in kept]
        else:  # Arrow has dictionaries with small offsets only
            options["binary_type"] = pa.large_binary()
        parquet = opened(self.source, metadata, **options)

        batch_rows = max(1, min(rows, rows * batch_bytes // max(1, num_bytes)))
        names = None if columns is None else list(map(str, columns))
        return read_batches(self.file, parquet, batch_rows, [0], names, called)

    def _footer_of(self, group: Struct) -> Struct:
        """Returns the footer of a file of one row group, whose columns have the types that they are stored in."""
        group, footer = group.copy(), Struct()
        columns = thrift.List(thrift.STRUCT)
        for leaf, chunk in zip(self.leaves, group[Group.COLUMNS], strict=True):
            if Chunk.METADATA not in chunk or Chunk.PATH in chunk or Chunk.CRYPTO in chunk:
                raise InputError(f"{self.file}: a column is encrypted or in another file, and cannot be copied")
            chunk, column = chunk.copy(), chunk[Chunk.METADATA].copy()
            column[Column.TYPE] = self.stored_schema[leaf][Element.TYPE]
            column.drop(Column.STATISTICS, Column.KEY_VALUES, Column.BLOOM_AT, Column.BLOOM_SIZE)
            chunk.drop(Chunk.OFFSETS_AT, Chunk.OFFSETS_SIZE, Chunk.INDEX_AT, Chunk.INDEX_SIZE)
            chunk[Chunk.METADATA] = column
            columns.append(chunk)
        group[Group.COLUMNS] = columns
        group.drop(Group.SORTING)
        footer.put(FileField.VERSION, I32, self.footer[FileField.VERSION])
        footer.put(FileField.SCHEMA, thrift.LIST, self.stored_schema)
        footer.put(FileField.NUM_ROWS, I64, group[Group.NUM_ROWS])
        footer.put(FileField.ROW_GROUPS, thrift.LIST, thrift.List(thrift.STRUCT, [group]))
        if FileField.CREATED_BY in self.footer:  # what Arrow knows of its errors
            footer.put(FileField.CREATED_BY, thrift.BINARY, self.footer[FileField.CREATED_BY])
        return footer

    @cached_property
    def written_paths(self) -> list[str]:
        """The paths that Arrow gives the columns where it writes them.

        Raises:
            InputError: Arrow would write them with other structures or types than they are stored with.
        """
        footer = Struct()
        footer.put(FileField.VERSION, I32, 2)
        footer.put(FileField.SCHEMA, thrift.LIST, self.stored_schema)
        footer.put(FileField.NUM_ROWS, I64, 0)
        footer.put(FileField.ROW_GROUPS, thrift.LIST, thrift.List(thrift.STRUCT))
        stored = parquet_footer.as_metadata(footer)
        sink = pa.BufferOutputStream()
        pq.write_table(stored.schema.to_arrow_schema().empty_table(), sink, store_schema=False)
        written = pq.read_metadata(pa.BufferReader(sink.getvalue()))
        if _structure(written) != _structure(stored):
            raise InputError(f"{self.file}: its columns are nested in a way that Arrow does not write")
        return [written.schema.column(i).path for i in range(written.num_columns)]

    def writer_options(self, group: Struct) -> dict[str, Any]:
        """Returns the options of a writer that encodes and compresses each column as a row group of the file does."""
        columns = [chunk[Chunk.METADATA] for chunk in group[Group.COLUMNS]]
        encodings = [_data_encoding(column) for column in columns]
        named = list(zip(self.written_paths, self.leaves, columns, encodings, strict=True))
        return {
            "compression": {path: _CODECS[column[Column.CODEC]] for path, _, column, _ in named},
            "use_dictionary": [path for path, _, _, encoding in named if encoding in DICTIONARY],
            "column_encoding": {path: _ENCODINGS[encoding] for path, _, _, encoding in named if encoding in _ENCODINGS},
            "write_statistics": [
                path
                for path, leaf, column, _ in named
                if Column.STATISTICS in column and _has_known_order(self.schema[leaf])
            ],
            # No dictionary grows larger than that of the row group was.
            "dictionary_pagesize_limit": max([1 << 20, *(_dictionary_bytes(column) for column in columns)]),
            "data_page_version": "2.0" if any(_has_pages_v2(column) for column in columns) else "1.0",
            "write_page_index": any(Chunk.OFFSETS_AT in chunk for chunk in group[Group.COLUMNS]),
        }

    def written(self, table: pa.Table, group: Struct, options: dict[str, Any]) -> tuple[pa.NativeFile, Struct]:
        """Writes rows of a row group.

        Args:
            table: the rows, in the types that they are stored in.
            group: the row group.
            options: of the writer.

        Returns:
            A file that holds them, and where they are in it, with the types and paths of this file.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=max(1, table.num_rows), store_schema=False, **options)
        source = pa.BufferReader(sink.getvalue())
        (new,) = parquet_footer.read(source)[FileField.ROW_GROUPS]
        for leaf, path, chunk in zip(self.leaves, self._paths, new[Group.COLUMNS], strict=True):
            chunk[Chunk.METADATA][Column.TYPE] = self.schema[leaf][Element.TYPE]
            chunk[Chunk.METADATA][Column.PATH] = path
        if Group.SORTING in group:
            new.put(Group.SORTING, thrift.LIST, group[Group.SORTING])
        return source, new

    @cached_property
    def _paths(self) -> list[thrift.List]:
        """The names on the way to each column."""
        result: list[thrift.List] = []
        way: list[tuple[bytes, int]] = []
        for element in self.schema[1:]:
            while way and not way[-1][1]:
                way.pop()
            if way:
                way[-1] = way[-1][0], way[-1][1] - 1
            way.append((element[Element.NAME], element.get(Element.CHILDREN, 0)))
            if not element.get(Element.CHILDREN):
                result.append(thrift.List(thrift.BINARY, [name for name, _ in way]))
        return result


@dataclass
class Copy:
    """A parquet file, written to `sink`, that grows by row groups of its `original`, and ends with its footer."""

    original: File
    sink: IO[bytes]
    row_groups: thrift.List

    @classmethod
    def begin(cls, original: File, sink: IO[bytes]) -> Copy:
        """Begins the file."""
        sink.write(MAGIC)
        return cls(original, sink, thrift.List(thrift.STRUCT))

    def append(self, *parts: tuple[pa.NativeFile, Struct]) -> None:
        """Copies the bytes of a row group, with its indexes, from the file that it is in.

        Args:
            parts: the file and the row group; and others of the same rows, whose columns come after its own.
        """
        group, columns = parts[0][1].copy(), thrift.List(thrift.STRUCT)
        group.drop(Group.OFFSET)
        sources, moved = [], []
        for source, chunk in ((source, chunk) for source, part in parts for chunk in part[Group.COLUMNS]):
            chunk, column = chunk.copy(), chunk[Chunk.METADATA].copy()
            starts = [field for field in (Column.DATA_AT, Column.INDEX_AT, Column.DICTIONARY_AT) if column.get(field)]
            start = min((column[field] for field in starts), default=0)  # without rows there may be no page
            shift = self.sink.tell() - start
            self._copy_bytes(source, start, column[Column.COMPRESSED_BYTES])
            for field in starts:
                column[field] += shift
            if Column.BLOOM_SIZE not in column:
                column.drop(Column.BLOOM_AT)
            elif Column.BLOOM_AT in column:
                at, column[Column.BLOOM_AT] = column[Column.BLOOM_AT], self.sink.tell()
                self._copy_bytes(source, at, column[Column.BLOOM_SIZE])
            chunk[Chunk.METADATA], chunk[Chunk.OFFSET] = column, 0
            columns.append(chunk)
            sources.append(source)
            moved.append(shift)
        for source, chunk in zip(sources, columns, strict=True):
            if Chunk.INDEX_AT in chunk:
                at, chunk[Chunk.INDEX_AT] = chunk[Chunk.INDEX_AT], self.sink.tell()
                self._copy_bytes(source, at, chunk[Chunk.INDEX_SIZE])
        for source, chunk, shift in zip(sources, columns, moved, strict=True):
            if Chunk.OFFSETS_AT in chunk:
                pages, _ = thrift.read(source.read_at(chunk[Chunk.OFFSETS_SIZE], chunk[Chunk.OFFSETS_AT]))
                for page in pages[1]:
                    page[1] += shift
                written = thrift.write(pages)
                chunk[Chunk.OFFSETS_AT], chunk[Chunk.OFFSETS_SIZE] = self.sink.tell(), len(written)
                self.sink.write(written)
        group[Group.COLUMNS] = columns
        for field in (Group.BYTES, Group.COMPRESSED_BYTES):
            if field in group:
                group[field] = sum(part.get(field, 0) for _, part in parts)
        if Group.ORDINAL in group:
            group[Group.ORDINAL] = len(self.row_groups)
        self.row_groups.append(group)

    def finish(self, footer: Struct) -> None:
        """Writes the footer of the original with the row groups of the copy."""
        footer = footer.copy()
        footer[FileField.ROW_GROUPS] = self.row_groups
        footer[FileField.NUM_ROWS] = sum(group[Group.NUM_ROWS] for group in self.row_groups)
        self.sink.write(parquet_footer.framed(footer))

    def _copy_bytes(self, source: pa.NativeFile, start: int, size: int, at_once: int = 4 << 20) -> None:
        for position in range(start, start + size, at_once):
            wanted = min(at_once, start + size - position)
            data = source.read_at(wanted, position)
            if len(data) != wanted:
                raise InputError(f"{self.original}: its footer names places behind its end: the file is damaged")
            self.sink.write(data)


def copy_without(
    file: File, source: pa.NativeFile, sink: IO[bytes], id_field: str | None, is_listed: IsListed, batch_bytes: int
) -> tuple[int, int]:
    """Copies a parquet `file`, open as `source`, without the rows whose ids are listed; see `Copier.copy_without`.

    A row group larger than `batch_bytes` with listed rows becomes several.
    """
    stored, copy = StoredFile.open(file, source), Copy.begin(file, sink)
    rows_read = rows_listed = 0
    id_column = None if id_field is None else stored.number(id_field)
    for number, group in enumerate(stored.row_groups):
        if id_column is None:
            listed = listed_rows(is_listed, rows_read, group[Group.NUM_ROWS])
        else:
            ids = stored.read_group(number, batch_bytes, [id_column])
            masks = [is_listed(pa.chunked_array([batch.column(0)])) for batch in ids]
            listed = np.concatenate([np.empty(0, dtype=bool), *masks])
        batches = stored.read_group(number, batch_bytes)
        if listed.any():
            options, start = stored.writer_options(group), 0
            for batch in batches:
                kept = batch.filter(pa.array(~listed[start : start + batch.num_rows]))
                start += batch.num_rows
                columns = [_without_unused(column) for column in kept.columns]
                copy.append(stored.written(pa.table(columns, schema=kept.schema), group, options))
        else:
            for _ in batches:
                pass  # what is damaged is no copy
            copy.append((source, group))
        rows_read += len(listed)
        rows_listed += int(listed.sum())
    copy.finish(stored.footer)
    return rows_read, rows_listed


def _without_unused(column: pa.Array) -> pa.Array:
    """Returns a column whose dictionary, if it has one, holds what stands in its rows and nothing else."""
    if not pa.types.is_dictionary(column.type):
        return column
    used = column.indices.unique().drop_null()
    return pa.DictionaryArray.from_arrays(pc.index_in(column.indices, used), column.dictionary.take(used))


def _structure(metadata: pq.FileMetaData) -> list[tuple[Any, ...]]:
    """Returns what the stored form of each column depends on: its type, and how deep its levels are."""
    columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    return [(c.physical_type, c.length, c.max_definition_level, c.max_repetition_level) for c in columns]


def _order_needs_type(element: Struct) -> bool:
    """Says whether values are ordered by what their type means, and Arrow leaves their bytes as they are."""
    type_, converted = element.get(Element.TYPE), element.get(Element.CONVERTED)
    logical: Struct = element.get(Element.LOGICAL, Struct())
    if _is_decimal(element):
        precision = int((logical[_DECIMAL].get(2) if _DECIMAL in logical else element.get(Element.PRECISION)) or 0)
        return type_ == _FIXED and precision > 0 and element.get(Element.LENGTH) == _decimal_bytes(precision)
    if _INTEGER in logical:
        width, is_signed = logical[_INTEGER].get(1), logical[_INTEGER].get(2)
        return not is_signed and width in (32, 64)  # narrower ones are ordered as the int32 that they are stored in
    return converted in (_UINT32, _UINT64) or _FLOAT16 in logical


def _is_decimal(element: Struct) -> bool:
    return element.get(Element.CONVERTED) == _DECIMAL or _DECIMAL in element.get(Element.LOGICAL, ())


def _decimal_bytes(precision: int) -> int:
    """Returns the bytes that Arrow writes decimals of that many digits in; 0 where it knows none so long."""
    return math.ceil((math.log2(10) * precision + 1) / 8) if precision <= 76 else 0


def _has_known_order(element: Struct) -> bool:
    """Says whether Arrow orders the values as their type does, by what `StoredFile.stored_schema` keeps of it."""
    if _order_needs_type(element):
        return True
    type_, logical = element.get(Element.TYPE), element.get(Element.LOGICAL, ())
    is_integer = type_ not in (_INT96, _BYTE_ARRAY, _FIXED)
    unordered = (
        type_ == _INT96 or element.get(Element.CONVERTED) == _INTERVAL or (_is_decimal(element) and not is_integer)
    )
    return not unordered and all(kind in _ORDERED for kind in logical)


def _data_encoding(column: Struct) -> int | None:
    """Returns how a column's pages are encoded, most of them; None where the footer does not say.

    Pages after those of a dictionary are such as a writer goes on with where that becomes too large.
    """
    counts: dict[int, int] = {}
    for page in column.get(Column.PAGES, ()):
        if page[1] in DATA_PAGES:
            counts[page[2]] = counts.get(page[2], 0) + page[3]
    if not counts.keys().isdisjoint(DICTIONARY):
        return DICTIONARY[-1]
    if counts:
        return max(counts, key=lambda encoding: counts[encoding])
    named = column[Column.ENCODINGS]
    # RLE is that of the levels too, and PLAIN that of dictionaries and of the pages after one.
    order = (*DICTIONARY, *(e for e in _ENCODINGS if e not in (0, 3)), 0, 3)
    return next((e for e in order if e in named and (e != 3 or column[Column.TYPE] == 0)), None)


def _dictionary_bytes(column: Struct) -> int:
    """Returns more bytes than a column's dictionary has, if that holds all values."""
    return column[Column.BYTES] if is_dictionary(column) else 0


def _has_pages_v2(column: Struct) -> bool:
    return any(page[1] == DATA_PAGES[1] for page in column.get(Column.PAGES, ()))
