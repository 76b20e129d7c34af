import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import EPS, blobs, clusters, grids, seeds, unit_rows

from beam_semdedup.compute import matches
from beam_semdedup.compute.matches import NO_MATCH, Best, Rows, match
from beam_semdedup.compute.short_vectors import Basis


def make_rows(vectors, ranks, basis, references=0):
    order = np.argsort(ranks)
    vectors = vectors[order]
    earlier = int(np.count_nonzero(ranks < references))
    best, places = Best(len(order)), np.arange(len(order))
    return Rows(np.asarray(ranks)[order], basis.shorten(vectors), lambda at: vectors[at], earlier, best, places)


def found(vectors, visiting, reach, batch, width, low=0, high=None, references=0, within=True, elsewhere=None):
    """Scores and winners of rows, in their order; `visiting` says which of them are visitors.

    The first so many are `references`; `elsewhere` (v, n) says which pairs of visitors and natives are compared
    elsewhere.
    """
    rng = np.random.default_rng(len(vectors))
    dimension = vectors.shape[1]
    basis = Basis(np.linalg.qr(rng.normal(size=(dimension, dimension)))[0][:, : min(width, dimension)].astype("f4"))
    ranks = np.arange(len(vectors))
    natives = make_rows(vectors[~visiting], ranks[~visiting], basis, references)
    visitors = make_rows(vectors[visiting], ranks[visiting], basis, references)
    high = len(natives) if high is None else high
    there = None if elsewhere is None else lambda visitors, natives: elsewhere[visitors, natives]
    match(natives, visitors, low, high, reach, batch, within, elsewhere=there)
    scores, winners = np.full(len(vectors), np.nan, dtype=np.float32), ranks.copy()
    for rows in (natives, visitors):
        there = rows.best.winners != NO_MATCH
        scores[rows.ranks[there]], winners[rows.ranks[there]] = rows.best.scores[there], rows.best.winners[there]
    return scores, winners


def expected(vectors, visiting, reach):
    pairs = ~(visiting[:, None] & visiting)
    return oracle.best_earlier(vectors, range(len(vectors)), pairs, reach)


@st.composite
def distinct(draw):
    """Rows of one cluster, natives and visitors, of which no two are the same."""
    rows = draw(clusters(40) | grids())
    rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    visiting = np.random.default_rng(draw(seeds)).random(len(rows)) < draw(st.sampled_from([0, 0.3, 0.7, 1]))
    return rows, visiting


@given(distinct(), st.sampled_from([*EPS, 2.0]), st.sampled_from([1, 3, 8, 1024]), st.sampled_from([0, 1, 2, 8]))
def test_every_row_has_the_best_row_before_it(drawn, reach, batch, width):
    scores, winners = found(*drawn, reach, batch, width)
    true_scores, true_winners = expected(*drawn, reach)
    np.testing.assert_array_equal(scores, true_scores)
    np.testing.assert_array_equal(winners, true_winners)


@given(distinct(), st.sampled_from([*EPS, 2.0]), st.sampled_from([1, 3, 8, 1024]), st.booleans(), st.data())
def test_nothing_is_found_for_references_and_within_decides_on_the_others(drawn, reach, batch, within, data):
    rows, visiting = drawn
    references = data.draw(st.integers(0, len(rows)))
    cut = data.draw(st.integers(0, int(np.count_nonzero(~visiting))))
    parts = [found(rows, visiting, reach, batch, 3, *part, references, within) for part in ((0, cut), (cut, None))]
    scores = np.fmax.reduce([part[0] for part in parts])
    is_reference = np.arange(len(rows)) < references
    pairs = ~(visiting[:, None] & visiting) & ~(is_reference[:, None] & is_reference)
    if not within:
        pairs &= is_reference[:, None] != is_reference
    true_scores, true_winners = oracle.best_earlier(rows, range(len(rows)), pairs, reach)
    np.testing.assert_array_equal(scores, true_scores)
    best = [np.where(part[0] == scores, part[1], len(rows)) for part in parts]
    there = ~np.isnan(scores)
    np.testing.assert_array_equal(np.minimum(*best)[there], true_winners[there])


@pytest.mark.parametrize("dense", [0.0, 1 / 64, 2.0])
@pytest.mark.parametrize("reach", [1e-6, 0.05, 0.4, 2.0])
def test_every_way_to_settle_a_tile_gives_the_same(monkeypatch, dense, reach):
    """With 0 all tiles are settled by products of all their pairs, with 2 each pair is scored."""
    monkeypatch.setattr(matches, "_DENSE", dense)
    rows = np.concatenate([blobs(3, 260, 24, 4, 0.02), unit_rows(4, 60, 24)])
    rows[40:80] = oracle.normalized(rows[40] + 1e-7 * unit_rows(5, 40, 24))
    rows = np.random.default_rng(6).permutation(np.unique(rows, axis=0))
    visiting = np.random.default_rng(7).random(len(rows)) < 0.4
    scores, winners = found(rows, visiting, reach, 32, 8)
    true_scores, true_winners = expected(rows, visiting, reach)
    np.testing.assert_array_equal(scores, true_scores)
    np.testing.assert_array_equal(winners, true_winners)


@pytest.mark.parametrize("dense", [0.0, 1 / 64, 2.0])
@given(distinct(), st.sampled_from([1e-6, 0.1, 2.0]), seeds, st.sampled_from([3, 1024]))
def test_a_row_has_the_best_row_before_it_unless_that_pair_is_compared_elsewhere(dense, drawn, reach, seed, batch):
    vectors, visiting = drawn
    elsewhere = np.random.default_rng(seed).random((visiting.sum(), (~visiting).sum())) < 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matches, "_DENSE", dense)
        scores, winners = found(vectors, visiting, reach, batch, 2, elsewhere=elsewhere)
    true_scores, true_winners = expected(vectors, visiting, reach)
    apart = np.zeros((len(vectors),) * 2, dtype=bool)
    apart[np.ix_(np.flatnonzero(visiting), np.flatnonzero(~visiting))] = elsewhere
    there = (apart | apart.T)[np.arange(len(vectors)), true_winners]
    np.testing.assert_array_equal(scores[~there], true_scores[~there])
    np.testing.assert_array_equal(winners[~there], true_winners[~there])
    assert not (scores[there] > true_scores[there]).any()


def test_pairs_that_are_compared_elsewhere_are_not_multiplied_in_full(monkeypatch):
    multiplied = []
    real = matches.multiply
    monkeypatch.setattr(matches, "multiply", lambda a, b: multiplied.append(len(a) * len(b)) or real(a, b))
    rows, visiting = blobs(9, 600, 32, 1, 0.05), np.arange(600) >= 200
    elsewhere = np.zeros((400, 200), dtype=bool)
    elsewhere[:300] = True
    found(rows, visiting, 0.3, 1024, 0, elsewhere=elsewhere)
    assert sum(multiplied) == 199 * 199 + 100 * 200


def test_visitors_alone_are_compared_where_natives_were_before():
    rows, visiting = blobs(1, 200, 16, 3, 0.1), np.arange(200) % 4 == 0
    basis = Basis(np.zeros((16, 0), dtype=np.float32))
    natives = make_rows(rows[~visiting], np.flatnonzero(~visiting), basis)
    visitors = make_rows(rows[visiting], np.flatnonzero(visiting), basis)
    match(natives, visitors, 0, 150, 0.3, 64, among_natives=False)
    scores, winners = oracle.best_earlier(rows, range(200), visiting[:, None] != visiting, 0.3)
    winners[np.isnan(scores)] = NO_MATCH
    np.testing.assert_array_equal(natives.best.winners, winners[~visiting])
    np.testing.assert_array_equal(visitors.best.winners, winners[visiting])


def test_blocks_of_natives_add_up_to_the_whole():
    rows, visiting = blobs(1, 200, 16, 3, 0.1), np.zeros(200, dtype=bool)
    visiting[::4] = True
    whole = found(rows, visiting, 0.3, 16, 4)
    parts = [found(rows, visiting, 0.3, 16, 4, low, low + 50) for low in (0, 50, 100)]
    best = np.fmax.reduce([scores for scores, _ in parts])
    np.testing.assert_array_equal(best, whole[0])


def test_vectors_of_rows_without_anything_similar_are_never_gathered():
    rows = unit_rows(2, 300, 64)
    basis = Basis(np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0][:, :48].astype(np.float32))

    def gather(at):
        raise AssertionError(f"{len(at)} rows are gathered")

    natives = Rows(np.arange(0, 400, 2), basis.shorten(rows[:200]), gather, 0, Best(200), np.arange(200))
    visitors = Rows(np.arange(1, 200, 2), basis.shorten(rows[200:]), gather, 0, Best(100), np.arange(100))
    match(natives, visitors, 0, 200, 0.01, 64)
    assert (natives.best.winners == NO_MATCH).all()
    assert (visitors.best.winners == NO_MATCH).all()


def test_rows_that_cannot_be_told_apart_do_not_cost_a_score_for_each_pair(monkeypatch):
    scored = []
    real = matches.row_dot
    monkeypatch.setattr(matches, "row_dot", lambda a, b: scored.append(len(a)) or real(a, b))
    rows = oracle.normalized(np.ones(48) + 1e-7 * unit_rows(8, 1500, 48))
    rows = np.unique(rows, axis=0)
    found(rows, np.zeros(len(rows), dtype=bool), 0.05, 256, 8)
    assert sum(scored) < 60 * len(rows)


@pytest.mark.parametrize("number", [255, 256, 257])
def test_a_visitor_behind_all_natives_of_a_tile_is_compared_with_each(monkeypatch, number):
    monkeypatch.setattr(matches, "_DENSE", 0.0)
    rows, visiting = unit_rows(1, number + 2, 16), np.zeros(number + 2, dtype=bool)
    visiting[[0, -1]] = True
    for nearest in (1, number):
        rows[-1] = oracle.normalized(rows[nearest : nearest + 1] + 0.1 * rows[-1:])[0]
        scores, winners = found(rows, visiting, 2.0, 1024, 0)
        true_scores, true_winners = expected(rows, visiting, 2.0)
        np.testing.assert_array_equal(scores, true_scores)
        np.testing.assert_array_equal(winners, true_winners)
        assert winners[-1] == nearest
