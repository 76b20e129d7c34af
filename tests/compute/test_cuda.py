"""The CUDA kernels on a CPU, compiled by NVRTC, and through a stand-in for CuPy; `tests/gpu` has the real thing."""

from __future__ import annotations

import ctypes
import glob
import sys
from pathlib import Path

import cuda_on_cpu
import numpy as np
import oracle
import pyarrow as pa
import pytest
from device_checks import assert_rows_are_assigned_as_on_numpy, assert_rows_are_multiplied_and_hashed_as_on_numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import BATCHES, EPS, blobs, clusters, folded, folds, grids, plainly_folded, units

from beam_semdedup.compute import arrays, assignment, cuda, tiles
from beam_semdedup.compute.screens import Rounded, screen_at
from beam_semdedup.compute.similarity import max_similarity
from beam_semdedup.compute.small_clusters import max_similarity_of_each
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.fit.lloyd import fit_shards, in_this_process
from beam_semdedup.fit.local import LocalEngine
from beam_semdedup.fit.shard import Shard
from beam_semdedup.storage.segments import RankedRows

needs_compiler = pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="no g++ to compile the CUDA source with")
with_device = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("d", [1, 31, 32, 33, 384])
def test_rows_are_multiplied_and_hashed_on_a_device_as_on_numpy(device, d):
    assert_rows_are_multiplied_and_hashed_as_on_numpy(device, 20, d)


@needs_compiler
@given(case=folds())
@settings(max_examples=60)
def test_the_kernel_folds_as_numpy_does(case):
    def fold(tile, diagonal, column, top):
        sizes, places = map(np.int32, (len(top.best), *tile.shape[1:])), map(np.int64, (diagonal, column))
        grid = (-(-len(top.best) // cuda.WARPS),)
        cuda_on_cpu.launch("fold", grid, (cuda.WARP, cuda.WARPS), (tile, *sizes, *places, *top))

    for found, wanted in zip(folded(fold, *case), plainly_folded(*case[:2]), strict=True):
        np.testing.assert_array_equal(found, wanted)


def nvrtc() -> ctypes.CDLL | None:
    """NVIDIA's run-time compiler, from the system or from the wheel nvidia-cuda-nvrtc; it needs no GPU."""
    found = [p for entry in sys.path for p in glob.glob(f"{entry}/nvidia/c*/lib/libnvrtc.so.*")]
    for name in ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", *found):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@pytest.mark.skipif(nvrtc() is None, reason="no NVRTC (the package nvidia-cuda-nvrtc-cu12)")
@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
def test_the_source_compiles_for_gpus(architecture):
    compiler, program = nvrtc(), ctypes.c_void_p()
    assert compiler.nvrtcCreateProgram(ctypes.byref(program), cuda.SOURCE.encode(), b"kernels.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 2)(f"--gpu-architecture={architecture}".encode(), b"--std=c++17")
    code, size = compiler.nvrtcCompileProgram(program, 2, options), ctypes.c_size_t()
    compiler.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    compiler.nvrtcGetProgramLog(program, log)
    assert (code, log.value.decode()) == (0, "")
    compiler.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    compiler.nvrtcGetPTX(program, ptx)
    for name in (b"fold", b"sums_of_runs", b"pair_dot", b"hash_rows"):
        assert b".entry " + name in ptx.value


# Through the stand-in: that arrays of the device and of the host are kept apart, and what is handed to kernels


@pytest.mark.parametrize("kind", ["float32", "rounded"])
@pytest.mark.parametrize("shape", [(5, 3, 8), (1, 1, 1), (7, 40, 3), (0, 3, 4)])
@pytest.mark.parametrize("batches", [(), (3,)])
def test_products_on_a_device_are_those_of_numpy(device, kind, shape, batches):
    (n, m, d), rng = shape, np.random.default_rng(0)
    a, b = (rng.normal(size=(*batches, rows, d)).astype(np.float32) for rows in (n, m))
    there = [device.asarray(x) for x in (a, b)]
    if kind == "rounded":
        screen = Rounded(0.9)
        a, b = screen.prepared(a), screen.prepared(b)
        there = [screen.prepared(x) for x in there]
        assert there[0].dtype == np.float16
    np.testing.assert_allclose(tiles.multiply(*there).get(), tiles.multiply(a, b), atol=1e-6)


@given(rows=clusters() | grids(), batch=st.sampled_from(BATCHES), eps=st.sampled_from([None, *EPS]), data=st.data())
@with_device
def test_similarities_on_a_device_are_those_of_numpy(device, rows, batch, eps, data):
    low = data.draw(st.integers(0, len(rows) - 1))
    high = data.draw(st.integers(low + 1, len(rows)))
    before = data.draw(st.sampled_from([None, 0, low // 2, low]))
    screen = screen_at(None if eps is None else 1 - eps)
    found = max_similarity(device.asarray(rows), low, high, batch, screen, before)
    wanted = max_similarity(rows, low, high, batch, screen, before)
    if eps is None:
        np.testing.assert_array_equal(found[1], wanted[1])
        np.testing.assert_array_equal(found[0], wanted[0])
    else:
        np.testing.assert_array_equal(found[0] >= 1 - eps, wanted[0] >= 1 - eps)


@given(unit=units(), memory=st.sampled_from([1, 1 << 20]))
@with_device
def test_small_clusters_on_a_device_are_those_of_numpy(device, unit, memory):
    rows, starts, stops = unit
    found = max_similarity_of_each(device.asarray(rows), starts, stops, memory)
    for a, b in zip(found, max_similarity_of_each(rows, starts, stops, memory), strict=True):
        np.testing.assert_array_equal(a, b)
    screened, _ = max_similarity_of_each(device.asarray(rows), starts, stops, memory, Rounded(0.99))
    np.testing.assert_array_equal(screened >= 0.99, found[0] >= 0.99)


def test_ranked_rows_are_copied_to_the_device_when_indexed(device):
    rows = oracle.normalized(np.random.default_rng(0).normal(size=(50, 8)))
    batch = pa.record_batch({"embedding": pa.FixedSizeListArray.from_arrays(rows[::-1].reshape(-1), 8)})
    ranked = RankedRows([batch], np.arange(50)[::-1], device)
    assert isinstance(ranked[3:9], type(device.asarray(rows)))
    np.testing.assert_array_equal(ranked[3:9].get(), rows[3:9])
    for found, wanted in zip(max_similarity(ranked, 20, 50, 7), max_similarity(rows, 20, 50, 7), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("batch", [97, 1000, pytest.param(5, marks=pytest.mark.slow)])
def test_rows_are_assigned_on_a_device_as_on_numpy(device, batch):
    rows = blobs(0)
    centroids = np.concatenate([rows[:20], rows[:3]])
    assert_rows_are_assigned_as_on_numpy(device, rows, centroids, batch)
    assert_rows_are_assigned_as_on_numpy(device, rows[:0], centroids, batch)


@pytest.mark.parametrize("init", ["k-means||", "random"])
def test_a_fit_on_a_device_is_that_of_numpy(device, init):
    p = Parameters(input_path=["/nowhere"], output_path="/nowhere", n_clusters=10, init=init, device="gpu")
    found = LocalEngine(p).fit(lambda: blobs(0), None, p)
    p.device = "cpu"
    wanted = LocalEngine(p).fit(lambda: blobs(0), None, p)
    np.testing.assert_allclose(found.centroids, wanted.centroids, atol=1e-6)
    assert found.iterations == wanted.iterations


def test_an_empty_cluster_is_given_a_row_on_a_device(device):
    sample = device.asarray(np.array([[1, 0], [0.99, 0.01], [0.9, 0.1], [0, 1]], dtype=np.float32))
    start = np.array([[1, 0], [-5, -5], [-6, -6]], dtype=np.float32)
    p = Parameters(input_path=["/"], output_path="/", n_clusters=3, max_iter=1, min_moved=0)
    found = fit_shards(in_this_process(Shard(sample)), start, p)
    np.testing.assert_allclose(found.centroids, [[0.995, 0.005], [0, 1], [0.9, 0.1]], atol=1e-6)


def test_memory_that_does_not_suffice_for_a_tile_halves_it(device, caplog):
    rows = oracle.normalized(np.random.default_rng(0).normal(size=(200, 4)))
    there = device.asarray(rows)
    device.limit = 200 * 4 * 8
    with pytest.raises(MemoryError):
        max_similarity(there, 0, 200, 200)
    for _ in range(2):
        found = arrays.halving_on_memory_error(200, lambda batch: max_similarity(there, 0, 200, batch))
        for a, b in zip(found, max_similarity(rows, 0, 200, 64), strict=True):
            np.testing.assert_array_equal(a, b)
    labels = assignment.assign_with_distances(rows, rows[:50], 200, device)[0]
    np.testing.assert_array_equal(labels, assignment.assign(rows, rows[:50], 200))
    assert [record.getMessage() for record in caplog.records] == ["Out of memory: going on with smaller tiles"]


@pytest.mark.parametrize(("status", "kind"), [(1, MemoryError), (3, MemoryError), (7, RuntimeError)])
def test_memory_that_cublas_lacks_is_memory_that_does_not_suffice(device, monkeypatch, status, kind):
    def refuse(*arguments):
        raise device.cuda.cublas.CUBLASError(status)

    monkeypatch.setattr(device.cuda.cublas, "gemmStridedBatchedEx", refuse)
    there = device.asarray(np.ones((2, 3), np.float32))
    with pytest.raises(kind):
        tiles.multiply(there, there)


def test_rows_without_room_on_the_device_stay_on_the_host_and_it_is_said(device, caplog):
    device.limit = blobs(0).nbytes
    p = Parameters(input_path=["/nowhere"], output_path="/nowhere", n_clusters=10, device="gpu")
    found = LocalEngine(p).fit(lambda: blobs(0), None, p)
    p.device = "cpu"
    np.testing.assert_array_equal(found.centroids, LocalEngine(p).fit(lambda: blobs(0), None, p).centroids)
    assert "The GPU has no room for" in caplog.text


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_parts_are_uploaded_in_their_order_even_if_not_all_are_taken(device, taken):
    parts = [np.full(3, i, np.float32) for i in range(3)]
    found = [part.get() for _, part in zip(range(taken), cuda.uploaded(parts), strict=False)]
    np.testing.assert_array_equal(np.reshape(found, (-1, 3)), np.reshape(parts[:taken], (-1, 3)))


def test_memory_that_does_not_suffice_for_one_row_is_an_error():
    def attempt(size: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        arrays.halving_on_memory_error(5, attempt)


def test_nothing_is_imported_that_a_machine_for_kernels_lacks():
    import subprocess

    missing = ("apache_beam", "ray", "cuml", "cupy", "hydra", "sklearn", "rich")
    code = f"""
import sys
for name in {missing!r}:
    sys.modules[name] = None
from beam_semdedup.compute import arrays
from beam_semdedup.compute import assignment
from beam_semdedup.compute import comparison
from beam_semdedup.compute import cuda
from beam_semdedup.fit import lloyd, model
from beam_semdedup.storage import segments
from beam_semdedup.fit import shard
from beam_semdedup.compute import identical
from beam_semdedup.compute import screens
from beam_semdedup.compute import similarity
from beam_semdedup.compute import small_clusters
from beam_semdedup.compute import tiles
import benchmarks.gpu
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
