import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import blobs, seeds, unit_rows

from beam_semdedup.compute import short_vectors
from beam_semdedup.compute.short_vectors import WIDTHS, Basis, fit_basis
from beam_semdedup.compute.tiles import multiply


def bounds(basis, rows, others):
    return multiply(basis.shorten(rows), basis.shorten(others)).astype(np.float64)


def exact(rows, others):
    return rows.astype(np.float64) @ others.astype(np.float64).T


@given(seeds, st.sampled_from([1, 2, 17, 96]), st.integers(0, 8), st.sampled_from([1e-3, 1, 40]))
def test_no_product_exceeds_the_product_of_the_short_vectors(seed, dimension, width, length):
    rng = np.random.default_rng(seed)
    rows = unit_rows(seed, 20, dimension) * np.float32(length) * rng.uniform(0.5, 2, (20, 1)).astype(np.float32)
    anything = Basis(rng.normal(size=(dimension, min(width, dimension))).astype(np.float32))
    assert (bounds(anything, rows, rows) >= exact(rows, rows)).all()


@pytest.mark.parametrize("dimension", [64, 384, 1536])
def test_rows_within_the_basis_are_bounded_by_little_more_than_their_products(dimension):
    """The hardest rows: nothing of them is left over that could hide the rounding of a coordinate."""
    rng = np.random.default_rng(dimension)
    orthonormal = np.linalg.qr(rng.normal(size=(dimension, 32)))[0].astype(np.float32)
    inside = oracle.normalized(rng.normal(size=(300, 32)) @ orthonormal.T)
    inside[100:] = oracle.normalized(inside[100:] + 1e-4 * rng.normal(size=(200, dimension)))
    found, true = bounds(Basis(orthonormal), inside, inside), exact(inside, inside)
    assert (found >= true).all()
    assert (found - true).max() < 2e-3


def test_the_rows_of_equal_magnitudes_are_bounded():
    """Their products are sums of equal terms, whose rounding errors add up."""
    rng = np.random.default_rng(0)
    rows = oracle.normalized(rng.choice([-1.0, 1.0], size=(200, 768)) * np.linspace(1, 1.001, 768))
    basis = fit_basis(rows, np.zeros(len(rows), int), 0.9)
    for width in (1, 16, 64):
        assert (bounds(Basis(rows[:width].T.copy()), rows, rows) >= exact(rows, rows)).all()
    assert (bounds(basis, rows, rows) >= exact(rows, rows)).all()


def test_the_chosen_directions_hold_the_energy_of_the_rows():
    rng = np.random.default_rng(1)
    rows = oracle.normalized(rng.normal(size=(3000, 256)) / np.arange(1, 257))
    basis = fit_basis(rows, np.arange(3000) // 300, 0.97)
    assert basis.width in WIDTHS
    assert ((rows @ basis.vectors) ** 2).sum() > 0.9 * (rows**2).sum()
    found = bounds(basis, rows, rows) >= 0.97
    assert (exact(rows, rows) >= 0.97).sum() <= found.sum() < 0.2 * found.size


@pytest.mark.parametrize("threshold", [0.0, -0.9, -np.inf])
def test_nothing_is_gained_where_nearly_all_pairs_are_similar(threshold):
    assert fit_basis(blobs(0, 400, 300), np.zeros(400, int), threshold).width == 0


@pytest.mark.parametrize(("rows", "dimension"), [(0, 300), (1, 300), (50, 16)])
def test_little_data_needs_no_short_vectors(rows, dimension):
    assert fit_basis(unit_rows(0, rows, dimension), np.zeros(rows, int), 0.9).width == 0


@given(seeds, st.integers(1, 30), st.integers(1, 8))
def test_widths_are_chosen_by_the_pairs_that_will_be_compared(seed, rows, groups):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, groups, rows)
    visits = [(row, group) for row in range(rows) for group in range(groups) if group != labels[row]]
    visits = [visit for visit in visits if rng.random() < 0.4]
    expected = {(row, other) for row in range(rows) for other in range(row) if labels[row] == labels[other]}
    expected |= {(row, other) for row, group in visits for other in range(rows) if labels[other] == group}
    asked = np.array(visits, dtype=np.int64).reshape(-1, 2).T
    found = list(zip(*short_vectors._some_pairs(labels, tuple(asked)), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_of_many_pairs_some_are_drawn_of_each_kind_in_proportion(monkeypatch):
    monkeypatch.setattr(short_vectors, "_PAIRS", 3000)
    labels = np.repeat([0, 1], [90, 10])
    who, whom = short_vectors._some_pairs(labels, (np.full(50, 95), np.zeros(50, dtype=np.int64)))
    of_first = np.count_nonzero((who < 90) & (whom < 90))
    visiting = np.count_nonzero(who == 95)
    assert np.all(whom[who < 90] < who[who < 90])
    assert abs(visiting / of_first - 50 * 90 / (90 * 89 / 2)) < 0.15
