"""How many bytes the columns of a parquet file take in memory, where what repeats may be stored once in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.inputs import embeddings, parquet_footer
from beam_semdedup.inputs.parquet_footer import Chunk, Column, FileField, Group
from beam_semdedup.inputs.parquet_pages import NotOfOneSize, column_in_group, read_batches
from beam_semdedup.inputs.thrift import Struct
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.tables import opened

DICTIONARY, DATA_PAGES = (2, 8), (0, 3)
"""The encodings as places in a dictionary, and the kinds of pages that hold values."""
_DELTA_BYTE_ARRAY = 7
_SHARING = {*DICTIONARY, _DELTA_BYTE_ARRAY}
_SHARING_NAMES = {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"}
_WIDTHS = {"BOOLEAN": 0, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
"""The bytes of a value in memory; of a text, where it begins."""
_LOOK_ROWS, _PAGE_BYTES = 64, 1 << 20
_TEXT_BYTES = 1
"""The field of SizeStatistics with the bytes of all texts."""


def stored_bytes(metadata: pq.FileMetaData, group: int, leaves: Iterable[int]) -> int:
    """Returns the bytes of columns of a row group in memory, if no two texts share bytes, by Arrow's footer alone."""
    size = 0
    for leaf in leaves:
        column, described = metadata.row_group(group).column(leaf), metadata.schema.column(leaf)
        width = described.length if described.physical_type == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS[column.physical_type]
        size += max(int(column.total_uncompressed_size), width * int(column.num_values))
    return size


def may_exceed(metadata: pq.FileMetaData, group: int, leaves: Iterable[int], limit: int) -> bool:
    """Says whether texts of a row group that share bytes may take more than `limit` bytes, by Arrow's footer alone."""
    columns = [metadata.row_group(group).column(leaf) for leaf in leaves]
    return any(
        column.physical_type == "BYTE_ARRAY"
        and not _SHARING_NAMES.isdisjoint(column.encodings)
        and column.num_values * column.total_uncompressed_size > limit
        for column in columns
    )


def is_dictionary(column: Struct) -> bool:
    """Says whether all values of a column of a row group, its ColumnMetaData, are places in a dictionary."""
    encodings = {page[2] for page in column.get(Column.PAGES, ()) if page[1] in DATA_PAGES}
    return bool(encodings) and encodings <= set(DICTIONARY)


@dataclass(frozen=True)
class ColumnSizes:
    """The bytes that columns take in memory, by their numbers in the footer.

    Attributes:
        file: what `parquet` is opened from.
        footer: that of `parquet`.
        called: what a message calls a column in a row group.
    """

    file: File
    parquet: pq.ParquetFile
    footer: Struct
    called: Callable[[str, int], str] = column_in_group

    @classmethod
    def open(cls, file: File, source: pa.NativeFile) -> ColumnSizes:
        """Reads the footer of a file that is open as `source`, whose pages are then read a few at a time."""
        return cls(file, opened(source, buffer_size=_PAGE_BYTES), parquet_footer.read(source))

    def is_dictionary(self, group: int, leaf: int) -> bool:
        """Says whether a column can be read as a dictionary: texts, not in lists or structs, that are stored as one."""
        described = self.parquet.metadata.schema.column(leaf)
        is_flat_text = described.physical_type == "BYTE_ARRAY" and "." not in described.path
        return is_flat_text and is_dictionary(self._column(group, leaf))

    def decoded(self, group: int, leaves: Iterable[int]) -> int:
        """Returns the bytes of columns of a row group.

        Of texts that may share bytes, whose lengths the footer does not say, the first ones are read.

        Raises:
            InputError: these are damaged.
        """
        return sum(self._decoded(group, leaf) for leaf in leaves)

    def _decoded(self, group: int, leaf: int) -> int:
        metadata, column = self.parquet.metadata, self._column(group, leaf)
        stored, encodings = stored_bytes(metadata, group, [leaf]), set(column[Column.ENCODINGS])
        if metadata.schema.column(leaf).physical_type != "BYTE_ARRAY" or encodings.isdisjoint(_SHARING):
            return stored
        told = int(column.get(Column.SIZES, {}).get(_TEXT_BYTES, 0))
        if told and _DELTA_BYTE_ARRAY not in encodings:  # of which Arrow 25 counts some bytes only
            return max(stored, told + _WIDTHS["BYTE_ARRAY"] * int(column[Column.NUM_VALUES]))
        return max(stored, self._sampled(group, leaf))

    def _sampled(self, group: int, leaf: int) -> int:
        """Returns the bytes of a column of a row group if all rows are as large as the first ones."""
        path = self.parquet.metadata.schema.column(leaf).path
        try:
            first = next(read_batches(self.file, self.parquet, _LOOK_ROWS, [group], [path], self.called), None)
        except NotOfOneSize:
            return 0
        if not first:
            return 0
        size = sum(embeddings.decoded(column).nbytes for column in first.columns)
        return int(size * self.parquet.metadata.row_group(group).num_rows // first.num_rows)

    def _column(self, group: int, leaf: int) -> Struct:
        chunk: Struct = self.footer[FileField.ROW_GROUPS][group][Group.COLUMNS][leaf]
        column: Struct = chunk[Chunk.METADATA]
        return column
