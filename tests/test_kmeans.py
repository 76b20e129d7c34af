import io
import json
import threading

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_semdedup import assignment, kmeans, storage
from beam_semdedup.config import Parameters
from beam_semdedup.failures import InputError
from beam_semdedup.fitting import LocalEngine

seeds = st.integers(0, 2**32)


def parameters(tmp_path="/nowhere", **values):
    return Parameters(input_path=["/nowhere"], output_path=str(tmp_path), **values)


def unit_rows(seed, n, d):
    return oracle.normalized(np.random.default_rng(seed).normal(size=(n, d)))


def blobs(seed, n=600, d=8, centers=10, spread=0.25):
    rng = np.random.default_rng(seed)
    return oracle.normalized(
        rng.normal(size=(centers, d))[rng.integers(0, centers, n)] + spread * rng.normal(size=(n, d))
    )


def inertia(rows, centroids):
    return (oracle.distances(rows, centroids, oracle.nearest(rows, centroids))[0] ** 2).sum()


# Assignment


@given(seed=seeds, n=st.integers(1, 60), k=st.integers(1, 20), d=st.integers(1, 24), batch=st.integers(1, 70))
@settings(max_examples=50)
def test_each_row_gets_the_centroid_that_is_nearest_in_float64(seed, n, k, d, batch):
    rows, centroids = unit_rows(seed, n, d), unit_rows(seed + 1, k, d) * np.float32(0.8)
    labels = assignment.assign(rows, centroids, batch)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, oracle.nearest(rows, centroids))


@given(seed=seeds, n=st.integers(1, 60), k=st.integers(1, 20), d=st.integers(1, 4), batch=st.integers(1, 70))
@settings(max_examples=50)
def test_of_equally_near_centroids_the_first_is_chosen(seed, n, k, d, batch):
    rng = np.random.default_rng(seed)
    rows, centroids = (rng.integers(-2, 3, size=(m, d)).astype(np.float32) for m in (n, k))
    np.testing.assert_array_equal(assignment.assign(rows, centroids, batch), oracle.nearest(rows, centroids))


@given(seed=seeds, d=st.integers(2, 24), gap=st.sampled_from([1e-3, 1e-5, 1e-6, 1e-7]), batch=st.integers(1, 50))
@settings(max_examples=40)
def test_nearly_equally_near_centroids_are_told_apart_in_float64(seed, d, gap, batch):
    rng = np.random.default_rng(seed)
    rows = unit_rows(seed, 40, d)
    centroids = np.repeat(unit_rows(seed + 1, 3, d), 4, axis=0)
    centroids += (gap * rng.normal(size=centroids.shape)).astype(np.float32)
    np.testing.assert_array_equal(assignment.assign(rows, centroids, batch), oracle.nearest(rows, centroids))


@pytest.mark.parametrize("d", [3, 17, 100, 384])
@pytest.mark.parametrize("k", [5, 9, 17, 33])
def test_the_first_of_identical_centroids_is_chosen_in_every_tile(d, k):
    rows, base = unit_rows(d, 50, d), unit_rows(k, k, d)
    expected = oracle.nearest(rows, base)
    for batch in (1, 3, 7, 1024):
        np.testing.assert_array_equal(assignment.assign(rows, np.concatenate([base] * 3), batch), expected)


@given(seed=seeds, n=st.integers(1, 60), k=st.integers(1, 20), d=st.integers(1, 24), data=st.data())
@settings(max_examples=40)
def test_the_centroid_of_a_row_does_not_depend_on_the_rows_beside_it(seed, n, k, d, data):
    rng = np.random.default_rng(seed)
    rows = unit_rows(seed, n, d)
    centroids = rows[rng.integers(0, n, k)] + (1e-4 * rng.integers(-1, 2, size=(k, d))).astype(np.float32)
    whole = assignment.assign(rows, centroids, 1024)
    chosen = data.draw(st.permutations(range(n)))
    for batch in (1, 3, 7, 1024):
        np.testing.assert_array_equal(assignment.assign(rows[chosen], centroids, batch), whole[chosen])


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_centroids_and_rows_of_any_length_are_taken(scale):
    rows, centroids = unit_rows(0, 50, 16) * np.float32(scale), unit_rows(1, 9, 16) * np.float32(scale)
    np.testing.assert_array_equal(assignment.assign(rows, centroids, 7), oracle.nearest(rows, centroids))


def test_no_rows_have_no_centroids():
    assert assignment.assign(np.empty((0, 3), np.float32), unit_rows(0, 2, 3), 8).shape == (0,)


# Distances


def test_the_distances_of_the_design():
    rows = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    l2, cosine = assignment.distances(rows, np.eye(2, dtype=np.float32), np.array([0, 1, 0]))
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
    l2, cosine = assignment.distances(rows, centroids, labels)
    exact_l2, exact_cosine = oracle.distances(rows, centroids, labels)
    np.testing.assert_allclose(l2, exact_l2, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(cosine, exact_cosine, rtol=1e-6, atol=1e-7)

    chosen = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    for part, whole in zip(assignment.distances(rows[chosen], centroids, labels[chosen]), (l2, cosine), strict=True):
        np.testing.assert_array_equal(part, whole[chosen])


def test_equal_rows_have_equal_distances_beyond_one_tile():
    rows = np.repeat(unit_rows(0, 1, 33), 20_000, axis=0)
    for distance in assignment.distances(rows, unit_rows(1, 3, 33), np.full(20_000, 2)):
        assert len(np.unique(distance)) == 1


@pytest.mark.parametrize("d", [2, 17, 384])
def test_a_row_that_is_its_own_centroid_is_at_distance_0(d):
    rows = unit_rows(d, 50, d)
    l2, cosine = assignment.distances(rows, rows, np.arange(50))
    assert l2.tolist() == [0] * 50
    np.testing.assert_allclose(cosine, 0, atol=1e-15)


def test_the_cosine_to_a_zero_centroid_is_none():
    l2, cosine = assignment.distances(unit_rows(0, 4, 5), np.zeros((1, 5), np.float32), np.zeros(4, int))
    np.testing.assert_allclose(l2, 1, atol=1e-6)
    assert cosine.tolist() == [1] * 4


# The fitted model in storage


def test_a_model_is_fitted_once_and_found_afterwards(tmp_path):
    p = parameters(tmp_path, n_clusters=3)
    asked = []

    def sample():
        asked.append(None)
        return blobs(0)

    first = kmeans.fit_or_load(str(tmp_path / "m"), sample, 8, p)
    stored = (tmp_path / "m" / "centroids.npy").read_bytes()
    assert kmeans.fit_or_load(str(tmp_path / "m"), sample, 8, p) == first
    assert len(asked) == 1
    assert (tmp_path / "m" / "centroids.npy").read_bytes() == stored
    assert first.content_hash == kmeans.content_hash(stored)
    np.testing.assert_array_equal(first.centroids({}), np.load(io.BytesIO(stored)))
    model = json.loads((tmp_path / "m" / "model.json").read_text())
    assert (model["engine"], model["rows"]) == ("local", 600)
    assert model["inertia"] == pytest.approx(inertia(blobs(0), first.centroids({})), rel=1e-3)


def test_of_two_attempts_at_the_same_time_the_first_to_store_wins_for_both(tmp_path):
    both_found_nothing = threading.Barrier(2)
    results = {}

    def attempt(seed):
        def sample():
            both_found_nothing.wait(60)
            return blobs(seed)

        results[seed] = kmeans.fit_or_load(str(tmp_path / "m"), sample, 8, parameters(tmp_path, n_clusters=3))

    threads = [threading.Thread(target=attempt, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[1] == results[2]
    stored = (tmp_path / "m" / "centroids.npy").read_bytes()
    assert results[1].content_hash == kmeans.content_hash(stored)
    alone = [
        kmeans.fit_or_load(str(tmp_path / f"alone{s}"), lambda s=s: blobs(s), 8, parameters(tmp_path, n_clusters=3))
        for s in (1, 2)
    ]
    assert alone[0] != alone[1]
    assert stored in [(tmp_path / f"alone{s}" / "centroids.npy").read_bytes() for s in (1, 2)]


def test_an_attempt_that_comes_last_takes_what_stands_there(tmp_path):
    p = parameters(tmp_path, n_clusters=3)

    def overtaken():
        results.append(kmeans.fit_or_load(str(tmp_path / "m"), lambda: blobs(1), 8, p))
        return blobs(2)

    results = []
    results.append(kmeans.fit_or_load(str(tmp_path / "m"), overtaken, 8, p))
    assert results[0] == results[1]


def test_replaced_centroids_are_noticed(tmp_path):
    fitted = kmeans.fit_or_load(str(tmp_path / "m"), lambda: blobs(7), 8, parameters(tmp_path, n_clusters=3))
    path = tmp_path / "m" / "centroids.npy"
    np.save(path, np.load(path) * 2)
    with pytest.raises(RuntimeError, match=r"m/centroids\.npy was replaced"):
        fitted.centroids({})


def test_the_centroids_are_loaded_once_a_process(tmp_path, monkeypatch):
    fitted = kmeans.fit_or_load(str(tmp_path / "m"), lambda: blobs(8), 8, parameters(tmp_path, n_clusters=3))
    reads = []
    read_bytes = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda *a: reads.append(a) or read_bytes(*a))
    results = [fitted.centroids({}) for _ in range(3)]
    thread = threading.Thread(target=lambda: results.append(kmeans.FittedKMeans(*vars(fitted).values()).centroids({})))
    thread.start()
    thread.join()
    assert len(reads) == 1
    assert len(results) == 4
    assert all(result is results[0] for result in results)


def test_a_sample_with_fewer_rows_than_clusters_is_refused(tmp_path):
    with pytest.raises(InputError, match="n_clusters=5 is more than the 4 usable rows"):
        kmeans.fit_or_load(str(tmp_path / "m"), lambda: unit_rows(0, 4, 8), 8, parameters(tmp_path, n_clusters=5))
    assert not (tmp_path / "m").exists()


def test_given_centroids_without_iterations_need_no_sample(tmp_path):
    initial = unit_rows(0, 3, 8).astype(np.float64)
    np.save(tmp_path / "init.npy", initial)
    p = parameters(tmp_path / "out", n_clusters=3, max_iter=0, init=str(tmp_path / "init.npy"))
    fitted = kmeans.fit_or_load(str(tmp_path / "m"), lambda: pytest.fail("sampled"), 8, p)
    np.testing.assert_array_equal(fitted.centroids({}), initial.astype(np.float32))
    assert json.loads((tmp_path / "m" / "model.json").read_text())["inertia"] is None


def test_given_centroids_are_where_a_stored_fit_starts(tmp_path):
    sample = blobs(0)
    initial = sample[:10]
    np.save(tmp_path / "init.npy", initial)
    p = parameters(tmp_path / "out", n_clusters=10, init=str(tmp_path / "init.npy"))
    fitted = kmeans.fit_or_load(str(tmp_path / "m"), lambda: sample, 8, p)
    expected = LocalEngine().fit(lambda: sample, initial, p)
    np.testing.assert_array_equal(fitted.centroids({}), expected.centroids)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 7), np.float32), "centroids of dimension 7, the embeddings have 8"),
        (np.zeros((4, 8), np.float32), "4 centroids, n_clusters=3"),
        (np.zeros(8, np.float32), r"expected finite floats of shape \(k, d\), found float32 \(8,\)"),
        (np.zeros((3, 8), np.int64), "found int64"),
        (np.full((3, 8), np.nan), "expected finite floats"),
        (np.array([[{}] * 8] * 3), "not an .npy array"),
        (b"no array", "not an .npy array"),
        (b"", "not an .npy array"),
        (None, "cannot be read"),
    ],
    ids=["dimension", "number", "shape", "integers", "nan", "objects", "text", "empty", "absent"],
)
def test_unusable_given_centroids_are_named(tmp_path, array, message):
    path = tmp_path / "init.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        np.save(path, array)
    with pytest.raises(InputError, match=message) as raised:
        kmeans.load_init(parameters(tmp_path, n_clusters=3, init=str(path)), 8)
    assert f"init={path}" in str(raised.value)


def test_given_centroids_are_checked_as_far_as_shapes_are_known(tmp_path):
    np.save(tmp_path / "init.npy", np.asfortranarray(np.ones((4, 7))))
    loaded = kmeans.load_init(parameters(tmp_path / "out", init=str(tmp_path / "init.npy")), None)
    assert (loaded.shape, loaded.dtype, loaded.flags.c_contiguous) == ((4, 7), np.float32, True)
