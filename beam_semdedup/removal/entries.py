"""Which entries of a list are in a dataset, and which of them on several rows: packed by file, joined by Beam."""

from __future__ import annotations

import zlib
from typing import Any

import apache_beam as beam
import numpy as np


class JoinEntries(beam.CombineFn):
    """Which numbers stand in packed ones, and then which stand there more than once: `num_bytes` * 8 bits each."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes

    def create_accumulator(self) -> bytes:
        """Of no entry."""
        return bytes(2 * self._num_bytes)

    def add_input(self, accumulator: bytes, element: bytes) -> bytes:
        """With the packed entries of a file, in which one that stands on several rows stands twice."""
        numbers, times = np.unique(unpack(element), return_counts=True)
        added = np.concatenate([self._bits(numbers), self._bits(numbers[times > 1])])
        return self.merge_accumulators([accumulator, added.tobytes()])

    def merge_accumulators(self, accumulators: Any) -> bytes:
        """Of all; what stands in two of them repeats."""
        found, repeated = np.zeros((2, self._num_bytes), np.uint8)
        for accumulator in accumulators:
            more, more_repeated = halves(accumulator)
            repeated |= more_repeated | (found & more)
            found |= more
        return np.concatenate([found, repeated]).tobytes()

    def extract_output(self, accumulator: bytes) -> bytes:
        """For `halves`."""
        return accumulator

    def _bits(self, numbers: np.ndarray) -> np.ndarray:
        bits = np.zeros(self._num_bytes, np.uint8)
        np.bitwise_or.at(bits, numbers >> 3, (1 << (numbers & 7)).astype(np.uint8))
        return bits


def halves(entries: bytes) -> np.ndarray:
    """What `JoinEntries` gives as two arrays of bytes: the numbers, and those that repeat."""
    return np.frombuffer(entries, np.uint8).reshape(2, -1)


def pack(numbers: np.ndarray) -> bytes:
    """Ascending int64 numbers in few bytes."""
    return zlib.compress(np.diff(numbers, prepend=0).astype("<i8").tobytes(), level=1)


def unpack(packed: bytes) -> np.ndarray:
    """The numbers that `pack` was given."""
    return np.cumsum(np.frombuffer(zlib.decompress(packed), "<i8"), dtype=np.int64)
