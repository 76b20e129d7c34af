"""The types of arrays and of what gives arrays; docstrings say shapes, and dtypes where a type does not."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

CupyArray: TypeAlias = Any
"""An array of CuPy, which need not be installed where the types are checked."""

Array: TypeAlias = npt.NDArray[Any] | CupyArray
"""An array of NumPy or of CuPy, of whichever library the others of a call are.

NumPy's are checked to have what is asked of it, CuPy's are not; `arrays.to_host` returns what is certainly NumPy's.
"""

Library: TypeAlias = ModuleType
"""`numpy` or `cupy`: the module whose functions take an `Array`; named `xp` where it is used."""


class RankedVectors(Protocol):
    """The (n, d) float32 rows of a cluster in rank order: an array, or what gathers rows when it is indexed.

    It is indexed by slices and arrays of ranks, never by one number. Of a cluster whose rows 7, 8 and 9 are stored in
    this order, and of which 9 ranks first, then 7, then 8,

        rows[0:2]               holds the vectors of 9 and 7
        rows[np.array([2, 0])]  holds those of 8 and 9
    """

    def __len__(self) -> int: ...

    def __getitem__(self, ranks: slice | npt.NDArray[np.int64], /) -> Array: ...
