"""Which values of a column stand there more than once: ids in a cluster, ids among duplicates, entries of a list."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.compute.ranking import hash_ids
from beam_semdedup.inputs.dataset import in_io_threads
from beam_semdedup.storage.folder import File
from beam_semdedup.text import EXAMPLES

_T = TypeVar("_T")
_Read: TypeAlias = Callable[[_T], Iterable[tuple[pa.ChunkedArray, np.ndarray]]]
_HASH_BYTES = 32  # of a value: its hash, once more while they are put together, sorted and counted
_NONE = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True)
class Repeated:
    """What stands in a column.

    Attributes:
        distinct: how many different values.
        count: how many of them more than once; `examples` are some of those.
    """

    distinct: int = 0
    count: int = 0
    examples: tuple[Any, ...] = ()


def repeated(sources: Sequence[_T], read: _Read[_T], parts: int = 1) -> Repeated:
    """Counts the values of some sources together, by their hashes.

    Args:
        sources: are read at the same time, each once for every part of the hashes, and once more for examples.
        read: gives the values of a source in pieces, each with a 64-bit hash (n,) uint64 of its n values.
        parts: of the hashes, of which one is in memory at a time.
    """
    distinct, count, examples = 0, 0, dict[Any, None]()
    for part in range(parts):
        hashes = in_io_threads(functools.partial(_hashes, read, part, parts), sources)
        values, times = np.unique(np.concatenate([_NONE, *hashes]), return_counts=True)
        again = values[times > 1]
        distinct, count = distinct + len(values), count + len(again)
        if len(again) and len(examples) < EXAMPLES:
            for found in in_io_threads(functools.partial(_values, read, again[:EXAMPLES]), sources):
                examples.update(dict.fromkeys(found))
    return Repeated(distinct, count, tuple(examples)[:EXAMPLES])


def repeated_in_files(files: Sequence[File], column: str, num_rows: int, memory: int) -> Repeated:
    """Counts the values of a column of parquet files that have `num_rows` rows together, in `memory` bytes.

    Two texts that have the same hash are taken for one; two integers never have.
    """

    def read(file: File) -> Iterator[tuple[pa.ChunkedArray, np.ndarray]]:
        with file.open() as source:
            for batch in pq.ParquetFile(source).iter_batches(columns=[column]):
                values = pa.chunked_array([batch.column(0)])
                yield values, hash_ids(values, seed=0)

    return repeated(files, read, 1 + _HASH_BYTES * num_rows // memory)


def _hashes(read: _Read[_T], part: int, parts: int, source: _T) -> np.ndarray:
    """Returns the hashes of a source that are in a part of them."""
    return np.concatenate([_NONE, *(hashes[hashes % np.uint64(parts) == part] for _, hashes in read(source))])


def _values(read: _Read[_T], wanted: np.ndarray, source: _T) -> list[Any]:
    """Returns the values of a source whose hash is wanted."""
    pieces = (values.filter(pa.array(np.isin(hashes, wanted))) for values, hashes in read(source))
    return [value for piece in pieces for value in piece.unique().to_pylist()]
