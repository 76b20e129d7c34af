from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, hypergeom

from beam_semdedup.compute.proportions import clopper_pearson, recall

SAMPLES = st.integers(1, 5000).flatmap(lambda size: st.tuples(st.integers(0, size), st.just(size)))


@given(SAMPLES, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
@example((0, 1), 0.95)
@example((1, 1), 0.95)
@example((999_999, 1_000_000), 0.95)
@example((1, 1_000_000), 0.95)
@example((0, 10_000_000), 0.95)
@settings(max_examples=40)
def test_the_interval_is_that_of_scipy(sample: tuple[int, int], confidence: float) -> None:
    expected = binomtest(*sample).proportion_ci(confidence, "exact")
    np.testing.assert_allclose(clopper_pearson(*sample, confidence), expected, rtol=1e-6, atol=1e-12)


def test_no_sample_says_nothing() -> None:
    assert clopper_pearson(0, 0) == (0, 1)
    assert recall(10, 90, 0, 0) == (1, 0.1, 1)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.3])
def test_intervals_hold_the_proportion_as_often_as_they_say(rate: float) -> None:
    size = 400
    hits = np.arange(size + 1)
    holds = [low <= rate <= high for low, high in (clopper_pearson(int(hit), size) for hit in hits)]
    assert binom.pmf(hits, size, rate)[holds].sum() >= 0.95


@given(st.integers(0, 40), st.integers(0, 30), st.integers(1, 40), st.data())
def test_the_recall_of_a_finite_set_is_in_its_interval_as_often_as_it_says(
    found: int, missed: int, others: int, data: st.DataObject
) -> None:
    missed = min(missed, others)
    size = data.draw(st.integers(1, others))
    hits = np.arange(size + 1)
    intervals = [recall(found, others, int(hit), size) for hit in hits]
    true = found / (found + missed) if missed else 1.0
    holds = [low - 1e-9 <= true <= high + 1e-9 for _, low, high in intervals]
    assert hypergeom.pmf(hits, others, missed, size)[holds].sum() >= 0.95
    possible = (hits <= missed) & (size - hits <= others - missed)
    for (estimate, low, high), hit in zip(intervals, hits, strict=True):
        if possible[hit] and estimate is not None:
            assert 0 <= low <= estimate <= high <= 1


def test_what_is_all_looked_at_is_known() -> None:
    assert recall(90, 100, 10, 100) == (0.9, 0.9, 0.9)
    assert recall(0, 100, 0, 100) == (None, 1, 1)


def test_where_nothing_is_found_the_recall_is_zero_or_not_known() -> None:
    assert recall(0, 1000, 3, 100) == (0, 0, 0)
    assert recall(0, 1000, 0, 100) == (None, 0, 1)
