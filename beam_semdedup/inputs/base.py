"""What every format of input files can say and do: what is in a file, and a piece of it as Arrow tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.errors import as_input_error
from beam_semdedup.inputs import embeddings
from beam_semdedup.storage.folder import File, FileInfo, Folder, Found

Piece: TypeAlias = tuple[int, ...]
"""Where in a file some neighbouring rows are; what the numbers mean, only the format that made them knows."""

_ROWS_AT_ONCE = 65_536

IsListed: TypeAlias = Callable[[pa.ChunkedArray], npt.NDArray[np.bool_]]
"""Says of n ids, or of the numbers of n rows in their file, which are to be left out, (n,)."""
Marks: TypeAlias = Callable[[pa.ChunkedArray | None], pa.Table]
"""Returns the columns that are added to n rows, by their ids, or their numbers in their file; None: to no row."""


@dataclass(frozen=True)
class InputUnit:
    """A readable piece of the input: rows `[first_row, first_row + num_rows)` of a file.

    Attributes:
        file: the file's position in the plan.
        piece: where in the file the rows are; it may hold others before and after them.
        ids: the URL of the file with their ids, where that is another one.
        vectors: what the files with their vectors are called, where those are others; see `vectors`.
    """

    path: str
    file: int
    first_row: int
    num_rows: int
    piece: Piece
    ids: str = ""
    vectors: str = ""


@dataclass(frozen=True)
class FileFacts:
    """What the plan must know of a file.

    Attributes:
        schema: the types of its columns.
        num_rows: all rows, the ones that will be rejected included.
        parts: the smallest pieces that it is stored in and that have rows, in order.
        column_bytes: the uncompressed size of each column; empty where the format does not say.
        conflicts: the columns that have values of types which do not fit together, with what is where, in words.
        divisible: whether a part may be shared by several units, each of which reads some of its rows.
    """

    info: FileInfo
    schema: pa.Schema
    num_rows: int
    parts: tuple[InputUnit, ...]
    column_bytes: Mapping[str, int] = field(default_factory=dict)
    conflicts: Mapping[str, str] = field(default_factory=dict)
    divisible: bool = True


@dataclass(frozen=True)
class RowBatch:
    """Some rows of a unit.

    Attributes:
        table: the n readable rows.
        positions: (n,) their numbers in the file, from 0.
        numbers: (n,) what a person would look for: the number of the row, or that of the line.
        malformed: the `numbers` of the rows that cannot be read.
        places: (n,) the numbers that ids have which are places; None: the positions.
    """

    table: pa.Table
    positions: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    malformed: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64] | None = None


class Format(ABC):
    """A format of input files. It is found by its name in `registry.FORMATS`."""

    extensions: tuple[str, ...]
    """How the files' names end."""
    without_columns = "it has no columns"
    """What is wrong with a file that has rows, and no column in any of them."""
    pinned = False
    """Whether a file is read as it was when it was listed, whatever is written to its dataset meanwhile."""

    def chosen(self, found: Found) -> Found:
        """Returns what counts of what a search found, where datasets say so; InputError where one is not whole."""
        return found

    def begins_so(self, start: bytes) -> bool:
        """Says whether a file whose first bytes these are is one of this format; never, where that cannot be seen."""
        return False

    # The plan: what is in a file.

    @abstractmethod
    def inspect(self, file: FileInfo) -> FileFacts:
        """Returns what the plan must know of a file; InputError, naming it, where it cannot be read."""

    def head(self, file: FileInfo) -> pa.Schema:
        """Returns the types of the columns at a file's start, found with little reading; none if it has no rows."""
        facts = self.inspect(file)
        return facts.schema if facts.num_rows else pa.schema([])

    def dimension(self, facts: FileFacts, embedding_field: str) -> int | None:
        """Returns the commonest length of the vectors at the start of a file; None where no row has one."""
        vectors = facts.schema.field(embedding_field)
        schema = pa.schema([vectors.with_type(self.vector_type(vectors.type))])
        for part in facts.parts:
            for rows in self.read(facts.info, part, schema):
                counts = embeddings.lengths(rows.table.column(0).combine_chunks())
                if commonest := embeddings.commonest_length(counts):
                    return commonest
        return None

    def num_bytes(self, facts: FileFacts, columns: Sequence[str]) -> int:
        """Returns about how many bytes some columns of a file have in memory; a name may be that of none."""
        return sum(facts.column_bytes.get(name, 0) for name in columns)

    def column_type(self, facts: FileFacts, name: str) -> pa.DataType:
        """Returns the type that a file's column is read as."""
        return facts.schema.field(name).type

    def vector_type(self, type_: pa.DataType) -> pa.DataType:
        """Returns the type that a column of vectors is read as if the file says `type_`; itself if it holds none."""
        return type_

    def joined_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        """Returns the type that a column is read as if files say different ones; None if they do not fit together."""
        return joined_type(a, b)

    # The pieces: how units are made of a file's parts, and what they are called.

    @abstractmethod
    def join(self, pieces: Sequence[Piece]) -> Piece:
        """Returns the piece that neighbouring parts of a file are together."""

    @abstractmethod
    def where(self, piece: Piece) -> str:
        """Returns a few words for a piece in a message, such as `row group 3`."""

    def suffix(self, piece: Piece) -> str:
        """Returns what the names of a unit's files say of its only piece; nothing where its rows say enough."""
        return ""

    def describe(self, unit: InputUnit) -> str:
        """Returns the name of a unit in messages."""
        last_row = unit.first_row + unit.num_rows - 1
        return f"{unit.path} ({self.where(unit.piece)}, rows {unit.first_row} to {last_row})"

    # The rows.

    @abstractmethod
    def read(self, file: File, unit: InputUnit, schema: pa.Schema) -> Iterator[RowBatch]:
        """Yields a unit's rows with the columns and types of `schema`, in order, in tables of bounded size."""

    def places(self, file: File, numbers: npt.NDArray[np.int64]) -> tuple[pa.Array, pa.Array]:
        """Returns where a person finds rows by their `RowBatch.numbers`: (row group, row in it), or (null, line)."""
        return pa.nulls(len(numbers), pa.int32()), pa.array(numbers, pa.int64())


class Copied(NamedTuple):
    """A file of which rows were left out: how many it has, and of them those; for a `Versioned` what it must know."""

    rows_read: int
    rows_removed: int
    receipt: str = ""


class Copier(ABC):
    """What a format does besides if a removal can copy its files."""

    def copies(self, name: str, arrays: bool) -> tuple[str, ...]:
        """Returns the names of the files that are written in place of a file of that name.

        Args:
            arrays: also write vectors where the numbers of the kept rows say enough.
        """
        return (name,)

    def companions(self, files: Sequence[File]) -> list[File]:
        """Returns what belongs to some files, lies beside them or a directory above, and has to be written too."""
        return []

    def changed(self, companion: File, key: str) -> bytes:
        """Returns the content of a companion for the copies of its files, which `key` names."""
        return companion.read_bytes()

    @abstractmethod
    def copy_without(
        self,
        source: FileInfo,
        targets: Sequence[Path],
        id_column: pa.Field | None,
        is_listed: IsListed,
        batch_bytes: int,
    ) -> Copied:
        """Copies a file without the rows whose ids are listed, and changes nothing else.

        Args:
            source: as it was listed.
            targets: the local files to write, which will have the names of `copies`, compressed as `source` is.
            id_column: the name of the column with the ids, and the type of the listed ids; None: the file has none, and
                `is_listed` is asked for the numbers of its rows, from 0.
            is_listed: is asked for one batch of rows after another.
            batch_bytes: the size of a batch, at most, where the pieces that the file is stored in are larger.
        """


class Versioned(ABC):
    """What a copier does besides if its files are of datasets that have versions, each with a manifest.

    Each file that was copied, or of which rows were deleted, has a receipt; nobody sees it before there is a manifest.
    """

    first_manifest: str
    """The name in a dataset of the manifest of its first version."""

    @abstractmethod
    def dataset_of(self, file: File) -> Folder:
        """Returns the dataset that a file is of."""

    @abstractmethod
    def first_version(self, dataset: Folder, receipts: Sequence[str], key: str) -> bytes:
        """Returns the manifest of a new dataset, of the copies of the files of one.

        Args:
            receipts: those of all copies, perhaps also of other datasets.
            key: names the version.
        """

    @abstractmethod
    def delete(self, source: FileInfo, id_column: pa.Field | None, is_listed: IsListed, batch_bytes: int) -> Copied:
        """Deletes the rows whose ids are listed in a version that is still to come; see `Copier.copy_without`."""

    @abstractmethod
    def commit(self, dataset: Folder, receipts: Sequence[str], key: str) -> int:
        """Makes what was deleted a version of the dataset, all at once, and returns its number.

        Raises:
            RunError: rows of the same files were deleted or changed since.
        """

    @abstractmethod
    def is_committed(self, dataset: Folder, key: str) -> bool:
        """Says whether one of the latest versions has that key."""


class Marker(ABC):
    """What a format does besides if columns can be added to its files."""

    @abstractmethod
    def copy_marked(
        self, source: File, target: Path, id_column: pa.Field | None, marks: Marks, batch_bytes: int
    ) -> int:
        """Copies a file with columns added, and changes nothing else.

        Args:
            target: the local file to write.
            id_column: as for `Copier.copy_without`; without one `marks` is asked for the numbers of rows.
            marks: is asked for the columns of one batch of rows after another.
            batch_bytes: the size of a batch, at most, where the pieces that the file is stored in are larger.

        Returns:
            How many rows were read.
        """


def rows_of_unit(
    file: File,
    unit: InputUnit,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    position: int,
    most: Callable[[pa.RecordBatch], int],
) -> Iterator[RowBatch]:
    """Yields the rows of a unit among record batches that follow each other in a file.

    Args:
        schema: the columns, and their types in the results.
        position: in the file, of the first row of the batches.
        most: says how many rows of a batch go together.
    """
    no_lines, stop = np.empty(0, dtype=np.int64), unit.first_row + unit.num_rows
    for batch in batches:
        first, last, step = max(position, unit.first_row), min(position + batch.num_rows, stop), most(batch)
        for low in range(first, last, step):
            high = min(low + step, last)
            table = pa.Table.from_batches([batch.slice(low - position, high - low)])
            positions = np.arange(low, high)
            with as_input_error(f"{file}: values beyond the types that all files share"):
                table = embeddings.with_types(table, schema)
            yield RowBatch(table, positions, positions, no_lines)
        position += batch.num_rows
        if position >= stop:
            break


def listed_rows(is_listed: IsListed, first_row: int, num_rows: int) -> npt.NDArray[np.bool_]:
    """Returns which of some neighbouring rows of a file are listed, of those that go by their numbers; (num_rows,)."""
    masks = [np.empty(0, dtype=bool)]
    for start in range(first_row, first_row + num_rows, _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, first_row + num_rows))
        masks.append(is_listed(pa.chunked_array([pa.array(rows)])))
    return np.concatenate(masks)


def joined_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Returns the type that holds the values of both; None where there is none."""
    try:
        schemas = [pa.schema([("", type_)]) for type_ in (a, b)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
