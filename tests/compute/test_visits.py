import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import EPS, seeds

from beam_semdedup.compute.assignment import assign
from beam_semdedup.compute.visits import Clusters, Surroundings, is_place_of, radius


@st.composite
def placed(draw):
    """Rows, centroids, and in which of the clusters each row lives, not always the nearest one."""
    rng = np.random.default_rng(draw(seeds))
    n, d, k = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 3, 24])), draw(st.integers(1, 12))
    base = rng.normal(size=(draw(st.integers(1, n)), d))
    rows = oracle.normalized(base[rng.integers(0, len(base), n)] + rng.normal(size=(n, d)) * draw(scales))
    rows *= draw(st.sampled_from([1.0, 1.0, 3.0])) ** rng.uniform(-1, 1, (n, 1))
    centroids = rng.normal(size=(k, d)) * draw(st.sampled_from([1e-3, 0.5, 1]))
    centroids[rng.integers(0, k, k // 3)] = centroids[0]  # equal ones
    if k > 1 and draw(st.booleans()):
        centroids[-1] = centroids[0] + 1e-7  # ones that float32 hardly tells apart
    rows, centroids = rows.astype(np.float32), centroids.astype(np.float32)
    labels = assign(rows, centroids, 7)
    if draw(st.booleans()):
        labels = rng.integers(0, k, n).astype(np.int32)
    return rows, labels, centroids


scales = st.sampled_from([0, 1e-8, 1e-4, 0.03, 1])


def visits(rows, labels, centroids, found):
    """(n, k): where each row is compared."""
    result = np.zeros((len(rows), len(centroids)), dtype=bool)
    result[np.arange(len(rows)), labels] = True
    result[found] = True
    return result


@given(placed(), st.sampled_from(EPS), st.sampled_from([1, 5, 1024]))
def test_of_two_similar_rows_one_visits_the_cluster_of_the_other(drawn, reach, batch):
    rows, labels, centroids = drawn
    where = visits(*drawn, Clusters(centroids, batch).in_reach(rows, labels, reach))
    scores = np.array([[oracle.similarity(x, y) for y in rows] for x in rows])
    meet = where[:, labels] | where[:, labels].T
    assert meet[scores.astype(np.float64) >= 1 - reach].all()


def surely(rows, labels, centroids, reach):
    """(n, k): where each row surely is compared, besides its own cluster."""
    result = np.zeros((len(rows), len(centroids)), dtype=bool)
    for home in np.unique(labels):
        others = np.delete(np.arange(len(centroids)), home)
        mine = np.flatnonzero(labels == home)
        result[np.ix_(mine, others)] = Clusters(centroids, 5).surely_visits(rows[mine], int(home), others, reach)
    return result


@given(placed(), st.sampled_from(EPS), st.sampled_from([1, 1024]))
def test_two_similar_rows_are_compared_although_what_surely_is_elsewhere_is_left_out(drawn, reach, batch):
    rows, labels, centroids = drawn
    where = visits(*drawn, Clusters(centroids, batch).in_reach(rows, labels, reach))
    sure = surely(*drawn, reach)
    assert (where >= sure).all()
    # [native, visitor]: whether the native's cluster is their place
    place = np.array([is_place_of(home, labels) for home in labels])
    assert (place != place.T)[labels[:, None] != labels].all()
    # [visitor, native]: not left out, as the native's cluster is the place, or the native may not go to the visitor's
    here = where[:, labels] & (place.T | ~sure[:, labels].T)
    here |= labels[:, None] == labels
    scores = np.array([[oracle.similarity(x, y) for y in rows] for x in rows])
    assert (here | here.T)[scores.astype(np.float64) >= 1 - reach].all()


def test_what_clearly_visits_does_so_surely():
    centroids = oracle.normalized(np.ones((6, 32)) + 0.01 * np.random.default_rng(0).normal(size=(6, 32)))
    rows = oracle.normalized(np.ones((50, 32)) + 0.1 * np.random.default_rng(1).normal(size=(50, 32)))
    assert surely(rows, assign(rows, centroids, 8), centroids, 0.05).sum() == 50 * 5


@given(seeds, st.sampled_from([2, 8, 96]), st.sampled_from([0, 1e-3, 0.1]))
def test_rows_on_a_bisector_visit_the_other_side(seed, dimension, reach):
    rng = np.random.default_rng(seed)
    rows = oracle.normalized(rng.normal(size=(4, dimension)))
    away = rng.normal(size=dimension)
    away -= rows.T.astype(np.float64) @ np.linalg.lstsq(rows.T.astype(np.float64), away, rcond=None)[0]
    centroids = np.stack([rows[0] + away, rows[0] - away]).astype(np.float32)
    visitors, visited = Clusters(centroids, 8).in_reach(rows[:1], np.zeros(1, np.int32), reach)
    assert visitors.tolist() == [0]
    assert visited.tolist() == [1]


def test_a_row_far_within_its_cluster_visits_none():
    centroids = np.eye(3, dtype=np.float32)
    visitors, _ = Clusters(centroids, 8).in_reach(centroids.copy(), np.arange(3, dtype=np.int32), 0.01)
    assert not len(visitors)


@given(placed(), st.sampled_from(EPS))
def test_similar_rows_live_in_clusters_that_may_hold_one(drawn, reach):
    rows, _, centroids = drawn
    labels = assign(rows, centroids, 7)
    longest = float(np.linalg.norm(rows.astype(np.float64), axis=1).max()) * (1 + 1e-6)
    clusters = np.arange(len(centroids), dtype=np.int32)
    reached = Surroundings(rows, labels, centroids, reach).may_hold(clusters, longest)
    scores = np.array([[oracle.similarity(x, y) for y in rows] for x in rows])
    assert reached[:, labels][scores.astype(np.float64) >= 1 - reach].all()


def test_clusters_far_away_hold_none():
    centroids = np.eye(8, dtype=np.float32)
    labels = np.arange(8, dtype=np.int32)
    reached = Surroundings(centroids, labels, centroids, 0.01).may_hold(labels[2:], 1.0)
    np.testing.assert_array_equal(reached, np.eye(8, dtype=bool)[:, 2:])


@given(st.floats(0.1, 3), st.floats(0.1, 3), st.floats(0, 1.99))
def test_radii_reach_as_far_as_two_rows_can_be_apart(one, other, reach):
    least = 1 - reach
    if least <= one * other:  # else no two such rows are similar
        apart = np.sqrt(max(0.0, one**2 + other**2 - 2 * least))
        assert radius(np.array([one**2, other**2]), reach).sum() >= apart


def test_rows_of_length_one_lose_nothing():
    assert radius(np.ones(1), 0.02)[0] == pytest.approx(np.sqrt(2 * 0.02) / 2, rel=1e-4)


@given(placed(), st.integers(0, 14), st.sampled_from([1, 5, 1024]))
def test_the_nearest_other_clusters_are_visited(drawn, number, batch):
    rows, labels, centroids = drawn
    visitors, visited = Clusters(centroids, batch).nearest(rows, labels, number)
    assert np.bincount(visitors, minlength=len(rows)).tolist() == [min(number, len(centroids) - 1)] * len(rows)
    far = ((rows[:, None].astype(np.float64) - centroids.astype(np.float64)) ** 2).sum(axis=2)
    for row in range(len(rows)):
        mine = visited[visitors == row]
        assert labels[row] not in mine
        assert len(set(mine.tolist())) == len(mine)
        others = np.delete(far[row], labels[row])
        wanted = np.sort(others)[: len(mine)]
        np.testing.assert_allclose(far[row][mine], wanted, atol=1e-9 * max(1.0, far.max()))


def test_of_equally_near_clusters_the_first_are_visited():
    rows = np.float32([[1, 0]])
    centroids = np.float32([[1, 0], [0, 1], [0, -1], [0, 1]])
    assert Clusters(centroids, 8).nearest(rows, np.zeros(1, np.int32), 2)[1].tolist() == [1, 2]
