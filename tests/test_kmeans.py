import io
import json
import threading
import warnings

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from beam_semdedup import kmeans, storage
from beam_semdedup.config import InputError, Parameters

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
    labels = kmeans.assign(rows, centroids, batch)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, oracle.nearest(rows, centroids))


@given(seed=seeds, n=st.integers(1, 60), k=st.integers(1, 20), d=st.integers(1, 4), batch=st.integers(1, 70))
@settings(max_examples=50)
def test_of_equally_near_centroids_the_first_is_chosen(seed, n, k, d, batch):
    rng = np.random.default_rng(seed)
    rows, centroids = (rng.integers(-2, 3, size=(m, d)).astype(np.float32) for m in (n, k))
    np.testing.assert_array_equal(kmeans.assign(rows, centroids, batch), oracle.nearest(rows, centroids))


@given(seed=seeds, d=st.integers(2, 24), gap=st.sampled_from([1e-3, 1e-5, 1e-6, 1e-7]), batch=st.integers(1, 50))
@settings(max_examples=40)
def test_nearly_equally_near_centroids_are_told_apart_in_float64(seed, d, gap, batch):
    rng = np.random.default_rng(seed)
    rows = unit_rows(seed, 40, d)
    centroids = np.repeat(unit_rows(seed + 1, 3, d), 4, axis=0)
    centroids += (gap * rng.normal(size=centroids.shape)).astype(np.float32)
    np.testing.assert_array_equal(kmeans.assign(rows, centroids, batch), oracle.nearest(rows, centroids))


@pytest.mark.parametrize("d", [3, 17, 100, 384])
@pytest.mark.parametrize("k", [5, 9, 17, 33])
def test_the_first_of_identical_centroids_is_chosen_in_every_tile(d, k):
    rows, base = unit_rows(d, 50, d), unit_rows(k, k, d)
    expected = oracle.nearest(rows, base)
    for batch in (1, 3, 7, 1024):
        np.testing.assert_array_equal(kmeans.assign(rows, np.concatenate([base] * 3), batch), expected)


@given(seed=seeds, n=st.integers(1, 60), k=st.integers(1, 20), d=st.integers(1, 24), data=st.data())
@settings(max_examples=40)
def test_the_centroid_of_a_row_does_not_depend_on_the_rows_beside_it(seed, n, k, d, data):
    rng = np.random.default_rng(seed)
    rows = unit_rows(seed, n, d)
    centroids = rows[rng.integers(0, n, k)] + (1e-4 * rng.integers(-1, 2, size=(k, d))).astype(np.float32)
    whole = kmeans.assign(rows, centroids, 1024)
    chosen = data.draw(st.permutations(range(n)))
    for batch in (1, 3, 7, 1024):
        np.testing.assert_array_equal(kmeans.assign(rows[chosen], centroids, batch), whole[chosen])


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_centroids_and_rows_of_any_length_are_taken(scale):
    rows, centroids = unit_rows(0, 50, 16) * np.float32(scale), unit_rows(1, 9, 16) * np.float32(scale)
    np.testing.assert_array_equal(kmeans.assign(rows, centroids, 7), oracle.nearest(rows, centroids))


def test_no_rows_have_no_centroids():
    assert kmeans.assign(np.empty((0, 3), np.float32), unit_rows(0, 2, 3), 8).shape == (0,)


# Distances


def test_the_distances_of_the_design():
    rows = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    l2, cosine = kmeans.distances(rows, np.eye(2, dtype=np.float32), np.array([0, 1, 0]))
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
    l2, cosine = kmeans.distances(rows, centroids, labels)
    exact_l2, exact_cosine = oracle.distances(rows, centroids, labels)
    np.testing.assert_allclose(l2, exact_l2, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(cosine, exact_cosine, rtol=1e-6, atol=1e-7)

    chosen = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    for part, whole in zip(kmeans.distances(rows[chosen], centroids, labels[chosen]), (l2, cosine), strict=True):
        np.testing.assert_array_equal(part, whole[chosen])


def test_equal_rows_have_equal_distances_beyond_one_tile():
    rows = np.repeat(unit_rows(0, 1, 33), 20_000, axis=0)
    for distance in kmeans.distances(rows, unit_rows(1, 3, 33), np.full(20_000, 2)):
        assert len(np.unique(distance)) == 1


@pytest.mark.parametrize("d", [2, 17, 384])
def test_a_row_that_is_its_own_centroid_is_at_distance_0(d):
    rows = unit_rows(d, 50, d)
    l2, cosine = kmeans.distances(rows, rows, np.arange(50))
    assert l2.tolist() == [0] * 50
    np.testing.assert_allclose(cosine, 0, atol=1e-15)


def test_the_cosine_to_a_zero_centroid_is_none():
    l2, cosine = kmeans.distances(unit_rows(0, 4, 5), np.zeros((1, 5), np.float32), np.zeros(4, int))
    np.testing.assert_allclose(l2, 1, atol=1e-6)
    assert cosine.tolist() == [1] * 4


# Initial centroids


@given(
    seed=seeds, n=st.integers(1, 60), d=st.integers(2, 8), factor=st.sampled_from([0.1, 1.0, 2.0, 5.0]), data=st.data()
)
@settings(max_examples=40)
def test_initial_centroids_are_different_rows_of_the_sample(seed, n, d, factor, data):
    k, batch = data.draw(st.integers(1, n)), data.draw(st.sampled_from([1, 3, 7, 1024]))
    sample = unit_rows(seed, n, d)
    chosen = kmeans.scalable_init(sample, k, factor, np.random.default_rng(seed), batch)
    assert (chosen.shape, chosen.dtype) == ((k, d), np.float32)
    rows = [row.tobytes() for row in sample]
    places = {rows.index(row.tobytes()) for row in chosen}
    assert len(places) == k


@pytest.mark.parametrize("k", [1, 3, 10])
def test_identical_rows_give_as_many_initial_centroids_as_asked_for(k):
    sample = np.repeat(unit_rows(0, 1, 6), 10, axis=0)
    chosen = kmeans.scalable_init(sample, k, 2.0, np.random.default_rng(0), 4)
    np.testing.assert_array_equal(chosen, sample[:k])


def test_every_row_is_chosen_once_though_rows_repeat():
    sample = np.repeat(unit_rows(0, 5, 6), 3, axis=0)
    chosen = kmeans.scalable_init(sample, 15, 2.0, np.random.default_rng(0), 4)
    assert sorted(chosen.tolist()) == sorted(sample.tolist())


def test_initial_centroids_depend_on_the_seed_alone():
    sample = blobs(0)
    first, again, other = (kmeans.scalable_init(sample, 5, 2.0, np.random.default_rng(seed), 128) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("seed", range(5))
def test_initial_centroids_find_every_well_separated_blob(seed):
    rng = np.random.default_rng(seed)
    sample = oracle.normalized(np.eye(12)[rng.integers(0, 12, 500)] + 0.01 * rng.normal(size=(500, 12)))
    chosen = kmeans.scalable_init(sample, 12, 2.0, rng, 100)
    assert set(chosen.argmax(axis=1)) == set(range(12))


# The local engine


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["blobs", "no clusters"])
def test_the_best_fit_is_as_good_as_that_of_scikit_learn(kind, seed):
    sample = blobs(seed) if kind == "blobs" else unit_rows(seed, 600, 8)
    fit = kmeans.LocalEngine().fit(sample.copy(), None, parameters(n_clusters=10, random_state=seed, n_init=10))
    reference = KMeans(10, n_init=10, random_state=seed).fit(sample)
    assert fit.inertia <= 1.01 * reference.inertia_
    assert fit.inertia == pytest.approx(inertia(sample, fit.centroids), rel=1e-3)
    assert (fit.centroids.shape, fit.centroids.dtype) == ((10, 8), np.float32)
    assert 1 <= fit.iterations <= 300


def test_the_fit_does_not_change_the_sample_beyond_rounding():
    sample = blobs(0)
    given = sample.copy()
    kmeans.LocalEngine().fit(given, None, parameters(n_clusters=4))
    np.testing.assert_allclose(given, sample, atol=1e-6)


@pytest.mark.parametrize("init", ["random", "k-means||"])
def test_max_iter_limits_the_iterations(init):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = kmeans.LocalEngine().fit(blobs(0), None, parameters(n_clusters=10, max_iter=2, init=init))
    assert fit.iterations <= 2


def test_given_centroids_are_where_the_iterations_start():
    sample = blobs(0)
    best = kmeans.LocalEngine().fit(sample.copy(), None, parameters(n_clusters=10))
    again = kmeans.LocalEngine().fit(sample.copy(), best.centroids, parameters(n_clusters=10, n_init=5, init="x.npy"))
    assert again.iterations <= 2
    np.testing.assert_allclose(again.centroids, best.centroids, atol=1e-4)


@pytest.mark.parametrize(
    ("init", "n_init", "fits"), [("random", 4, 4), ("random", "auto", 10), ("k-means||", "auto", 1)]
)
def test_the_best_of_n_init_fits_is_kept(monkeypatch, init, n_init, fits):
    found = []

    class Recorded(KMeans):
        def fit(self, *arguments):
            found.append(super().fit(*arguments))
            return found[-1]

    monkeypatch.setattr("sklearn.cluster.KMeans", Recorded)
    p = parameters(n_clusters=10, init=init, n_init=n_init, max_iter=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = kmeans.LocalEngine().fit(blobs(1), None, p)
    assert len(found) == fits
    assert fit.inertia == min(model.inertia_ for model in found)
    assert fits == 1 or len({model.inertia_ for model in found}) > 1


@pytest.mark.parametrize("init", ["random", "k-means||"])
def test_a_fit_is_repeatable_and_follows_random_state(init):
    first, again, other = (
        kmeans.LocalEngine().fit(blobs(0), None, parameters(n_clusters=7, random_state=s, init=init, max_iter=20))
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.centroids, again.centroids)
    assert (first.centroids != other.centroids).any()


@pytest.mark.parametrize("init", ["random", "k-means||"])
def test_as_many_clusters_as_rows_leave_no_distance(init):
    sample = unit_rows(0, 12, 5)
    fit = kmeans.LocalEngine().fit(sample.copy(), None, parameters(n_clusters=12, init=init))
    assert fit.inertia == pytest.approx(0, abs=1e-9)
    assert set(kmeans.assign(sample, fit.centroids, 5)) == set(range(12))


def test_identical_rows_can_be_fitted():
    sample = np.repeat(unit_rows(0, 1, 5), 9, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = kmeans.LocalEngine().fit(sample.copy(), None, parameters(n_clusters=3))
    np.testing.assert_allclose(fit.centroids, sample[:3], atol=1e-6)
    assert set(kmeans.assign(sample, fit.centroids, 4)) == {0}


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
    fitted = kmeans.fit_or_load(str(tmp_path / "m"), sample.copy, 8, p)
    reference = KMeans(10, init=initial, n_init=1, max_iter=300, tol=1e-4).fit(sample)
    np.testing.assert_allclose(fitted.centroids({}), reference.cluster_centers_, atol=1e-5)


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
