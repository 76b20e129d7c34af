import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import EPS, units

from beam_semdedup.compute.screens import Rounded
from beam_semdedup.compute.similarity import max_similarity
from beam_semdedup.compute.small_clusters import max_similarity_of_each


def expected(rows, starts, stops):
    found = [(max_similarity(rows[a:b], 0, b - a, 7), a) for a, b in zip(starts, stops, strict=True)]
    return np.concatenate([s for (s, _), _ in found]), np.concatenate([w + a for (_, w), a in found])


@given(unit=units(), memory=st.sampled_from([1, 4000, 1 << 20]), data=st.data())
@settings(max_examples=80, deadline=None)
def test_clusters_compared_at_once_give_what_each_gives_alone(unit, memory, data):
    rows, starts, stops = unit
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, len(starts) - 1), min_size=1))))
    scores, winners = max_similarity_of_each(rows, starts[chosen], stops[chosen], memory)
    assert (scores.dtype, winners.dtype) == (np.float32, np.int64)
    wanted = expected(rows, starts[chosen], stops[chosen])
    np.testing.assert_array_equal(winners, wanted[1])
    np.testing.assert_array_equal(scores, wanted[0])


@given(unit=units(), memory=st.sampled_from([1, 1 << 20]), eps=st.sampled_from(EPS))
@settings(max_examples=80, deadline=None)
def test_screened_clusters_have_the_duplicates_that_each_has_alone(unit, memory, eps):
    rows, starts, stops = unit
    scores, winners = max_similarity_of_each(rows, starts, stops, memory, Rounded(1 - eps))
    exact, _ = expected(rows, starts, stops)
    np.testing.assert_array_equal(scores >= 1 - eps, exact >= 1 - eps)
    for row, (score, winner) in enumerate(zip(scores, winners, strict=True)):
        start = starts[np.searchsorted(starts, row, side="right") - 1]
        assert winner == row if row == start else start <= winner < row
        dot = float(rows[row].astype(np.float64) @ rows[winner].astype(np.float64))
        assert score == pytest.approx(0 if winner == row else dot, abs=2e-7)


def test_clusters_of_many_sizes_are_those_of_the_oracle():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 90, 40)
    ends = np.cumsum(sizes)
    rows = oracle.normalized(rng.normal(size=(ends[-1], 24)))
    rows[rng.integers(0, len(rows), 60)] = rows[rng.integers(0, len(rows), 60)]
    starts = ends - sizes
    scores, winners = max_similarity_of_each(rows, starts, ends, 1 << 16)
    for a, b in zip(starts, ends, strict=True):
        score, winner = oracle.max_similarity(rows[a:b])
        np.testing.assert_array_equal(scores[a:b], score)
        np.testing.assert_array_equal(winners[a:b], winner + a)
