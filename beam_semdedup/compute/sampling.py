"""A random sample of rows, whoever has them: a hash of where a row came from decides."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.compute.ranking import hash_ids

_SALT = 0x726563616C6C  # the order of random ranking must not be that of the sample
_ALL = 2**64 - 1


def sampled(sources: npt.NDArray[np.int64], seed: int, size: int, of: int) -> npt.NDArray[np.bool_]:
    """Returns which rows (n,) are in a sample of about `size` rows out of `of`: each with the same probability.

    Args:
        sources: (n,) what identifies the rows.
        seed: another one is another sample.
    """
    hashes = hash_ids(pa.chunked_array([pa.array(sources)]), seed ^ _SALT)
    return hashes <= np.uint64(min(_ALL, _ALL * size // max(1, of)))
