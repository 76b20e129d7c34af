import sys

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_semdedup import arrays


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
def test_row_dot_is_the_same_whatever_its_step(monkeypatch, rows_per_step):
    a, b = random_rows(0, 23, 33), random_rows(1, 23, 33)
    whole = arrays.row_dot(a, b)
    monkeypatch.setattr(arrays, "_ROW_DOT_BYTES", rows_per_step * 8 * 33)
    np.testing.assert_array_equal(arrays.row_dot(a, b), whole)


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


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(arrays.os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert arrays.cores() == 3


def test_core_limit_holds_within_the_block_alone():
    def threads():
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]

    with arrays.core_limit(2):
        assert set(threads()) == {2}
        with arrays.core_limit(1):
            assert set(threads()) == {1}
        assert set(threads()) == {2}
