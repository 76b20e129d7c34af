import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds, unit_rows

from beam_semdedup.compute.assignment import assign, distances


@given(seed=seeds, n=st.integers(1, 60), k=st.integers(1, 20), d=st.integers(1, 24), batch=st.integers(1, 70))
@settings(max_examples=50)
def test_each_row_gets_the_centroid_that_is_nearest_in_float64(seed, n, k, d, batch):
    rows, centroids = unit_rows(seed, n, d), unit_rows(seed + 1, k, d) * np.float32(0.8)
    labels = assign(rows, centroids, batch)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, oracle.nearest(rows, centroids))


@given(seed=seeds, n=st.integers(1, 60), k=st.integers(1, 20), d=st.integers(1, 4), batch=st.integers(1, 70))
@settings(max_examples=50)
def test_of_equally_near_centroids_the_first_is_chosen(seed, n, k, d, batch):
    rng = np.random.default_rng(seed)
    rows, centroids = (rng.integers(-2, 3, size=(m, d)).astype(np.float32) for m in (n, k))
    np.testing.assert_array_equal(assign(rows, centroids, batch), oracle.nearest(rows, centroids))


@given(seed=seeds, d=st.integers(2, 24), gap=st.sampled_from([1e-3, 1e-5, 1e-6, 1e-7]), batch=st.integers(1, 50))
@settings(max_examples=40)
def test_nearly_equally_near_centroids_are_told_apart_in_float64(seed, d, gap, batch):
    rng = np.random.default_rng(seed)
    rows = unit_rows(seed, 40, d)
    centroids = np.repeat(unit_rows(seed + 1, 3, d), 4, axis=0)
    centroids += (gap * rng.normal(size=centroids.shape)).astype(np.float32)
    np.testing.assert_array_equal(assign(rows, centroids, batch), oracle.nearest(rows, centroids))


@pytest.mark.parametrize("d", [3, 17, 100, 384])
@pytest.mark.parametrize("k", [5, 9, 17, 33])
def test_the_first_of_identical_centroids_is_chosen_in_every_tile(d, k):
    rows, base = unit_rows(d, 50, d), unit_rows(k, k, d)
    expected = oracle.nearest(rows, base)
    for batch in (1, 3, 7, 1024):
        np.testing.assert_array_equal(assign(rows, np.concatenate([base] * 3), batch), expected)


@given(seed=seeds, n=st.integers(1, 60), k=st.integers(1, 20), d=st.integers(1, 24), data=st.data())
@settings(max_examples=40)
def test_the_centroid_of_a_row_does_not_depend_on_the_rows_beside_it(seed, n, k, d, data):
    rng = np.random.default_rng(seed)
    rows = unit_rows(seed, n, d)
    centroids = rows[rng.integers(0, n, k)] + (1e-4 * rng.integers(-1, 2, size=(k, d))).astype(np.float32)
    whole = assign(rows, centroids, 1024)
    chosen = data.draw(st.permutations(range(n)))
    for batch in (1, 3, 7, 1024):
        np.testing.assert_array_equal(assign(rows[chosen], centroids, batch), whole[chosen])


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_centroids_and_rows_of_any_length_are_taken(scale):
    rows, centroids = unit_rows(0, 50, 16) * np.float32(scale), unit_rows(1, 9, 16) * np.float32(scale)
    np.testing.assert_array_equal(assign(rows, centroids, 7), oracle.nearest(rows, centroids))


def test_no_rows_have_no_centroids():
    assert assign(np.empty((0, 3), np.float32), unit_rows(0, 2, 3), 8).shape == (0,)


# Distances


def test_the_distances_of_the_design():
    rows = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    l2, cosine = distances(rows, np.eye(2, dtype=np.float32), np.array([0, 1, 0]))
    assert (l2.dtype, cosine.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(l2, [0, 0, 0.8944272], atol=1e-6)
    np.testing.assert_allclose(cosine, [0, 0, 0.4], atol=1e-6)
    assert l2[:2].tolist() == cosine[:2].tolist() == [0, 0]


@given(seed=seeds, n=st.integers(1, 60), k=st.integers(1, 9), d=st.integers(1, 40), data=st.data())
@settings(max_examples=40)
def test_distances_are_those_of_float64_wherever_a_row_stands(seed, n, k, d, data):
    rng = np.random.default_rng(seed)
    rows, centroids = unit_rows(seed, n, d), (0.7 * rng.normal(size=(k, d))).astype(np.float32)
    labels = rng.integers(0, k, n)
    l2, cosine = distances(rows, centroids, labels)
    exact_l2, exact_cosine = oracle.distances(rows, centroids, labels)
    np.testing.assert_allclose(l2, exact_l2, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(cosine, exact_cosine, rtol=1e-6, atol=1e-7)

    chosen = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    for part, whole in zip(distances(rows[chosen], centroids, labels[chosen]), (l2, cosine), strict=True):
        np.testing.assert_array_equal(part, whole[chosen])


def test_equal_rows_have_equal_distances_beyond_one_tile():
    rows = np.repeat(unit_rows(0, 1, 33), 20_000, axis=0)
    for distance in distances(rows, unit_rows(1, 3, 33), np.full(20_000, 2)):
        assert len(np.unique(distance)) == 1


@pytest.mark.parametrize("d", [2, 17, 384])
def test_a_row_that_is_its_own_centroid_is_at_distance_0(d):
    rows = unit_rows(d, 50, d)
    l2, cosine = distances(rows, rows, np.arange(50))
    assert l2.tolist() == [0] * 50
    np.testing.assert_allclose(cosine, 0, atol=1e-15)


def test_the_cosine_to_a_zero_centroid_is_none():
    l2, cosine = distances(unit_rows(0, 4, 5), np.zeros((1, 5), np.float32), np.zeros(4, int))
    np.testing.assert_allclose(l2, 1, atol=1e-6)
    assert cosine.tolist() == [1] * 4
