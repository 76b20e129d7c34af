"""What every kind of input file can be asked: what is in a file, and a piece of it as Arrow tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from beam_semdedup.storage.folder import File, FileInfo


@dataclass(frozen=True)
class InputUnit:
    """A readable piece of the input, one unit of assign work: rows `[first_row, first_row + num_rows)` of a file.

    `file` is the file's position in the plan. Parquet is read by `row_groups`; jsonl by the bytes
    `[offset, offset + length)`, where a length of -1 (a compressed file) means all of it, and `first_line`
    is the number of the first line there, from 1. Blank lines are no rows.
    """

    path: str
    file: int
    first_row: int
    num_rows: int
    row_groups: tuple[int, ...] = ()
    offset: int = 0
    length: int = 0
    first_line: int = 1

    def __str__(self) -> str:
        if self.row_groups:
            groups = f"row group {self.row_groups[0]}"
            if len(self.row_groups) > 1:
                groups = f"row groups {self.row_groups[0]} to {self.row_groups[-1]}"
        else:
            groups = f"from line {self.first_line}"
        return f"{self.path} ({groups}, rows {self.first_row} to {self.first_row + self.num_rows - 1})"


@dataclass(frozen=True)
class FileFacts:
    """What the plan must know of a file: its rows, the types of its columns, the pieces it can be read in.

    `column_bytes` is the uncompressed size of each column; empty for jsonl, which does not say. `conflicts` are the
    columns that have values of types which do not fit together, with what is where, in words.
    """

    info: FileInfo
    schema: pa.Schema
    num_rows: int
    parts: tuple[InputUnit, ...]
    column_bytes: Mapping[str, int] = field(default_factory=dict)
    conflicts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RowBatch:
    """Some rows of a unit.

    `table` holds the readable rows, `positions` (n,) their row numbers in the file and `numbers` (n,) what a
    person would look for: the row number, or the line number. `malformed` are the numbers of unreadable lines.
    """

    table: pa.Table
    positions: np.ndarray
    numbers: np.ndarray
    malformed: np.ndarray


class Format(Protocol):
    """A kind of input file."""

    @property
    def extensions(self) -> tuple[str, ...]:
        """How the files' names end."""

    @property
    def without_columns(self) -> str:
        """What is wrong with a file that has rows, and no column in any of them."""

    def inspect(self, file: FileInfo) -> FileFacts:
        """The facts of one file; InputError, naming it, where it cannot be read."""

    def head(self, file: FileInfo) -> pa.Schema:
        """The types of the columns at the start of a file, found with little reading; no columns if it has no rows."""

    def dimension(self, facts: FileFacts, embedding_field: str) -> int | None:
        """The commonest length of the vectors at the start of the file; None where no row has one."""

    def vector_type(self, type_: pa.DataType) -> pa.DataType:
        """The type that a column of vectors is read as if the file says `type_`; itself if that holds no vectors."""

    def joined_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        """The type that a column is read as if files say different ones; None if they do not fit together."""

    def read(self, file: File, unit: InputUnit, schema: pa.Schema) -> Iterator[RowBatch]:
        """A unit's rows of a file with the columns and types of `schema`, in order, in tables of bounded size."""

    def copy_without(
        self,
        source: File,
        target: Path,
        id_column: pa.Field,
        is_listed: Callable[[pa.ChunkedArray], np.ndarray],
        batch_bytes: int,
    ) -> tuple[int, int]:
        """Copies a file without the rows whose ids are listed, and changes nothing else.

        Args:
            target: the local file to write, compressed as `source` is.
            id_column: the name of the column with the ids, and the type of the listed ids.
            is_listed: says of n ids which are listed, (n,) bool; asked for one batch of rows after another.
            batch_bytes: the size of a batch, at most, where the pieces that the file is stored in are larger.

        Returns:
            How many rows were read, and how many of them left out.
        """

    def places(self, file: File, numbers: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """Where a person finds the rows with these `RowBatch.numbers`: (row group, row in it), or (null, line)."""


def joined_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both; None where there is none."""
    try:
        schemas = [pa.schema([("", type_)]) for type_ in (a, b)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
