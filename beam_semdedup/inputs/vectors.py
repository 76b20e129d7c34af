"""Vectors of rows whose files hold none: computed of another column before, and stored in files of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.errors import UnitError
from beam_semdedup.inputs.base import InputUnit
from beam_semdedup.storage import tables
from beam_semdedup.storage.damage import DamagedFile, as_damage
from beam_semdedup.storage.folder import File, Folder

MARK = {b"semdedup": b"vectors"}
"""The metadata of a column of vectors that the input files do not hold."""
TYPE = pa.list_(pa.float32())
ROWS = 8192
"""The rows of an input file whose vectors are in one file: those from a multiple of this number on."""
_COLUMN = "vectors"


@dataclass(frozen=True)
class VectorFiles:
    """The files with the vectors of some input files; the unit of an input file says what theirs are called.

    Attributes:
        texts: the column of texts that the vectors are computed of.
    """

    folder: Folder
    texts: pa.Field

    def file(self, name: str, first_row: int) -> File:
        """Returns the file with the vectors of the input file whose are called so, from a multiple of `ROWS` on."""
        return self.folder.file(f"{name}-{first_row // ROWS:08d}.parquet")

    def write(self, unit: InputUnit, vectors: pa.Array, compression: str) -> None:
        """Writes the vectors of a unit that `units` made, one for each of its rows, null where there is none."""
        table = pa.table({_COLUMN: vectors})
        tables.write(self.file(unit.vectors, unit.first_row), table, None, compression, ROWS)

    def read(self, unit: InputUnit) -> Iterator[tuple[npt.NDArray[np.int64], pa.ChunkedArray]]:
        """Yields the vectors of a unit's rows with the numbers of these in the input file, ascending.

        Raises:
            UnitError: a file of vectors cannot be read, and is taken away, or is gone.
        """
        stop = unit.first_row + unit.num_rows
        for start in range(unit.first_row // ROWS * ROWS, stop, ROWS):
            low, high = max(start, unit.first_row), min(start + ROWS, stop)
            column = self._column(self.file(unit.vectors, start), high - start)
            yield np.arange(low, high), column.slice(low - start, high - low)

    def _column(self, file: File, rows: int) -> pa.ChunkedArray:
        try:
            with as_damage(file), file.open() as source:
                column = tables.opened(source).read().column(_COLUMN).cast(TYPE)
                if len(column) < rows:
                    raise ValueError(f"{len(column):,} vectors for {rows:,} rows")
        except DamagedFile as error:
            file.delete()
            raise UnitError(f"{error}; the same command computes it again") from error
        return column


class Lookup:
    """The vectors of a unit, of which neighbouring rows are asked for, one after the other."""

    def __init__(self, files: VectorFiles, unit: InputUnit) -> None:
        self._found = files.read(unit)
        self._rows, self._vectors = np.empty(0, dtype=np.int64), pa.chunked_array([], TYPE)

    def of(self, rows: npt.NDArray[np.int64]) -> pa.ChunkedArray:
        """Returns the vectors of rows with these numbers, which ascend from call to call."""
        chunks: list[pa.Array] = []
        while len(rows):
            if not len(self._rows) or self._rows[-1] < rows[0]:
                self._rows, self._vectors = next(self._found)
                continue
            here = rows[: np.searchsorted(rows, self._rows[-1], side="right")]
            chunks += self._vectors.take(pa.array(here - self._rows[0])).chunks
            rows = rows[len(here) :]
        return pa.chunked_array(chunks, TYPE)
