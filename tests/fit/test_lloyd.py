import logging

import numpy as np
import oracle
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import blobs, inertia, seeds, unit_rows

from beam_semdedup.compute import assignment
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError
from beam_semdedup.fit.lloyd import fit_shards, in_this_process, plus_plus, scalable_init
from beam_semdedup.fit.local import LocalEngine
from beam_semdedup.fit.shard import Shard


def parameters(**values):
    return Parameters(input_path=["/nowhere"], output_path="/nowhere", **values)


def sharded(rows, cuts, **options):
    bounds = [0, *cuts, len(rows)]
    return [Shard(rows[a:b], number=i, **options) for i, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True))]


def fit(sample, initial=None, **values):
    p = parameters(**values)
    return LocalEngine(p).fit(lambda: sample, initial, p)


def plain_lloyd(rows, centroids, iterations):
    """Lloyd's iterations in float64 without any refinement; every cluster must keep a row."""
    rows, centroids = rows.astype(np.float64), centroids.astype(np.float64)
    for done in range(1, iterations + 1):
        labels = ((rows[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
        if done > 1 and (labels == before).all():  # noqa: F821
            break
        before = labels  # noqa: F841
        centroids = np.stack([rows[labels == c].mean(axis=0) for c in range(len(centroids))])
    return centroids, done, ((rows - centroids[labels]) ** 2).sum()


# Initial centroids


@given(
    seed=seeds, n=st.integers(1, 60), d=st.integers(2, 8), factor=st.sampled_from([0.1, 1.0, 2.0, 5.0]), data=st.data()
)
@settings(max_examples=60)
def test_initial_centroids_are_different_rows_of_the_sample(seed, n, d, factor, data):
    k = data.draw(st.integers(1, n))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    sample = unit_rows(seed, n, d)
    shards = sharded(sample, cuts, batch=data.draw(st.sampled_from([1, 3, 7, 1024])))
    chosen = scalable_init(
        in_this_process(*shards), [len(s.rows) for s in shards], k, factor, np.random.default_rng(seed)
    )
    assert (chosen.shape, chosen.dtype) == ((k, d), np.float32)
    rows = [row.tobytes() for row in sample]
    assert len({rows.index(row.tobytes()) for row in chosen}) == k


def initial(sample, k, seed):
    return scalable_init(in_this_process(Shard(sample)), [len(sample)], k, 2.0, np.random.default_rng(seed))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_identical_rows_give_as_many_initial_centroids_as_asked_for(k):
    sample = np.repeat(unit_rows(0, 1, 6), 10, axis=0)
    np.testing.assert_array_equal(initial(sample, k, 0), sample[:k])


def test_every_row_is_chosen_once_though_rows_repeat():
    sample = np.repeat(unit_rows(0, 5, 6), 3, axis=0)
    assert sorted(initial(sample, 15, 0).tolist()) == sorted(sample.tolist())


def test_initial_centroids_depend_on_the_seed_alone():
    first, again, other = (initial(blobs(0), 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [500, 30_000])
def test_initial_centroids_find_every_well_separated_blob(seed, n):
    rng = np.random.default_rng(seed)
    sample = oracle.normalized(np.eye(12)[rng.integers(0, 12, n)] + 0.01 * rng.normal(size=(n, 12)))
    assert set(initial(sample, 12, seed).argmax(axis=1)) == set(range(12))


@pytest.mark.slow
def test_points_are_drawn_as_k_means_plus_plus_draws_them():
    points = np.array([[0, 0], [1, 0], [0, 2], [3, 3]], dtype=np.float32)
    weights = np.array([1.0, 2, 1, 0.5])
    draws = [plus_plus(points, weights, 3, np.random.default_rng(seed)) for seed in range(4000)]
    found = [tuple(int((points == row).all(axis=1).argmax()) for row in drawn) for drawn in draws]
    squares = ((points[:, None] - points) ** 2).sum(axis=2)
    for a in range(4):
        for b in set(range(4)) - {a}:
            second = weights * squares[a]
            for c in set(range(4)) - {a, b}:
                third = weights * np.minimum(squares[a], squares[b])
                chance = weights[a] / weights.sum() * second[b] / second.sum() * third[c] / third.sum()
                assert found.count((a, b, c)) / 4000 == pytest.approx(chance, abs=4.5 * (chance / 4000) ** 0.5)


def test_no_product_of_the_initialisation_uses_threads_of_blas():
    used = []

    class Watched(np.ndarray):
        def __matmul__(self, other):
            used.extend(pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas")
            return np.asarray(self) @ np.asarray(other)

    points = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32).view(Watched)
    plus_plus(points, np.ones(300), 40, np.random.default_rng(1))
    assert used
    assert set(used) == {1}


# Lloyd's iterations


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("iterations", [1, 4, 300])
def test_the_iterations_are_those_of_a_plain_float64_lloyd(seed, iterations):
    sample = blobs(seed)
    start = sample[:10]
    found = fit(sample, start, n_clusters=10, max_iter=iterations, tol=0, min_moved=0)
    expected, done, total = plain_lloyd(sample, start, iterations)
    np.testing.assert_allclose(found.centroids, expected, atol=1e-6)
    assert (found.iterations, found.rows) == (done, 600)
    assert found.inertia == pytest.approx(total, rel=1e-6)


@given(
    seed=seeds,
    k=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 300), max_size=4).map(sorted),
    batch=st.integers(1, 99),
)
@settings(max_examples=40, deadline=None)
def test_shards_find_what_one_finds(seed, k, cuts, batch):
    sample = blobs(seed, n=300)
    p = parameters(n_clusters=k, tol=0, min_moved=0, max_iter=15)
    one = fit_shards(in_this_process(Shard(sample)), sample[:k], p)
    several = fit_shards(in_this_process(*sharded(sample, cuts, batch=batch)), sample[:k], p)
    np.testing.assert_allclose(several.centroids, one.centroids, atol=1e-6)
    assert (several.iterations, several.rows) == (one.iterations, 300)
    assert several.inertia == pytest.approx(one.inertia, rel=1e-6, abs=1e-9)


def test_shards_are_reached_by_their_operations_only():
    calls, shards = [], in_this_process(*sharded(blobs(0), [200, 350]))

    def run(operation, *arguments):
        calls.append(operation)
        return shards(operation, *arguments)

    fit_shards(run, None, parameters(n_clusters=10, n_init=2))
    assert calls[0] == "size"
    assert calls.count("start_init") == calls.count("owned") == 2
    assert set(calls) <= {"size", "start_init", "take", "approach", "draw", "owned", "step", "farthest"}


def test_an_empty_cluster_is_given_the_farthest_row():
    sample = np.array([[1, 0], [0.99, 0.01], [0.9, 0.1], [0, 1]], dtype=np.float32)
    start = np.array([[1, 0], [-5, -5], [-6, -6]], dtype=np.float32)
    for cuts in ([], [2], [1, 3]):
        found = fit_shards(
            in_this_process(*sharded(sample, cuts)), start, parameters(n_clusters=3, max_iter=1, min_moved=0)
        )
        np.testing.assert_allclose(found.centroids, [[0.995, 0.005], [0, 1], [0.9, 0.1]], atol=1e-6)
        assert found.inertia == pytest.approx(2 * (0.005**2 + 0.005**2), rel=1e-4)


def test_no_cluster_stays_empty_where_rows_differ():
    sample = blobs(3)
    start = np.concatenate([sample[:5], np.full((5, 8), -9, np.float32)])
    found = fit(sample, start, n_clusters=10)
    assert set(assignment.assign(sample, found.centroids, 100)) == set(range(10))


@pytest.mark.parametrize("init", ["random", "k-means||"])
def test_as_many_clusters_as_rows_leave_no_distance(init):
    sample = unit_rows(0, 12, 5)
    found = fit(sample, n_clusters=12, init=init)
    assert found.inertia == pytest.approx(0, abs=1e-9)
    assert set(assignment.assign(sample, found.centroids, 5)) == set(range(12))


@pytest.mark.parametrize("init", ["random", "k-means||"])
def test_fewer_different_rows_than_clusters_can_be_fitted(init):
    sample = np.repeat(unit_rows(0, 2, 5), 9, axis=0)
    found = fit(sample, n_clusters=6, init=init)
    assert found.inertia == pytest.approx(0, abs=1e-9)
    assert found.iterations < 10
    assert {tuple(row) for row in found.centroids.round(5)} <= {tuple(row) for row in sample.round(5)}


def test_fewer_rows_than_clusters_are_refused():
    with pytest.raises(
        InputError, match="n_clusters=5 is more than the 4 usable rows that it is fitted on; give fewer, or"
    ):
        fit_shards(in_this_process(*sharded(unit_rows(0, 4, 8), [1])), None, parameters(n_clusters=5))


@pytest.mark.parametrize("init", ["random", "k-means||"])
def test_max_iter_limits_the_iterations(init):
    assert fit(blobs(0), n_clusters=10, max_iter=2, init=init, min_moved=0).iterations == 2


def test_tol_is_relative_to_the_variance_of_the_columns():
    sample = blobs(2)
    variance = sample.astype(np.float64).var(axis=0).mean()
    options = {"n_clusters": 10, "min_moved": 0}
    trace = [sample[:10], *(fit(sample, sample[:10], **options, tol=0, max_iter=i).centroids for i in range(1, 12))]
    shifts = [((b - a).astype(np.float64) ** 2).sum() / variance for a, b in zip(trace[:-1], trace[1:], strict=True)]
    for tol in (shifts[1] * 1.001, shifts[5] * 1.001):
        expected = next(i for i, shift in enumerate(shifts, 1) if shift <= tol)
        assert fit(sample, sample[:10], **options, tol=tol).iterations == expected


def test_the_fit_ends_when_few_rows_move():
    sample = blobs(4, n=3000)
    start = sample[:30]
    options = {"n_clusters": 30, "tol": 0}
    shard, centroids, moved = Shard(sample), start, []
    while not moved or moved[-1]:
        sums, counts, number = shard.step(centroids)
        centroids = (sums / counts[:, None]).astype(np.float32)
        moved.append(number / 3000)
    for share in (0.1, 0.03, 0.01, 0):
        expected = next(i for i, m in enumerate(moved, 1) if m < share or m == 0)
        assert fit(sample, start, **options, min_moved=share).iterations == expected
    assert fit(sample, start, **options).inertia <= 1.01 * fit(sample, start, **options, min_moved=0).inertia


def test_given_centroids_are_where_the_iterations_start():
    sample = blobs(0)
    best = fit(sample, n_clusters=10, min_moved=0)
    again = fit(sample, best.centroids, n_clusters=10, n_init=5, init="x.npy")
    assert again.iterations <= 2
    np.testing.assert_allclose(again.centroids, best.centroids, atol=1e-4)


@pytest.mark.parametrize(
    ("init", "n_init", "fits"), [("random", 4, 4), ("random", "auto", 10), ("k-means||", "auto", 1)]
)
def test_the_best_of_n_init_fits_is_kept(init, n_init, fits):
    sample = blobs(1)
    found, shard = [], in_this_process(Shard(sample))

    def run(operation, *arguments):
        results = shard(operation, *arguments)
        if operation == "start_init":
            found.append(None)
        if operation == "step":  # the rows of each centroid are apart from their mean by what they have beyond it
            [(sums, counts, _)] = results
            found[-1] = len(sample) - (np.square(sums).sum(axis=1) / counts).sum()
        return results

    best = fit_shards(run, None, parameters(n_clusters=10, init=init, n_init=n_init, max_iter=5))
    assert len(found) == fits
    assert best.inertia == pytest.approx(min(found), rel=1e-5)
    assert inertia(sample, best.centroids) <= min(found)
    assert fits == 1 or max(found) > 1.001 * min(found)


@pytest.mark.parametrize("init", ["random", "k-means||"])
def test_a_fit_is_repeatable_and_follows_random_state(init):
    first, again, other = (fit(blobs(0), n_clusters=7, random_state=s, init=init, max_iter=20) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.centroids, again.centroids)
    assert (first.centroids != other.centroids).any()


def test_the_best_of_some_fits_is_as_good_as_the_clusters_that_the_rows_were_made_from():
    sample = blobs(5, n=2000, spread=0.1)
    centers = oracle.normalized(np.random.default_rng(5).normal(size=(10, 8)))
    found = fit(sample, n_clusters=10, n_init=10)
    assert found.inertia <= inertia(sample, centers)
    assert found.inertia == pytest.approx(inertia(sample, found.centroids), rel=1e-3)
    assert (found.centroids.shape, found.centroids.dtype) == ((10, 8), np.float32)


def test_the_fit_does_not_change_the_sample():
    sample = blobs(0)
    given = sample.copy()
    given.flags.writeable = False
    fit(given, n_clusters=4)
    np.testing.assert_array_equal(given, sample)


def test_a_long_fit_says_how_far_it_is(caplog):
    with caplog.at_level(logging.INFO, "beam_semdedup"):
        fit_shards(in_this_process(Shard(blobs(0))), None, parameters(n_clusters=10), log_seconds=0)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "Fitting 10 centroids on 600 rows of 8 values"
    assert lines[1].startswith("Fit: iteration 1, inertia ")
    assert lines[1].endswith("100.0% of the rows moved")
