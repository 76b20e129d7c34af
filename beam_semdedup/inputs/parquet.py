"""Parquet files as input: planned from their footers, read by row groups."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.errors import as_input_error
from beam_semdedup.inputs import embeddings, parquet_copy, parquet_marks
from beam_semdedup.inputs.base import (
    Copied,
    Copier,
    FileFacts,
    Format,
    InputUnit,
    IsListed,
    Marker,
    Marks,
    Piece,
    RowBatch,
    joined_type,
    rows_of_unit,
)
from beam_semdedup.inputs.parquet_check import checked_metadata
from beam_semdedup.inputs.parquet_footer import MAGIC
from beam_semdedup.inputs.parquet_pages import leaf_columns
from beam_semdedup.inputs.parquet_read import ColumnReader
from beam_semdedup.inputs.parquet_sizes import ColumnSizes, may_exceed, stored_bytes
from beam_semdedup.storage.folder import File, FileInfo
from beam_semdedup.storage.tables import opened

_LOOK_ROWS = 1024
_KINDS: tuple[Callable[[pa.DataType], bool], ...] = (
    pa.types.is_integer,
    pa.types.is_floating,
    lambda type_: pa.types.is_string(type_) or pa.types.is_large_string(type_),
    lambda type_: pa.types.is_binary(type_) or pa.types.is_large_binary(type_),
)


@dataclass(frozen=True)
class Parquet(Format, Copier, Marker):
    """Parquet files, planned from their footers. A piece is the numbers of some row groups, each of which is a part.

    Attributes:
        batch_bytes: about how many bytes of the columns are read at a time.
    """

    batch_bytes: int = 4 << 20

    extensions = (".parquet", ".parq", ".pq")

    def begins_so(self, start: bytes) -> bool:
        """See `Format.begins_so`."""
        return start.startswith(MAGIC)

    def inspect(self, file: FileInfo) -> FileFacts:
        """See `Format.inspect`; reads the footer."""
        with as_input_error(f"{file}: not a readable parquet file"), file.open() as source:
            reader = ColumnReader(file, source, checked_metadata(file, source))
            schema, metadata, leaves = reader.schema(), reader.metadata, leaf_columns(reader.metadata)
        parts, first_row, sizes = [], 0, Counter[str]()
        for group in range(metadata.num_row_groups):
            num_rows = metadata.row_group(group).num_rows
            if num_rows:
                parts.append(InputUnit(file.url, 0, first_row, num_rows, (group,)))
            first_row += num_rows
            for name in schema.names:
                sizes[name] += stored_bytes(metadata, group, leaves[name])
        return FileFacts(file, embeddings.plain_schema(schema), metadata.num_rows, tuple(parts), sizes)

    def dimension(self, facts: FileFacts, embedding_field: str) -> int | None:
        """See `Format.dimension`; from the type, the footer, or the first row group with a vector."""
        type_ = facts.schema.field(embedding_field).type
        if pa.types.is_fixed_size_list(type_):
            return int(type_.list_size)
        with facts.info.open() as source:
            reader, vectors = ColumnReader.open(facts.info, source), pa.schema([facts.schema.field(embedding_field)])
            leaves = leaf_columns(reader.metadata)[embedding_field]
            for part in facts.parts:
                evident = _evident_dimension(reader.metadata.row_group(part.piece[0]), leaves)
                counts: Counter[int] = Counter()
                for batch in reader.iter_batches(vectors, _LOOK_ROWS, part.piece):
                    counts += embeddings.lengths(embeddings.decoded(batch.column(embedding_field)))
                    if evident and counts.keys() == {evident}:
                        return evident
                if commonest := embeddings.commonest_length(counts):
                    return commonest
        return None

    def num_bytes(self, facts: FileFacts, columns: Sequence[str]) -> int:
        """See `Format.num_bytes`; texts may share their bytes in the file."""
        types = [str(field.type) for field in facts.schema if field.name in columns]
        if not any("string" in type_ or "binary" in type_ for type_ in types):
            return super().num_bytes(facts, columns)
        with facts.info.open() as source:
            sizes = ColumnSizes.open(facts.info, source)
            leaves = leaf_columns(sizes.parquet.metadata)
            chosen = [leaf for name in columns for leaf in leaves.get(name, ())]
            return sum(sizes.decoded(group, chosen) for part in facts.parts for group in part.piece)

    def column_type(self, facts: FileFacts, name: str) -> pa.DataType:
        """See `Format.column_type`; INT96 timestamps are read for it."""
        type_ = facts.schema.field(name).type
        if "timestamp[us]" not in str(type_):
            return type_
        with facts.info.open() as source:
            return embeddings.plain_type(ColumnReader.open(facts.info, source).exact_type(name))

    def joined_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        """See `Format.joined_type`; types that differ only in how large their values may be."""
        if pa.uint64() in (a, b) and not (pa.types.is_unsigned_integer(a) and pa.types.is_unsigned_integer(b)):
            return None
        if {a, b} == {pa.timestamp("us"), pa.timestamp("ns")}:
            return pa.timestamp("ns")
        return joined_type(a, b) if any(kind(a) and kind(b) for kind in _KINDS) else None

    def join(self, pieces: Sequence[Piece]) -> Piece:
        """See `Format.join`."""
        return tuple(itertools.chain.from_iterable(pieces))

    def where(self, piece: Piece) -> str:
        """See `Format.where`."""
        return f"row group {piece[0]}" if len(piece) == 1 else f"row groups {piece[0]} to {piece[-1]}"

    def suffix(self, piece: Piece) -> str:
        """See `Format.suffix`."""
        return f"-g{piece[0]:06d}-{piece[-1]:06d}"

    def read(self, file: File, unit: InputUnit, schema: pa.Schema) -> Iterator[RowBatch]:
        """See `Format.read`."""
        groups = unit.piece
        with file.open() as source:
            reader = ColumnReader.open(file, source)
            metadata = reader.metadata
            if groups[-1] >= metadata.num_row_groups:
                raise RuntimeError("fewer row groups than planned: the file changed during the run; run again")
            position = sum(metadata.row_group(g).num_rows for g in range(groups[0]))
            leaves = leaf_columns(metadata)
            read_rows, rows, dictionaries = self._batch_rows(reader, groups, {n: leaves[n] for n in schema.names})
            batches = reader.iter_batches(schema, read_rows, groups, dictionaries)
            yield from rows_of_unit(file, unit, schema, batches, position, lambda _: rows)

    def places(self, file: File, numbers: npt.NDArray[np.int64]) -> tuple[pa.Array, pa.Array]:
        """See `Format.places`."""
        with file.open() as source:
            metadata = opened(source).metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        groups = np.searchsorted(starts, numbers, side="right") - 1
        return pa.array(groups, pa.int32()), pa.array(numbers - starts[groups], pa.int64())

    def copy_without(
        self,
        source: File,
        targets: Sequence[Path],
        id_column: pa.Field | None,
        is_listed: IsListed,
        batch_bytes: int,
    ) -> Copied:
        """See `Copier.copy_without` and `parquet_copy`."""
        (target,) = targets
        with source.open() as stream, target.open("wb") as sink:
            name = None if id_column is None else id_column.name
            return Copied(*parquet_copy.copy_without(source, stream, sink, name, is_listed, batch_bytes))

    def copy_marked(
        self, source: File, target: Path, id_column: pa.Field | None, marks: Marks, batch_bytes: int
    ) -> int:
        """See `Marker.copy_marked` and `parquet_marks`."""
        with source.open() as stream, target.open("wb") as sink:
            name = None if id_column is None else id_column.name
            return parquet_marks.copy_marked(source, stream, sink, name, marks, batch_bytes)

    def _batch_rows(
        self, reader: ColumnReader, groups: Sequence[int], columns: Mapping[str, Sequence[int]]
    ) -> tuple[int, int, list[str]]:
        """Chooses how the columns of some row groups, named with their leaves, are read.

        Returns:
            How many rows are read at a time, how many of those are decoded, each about `batch_bytes`, and the names of
            the columns that are dictionaries in between: of texts that take much more memory than their pages.
        """
        metadata = reader.metadata

        def row_bytes(size: Callable[[int, Sequence[int]], int], leaves: Sequence[int]) -> float:
            return max(size(group, leaves) / max(1, int(metadata.row_group(group).num_rows)) for group in groups)

        def rows(sizes: Iterable[float]) -> int:
            return max(1, int(self.batch_bytes / max(1, sum(sizes))))

        read = {n: row_bytes(functools.partial(stored_bytes, metadata), leaves) for n, leaves in columns.items()}
        decoded, dictionaries = dict(read), []
        large = [
            name
            for name, leaves in columns.items()
            if any(may_exceed(metadata, group, leaves, self.batch_bytes) for group in groups)
        ]
        sizes = ColumnSizes.open(reader.file, reader.source) if large else None
        for name in large:
            assert sizes is not None
            decoded[name] = row_bytes(sizes.decoded, columns[name])
            if decoded[name] > 2 * read[name] and all(sizes.is_dictionary(g, columns[name][0]) for g in groups):
                dictionaries.append(name)
            else:
                read[name] = decoded[name]
        return rows(read.values()), rows(decoded.values()), dictionaries


def _evident_dimension(group: Any, leaves: Sequence[int]) -> int | None:
    """Returns the length that a row group's footer makes evident: as many values as rows times it, none of them null.

    Looked at only where reading the vectors themselves would be slow, and believed where the first ones agree.
    """
    for column in map(group.column, leaves):
        no_nulls = column.statistics is not None and column.statistics.null_count == 0
        if group.num_rows > _LOOK_ROWS and no_nulls and column.num_values % group.num_rows == 0:
            return int(column.num_values // group.num_rows)
    return None
