import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BATCHES, EPS, clusters, grids

from beam_semdedup.compute import screens
from beam_semdedup.compute.screens import EXACT, Rounded, Short, screening_error, short_screen_at
from beam_semdedup.compute.short_vectors import Basis
from beam_semdedup.compute.similarity import max_similarity
from beam_semdedup.compute.tiles import multiply


@pytest.mark.parametrize("d", [1, 2, 3, 64, 384, 768, 4096])
@pytest.mark.parametrize("kind", ["constant", "binary", "positive", "normal", "sparse", "opposite"])
def test_the_error_of_rounded_products_is_within_the_proven_bound(d, kind):
    rng = np.random.default_rng(d)
    vectors = {
        "constant": np.full((24, d), 1.0003),
        "binary": np.where(rng.random((24, d)) < 0.05, -1, 1),
        "positive": rng.random((24, d)) + 0.1,
        "normal": rng.normal(size=(24, d)),
        "sparse": rng.normal(size=(24, d)) * 10.0 ** rng.integers(-9, 1, (24, d)),
        "opposite": rng.normal(size=(1, d)) * rng.choice([-1, 1], (24, 1)),
    }[kind]
    rows = oracle.normalized(vectors)
    half = Rounded(0.9).prepared(rows)
    exact = rows.astype(np.float64) @ rows.astype(np.float64).T
    longest = float((rows.astype(np.float64) ** 2).sum(axis=1).max()) ** 0.5
    error = np.abs(multiply(half, half) - exact).max()
    assert error <= screening_error(d, longest)
    assert screening_error(768, 1.0) < 1.3e-3


def test_the_bound_is_reached_to_its_order_by_rows_that_round_worst():
    value = 1 + 2**-11 + 2**-20  # just above the middle of two float16 numbers
    row = np.float32([[value, 2**-12]]) / np.float32(2)
    half = Rounded(0.9).prepared(row)
    error = abs(float((half @ half.T)[0, 0]) - float((row.astype(np.float64) @ row.astype(np.float64).T)[0, 0]))
    bound = screening_error(2, float(np.linalg.norm(row)))
    assert 0.9 * bound < error <= bound


@given(rows=clusters() | grids(), batch=st.sampled_from(BATCHES), eps=st.sampled_from(EPS), data=st.data())
@settings(max_examples=150, deadline=None)
def test_screened_duplicates_are_the_exact_ones(rows, batch, eps, data):
    low = data.draw(st.integers(0, len(rows) - 1))
    high = data.draw(st.integers(low + 1, len(rows)))
    exact, winners = max_similarity(rows, low, high, batch)
    screen = Rounded(1 - eps, longest=1.0001)
    scores, others = max_similarity(rows, low, high, batch, screen)
    assert (scores.dtype, others.dtype) == (np.float32, np.int64)
    first = winners == np.arange(low, high)
    np.testing.assert_array_equal((scores >= 1 - eps) & ~first, (exact >= 1 - eps) & ~first)
    np.testing.assert_array_equal(first, others == np.arange(low, high))
    assert np.abs(scores - exact).max() <= 2 * screen.reach(rows.shape[1])


@pytest.mark.parametrize("eps", [0.01, 0.05, 0.2])
def test_scores_at_the_threshold_stay_on_their_side(eps):
    rows = at_the_threshold(eps)
    exact, winners = max_similarity(rows, 200, 400, 64)
    scores, _ = max_similarity(rows, 200, 400, 64, Rounded(1 - eps))
    assert 20 < (exact >= 1 - eps).sum() < 180
    np.testing.assert_array_equal(scores >= 1 - eps, exact >= 1 - eps)
    assert (winners == np.arange(200)).all()


def at_the_threshold(eps):
    """Pairs, of rows 200 apart, whose cosine is the threshold and up to a few float32 steps beside it."""
    rng = np.random.default_rng(0)
    base = oracle.normalized(rng.normal(size=(200, 64))).astype(np.float64)
    other = rng.normal(size=base.shape)
    other -= (other * base).sum(axis=1, keepdims=True) * base
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    cosine = 1 - eps + rng.integers(-4, 5, (200, 1)) * 2.0**-24
    return np.concatenate([base, cosine * base + np.sqrt(1 - cosine**2) * other]).astype(np.float32)


def test_rows_that_overflow_float16_are_compared_exactly():
    rows = np.float32([[70000, 1], [1, 0], [0, 70000], [1, 1e-3]])
    exact, screened = max_similarity(rows, 0, 4, 2), max_similarity(rows, 0, 4, 2, Rounded(0.9))
    np.testing.assert_array_equal(screened[0], exact[0])
    np.testing.assert_array_equal(screened[1], exact[1])


def short(rows, eps, width=2):
    """A screen with any directions, for however few rows."""
    rng = np.random.default_rng(len(rows))
    vectors = np.linalg.qr(rng.normal(size=(rows.shape[1],) * 2))[0][:, :width]
    return Short(1 - eps, Basis(np.ascontiguousarray(vectors).astype(np.float32)))


@pytest.fixture(autouse=True)
def few_rows_suffice(monkeypatch):
    monkeypatch.setattr(screens, "LEAST_ROWS", 1)


@given(rows=clusters() | grids(), batch=st.sampled_from(BATCHES), eps=st.sampled_from(EPS), data=st.data())
@settings(max_examples=150, deadline=None)
def test_short_vectors_leave_the_duplicates_with_their_winners_and_scores(rows, batch, eps, data):
    low = data.draw(st.integers(0, len(rows) - 1))
    high = data.draw(st.integers(low + 1, len(rows)))
    before = data.draw(st.none() | st.integers(0, low))
    exact, winners = max_similarity(rows, low, high, batch, EXACT, before)
    scores, others = max_similarity(rows, low, high, batch, short(rows, eps), before)
    first, similar = winners == np.arange(low, high), exact.astype(np.float64) >= 1 - eps
    np.testing.assert_array_equal((scores.astype(np.float64) >= 1 - eps) & ~first, similar & ~first)
    np.testing.assert_array_equal(others == np.arange(low, high), first)
    np.testing.assert_array_equal(scores[similar], exact[similar])
    np.testing.assert_array_equal(others[similar], winners[similar])


@pytest.mark.parametrize("eps", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("width", [0, 1, 16, 63])
def test_short_vectors_keep_scores_at_the_threshold_on_their_side(eps, width):
    rows = at_the_threshold(eps)
    exact, winners = max_similarity(rows, 200, 400, 64)
    scores, others = max_similarity(rows, 200, 400, 64, short(rows, eps, width))
    similar = exact.astype(np.float64) >= 1 - eps
    np.testing.assert_array_equal(scores.astype(np.float64) >= 1 - eps, similar)
    np.testing.assert_array_equal(scores[similar], exact[similar])
    np.testing.assert_array_equal(others[similar], winners[similar])


def test_short_vectors_are_for_large_clusters_where_they_save_work(monkeypatch):
    monkeypatch.setattr(screens, "LEAST_ROWS", 300)
    rng = np.random.default_rng(0)
    rows = oracle.normalized(rng.normal(size=(1000, 256)) / np.arange(1, 257))
    starts = np.array([0, 600])
    screen = short_screen_at(0.95, rows, starts)
    assert 0 < screen.basis.width < 256
    assert screen.for_rows(rows[:299], 64) is EXACT
    assert screen.for_rows(rows[:300], 64) is screen
    assert short_screen_at(0.95, rows, np.arange(0, 1000, 250)) is EXACT
    assert short_screen_at(None, rows, starts) is EXACT
    assert short_screen_at(-0.5, rows, starts).for_rows(rows, 64) is EXACT
    open_ones = []
    real = screens.Short.unclear
    monkeypatch.setattr(screens.Short, "unclear", lambda *given: open_ones.append(real(*given)) or open_ones[-1])
    scores, _ = max_similarity(rows[:600], 0, 600, 128, screen)
    np.testing.assert_array_equal(scores >= 0.95, max_similarity(rows[:600], 0, 600, 128)[0] >= 0.95)
    assert 0 < np.concatenate(open_ones).mean() < 0.9
