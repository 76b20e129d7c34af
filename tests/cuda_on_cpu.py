"""Runs the project's CUDA source on a CPU: compiled by g++, the threads of a block as fibers that take turns."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np

from beam_semdedup.compute import cuda

_ONE_AT_A_TIME = threading.Lock()
COMPILER = shutil.which("g++")

_BEFORE = r"""
#include <cmath>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>
#define __global__
#define __device__
struct Place { int x, y, z; };
static Place threadIdx, blockIdx, blockDim;
static ucontext_t turns;
static std::vector<ucontext_t> threads;
static std::vector<char> ended;
static std::vector<long long> shown;
static int running;

static float __int_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }
static void wait_for_the_others() { swapcontext(&threads[running], &turns); }

template <class T> T __shfl_xor_sync(unsigned, T value, int step)
{
    std::memcpy(&shown[running], &value, sizeof value);
    wait_for_the_others();
    T result;
    std::memcpy(&result, &shown[running ^ step], sizeof result);
    wait_for_the_others();
    return result;
}
"""
_AFTER = r"""
static std::vector<void*> given;
static void (*body)();

template <class... A, size_t... I> void call(void (*kernel)(A...), std::index_sequence<I...>)
{
    kernel(*static_cast<A*>(given[I])...);
}
template <class... A> void call(void (*kernel)(A...)) { call(kernel, std::index_sequence_for<A...>()); }

static void thread() { body(); ended[running] = 1; swapcontext(&threads[running], &turns); }

extern "C" int launch(const char* name, const int* grid, const int* block, void** arguments, int number)
{
    if (!std::strcmp(name, "fold")) body = [] { call(fold); };
    else if (!std::strcmp(name, "pair_dot")) body = [] { call(pair_dot); };
    else if (!std::strcmp(name, "hash_rows")) body = [] { call(hash_rows); };
    else if (!std::strcmp(name, "sums_of_runs")) body = [] { call(sums_of_runs); };
    else return 1;
    given.assign(arguments, arguments + number);
    blockDim = {block[0], block[1], block[2]};
    int size = block[0] * block[1] * block[2];
    static std::vector<std::vector<char>> stacks;
    while ((int)stacks.size() < size) stacks.emplace_back(1 << 15);
    threads.resize(size);
    shown.resize(size);
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) {
        ended.assign(size, 0);
        for (int i = 0; i < size; i++) {
            getcontext(&threads[i]);
            threads[i].uc_stack.ss_sp = stacks[i].data();
            threads[i].uc_stack.ss_size = stacks[i].size();
            makecontext(&threads[i], thread, 0);
        }
        for (int left = size; left;) {
            left = 0;
            for (running = 0; running < size; running++) {
                if (ended[running]) continue;
                threadIdx = {running % block[0], running / block[0] % block[1], running / block[0] / block[1]};
                swapcontext(&turns, &threads[running]);
                left += !ended[running];
            }
        }
    }
    return 0;
}
"""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled source."""
    assert COMPILER
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "kernels.cpp", Path(place) / "kernels.so"
        source.write_text(_BEFORE + cuda.SOURCE + _AFTER)
        command = [COMPILER, "-std=c++17", "-O1", "-Wall", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", str(target), str(source)], check=True)
        return ctypes.CDLL(str(target))


def launch(name: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple) -> None:
    """Runs a kernel; arguments are C-contiguous NumPy arrays, which it gets as pointers, and NumPy scalars."""
    values = []
    for argument in arguments:
        assert isinstance(argument, np.ndarray | np.generic)
        if isinstance(argument, np.ndarray):
            assert argument.flags.c_contiguous
            values.append(ctypes.c_void_p(argument.ctypes.data))
        else:
            values.append(np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item()))
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    sizes = [(ctypes.c_int * 3)(*dims, *[1] * (3 - len(dims))) for dims in (grid, block)]
    with _ONE_AT_A_TIME:
        assert library().launch(name.encode(), *sizes, pointers, len(values)) == 0
