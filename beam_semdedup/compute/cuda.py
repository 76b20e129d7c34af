"""What runs on a GPU only: the CUDA kernels, tensor-core products and copies that overlap with computing.

`tiles`, `arrays` and `identical` have the same on NumPy, and everything here takes and returns CuPy arrays of the
current device. The source is compiled by whichever NVRTC the installed CuPy brings; the README says where it has run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.types import CupyArray

WARP, WARPS = 32, 8
SOURCE = r"""
#define NOTHING __int_as_float(0xff800000)  // minus infinity

struct Top { float best, second; long long at; };

__device__ Top joined(Top a, Top b)
{
    // Of equals the first, in whichever order lanes and tiles are joined.
    bool other = b.best > a.best || (b.best == a.best && b.at < a.at);
    Top result = other ? b : a;
    result.second = fmaxf(fmaxf(a.second, b.second), fminf(a.best, b.best));
    return result;
}

template <class T> __device__ T sum_of_warp(T value)
{
    for (int step = 16; step; step /= 2)
        value += __shfl_xor_sync(0xffffffff, value, step);
    return value;
}

extern "C" __global__ void pair_dot(const float* __restrict__ a, const float* __restrict__ b, const long long* left,
                                    const long long* right, int pairs, int dimension, double* dots)
{
    int pair = blockIdx.x * blockDim.y + threadIdx.y;
    if (pair >= pairs) return;
    const float *x = a + left[pair] * dimension, *y = b + right[pair] * dimension;
    double dot = 0;
    for (int i = threadIdx.x; i < dimension; i += 32)
        dot += (double)x[i] * y[i];
    dot = sum_of_warp(dot);
    if (threadIdx.x == 0) dots[pair] = dot;
}

extern "C" __global__ void hash_rows(const unsigned* words, const unsigned long long* weights, int rows, int dimension,
                                     unsigned long long* hashes)
{
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    unsigned long long hash = 0;
    for (long long i = threadIdx.x; i < dimension; i += 32)
        hash += words[row * (long long)dimension + i] * weights[i];
    hash = sum_of_warp(hash);
    if (threadIdx.x == 0) hashes[row] = hash;
}

extern "C" __global__ void fold(const float* __restrict__ products, int rows, int height, int columns,
                                long long diagonal, long long first, float* best, float* second, long long* winner)
{
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const float* product = products + (long long)row * columns;
    long long limit = row % height + diagonal;
    // Kept apart from `joined` so that the loop unrolls: one load in flight a warp leaves most of the bandwidth unused.
    int stop = limit < columns ? (int)limit : columns, at = -1;
    float most = NOTHING, next = NOTHING;
    #pragma unroll 8
    for (int column = threadIdx.x; column < stop; column += 32) {
        float value = product[column];
        next = fmaxf(next, fminf(most, value));
        if (value > most) { most = value; at = column; }
    }
    Top top = {most, next, at < 0 ? 0x7fffffffffffffffLL : first + at};
    for (int step = 16; step; step /= 2)
        top = joined(top, Top{__shfl_xor_sync(0xffffffff, top.best, step),
                              __shfl_xor_sync(0xffffffff, top.second, step),
                              __shfl_xor_sync(0xffffffff, top.at, step)});
    if (threadIdx.x == 0 && limit > 0) {
        Top before = {best[row], second[row], winner[row]};
        top = joined(before, top);
        best[row] = top.best;
        second[row] = top.second;
        winner[row] = top.at;
    }
}

extern "C" __global__ void sums_of_runs(const float* rows, const long long* order, const long long* bounds,
                                        int dimension, double* sums)
{
    int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= dimension) return;
    double sum = 0;
    for (long long i = bounds[blockIdx.x]; i < bounds[blockIdx.x + 1]; i++)
        sum += rows[order[i] * dimension + column];
    sums[(long long)blockIdx.x * dimension + column] = sum;
}
"""
_GEMM_DEFAULT, _COMPUTE_32F = -1, 68
_NOT_INITIALIZED, _ALLOC_FAILED = 1, 3  # what cuBLAS says where memory ends
_COLUMNS = 128


def fold(
    products: CupyArray, diagonal: int, column: int, best: CupyArray, second: CupyArray, winner: CupyArray
) -> None:
    """Does what `tiles.fold` does, with a warp for each row, in one pass over the products."""
    rows, sizes = len(best), (len(best), *products.shape[-2:])
    _launch_by_row(
        "fold", rows, (products, *map(np.int32, sizes), np.int64(diagonal), np.int64(column), best, second, winner)
    )


def pair_dot(a: CupyArray, b: CupyArray, left: CupyArray, right: CupyArray) -> CupyArray:
    """Computes the dot products (n,) float64 of the rows of `a` at `left` with those of `b` at `right`.

    The order in which the values of a pair are added depends on their number alone.

    Args:
        a, b: (…, d) float32, contiguous or copied.
        left, right: (n,) int64 positions, here or on the host.
    """
    import cupy

    a, b = cupy.ascontiguousarray(a), cupy.ascontiguousarray(b)
    left, right = (cupy.asarray(at, dtype=np.int64) for at in (left, right))
    dots = cupy.empty(len(left))
    _launch_by_row("pair_dot", len(left), (a, b, left, right, np.int32(len(left)), np.int32(a.shape[1]), dots))
    return dots


def hash_rows(matrix: CupyArray, weights: npt.NDArray[np.uint64]) -> CupyArray:
    """Adds the bits of each row's d float32 numbers, each times its weight (d,); (n,) uint64."""
    import cupy

    words = cupy.ascontiguousarray(matrix)
    hashes = cupy.empty(len(words), dtype=np.uint64)
    _launch_by_row("hash_rows", len(words), (words, cupy.asarray(weights), *map(np.int32, words.shape), hashes))
    return hashes


def sums_of_runs(rows: CupyArray, order: CupyArray, bounds: CupyArray) -> CupyArray:
    """Adds runs of rows, each in its order, so that the sums can be repeated; (k, d) float64.

    Args:
        rows: (n, d) float32.
        order: int64 positions of the rows, one run after another.
        bounds: (k + 1,) int64, where in `order` each run starts, and the last one ends.
    """
    import cupy

    runs, dimension = len(bounds) - 1, rows.shape[1]
    sums = cupy.empty((runs, dimension))
    grid = (runs, -(-dimension // _COLUMNS))
    _kernel("sums_of_runs")(grid, (_COLUMNS,), (rows, order, bounds, np.int32(dimension), sums))
    return sums


def multiply(a: CupyArray, b: CupyArray, out: CupyArray = None) -> CupyArray:
    """Does what `tiles.multiply` does: float32 is multiplied as such (no TF32), float16 by tensor cores.

    cuBLAS is called directly since CuPy's `matmul` of float16 rounds the result to float16, and its product of batches
    copies a transposed operand.
    """
    import cupy

    runtime, cublas = cupy.cuda.runtime, cupy.cuda.cublas
    kind = runtime.CUDA_R_16F if a.dtype == np.float16 else runtime.CUDA_R_32F
    (n, d), m, batches = a.shape[-2:], b.shape[-2], int(np.prod(a.shape[:-2]))
    result = cupy.empty((*a.shape[:-1], m), dtype=np.float32) if out is None else out
    if result.size:
        one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
        arguments = (  # in column order, where a matrix is its transpose: b's of a's
            *(cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, m, n, d, one.ctypes.data),
            *(b.data.ptr, kind, d, m * d),
            *(a.data.ptr, kind, d, n * d, zero.ctypes.data),
            *(result.data.ptr, runtime.CUDA_R_32F, m, n * m),
            *(batches, _COMPUTE_32F, _GEMM_DEFAULT),
        )
        try:
            cublas.gemmStridedBatchedEx(_cublas_handle(runtime.getDevice()), *arguments)
        except cublas.CUBLASError as error:
            if error.status in (_NOT_INITIALIZED, _ALLOC_FAILED):
                cupy.get_default_memory_pool().free_all_blocks()  # cuBLAS cannot take what CuPy keeps
                raise MemoryError(f"cuBLAS: {error}") from error
            raise
    return result


def to_device(array: npt.NDArray[Any]) -> CupyArray:
    """Returns the array on the GPU, copied beside what other threads compute there."""
    copy = _Copy(array)
    copy.done.synchronize()
    return copy.target


def uploaded(parts: Iterable[npt.NDArray[Any]]) -> Iterator[CupyArray]:
    """Yields the parts on the GPU, one after another; the next is copied while the caller computes with one."""
    import cupy

    computing = cupy.cuda.get_current_stream()
    under_way: list[_Copy] = []
    try:
        for part in parts:
            under_way.append(_Copy(part))
            if len(under_way) > 1:
                yield under_way[0].awaited_by(computing)
                under_way.pop(0)  # only now, as the host's array must outlive the copy
        while under_way:
            yield under_way[0].awaited_by(computing)
            under_way.pop(0)
    finally:
        for copy in under_way:  # their memory may be given to others as soon as they are forgotten
            copy.awaited_by(computing)


class _Copy:
    """A copy to the GPU that is under way, in a stream of its own.

    The target is taken in the computing stream, before the copy waits for it: memory that CuPy gives out again may
    still be read by what was started there earlier. CuPy's `asarray` would pin as much memory of the host, for good.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        import cupy

        self._source = np.ascontiguousarray(array)
        self.target = cupy.empty(array.shape, dtype=array.dtype)
        copies = _copy_stream()
        copies.wait_event(cupy.cuda.get_current_stream().record())
        self.target.set(self._source, stream=copies)
        self.done = copies.record()

    def awaited_by(self, stream: Any) -> CupyArray:
        """Returns the target; what is started in the stream from now on finds it filled."""
        stream.wait_event(self.done)
        return self.target


@functools.cache
def _cublas_handle(device: int) -> int:
    """Makes one for all threads, of which one computes at a time: CuPy has one, with its memory, for each thread."""
    import cupy

    return int(cupy.cuda.cublas.create())


@functools.cache
def _copy_stream() -> Any:
    import cupy

    return cupy.cuda.Stream(non_blocking=True)


def _launch_by_row(name: str, rows: int, arguments: tuple[Any, ...]) -> None:
    """Launches a kernel that has a warp for each row."""
    if rows:
        _kernel(name)((-(-rows // WARPS),), (WARP, WARPS), arguments)


@functools.cache
def _kernel(name: str) -> Any:
    import cupy

    return cupy.RawKernel(SOURCE, name)
