"""Which array library computes, on which device, and on how much of it.

Kernels take arrays and ask `namespace` for the library that the arrays belong to, so that the same code runs
on NumPy and CuPy; who makes the arrays asks `library`. Nothing else in the project decides that.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute import cuda
from beam_semdedup.compute.threads import alone, slices
from beam_semdedup.compute.types import Array, Library, RankedVectors
from beam_semdedup.errors import InputError

_LOG = logging.getLogger(__name__)
_GPU = threading.Lock()
_TILE_BYTES, _TILE_MULTIPLE = 4 << 20, 256
_T = TypeVar("_T")


def is_array(rows: RankedVectors) -> bool:
    """Returns whether rows are an array, and not gathered when they are indexed."""
    return hasattr(rows, "dtype")


def rows_at(rows: RankedVectors, positions: npt.NDArray[np.int64]) -> Array:
    """Returns the rows at positions (n,); of an array on the host `take` copies them in half the time of indexing."""
    return rows.take(positions, axis=0) if isinstance(rows, np.ndarray) else rows[positions]


def namespace(array: Array) -> Library:
    """Returns the module (`numpy` or `cupy`) whose functions take `array`."""
    if isinstance(array, np.ndarray):
        return np
    import cupy

    module: Library = cupy.get_array_module(array)
    return module


@functools.cache
def library(device: str) -> Library:
    """Returns the module that computes on a device: `cupy` on the first GPU that this process sees, else `numpy`.

    Args:
        device: cpu, gpu, or auto for a GPU where there is one.

    Raises:
        InputError: gpu, where CuPy or a GPU is missing.
    """
    if device == "cpu":
        return np
    os.environ["CUPY_TF32"] = "0"  # float32 products are meant to be such
    try:
        import cupy

        missing = "" if cupy.cuda.runtime.getDeviceCount() else "this process sees none"
        _ = cupy.cuda.cublas, cupy.cuda.nvrtc.getVersion()  # they come with CUDA, or with CuPy's extra ctk
    except ImportError as error:
        missing = f"CuPy or CUDA's libraries cannot be loaded ({error}); install cupy-cuda12x[ctk] or cupy-cuda13x[ctk]"
    except RuntimeError as error:  # CuPy's, where there is no driver
        missing = str(error)
    if not missing:
        _LOG.info("Computing on a GPU: %s", cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
        found: Library = cupy
        return found
    if device == "gpu":
        raise InputError(f"device=gpu, but there is no GPU to be used: {missing}; device=auto goes on without one")
    return np


def to_host(array: Array) -> npt.NDArray[Any]:
    """Returns the array in this machine's memory; itself, if it is there."""
    return array if isinstance(array, np.ndarray) else array.get()


@contextmanager
def exclusive(xp: Library) -> Iterator[None]:
    """Lets this thread alone compute on the GPU, also in what it calls `in_threads`; on NumPy it does nothing."""
    if xp is np:
        yield
        return
    with _GPU, alone():
        yield


def has_room(xp: Library, size: int) -> bool:
    """Returns whether the GPU has room for `size` bytes and as much for what is computed of them; NumPy always has."""
    return xp is np or 2 * size <= _free(xp)


def to_device(array: npt.NDArray[Any], xp: Library) -> Array:
    """Returns the array where `xp` computes: itself on NumPy, else a copy, made while other threads compute there.

    Raises:
        MemoryError: the GPU has no room for it.
    """
    return array if xp is np else cuda.to_device(array)


def tile_rows(xp: Library, asked: int) -> int:
    """Returns the rows and columns of a tile: as asked on NumPy; on a GPU what its L2 cache and memory hold."""
    if xp is np:
        return asked
    numbers = min(xp.cuda.Device().attributes["L2CacheSize"], _free(xp) // 8) // 4
    return max(_TILE_MULTIPLE, int(numbers**0.5) // _TILE_MULTIPLE * _TILE_MULTIPLE)


def tile_bytes(xp: Library) -> int:
    """Returns the bytes of one step's arrays: what a cache holds on NumPy, an eighth of the free memory on a GPU."""
    return _TILE_BYTES if xp is np else max(_TILE_BYTES, _free(xp) // 8)


def _free(xp: Library) -> int:
    """Returns the bytes of GPU memory that are free, or held by CuPy for what comes next."""
    return int(xp.cuda.runtime.memGetInfo()[0] + xp.get_default_memory_pool().free_bytes())


def halving_on_memory_error(size: int, attempt: Callable[[int], _T]) -> _T:
    """Returns what `attempt(size)` returns, halving `size` until it fits in memory.

    Raises:
        MemoryError: a size of 1 does not fit either.
    """
    while True:
        try:
            return attempt(size)
        except MemoryError:  # CuPy's is one
            if size <= 1:
                raise
        # Not in the handler: until it is left, the traceback holds the arrays.
        size //= 2
        _say_once("Out of memory: going on with smaller tiles")


@functools.cache
def _say_once(message: str) -> None:
    _LOG.warning(message)


def pair_dot(rows: RankedVectors, left: Array, right: Array) -> Array:
    """Computes the dot products, as by `row_dot`, of the rows at `left` with those at `right`; (n,) float64.

    Args:
        rows: float32, an array or gathered.
        left, right: (n,) int64 positions, n > 0, the left ones ascending; on the host where `rows` are gathered.
    """
    if is_array(rows) and namespace(rows) is not np:
        return cuda.pair_dot(rows, rows, left, right)
    low, high = int(left[0]), int(left[-1]) + 1
    # What stands together is not copied.
    return row_dot(rows[low:high] if high - low == len(left) else rows[left], rows[right])


def row_dot(a: Array, b: Array, step_bytes: int = 1 << 20) -> Array:
    """Computes the dot products of corresponding rows; (n,) float64.

    Each is computed in float64 from its two rows alone, so that it does not depend on what else is in the
    arrays (a matrix product's last bits depend on the shape of the tile).

    Args:
        a, b: (n, d) float32.
        step_bytes: of a float64 copy of some rows, on NumPy: such copies of two matrices stay in the cache, and smaller
            ones have threads wait for the interpreter.
    """
    xp = namespace(a)
    if xp is not np:
        everyone = xp.arange(len(a))
        return cuda.pair_dot(a, b, everyone, everyone)
    result = np.empty(len(a))
    step = max(1, step_bytes // (8 * max(1, a.shape[1])))
    for rows in slices(0, len(a), step):
        # In one memory order, since the order of the additions follows it.
        left = a[rows].astype(np.float64, order="C")
        right = left if b is a else b[rows].astype(np.float64, order="C")
        np.einsum("ij,ij->i", left, right, out=result[rows])
    return result


def rounding_error(dimension: int, xp: Library = np) -> float:
    """Returns how far a float32 matrix product of unit rows by `xp` may be from the exact value.

    OpenBLAS adds in blocks: rounding errors of `dimension` additions grow like a random walk, and faster where all
    products are equal (binary embeddings): at most 2.15 times the root of the dimension, found at 306 of 1 to 9000.
    A GPU may add one after the other; then, as no part of the sum exceeds 1, each addition loses at most 2^-25.
    """
    additions = 2.5 * dimension**0.5 if xp is np else dimension / 4
    return float(np.finfo(np.float32).eps) * max(4.0, additions)
