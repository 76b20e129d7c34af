"""Columns of parquet files as Arrow's, without the values that its own reader changes or refuses.

INT96 timestamps have nanoseconds over some million years, which no type of Arrow has together: they are read to the
microsecond, as Spark writes them, and to the nanosecond where a file has finer ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import embeddings, parquet_footer
from beam_semdedup.inputs.parquet_footer import FileField
from beam_semdedup.inputs.parquet_pages import NotOfOneSize, read_batches
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.tables import opened

_FARTHEST = (2**63 - 1) // 1000
"""As many microseconds from 1970 are nanoseconds of 64 bits."""


@dataclass(frozen=True)
class ColumnReader:
    """Reads columns of a `file` that is open as `source`, by its footer."""

    file: File
    source: pa.NativeFile
    metadata: pq.FileMetaData

    @classmethod
    def open(cls, file: File, source: pa.NativeFile) -> ColumnReader:
        """Reads the footer."""
        return cls(file, source, opened(source).metadata)

    def schema(self, unit: str = "us") -> pa.Schema:
        """Returns the types of the columns, with that unit for INT96 timestamps."""
        return self._open(unit).schema_arrow

    def exact_type(self, name: str) -> pa.DataType:
        """Returns the type that a column is read as without loss; reads it where it holds INT96 timestamps.

        Raises:
            InputError: it has both timestamps finer than microseconds and ones that are no nanoseconds of 64 bits.
        """
        type_, finer_type = (self.schema(unit).field(name).type for unit in ("us", "ns"))
        if type_ == finer_type:
            return type_
        is_finer = is_far = False
        groups = range(self.metadata.num_row_groups)
        batches = [self._batches(unit, 65_536, groups, [name]) for unit in ("us", "ns")]
        for a, b in zip(*batches, strict=True):
            for micros, nanos in zip(_timestamps(a.column(0)), _timestamps(b.column(0)), strict=True):
                # Both wrap alike.
                is_finer |= bool(pc.any(pc.not_equal(pc.multiply(micros, 1000), nanos)).as_py())
                is_far |= bool(pc.any(pc.greater(pc.abs(micros), _FARTHEST)).as_py())
        if is_finer and is_far:
            raise self._no_type(name)
        return finer_type if is_finer else type_

    def iter_batches(
        self, schema: pa.Schema, rows: int, row_groups: Sequence[int], dictionaries: Sequence[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        """Yields the columns of `schema` in batches of some rows, INT96 timestamps in the unit that it says.

        Other types are those of the file, or dictionaries for the columns of texts that are named so.

        Raises:
            InputError: a page is damaged, or an INT96 timestamp is none of nanoseconds, where these are asked for.
        """
        finer = []
        if any(self.metadata.schema.column(i).physical_type == "INT96" for i in range(self.metadata.num_columns)):
            cut, exact = self.schema("us"), self.schema("ns")
            finer = [f.name for f in schema if f.type == exact.field(f.name).type != cut.field(f.name).type]
        batches = self._batches("us", rows, row_groups, schema.names, dictionaries)
        if not finer:
            yield from batches
            return
        for batch, fine in zip(batches, self._batches("ns", rows, row_groups, finer), strict=True):
            for name in finer:
                column = fine.column(name)
                try:
                    batch.column(name).cast(column.type)
                except pa.ArrowInvalid as error:
                    raise self._no_type(name) from error
                batch = batch.set_column(batch.schema.get_field_index(name), name, column)
            yield batch

    def _open(self, unit: str, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
        options = {"coerce_int96_timestamp_unit": unit, "read_dictionary": list(dictionaries)}
        return opened(self.source, self.metadata, **options)

    def _batches(
        self, unit: str, rows: int, row_groups: Sequence[int], columns: Sequence[str], dictionaries: Sequence[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        """Yields the columns in batches.

        With Arrow's own types, which a file has beside those of parquet, it reads no null among lists of a fixed size:
        where it meets one, it goes on with the types of parquet, and lists of any size.
        """
        done = 0
        try:
            for batch in read_batches(self.file, self._open(unit, dictionaries), rows, row_groups, columns):
                yield batch
                done += batch.num_rows
            return
        except NotOfOneSize:
            pass
        footer = parquet_footer.read(self.source)
        footer.drop(FileField.KEY_VALUES)
        plain = replace(self, metadata=parquet_footer.as_metadata(footer))
        file, schema, start = plain._open(unit, dictionaries), self.schema(unit), 0
        for batch in read_batches(self.file, file, rows, row_groups, columns):
            before, start = done - start, start + batch.num_rows
            if start > done:
                yield _with_carried_types(batch.slice(max(0, before)), schema)

    def _no_type(self, name: str) -> InputError:
        return InputError(
            f"{self.file}: column {name!r} has INT96 timestamps before 1677 or after 2262, and it or another file has "
            "some finer than microseconds, which fit into no type together: write them as INT64 in microseconds"
        )


def _with_carried_types(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Returns a batch whose columns have the types that those in `schema` are carried as."""
    fields = [schema.field(name) for name in batch.schema.names]
    fields = [f.with_type(embeddings.carried_type(embeddings.plain_type(f.type))) for f in fields]
    columns = [column.cast(field.type) for column, field in zip(batch.columns, fields, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _timestamps(array: pa.Array) -> Iterator[pa.Array]:
    """Yields the timestamps in an array as integers, however deep they are."""
    if pa.types.is_timestamp(array.type):
        yield array.cast(pa.int64())
    elif pa.types.is_struct(array.type):
        for field in array.flatten():
            yield from _timestamps(field)
    elif pa.types.is_map(array.type):
        yield from _timestamps(array.keys)
        yield from _timestamps(array.items)
    elif pa.types.is_nested(array.type):
        yield from _timestamps(array.flatten())
