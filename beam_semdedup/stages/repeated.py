"""Which values of a column stand there more than once: ids in a cluster, ids among duplicates, entries of a list."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from beam_semdedup.compute.ranking import hash_ids
from beam_semdedup.storage.damage import as_damage
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.tables import opened
from beam_semdedup.storage.threads import in_io_threads
from beam_semdedup.text import EXAMPLES

_T = TypeVar("_T")
_Read: TypeAlias = Callable[[_T], Iterable[tuple[pa.ChunkedArray, np.ndarray]]]
_KEY_BYTES = 32  # of a value: its key, once more while they are put together, sorted and counted
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
    """Counts the values of some sources together, by keys that stand for them.

    Args:
        sources: are read at the same time, each once for every part of the keys, and once more for examples.
        read: gives the values of a source in pieces, each with the keys (n,) uint64 of its n values.
        parts: of the keys, of which one is in memory at a time.
    """
    distinct, count, examples = 0, 0, dict[Any, None]()
    for part in range(parts):
        keys = in_io_threads(functools.partial(_keys, read, part, parts), sources)
        unique, times = np.unique(np.concatenate([_NONE, *keys]), return_counts=True)
        again = unique[times > 1]
        distinct, count = distinct + len(unique), count + len(again)
        if len(again) and len(examples) < EXAMPLES:
            for found in in_io_threads(functools.partial(_values, read, again[:EXAMPLES]), sources):
                examples.update(dict.fromkeys(found))
    return Repeated(distinct, count, tuple(examples)[:EXAMPLES])


def repeated_in_files(files: Sequence[File], column: str, num_rows: int, memory: int) -> Repeated:
    """Counts the values of a column of parquet files that have `num_rows` rows together, in `memory` bytes.

    Their keys are 64-bit hashes: two texts that have the same are taken for one; two integers never have.

    Raises:
        DamagedFile: one cannot be read.
    """

    def read(file: File) -> Iterator[tuple[pa.ChunkedArray, np.ndarray]]:
        with as_damage(file), file.open() as source:
            for batch in opened(source).iter_batches(columns=[column]):
                values = pa.chunked_array([batch.column(0)])
                yield values, hash_ids(values, seed=0)

    return repeated(files, read, 1 + _KEY_BYTES * num_rows // memory)


def _keys(read: _Read[_T], part: int, parts: int, source: _T) -> np.ndarray:
    """Returns the keys of a source that are in a part of them."""
    return np.concatenate([_NONE, *(keys[keys % np.uint64(parts) == part] for _, keys in read(source))])


def _values(read: _Read[_T], wanted: np.ndarray, source: _T) -> list[Any]:
    """Returns the values of a source whose keys are wanted."""
    pieces = (values.filter(pa.array(np.isin(keys, wanted))) for values, keys in read(source))
    return [value for piece in pieces for value in piece.unique().to_pylist()]
