"""A stand-in for CuPy on a machine without a GPU: NumPy behind CuPy's names, as strict as CuPy.

Arrays of the device and of the host do not mix: only `asarray` and `get` cross. Kernels and cuBLAS take what CuPy's
take, and memory ends where `cupy.limit` says. What it cannot show is CUDA itself: `tests/gpu` does.
"""

from __future__ import annotations

import ctypes
import functools
import types
from typing import Any

import cuda_on_cpu
import numpy as np

_HALF, _SINGLE = 2, 0  # as CUDA numbers its types


class OutOfMemoryError(MemoryError):
    """CuPy's is a MemoryError too."""


class Array(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of the device."""

    def __init__(self, values: np.ndarray) -> None:
        if values.nbytes > cupy.limit:
            raise OutOfMemoryError(f"{values.nbytes} bytes")
        self._values = values
        self.data = types.SimpleNamespace(ptr=values.ctypes.data)

    def get(self) -> np.ndarray:
        return self._values.copy()

    def set(self, values: np.ndarray, stream: Any = None) -> None:
        assert (values.dtype, values.shape) == (self._values.dtype, self._values.shape)
        stream.under_way.append(lambda: np.copyto(self._values, values))

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return _call(getattr(ufunc, method), *inputs, **options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._values, name)
        return functools.partial(_call, value) if callable(value) else _wrapped(value)

    def __len__(self) -> int:
        return len(self._values)

    def __bool__(self) -> bool:
        return bool(self._values)

    def __float__(self) -> float:
        return float(self._values)

    def __int__(self) -> int:
        return int(self._values)

    def __getitem__(self, index: Any) -> Any:
        return _wrapped(self._values[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[_index(index)] = _values(value)


def _index(index: Any) -> Any:
    """Unlike operands, an index may lie on the host."""
    if isinstance(index, tuple):
        return tuple(_index(i) for i in index)
    return index._values if isinstance(index, Array) else index


def _values(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_values(v) for v in value)
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"an array of the host, of shape {value.shape}, where CuPy takes one of the device")
    return value._values if isinstance(value, Array) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return Array(np.asarray(value))
    return tuple(map(_wrapped, value)) if isinstance(value, tuple) and not all(map(_is_plain, value)) else value


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | str)


def _call(function: Any, *arguments: Any, **options: Any) -> Any:
    out = options.pop("out", None)
    target = out[0] if isinstance(out, tuple) else out
    options = {name: _values(value) for name, value in options.items()}
    if target is not None:
        options["out"] = _values(target)
    result = function(*map(_values, arguments), **options)
    return target if target is not None else _wrapped(result)


class _Kernel:
    def __init__(self, source: str, name: str) -> None:
        self._name = name

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple) -> None:
        cuda_on_cpu.launch(self._name, grid, block, tuple(_values(a) for a in arguments))


def _gemm(handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, *rest: int) -> None:
    """cublasGemmStridedBatchedEx, in column order, with float16 or float32 operands and a float32 result."""
    a, a_kind, lda, a_stride, b, b_kind, ldb, b_stride, beta, c, c_kind, ldc, c_stride, batches, compute, algo = rest
    assert (c_kind, compute, algo) == (_SINGLE, 68, -1)
    assert (_at(alpha, _SINGLE, 1)[0], _at(beta, _SINGLE, 1)[0]) == (1, 0)
    for i in range(batches):
        left = _matrix(a, a_kind, (k, m) if transa else (m, k), lda, i * a_stride)
        right = _matrix(b, b_kind, (n, k) if transb else (k, n), ldb, i * b_stride)
        result = _matrix(c, c_kind, (m, n), ldc, i * c_stride)
        left, right = (x.T if flag else x for x, flag in ((left, transa), (right, transb)))
        result[:] = left.astype(np.float32) @ right.astype(np.float32)


def _at(pointer: int, kind: int, number: int) -> np.ndarray:
    dtype = np.dtype(np.float16 if kind == _HALF else np.float32)
    return np.frombuffer((ctypes.c_char * (number * dtype.itemsize)).from_address(pointer), dtype)


def _matrix(pointer: int, kind: int, shape: tuple[int, int], leading: int, offset: int) -> np.ndarray:
    assert leading >= shape[0]
    return _at(pointer, kind, offset + leading * shape[1])[offset:].reshape(leading, shape[1], order="F")[: shape[0]]


class _Stream:
    """Copies that it is given are done when an event that was recorded after them is waited for, and not before."""

    def __init__(self, non_blocking: bool = False) -> None:
        self.under_way: list[Any] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass

    def record(self) -> Any:
        return types.SimpleNamespace(synchronize=functools.partial(self._finish, self.under_way[:]))

    def wait_event(self, event: Any) -> None:
        event.synchronize()

    def _finish(self, copies: list[Any]) -> None:
        for copy in copies:
            if copy in self.under_way:
                self.under_way.remove(copy)
                copy()


class CUBLASError(RuntimeError):
    """What cuBLAS raises, memory that does not suffice included."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class _CuPy(types.ModuleType):
    """The module."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.limit = 1 << 40
        self.devices = 1
        self.allocators: list[Any] = []
        self.malloc = object()
        self.RawKernel = _Kernel
        names = types.SimpleNamespace
        self.cuda = names(
            Stream=_Stream,
            get_current_stream=_Stream,
            Device=lambda: names(attributes={"L2CacheSize": 1 << 20}, synchronize=lambda: None),
            set_allocator=self.allocators.append,
            cublas=names(
                **{"CUBLAS_OP_N": 0, "CUBLAS_OP_T": 1, "CUBLASError": CUBLASError},
                create=lambda: 1,
                gemmStridedBatchedEx=_gemm,
            ),
            nvrtc=names(getVersion=lambda: (12, 9)),
            runtime=names(
                CUDA_R_16F=_HALF,
                CUDA_R_32F=_SINGLE,
                memGetInfo=lambda: (self.limit, self.limit),
                getDevice=lambda: 0,
                getDeviceCount=lambda: self.devices,
                getDeviceProperties=lambda number: {"name": b"a stand-in"},
            ),
        )

    def get_default_memory_pool(self) -> Any:
        return types.SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None, malloc=self.malloc)

    def get_array_module(self, *arrays: Any) -> Any:
        return self if any(isinstance(a, Array) for a in arrays) else np

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        if isinstance(values, Array) and dtype in (None, values.dtype):
            return values
        return Array(np.array(_values(values) if isinstance(values, Array) else values, dtype=dtype))

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        return functools.partial(_call, value) if callable(value) and not isinstance(value, type) else value


cupy = _CuPy()
