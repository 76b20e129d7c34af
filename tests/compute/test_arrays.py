import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_semdedup.compute import arrays
from beam_semdedup.errors import InputError


def random_rows(seed, n, d):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@given(seed=st.integers(0, 2**32), n=st.integers(1, 40), d=st.integers(1, 70), data=st.data())
@settings(max_examples=60)
def test_row_dot_depends_on_the_two_rows_alone(seed, n, d, data):
    a, b = random_rows(seed, n, d), random_rows(seed + 1, n, d)
    expected = [arrays.row_dot(a[i : i + 1], b[i : i + 1])[0] for i in range(n)]
    chosen = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]

    np.testing.assert_array_equal(arrays.row_dot(a, b), expected)
    np.testing.assert_array_equal(arrays.row_dot(a[chosen], b[chosen]), np.array(expected)[chosen])
    np.testing.assert_array_equal(arrays.row_dot(np.asfortranarray(a), b), expected)
    np.testing.assert_allclose(expected, (a.astype(np.float64) * b).sum(axis=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows_per_step", [1, 2, 7])
def test_row_dot_is_the_same_whatever_its_step(rows_per_step):
    a, b = random_rows(0, 23, 33), random_rows(1, 23, 33)
    np.testing.assert_array_equal(arrays.row_dot(a, b, rows_per_step * 8 * 33), arrays.row_dot(a, b))


def test_row_dot_of_no_rows_is_empty():
    result = arrays.row_dot(np.empty((0, 5), np.float32), np.empty((0, 5), np.float32))
    assert (result.shape, result.dtype) == ((0,), np.float64)


def test_row_dot_adds_in_float64():
    a = np.array([[1e4, 1, -1e4]], dtype=np.float32)
    assert arrays.row_dot(a, np.array([[1e4, 1, 1e4]], dtype=np.float32))[0] == 1.0


@pytest.mark.parametrize("d", [1, 2, 3, 16, 64, 210, 251, 306, 384, 768, 1024, 4096])
@pytest.mark.parametrize("kind", ["constant", "binary", "positive", "normal"])
def test_rounding_error_bounds_the_error_of_float32_products(d, kind):
    rng = np.random.default_rng(d)
    vectors = {
        "constant": np.ones((24, d)),
        "binary": np.where(rng.random((24, d)) < 0.05, -1, 1),
        "positive": rng.random((24, d)) + 0.1,
        "normal": rng.normal(size=(24, d)),
    }[kind]
    rows = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    exact = rows.astype(np.float64) @ rows.astype(np.float64).T
    for n in (1, 3, 24):
        assert np.abs(rows[:n] @ rows.T - exact[:n]).max() <= arrays.rounding_error(d)


def test_the_namespace_of_a_numpy_array_is_numpy():
    assert arrays.namespace(np.empty(0)) is np
    assert "cupy" not in sys.modules


# Devices


def test_without_a_gpu_numpy_computes_and_gpu_is_an_error_that_says_what_is_missing(no_gpu):
    assert arrays.library("cpu") is arrays.library("auto") is np
    with pytest.raises(
        InputError,
        match=r"device=gpu, but .* CuPy or CUDA's libraries cannot be loaded .*; install cupy-cuda12x\[ctk\] or",
    ):
        arrays.library("gpu")


def test_a_gpu_computes_where_it_is_seen(device, caplog):
    with caplog.at_level("INFO", "beam_semdedup"):
        assert arrays.library("auto") is arrays.library("gpu") is device
    assert "Computing on a GPU: a stand-in" in caplog.text
    assert arrays.library("cpu") is np


def test_cupy_without_a_gpu_is_no_gpu(device, monkeypatch):
    device.devices = 0
    assert arrays.library("auto") is np
    with pytest.raises(InputError, match="this process sees none"):
        arrays.library("gpu")

    def no_driver():
        raise RuntimeError("cudaErrorInsufficientDriver")

    arrays.library.cache_clear()
    monkeypatch.setattr(device.cuda.runtime, "getDeviceCount", no_driver)
    assert arrays.library("auto") is np
    with pytest.raises(InputError, match="cudaErrorInsufficientDriver; device=auto goes on without one"):
        arrays.library("gpu")


def test_one_thread_at_a_time_computes_on_a_gpu_and_all_on_numpy(device):
    inside, most = [], {}

    def work(xp, name, number):
        barrier.wait()
        with arrays.exclusive(xp):
            inside.append(number)
            time.sleep(0.01)
            most[name] = max(most.get(name, 0), len(inside))
            inside.remove(number)

    for xp, name in ((device, "gpu"), (np, "cpu")):
        barrier = threading.Barrier(4)
        threads = [threading.Thread(target=work, args=(xp, name, i)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most["gpu"] == 1
    assert most["cpu"] > 1


def test_tiles_follow_the_cache_and_the_memory_of_a_gpu(device):
    assert arrays.tile_rows(np, 77) == 77
    assert arrays.tile_rows(device, 77) == 512  # whose products are the 1 MiB of its cache
    device.limit = 1 << 20
    assert arrays.tile_rows(device, 77) == 256
    assert arrays.tile_bytes(np) == arrays.tile_bytes(device) == 4 << 20
    assert (arrays.has_room(np, 1 << 50), arrays.has_room(device, 1 << 19), arrays.has_room(device, 1 << 20)) == (
        True,
        True,
        False,
    )
    rows = random_rows(0, 3, 4)
    assert arrays.to_device(rows, np) is rows
    np.testing.assert_array_equal(arrays.to_host(arrays.to_device(rows, device)), rows)
