from __future__ import annotations

import dataclasses

import pytest

from beam_semdedup.config.validation import resolve
from beam_semdedup.plan.probes import Comparison, Spread, choose_clusters, of_nearest, of_texts
from beam_semdedup.plan.rates import REFERENCE
from beam_semdedup.plan.sizes import default_clusters

SPREAD = Spread((10, 100), (2.0, 8.0), (1.0, 1.5), 16)


def chosen(rows, n_probes, reach, dimension=384):
    p = resolve({"input_path": "in", "output_path": "out"})
    return choose_clusters(p, rows, dimension, n_probes, reach)


def test_visits_are_interpolated_and_go_on():
    assert SPREAD.visits_in(10) == pytest.approx(2)
    assert SPREAD.visits_in(100) == pytest.approx(8)
    assert SPREAD.visits_in(round(1000**0.5)) == pytest.approx(4, rel=0.03)
    assert SPREAD.visits_in(1000) == pytest.approx(32)
    assert SPREAD.visits_in(10**6) < 10**6
    assert Spread((10, 100), (5.0, 50.0), (1.0, 1.0), 0).visits_in(3) == pytest.approx(1.5)
    assert Spread((10,), (9.0,), (1.0,), 0).visits_in(3) == 2  # there are no more
    assert SPREAD.visits_in(1) == 0
    assert SPREAD.met_in(100) == pytest.approx(8 * 1.5 / 100)


def test_rows_that_visit_all_clusters_meet_all_rows_and_no_more():
    everywhere = Spread((10,), (9.0,), (1.5,), 0)
    assert everywhere.met_in(10) == 1
    assert Comparison(100, 8, 10, 10, everywhere).visiting_pairs == 100**2


def test_pairs_are_those_of_clusters_of_one_size_and_of_visits():
    within = Comparison(1000, 384, 10, 5, None, skew=1)
    assert within.native_pairs == 10 * 100 * 99 / 2
    assert (within.visits, within.visiting_pairs) == (0, 0)
    across = Comparison(1000, 384, 10, 5, Spread((10,), (2.0,), (1.0,), 16), skew=1)
    assert across.visits == 2000
    assert across.visiting_pairs == 2000 * 100
    assert across.records == pytest.approx(1000 * (1 + 4 / 5))
    assert across.seconds() > within.seconds()
    assert dataclasses.replace(across, num_keys=1).records == 1000
    assert dataclasses.replace(across, num_keys=10**6).records == pytest.approx(2000, rel=1e-3)


def test_texts_visit_more_the_farther_they_reach():
    made = [of_texts(reach, 384) for reach in (0, 0.001, 0.01, 0.03, 0.05, 0.1, 0.3, 1.9)]
    for near, far in zip(made[:-1], made[1:], strict=True):
        assert all(a <= b for a, b in zip(near.visits, far.visits, strict=True))
    assert of_texts(0.03, 384).visits_in(256) == pytest.approx(2.51)
    assert of_texts(1.9, 384).visits_in(256) == pytest.approx(255)
    assert [of_texts(reach, 384).width for reach in (0.001, 0.03, 0.1, 0.3)] == [32, 48, 64, 0]
    assert of_texts(0.1, 32).width == 0


def test_the_nearest_clusters_are_as_many_as_asked_for():
    assert of_nearest(SPREAD, 4).visits_in(50) == pytest.approx(3)
    assert of_nearest(SPREAD, 40).visits_in(10) == pytest.approx(9)


@pytest.mark.parametrize("rows", [1, 2, 50, 10_000, 10**6, 10**9])
def test_one_probe_has_the_square_root_and_others_what_takes_about_as_long_as_the_best(rows):
    usual = default_clusters(rows)
    assert chosen(rows, 1, 2.0) == usual
    for n_probes, reach in (("exact", 0.01), ("exact", 0.1), ("exact", 1.5), (2, 2.0)):
        assert 1 <= chosen(rows, n_probes, reach) <= min(rows, 4 * usual)
        assert chosen(rows, n_probes, reach) >= min(rows, usual // 4)


def test_few_rows_share_the_fit_of_one_probe_and_many_that_reach_far_have_more_clusters():
    assert chosen(20_000, "exact", 0.05) == default_clusters(20_000)
    assert chosen(10**8, "exact", 0.1) > default_clusters(10**8)
    assert chosen(10**6, "exact", 0.01) < default_clusters(10**6)


def test_faster_machines_take_less():
    fast = dataclasses.replace(REFERENCE, match_flops=1e15, visit=0, visitor=0, visit_value=0, compare_value=0, merge=0)
    compared = Comparison(10**6, 384, 1000, 60, of_texts(0.05, 384))
    assert compared.seconds(fast) < compared.seconds() / 3
