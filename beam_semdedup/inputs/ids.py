"""The ids of rows whose files hold none: those of a second file, or the places where the rows are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.base import FileFacts, Format, joined_type
from beam_semdedup.inputs.listing import filetype_of
from beam_semdedup.inputs.registry import format_named
from beam_semdedup.storage.folder import File, FileInfo, Folder
from beam_semdedup.storage.threads import in_io_threads
from beam_semdedup.text import counted, without_secrets

MARK = {b"semdedup": b"ids"}
"""The metadata of a column of ids that the input files do not hold."""


class RowIds(ABC):
    """The ids of the rows of a file."""

    @abstractmethod
    def of(self, rows: npt.NDArray[np.int64]) -> pa.ChunkedArray:
        """Returns the ids of the rows with these numbers in the file, ascending; (n,)."""


@dataclass(frozen=True)
class Places(RowIds):
    """Ids that say where the rows are, such as `a.npy:17`; the first row is 0."""

    url: str

    type_: ClassVar[pa.DataType] = pa.string()

    def of(self, rows: npt.NDArray[np.int64]) -> pa.ChunkedArray:
        """See `RowIds.of`."""
        numbers = pa.array(rows).cast(pa.string())
        return pa.chunked_array([pc.binary_join_element_wise(without_secrets(self.url), numbers, ":")], self.type_)


@dataclass
class StoredIds(RowIds):
    """Ids in a file of their own, in the order of the rows; a column in it, or the only one.

    Attributes:
        type_: what they are read as.
    """

    facts: FileFacts
    kind: Format
    column: str
    type_: pa.DataType
    _last: tuple[int, pa.ChunkedArray] | None = field(default=None, repr=False)

    @classmethod
    def open(cls, file: FileInfo, name: str) -> StoredIds:
        """Reads what is in the file; InputError where it has no ids."""
        kind = format_named(filetype_of([file]))
        facts = kind.inspect(file)
        names = facts.schema.names
        column = names[0] if len(names) == 1 else name
        if names.count(column) != 1:
            raise InputError(f"{file}: no one column id_field={name!r} with the ids; it has: {', '.join(names)}")
        type_ = embeddings.carried_type(kind.column_type(facts, column))
        if not embeddings.is_id_type(type_):
            raise InputError(f"{file}: the ids are {type_}, expected integers, strings or binary")
        return cls(facts, kind, column, type_)

    def of(self, rows: npt.NDArray[np.int64]) -> pa.ChunkedArray:
        """See `RowIds.of`."""
        starts = [part.first_row for part in self.facts.parts]
        parts = np.searchsorted(starts, rows, side="right") - 1
        chunks = [
            self._part(part).take(pa.array(rows[parts == part] - starts[part])) for part in np.unique(parts).tolist()
        ]
        return pa.chunked_array([chunk for found in chunks for chunk in found.chunks], self.type_)

    def _part(self, number: int) -> pa.ChunkedArray:
        """Returns the ids of a part; the last one is kept, as rows are asked for in order."""
        if self._last is None or self._last[0] != number:
            schema = pa.schema([(self.column, self.type_)])
            file, part = self.facts.info, self.facts.parts[number]
            table = pa.concat_tables([rows.table for rows in self.kind.read(file, part, schema)])
            if table.num_rows != part.num_rows:
                raise InputError(f"{file}: it has malformed lines, so that it is not clear whose the ids are")
            self._last = number, table.column(0)
        return self._last[1]


def column(name: str, files: Sequence[FileFacts], ids: Sequence[FileInfo]) -> pa.Field:
    """Returns the column of ids, of that name, of input files that hold none.

    Args:
        ids: the file with the ids of each file, in its column of that name; none: the ids are places.

    Raises:
        InputError: a file's ids are of another type than those of the others, or there are more or fewer than its rows.
    """
    type_ = Places.type_
    if ids:
        stored = in_io_threads(lambda file: StoredIds.open(file, name), ids)
        for facts, found in zip(files, stored, strict=True):
            if facts.num_rows != found.facts.num_rows:
                raise InputError(
                    f"{facts.info} has {counted(facts.num_rows, 'row')}, and {found.facts.info}, in ids_path, "
                    f"{counted(found.facts.num_rows, 'id')}"
                )
        type_ = stored[0].type_
        for other in stored:
            joined = joined_type(type_, other.type_)
            if joined is None or not embeddings.is_id_type(joined):
                raise InputError(
                    f"the ids are {type_} in {stored[0].facts.info} and {other.type_} in {other.facts.info}: write "
                    "them with one type"
                )
            type_ = joined
    return pa.field(name, type_, metadata=MARK)


def of_file(file: File, ids: str, name: str) -> RowIds:
    """Returns the ids of the rows of an input file that holds none.

    Args:
        ids: the URL of the file that holds them, where there is one.
        name: their column in it.
    """
    if not ids:
        return Places(file.url)
    (found,) = Folder(ids, file.options).find()
    return StoredIds.open(found, name)
