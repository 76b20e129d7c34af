from __future__ import annotations

import threading

import numpy as np
import oracle
import pyarrow as pa
import pytest
from device_checks import assert_rows_are_multiplied_and_hashed_as_on_numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import BATCHES, EPS, clusters, folded, folds, grids, plainly_folded, starting, units

from beam_semdedup.compute import arrays, cuda, screens, tiles
from beam_semdedup.compute.similarity import max_similarity
from beam_semdedup.compute.small_clusters import max_similarity_of_each
from beam_semdedup.storage.segments import RankedRows

on_a_gpu = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_equal(found, wanted):
    """Winners are the same; scores may differ in the last bit of a float64 sum, and so in that of float32."""
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=6e-8)
    np.testing.assert_array_equal(found[0] == 1, wanted[0] == 1)


def test_the_device_is_found(cupy):
    assert arrays.library("gpu") is cupy
    assert arrays.library("cpu") is np
    assert arrays.tile_rows(cupy, 7) % 256 == 0
    assert arrays.tile_bytes(cupy) > 4 << 20
    assert not arrays.has_room(cupy, 1 << 50)


@given(case=folds())
@on_a_gpu
def test_the_kernel_folds_as_numpy_does(cupy, case):
    def fold(tile, diagonal, column, top):
        there = tiles.Top(*map(cupy.asarray, top))
        tiles.fold(cupy.asarray(tile), diagonal, column, there)
        for host, array in zip(top, there, strict=True):
            host[:] = array.get()

    for found, wanted in zip(folded(fold, *case), plainly_folded(*case[:2]), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_fold_of_many_rows_is_that_of_numpy(cupy):
    products = np.random.default_rng(0).random((5000, 3333), dtype=np.float32)
    there, here = tiles.Top(*map(cupy.asarray, starting(5000))), starting(5000)
    tiles.fold(cupy.asarray(products), -100, 7, there)
    tiles.fold(products, -100, 7, here)
    for found, wanted in zip(there, here, strict=True):
        np.testing.assert_array_equal(found.get(), wanted)


@pytest.mark.parametrize("d", [1, 31, 384, 768])
def test_rows_are_multiplied_and_hashed_as_on_numpy(cupy, d):
    assert_rows_are_multiplied_and_hashed_as_on_numpy(cupy, 2000, d)


@pytest.mark.parametrize("shape", [(100, 300, 384), (1, 1, 1), (33, 65, 7), (0, 3, 4)])
@pytest.mark.parametrize("batches", [(), (5,)])
def test_products_are_exact_to_their_bounds(cupy, shape, batches):
    (n, m, d), rng = shape, np.random.default_rng(0)
    a, b = (rng.normal(size=(*batches, rows, d)) for rows in (n, m))
    a, b = ((x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32) for x in (a, b))
    exact = a.astype(np.float64) @ b.astype(np.float64).swapaxes(-1, -2)
    there = cupy.asarray(a), cupy.asarray(b)
    single = tiles.multiply(*there).get()
    half = tiles.multiply(*map(screens.Rounded(0.9).prepared, there)).get()
    assert (single.dtype, half.dtype) == (np.float32, np.float32)
    assert np.abs(single - exact).max(initial=0) <= arrays.rounding_error(d, cupy)
    assert np.abs(half - exact).max(initial=0) <= screens.screening_error(d, 1.0001)


@pytest.mark.parametrize("kind", ["constant", "binary", "normal"])
@pytest.mark.parametrize("d", [210, 306, 768, 1536, 1801, 2789, 3072, 4096])
def test_rounding_error_bounds_the_error_of_float32_products(cupy, d, kind):
    rng = np.random.default_rng(d)
    vectors = {
        "constant": np.ones((300, d)),
        "binary": np.where(rng.random((300, d)) < 0.05, -1, 1),
        "normal": rng.normal(size=(300, d)),
    }[kind]
    rows = oracle.normalized(vectors)
    exact = rows.astype(np.float64) @ rows.astype(np.float64).T
    there = cupy.asarray(rows)
    for n in (1, 3, 300):
        assert np.abs(tiles.multiply(there[:n], there).get() - exact[:n]).max() <= arrays.rounding_error(d, cupy)


@given(rows=clusters() | grids(), batch=st.sampled_from(BATCHES), eps=st.sampled_from([None, *EPS]), data=st.data())
@on_a_gpu
def test_similarities_are_those_of_numpy(cupy, rows, batch, eps, data):
    low = data.draw(st.integers(0, len(rows) - 1))
    high = data.draw(st.integers(low + 1, len(rows)))
    exact = max_similarity(rows, low, high, batch)
    if eps is None:
        assert_equal(max_similarity(cupy.asarray(rows), low, high, batch), exact)
    else:
        found = max_similarity(cupy.asarray(rows), low, high, batch, screens.Rounded(1 - eps))
        sure = np.abs(exact[0].astype(np.float64) - (1 - eps)) > 6e-8  # else the last bit of a score decides
        np.testing.assert_array_equal((found[0] >= 1 - eps)[sure], (exact[0] >= 1 - eps)[sure])


@pytest.mark.parametrize("batch", [300, 1024, 4096])
@pytest.mark.parametrize("eps", [0.01, 0.05, 0.2])
def test_real_texts_give_what_numpy_gives_and_screened_the_same_duplicates(cupy, texts, batch, eps):
    there = cupy.asarray(texts)
    exact = max_similarity(there, 0, len(texts), batch)
    assert_equal(exact, max_similarity(texts, 0, len(texts), 1024))
    assert_equal(max_similarity(there, 3000, 4500, batch), (exact[0][3000:4500], exact[1][3000:4500]))
    screened, _ = max_similarity(there, 0, len(texts), batch, screens.Rounded(1 - eps))
    np.testing.assert_array_equal(screened >= 1 - eps, exact[0] >= 1 - eps)


@pytest.mark.parametrize("d", [210, 306, 384])
def test_binary_and_identical_rows_are_compared_exactly(cupy, d):
    rng = np.random.default_rng(d)
    rows = np.ones((500, d))
    for row in rows:
        row[rng.choice(d, rng.integers(0, 3), replace=False)] = -1
    rows = oracle.normalized(rows)
    assert_equal(max_similarity(cupy.asarray(rows), 0, 500, 128), max_similarity(rows, 0, 500, 128))


@given(unit=units(), memory=st.sampled_from([1, 1 << 20]))
@on_a_gpu
def test_small_clusters_are_those_of_numpy(cupy, unit, memory):
    rows, starts, stops = unit
    assert_equal(
        max_similarity_of_each(cupy.asarray(rows), starts, stops, memory),
        max_similarity_of_each(rows, starts, stops, memory),
    )


@pytest.mark.parametrize("eps", [0.01, 0.05])
def test_real_texts_in_small_clusters(cupy, texts, eps):
    sizes = np.random.default_rng(0).integers(1, 200, 49)
    sizes = sizes[np.cumsum(sizes) <= len(texts)]
    stops = np.cumsum(sizes)
    there, starts = cupy.asarray(texts), stops - sizes
    exact = max_similarity_of_each(there, starts, stops, 1 << 26)
    assert_equal(exact, max_similarity_of_each(texts, starts, stops, 1 << 26))
    screened, _ = max_similarity_of_each(there, starts, stops, 1 << 26, screens.Rounded(1 - eps))
    np.testing.assert_array_equal(screened >= 1 - eps, exact[0] >= 1 - eps)


def test_ranked_rows_are_copied_when_indexed(cupy, texts):
    batch = pa.record_batch({"embedding": pa.FixedSizeListArray.from_arrays(texts.reshape(-1), texts.shape[1])})
    order = np.random.default_rng(0).permutation(len(texts))
    ranked = RankedRows([batch], order, cupy)
    np.testing.assert_array_equal(ranked[100:900].get(), texts[order[100:900]])
    wanted = max_similarity(texts[order], 1000, 3000, 512)
    assert_equal(max_similarity(ranked, 1000, 3000, 512), wanted)


def test_parts_arrive_whole_and_in_order(cupy):
    parts = [np.full((20_000, 64), i, dtype=np.float32) for i in range(20)]
    sums = [float(part.sum()) for part in cuda.uploaded(iter(parts))]
    assert sums == [20_000 * 64 * i for i in range(20)]


def test_memory_that_does_not_suffice_halves_the_tile(cupy, texts):
    there, pool = cupy.asarray(texts), cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + 3 * texts.nbytes)
    tried = []
    try:

        def attempt(batch):
            tried.append(batch)
            return max_similarity(there, 0, len(texts), batch)

        found = arrays.halving_on_memory_error(1 << 14, attempt)
    finally:
        pool.set_limit(size=0)
    assert len(tried) > 1
    assert_equal(found, max_similarity(texts, 0, len(texts), 1024))


def test_threads_that_take_turns_find_what_one_finds(cupy, texts):
    wanted = max_similarity(cupy.asarray(texts), 0, len(texts), 1024)
    found = {}

    def work(number):
        rows = arrays.to_device(texts, cupy)
        with arrays.exclusive(cupy):
            found[number] = max_similarity(rows, 0, len(texts), 1024)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    for each in found.values():
        assert_equal(each, wanted)
