"""Arrow IPC as input: files, which are read by record batches, and streams, by the bytes where these begin."""

from __future__ import annotations

import pickle
import shutil
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.inputs import embeddings, saved_datasets
from beam_semdedup.inputs.base import (
    Copied,
    Copier,
    FileFacts,
    Format,
    InputUnit,
    IsListed,
    Piece,
    RowBatch,
    listed_rows,
    rows_of_unit,
)
from beam_semdedup.storage.folder import File, FileInfo

_MAGIC = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"
_CODECS = ("lz4", "zstd")
_SAMPLED_BATCHES = 8


class _Start(NamedTuple):
    """A piece: the record batch (of a file) or the byte (of a stream) where it begins, and the number of its row."""

    at: int
    first_row: int


@dataclass(frozen=True)
class _Batches:
    """The record batches of a `file` that is open as `source`."""

    file: File
    source: pa.NativeFile
    reader: Any
    is_stream: bool

    @classmethod
    @contextmanager
    def open(cls, file: File, columns: Sequence[str] | None = None) -> Iterator[_Batches]:
        """Reads the schema.

        Args:
            columns: their names, where not all are read.

        Raises:
            InputError: it is no Arrow file or stream.
        """
        with file.map() as source:
            with as_input_error(f"{file}: not a readable Arrow file or stream"):
                is_stream = source.read(len(_MAGIC)) != _MAGIC
                source.seek(0)
                opened = pa.ipc.open_stream if is_stream else pa.ipc.open_file
                reader = opened(source)
                pickle.loads(pickle.dumps(reader.schema))  # names that are no text would fail wherever it travels
                if columns is not None:
                    fields = [reader.schema.get_field_index(name) for name in columns]
                    source.seek(0)
                    reader = opened(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
            yield cls(file, source, reader, is_stream)

    def starting(self, at: int = 0) -> Iterator[tuple[int, pa.RecordBatch, Any]]:
        """Yields the batches from a place on: where each begins, itself, and its own metadata.

        Raises:
            InputError: a batch is damaged, or the stream has no end.
        """
        if not self.is_stream:
            for number in range(at, self.reader.num_record_batches):
                yield number, *self.batch(number)
            return
        if at:
            self.source.seek(at)
        place = self.source.tell()
        while (found := self._next(place)) is not None:
            yield place, *found
            place = self.source.tell()
        stop, size = self.source.tell(), self.source.size()
        if stop == place:
            raise InputError(f"{self.file}: a stream without an end: it is truncated, or still written to")
        if stop < size:
            raise InputError(f"{self.file}: {size - stop:,} bytes follow the end of the stream: it is damaged, or two")

    def batch(self, number: int) -> tuple[pa.RecordBatch, Any]:
        """Returns a batch of a file, and its own metadata; InputError where it is damaged."""
        with as_input_error(f"{self.file}: record batch {number} is damaged"):
            batch, metadata = self.reader.get_batch_with_custom_metadata(number)
            return _checked(batch), metadata

    def _next(self, place: int) -> tuple[pa.RecordBatch, Any] | None:
        """Returns the next batch of a stream, which begins at that byte, and its own metadata; None after the last."""
        with as_input_error(f"{self.file}: the record batch at byte {place:,} is damaged"):
            try:
                batch, metadata = self.reader.read_next_batch_with_custom_metadata()
            except StopIteration:
                return None
            return _checked(batch), metadata

    @property
    def has_dictionaries(self) -> bool:
        """Whether batches may depend on what stands before them."""
        return any(_has_dictionary(field.type) for field in self.reader.schema)


@dataclass(frozen=True)
class Arrow(Format, Copier):
    """Arrow IPC. A part is a record batch; of a stream with dictionaries, which have to be read first, all of it.

    Attributes:
        batch_bytes: about how many bytes of the columns a table has.
    """

    batch_bytes: int = 4 << 20

    extensions = (".arrow", ".arrows", ".feather", ".ipc")

    def begins_so(self, start: bytes) -> bool:
        """See `Format.begins_so`."""
        return start.startswith((_MAGIC, _CONTINUATION))

    def inspect(self, file: FileInfo) -> FileFacts:
        """See `Format.inspect`; of a file one column is read, of a stream all, once."""
        with _Batches.open(file) as batches:
            schema = batches.reader.schema
            if batches.is_stream:
                return self._inspect_stream(file, batches)
            count = batches.reader.num_record_batches
            sizes, sampled = Counter[str](), 0
            for number in sorted({count * i // _SAMPLED_BATCHES for i in range(_SAMPLED_BATCHES)} if count else ()):
                batch, _ = batches.batch(number)
                sampled += batch.num_rows
                sizes.update({name: column.nbytes for name, column in zip(schema.names, batch.columns, strict=True)})
        with _Batches.open(file, _shortest(schema)) as batches:
            rows = [batches.batch(number)[0].num_rows for number in range(count)]
        parts = _parts(file, range(count), rows)
        return _facts(file, schema, sum(rows), parts, {n: s * sum(rows) // max(1, sampled) for n, s in sizes.items()})

    def _inspect_stream(self, file: FileInfo, batches: _Batches) -> FileFacts:
        names, sizes = batches.reader.schema.names, Counter[str]()
        starts, rows = [], []
        for start, batch, _ in batches.starting():
            starts.append(start)
            rows.append(batch.num_rows)
            sizes.update({name: column.nbytes for name, column in zip(names, batch.columns, strict=True)})
        parts = _parts(file, starts, rows)
        if batches.has_dictionaries:
            parts = (InputUnit(file.url, 0, 0, sum(rows), _Start(0, 0)),) if sum(rows) else ()
        return _facts(file, batches.reader.schema, sum(rows), parts, sizes)

    def head(self, file: FileInfo) -> pa.Schema:
        """See `Format.head`; from the schema, also of a file without rows."""
        with _Batches.open(file) as batches:
            return embeddings.plain_schema(batches.reader.schema)

    def dimension(self, facts: FileFacts, embedding_field: str) -> int | None:
        """See `Format.dimension`; from the type, or the first batch with a vector."""
        type_ = facts.schema.field(embedding_field).type
        if pa.types.is_fixed_size_list(type_):
            return int(type_.list_size)
        return super().dimension(facts, embedding_field)

    def join(self, pieces: Sequence[Piece]) -> Piece:
        """See `Format.join`."""
        return pieces[0]

    def where(self, piece: Piece) -> str:
        """See `Format.where`."""
        return f"from row {_Start(*piece).first_row}"

    def read(self, file: File, unit: InputUnit, schema: pa.Schema) -> Iterator[RowBatch]:
        """See `Format.read`."""
        at, position = unit.piece
        with _Batches.open(file, schema.names) as batches:
            found = (batch for _, batch, _ in batches.starting(at))
            yield from rows_of_unit(file, unit, schema, found, position, lambda b: _rows_of(b, self.batch_bytes))

    def companions(self, files: Sequence[File]) -> list[File]:
        """See `Copier.companions`; those of Hugging Face datasets."""
        return saved_datasets.companions(files)

    def changed(self, companion: File, key: str) -> bytes:
        """See `Copier.changed`."""
        return saved_datasets.changed(companion, key)

    def copy_without(
        self,
        source: File,
        targets: Sequence[Path],
        id_column: pa.Field | None,
        is_listed: IsListed,
        batch_bytes: int,
    ) -> Copied:
        """See `Copier.copy_without`; where no row is listed the file stays byte for byte."""
        masks, rows_read = [np.empty(0, dtype=bool)], 0
        with _Batches.open(source, None if id_column is None else [id_column.name]) as batches:
            for _, batch, _ in batches.starting():
                if id_column is None:
                    masks.append(listed_rows(is_listed, rows_read, batch.num_rows))
                else:
                    masks.append(_listed_ids(is_listed, batch))
                rows_read += batch.num_rows
        listed = np.concatenate(masks)
        with targets[0].open("wb") as sink:
            if listed.any():
                _write_without(source, sink, listed, batch_bytes)
            else:
                with source.open_stream(None) as stream:
                    shutil.copyfileobj(stream, sink)
        return Copied(rows_read, int(listed.sum()))


def _write_without(source: File, sink: Any, listed: np.ndarray, batch_bytes: int) -> None:
    """Writes the batches of a file or a stream without the listed rows, as they were compressed."""
    with _Batches.open(source) as batches:
        schema = batches.reader.schema
        with as_input_error(f"{source}: not a readable Arrow file or stream"):
            compression = _codec(source)
        options = pa.ipc.IpcWriteOptions(
            compression=compression, unify_dictionaries=not batches.is_stream and batches.has_dictionaries
        )
        if batches.is_stream:
            writer = pa.ipc.new_stream(sink, schema, options=options)
        else:
            writer = pa.ipc.new_file(sink, schema, options=options, metadata=batches.reader.metadata)
        with writer:
            position = 0
            for _, batch, metadata in batches.starting():
                rows = _rows_of(batch, batch_bytes)
                for low in range(0, batch.num_rows, rows):
                    piece = batch.slice(low, rows)
                    mask = pa.array(~listed[position + low : position + low + piece.num_rows])
                    writer.write_batch(piece.filter(mask), custom_metadata=metadata)
                position += batch.num_rows


def _listed_ids(is_listed: IsListed, batch: pa.RecordBatch) -> np.ndarray:
    """Returns which rows of a batch of ids are listed."""
    ids = embeddings.decoded(pa.chunked_array([batch.column(0)]))
    return is_listed(ids.cast(embeddings.carried_type(ids.type)))


def _facts(
    file: FileInfo, schema: pa.Schema, rows: int, parts: tuple[InputUnit, ...], sizes: dict[str, int]
) -> FileFacts:
    return FileFacts(file, embeddings.plain_schema(schema), rows, parts, sizes)


def _parts(file: FileInfo, starts: Sequence[int], rows: Sequence[int]) -> tuple[InputUnit, ...]:
    """Returns a part for each batch that has rows."""
    parts, first_row = [], 0
    for start, count in zip(starts, rows, strict=True):
        if count:
            parts.append(InputUnit(file.url, 0, first_row, count, _Start(start, first_row)))
        first_row += count
    return tuple(parts)


def _rows_of(batch: pa.RecordBatch, batch_bytes: int) -> int:
    """Returns how many rows of a batch have about so many bytes."""
    return max(1, batch_bytes * int(batch.num_rows) // max(1, int(batch.nbytes)))


def _shortest(schema: pa.Schema) -> list[str] | None:
    """Returns the name of a column with small values, from which the rows can be counted; None where there is none."""
    once = [field for field in schema if schema.names.count(field.name) == 1]
    return [min(once, key=lambda field: pa.types.is_nested(field.type)).name] if once else None


def _has_dictionary(type_: pa.DataType) -> bool:
    return pa.types.is_dictionary(type_) or any(
        _has_dictionary(type_.field(number).type) for number in range(type_.num_fields)
    )


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns a batch all of whose values are in it; a text may be none in UTF-8."""
    for column in batch.columns:
        while isinstance(column, pa.ExtensionArray):
            column = column.storage
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.view(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
        column.validate(full=True)
    return batch


def _codec(file: File) -> str | None:
    """Returns what the first record batch of a file or a stream is compressed with."""
    with file.map() as source:
        if source.read(len(_MAGIC)) != _MAGIC:
            source.seek(0)
        else:
            source.seek(8)
        while True:
            message = pa.ipc.read_message(source)
            if message.type == "record batch":
                return _codec_of(message.metadata.to_pybytes())


def _codec_of(metadata: bytes) -> str | None:
    """Returns what the metadata of a record batch, a flatbuffer `Message`, say of its compression."""

    def number(kind: str, at: int) -> int:
        return int(struct.unpack_from(kind, metadata, at)[0])

    def field(table: int, which: int) -> int:
        """Returns the place of a table's field; 0 where it has none."""
        vtable = table - number("<i", table)
        at = number("<H", vtable + 4 + 2 * which) if 4 + 2 * which < number("<H", vtable) else 0
        return table + at if at else 0

    def follow(place: int) -> int:
        return place + number("<I", place)

    batch = follow(field(follow(0), 2))
    compression = field(batch, 3)
    if not compression:
        return None
    codec = field(follow(compression), 0)
    return _CODECS[metadata[codec]] if codec else _CODECS[0]
