from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom, kstest

from beam_semdedup.compute.ranking import hash_ids
from beam_semdedup.compute.sampling import sampled

ROWS = 100_000
SOURCES = (np.arange(4)[:, None] << 40 | np.arange(ROWS // 4)).ravel()
"""As rows of four files are identified."""


@pytest.mark.parametrize("seed", [0, 42, -7, 2**70])
def test_about_as_many_as_asked_are_drawn_from_everywhere(seed: int) -> None:
    chosen = np.flatnonzero(sampled(SOURCES, seed, 2000, ROWS))
    assert binom.ppf(1e-6, ROWS, 0.02) <= len(chosen) <= binom.ppf(1 - 1e-6, ROWS, 0.02)
    assert kstest(chosen / ROWS, "uniform").pvalue > 1e-6


def test_a_row_is_drawn_whatever_is_beside_it_and_a_larger_sample_holds_a_smaller_one() -> None:
    order = np.random.default_rng(0).permutation(ROWS)[: ROWS // 3]
    chosen = sampled(SOURCES, 1, 2000, ROWS)
    np.testing.assert_array_equal(sampled(SOURCES[order], 1, 2000, ROWS), chosen[order])
    assert sampled(SOURCES, 1, 5000, ROWS)[chosen].all()


def test_another_seed_draws_others() -> None:
    both = sampled(SOURCES, 1, 20_000, ROWS) & sampled(SOURCES, 2, 20_000, ROWS)
    assert binom.ppf(1e-6, ROWS, 0.04) <= both.sum() <= binom.ppf(1 - 1e-6, ROWS, 0.04)


def test_all_are_drawn_where_there_are_no_more() -> None:
    assert sampled(SOURCES, 3, ROWS, ROWS).all()
    assert sampled(SOURCES, 3, 10**18, ROWS).all()
    assert not sampled(SOURCES, 3, 0, ROWS).any()


def test_random_ranks_say_nothing_of_the_sample() -> None:
    """With the same seed, and ids that are the numbers of rows."""
    ranks = np.argsort(np.argsort(hash_ids(pa.chunked_array([SOURCES]), 42)))
    assert kstest(ranks[sampled(SOURCES, 42, 2000, ROWS)] / ROWS, "uniform").pvalue > 1e-6
