"""A random sample of the input's vectors, the same however the input is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.compute.threads import in_threads
from beam_semdedup.errors import naming_unit
from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.base import Format, InputUnit
from beam_semdedup.inputs.vectors import VectorFiles
from beam_semdedup.storage.filesystems import Options
from beam_semdedup.storage.folder import File


@dataclass(frozen=True)
class VectorColumn:
    """The column of vectors in the files of a format, or in others, and how it is read; see `embeddings.to_matrix`."""

    format: Format
    field: pa.Field
    dimension: int
    normalize: bool
    options: Options
    files: VectorFiles | None = None

    def read(self, unit: InputUnit, rows: npt.NDArray[np.int64] | None = None) -> Iterator[npt.NDArray[np.float32]]:
        """Yields the usable vectors of a unit, or of its rows with these numbers in the file, in batches (m, d)."""
        for positions, vectors in self._batches(unit):
            if rows is not None and len(rows) < unit.num_rows:
                vectors = vectors.filter(pa.array(np.isin(positions, rows, assume_unique=True)))
            yield embeddings.to_matrix(vectors, self.dimension, self.normalize)[0]

    def _batches(self, unit: InputUnit) -> Iterator[tuple[npt.NDArray[np.int64], pa.ChunkedArray]]:
        """Yields the vectors of a unit with the numbers of their rows in the file."""
        if self.files:
            yield from self.files.read(unit)
            return
        for batch in self.format.read(File(unit.path, self.options), unit, pa.schema([self.field])):
            yield batch.positions, batch.table.column(0)


def choose(
    units: Sequence[InputUnit], size: int, seed: int, part: int = 0, parts: int = 1
) -> list[tuple[InputUnit, npt.NDArray[np.int64]]]:
    """Returns the rows of a random sample without replacement: the units with some, and their row numbers in the file.

    Which rows they are depends on the rows' numbers and `seed` alone, not on how the input is cut into `units`. With
    `parts`, the input is cut into that many consecutive shares, and only the rows in share `part` are given.
    """
    bounds = np.concatenate([[0], np.cumsum([unit.num_rows for unit in units], dtype=np.int64)])
    total = int(bounds[-1])
    chosen = None
    if size < total:
        chosen = np.random.default_rng(seed).choice(total, size, replace=False, shuffle=False)
        chosen.sort()
    wanted = []
    lows, highs = np.clip([bounds[:-1], bounds[1:]], total * part // parts, total * (part + 1) // parts)
    for unit, first, low, high in zip(units, bounds[:-1], lows, highs, strict=True):
        rows = np.arange(low, high) if chosen is None else chosen[slice(*np.searchsorted(chosen, [low, high]))]
        if len(rows):
            wanted.append((unit, rows - first + unit.first_row))
    return wanted


def sample(
    units: Sequence[InputUnit], column: VectorColumn, size: int, seed: int, part: int = 0, parts: int = 1
) -> npt.NDArray[np.float32]:
    """Returns the vectors of the rows that `choose` gives, in the order of the files; (m, d), m <= size.

    Rows that cannot be used are left out.
    """
    wanted = choose(units, size, seed, part, parts)
    places = np.concatenate([[0], np.cumsum([len(rows) for _, rows in wanted], dtype=np.int64)])
    result = np.empty((places[-1], column.dimension), dtype=np.float32)

    def read(number: int) -> tuple[int, int]:
        unit, rows = wanted[number]
        start = filled = places[number]
        with naming_unit(column.format.describe(unit)):
            for vectors in column.read(unit, rows):
                result[filled : filled + len(vectors)] = vectors
                filled += len(vectors)
        return start, filled

    filled = 0
    for start, stop in in_threads(read, range(len(wanted))):
        if start > filled:  # rows before them could not be used
            result[filled : filled + stop - start] = result[start:stop]
        filled += stop - start
    pa.default_memory_pool().release_unused()
    return result[:filled]
