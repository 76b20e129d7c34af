import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import EPS, blobs, clusters, grids, seeds, unit_rows

from beam_semdedup.compute import matches
from beam_semdedup.compute.matches import NO_MATCH, Rows, match
from beam_semdedup.compute.short_vectors import Basis


def make_rows(vectors, ranks, basis, references=0):
    order = np.argsort(ranks)
    vectors = vectors[order]
    earlier = int(np.count_nonzero(ranks < references))
    return Rows(np.asarray(ranks)[order], basis.shorten(vectors), lambda at: vectors[at], earlier)


def found(vectors, visiting, reach, batch, width, low=0, high=None, references=0, within=True):
    """Scores and winners of rows, in their order; `visiting` says which of them are visitors.

    The first so many are `references`.
    """
    rng = np.random.default_rng(len(vectors))
    dimension = vectors.shape[1]
    basis = Basis(np.linalg.qr(rng.normal(size=(dimension, dimension)))[0][:, : min(width, dimension)].astype("f4"))
    ranks = np.arange(len(vectors))
    natives = make_rows(vectors[~visiting], ranks[~visiting], basis, references)
    visitors = make_rows(vectors[visiting], ranks[visiting], basis, references)
    bests = match(natives, visitors, low, len(natives) if high is None else high, reach, batch, within)
    scores, winners = np.full(len(vectors), np.nan, dtype=np.float32), ranks.copy()
    for rows, best in zip((natives, visitors), bests, strict=True):
        there = best.winners != NO_MATCH
        scores[rows.ranks[there]], winners[rows.ranks[there]] = best.scores[there], best.winners[there]
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

    natives = Rows(np.arange(0, 400, 2), basis.shorten(rows[:200]), gather)
    visitors = Rows(np.arange(1, 200, 2), basis.shorten(rows[200:]), gather)
    of_natives, of_visitors = match(natives, visitors, 0, 200, 0.01, 64)
    assert (of_natives.winners == NO_MATCH).all()
    assert (of_visitors.winners == NO_MATCH).all()


def test_rows_that_cannot_be_told_apart_do_not_cost_a_score_for_each_pair(monkeypatch):
    scored = []
    real = matches.row_dot
    monkeypatch.setattr(matches, "row_dot", lambda a, b: scored.append(len(a)) or real(a, b))
    rows = oracle.normalized(np.ones(48) + 1e-7 * unit_rows(8, 1500, 48))
    rows = np.unique(rows, axis=0)
    found(rows, np.zeros(len(rows), dtype=bool), 0.05, 256, 8)
    assert sum(scored) < 60 * len(rows)
