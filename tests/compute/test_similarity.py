import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import BATCHES, clusters, grids

from beam_semdedup.compute import assignment
from beam_semdedup.compute.ranking import RankingStrategy
from beam_semdedup.compute.similarity import max_similarity
from beam_semdedup.storage.segments import RankedRows


def assert_same(found, expected):
    scores, winners = found
    np.testing.assert_array_equal(winners, expected[1])
    np.testing.assert_array_equal(scores, expected[0])
    assert (scores.dtype, winners.dtype) == (np.float32, np.int64)


@given(rows=clusters() | grids(), batch=st.sampled_from(BATCHES))
@settings(max_examples=70)
def test_the_best_earlier_row_is_that_of_the_oracle(rows, batch):
    assert_same(max_similarity(rows, 0, len(rows), batch), oracle.max_similarity(rows))


@given(rows=clusters() | grids(), batch=st.sampled_from(BATCHES), data=st.data())
@settings(max_examples=80)
def test_the_parts_of_a_split_cluster_equal_the_whole(rows, batch, data):
    n = len(rows)
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=5))) if n > 1 else []
    parts = [
        max_similarity(rows, low, high, data.draw(st.sampled_from(BATCHES)))
        for low, high in zip([0, *cuts], [*cuts, n], strict=True)
    ]
    joined = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    assert_same(joined, max_similarity(rows, 0, n, batch))


@given(rows=clusters(max_size=12), batch=st.sampled_from(BATCHES))
@settings(max_examples=25)
def test_every_range_of_ranks_equals_that_part_of_the_whole(rows, batch):
    scores, winners = max_similarity(rows, 0, len(rows), batch)
    for low in range(len(rows)):
        for high in range(low + 1, len(rows) + 1):
            assert_same(max_similarity(rows, low, high, batch), (scores[low:high], winners[low:high]))


@given(rows=clusters(), batch=st.sampled_from(BATCHES), seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=40)
def test_rows_that_are_gathered_when_indexed_give_what_an_array_gives(rows, batch, seed, data):
    places = np.random.default_rng(seed).permutation(len(rows))
    stored = rows[places]
    cut = data.draw(st.integers(0, len(rows)))
    batches = [
        pa.record_batch({"embedding": pa.FixedSizeListArray.from_arrays(part.reshape(-1), rows.shape[1])})
        for part in (stored[:cut], stored[cut:])
    ]
    ranked = RankedRows(batches, np.argsort(places))
    low = data.draw(st.integers(0, len(rows) - 1))
    high = data.draw(st.integers(low + 1, len(rows)))
    assert_same(max_similarity(ranked, low, high, batch), max_similarity(rows, low, high, batch))


@pytest.mark.parametrize("batch", BATCHES)
def test_a_row_alone_and_the_first_row_win_against_themselves_with_score_0(batch):
    rows = oracle.normalized(np.random.default_rng(0).normal(size=(9, 4)))
    assert_same(max_similarity(rows[:1], 0, 1, batch), (np.zeros(1, np.float32), np.array([0])))
    scores, winners = max_similarity(rows, 0, 9, batch)
    assert (scores[0], winners[0]) == (0, 0)
    assert (winners[1:] < np.arange(1, 9)).all()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("d", [3, 17, 384])
def test_identical_rows_score_exactly_1_with_the_first_of_them(d, batch):
    base = oracle.normalized(np.random.default_rng(d).normal(size=(20, d)))
    rows = np.concatenate([base, base[::-1], base])
    scores, winners = max_similarity(rows, 0, 60, batch)
    np.testing.assert_array_equal(scores[20:], 1)
    np.testing.assert_array_equal(winners[20:], [*range(19, -1, -1), *range(20)])
    assert (scores[1:20] < 1).all()


def test_an_identical_row_wins_against_a_nearly_identical_one_before_it():
    rows = oracle.normalized([[1, 0], [1, 1e-4], [0, 1], [1, 1e-4]])
    assert_same(max_similarity(rows, 0, 4, 2), (np.float32([0, 1, 1e-4, 1]), np.array([0, 0, 1, 1])))


@pytest.mark.parametrize("batch", [1, 2, 3, 1024])
def test_of_rows_within_1e_6_of_the_maximum_the_earliest_wins(batch):
    angles = np.arccos([1 - 3e-6, 1 - 0.9e-6, 1 - 0.4e-6, 1])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)[[0, 1, 2, 3]]
    query = np.array([[1, 0]], np.float32) + np.float32([[0, 1e-7]])
    scores, winners = max_similarity(np.concatenate([rows, query]), 4, 5, batch)
    assert winners.tolist() == [1]
    assert scores[0] == np.float32(rows[1].astype(np.float64) @ query[0].astype(np.float64))


def test_scores_stay_within_minus_1_and_1():
    row = np.array([[0.70710683, 0.70710683]], np.float32)  # longer than 1 by rounding
    nearly = row + np.float32([[0, 6e-8]])
    scores, _ = max_similarity(np.concatenate([row, nearly, -row]), 0, 3, 8)
    assert scores.tolist()[:2] == [0, 1]
    opposite, _ = max_similarity(np.concatenate([row, -row]), 0, 2, 8)
    assert opposite.tolist() == [0, -1]


@given(rows=clusters(), batch=st.sampled_from(BATCHES))
@settings(max_examples=30)
def test_no_more_is_gathered_than_a_tile_and_the_rows_asked_for(rows, batch):
    class Watched:
        def __len__(self):
            return len(rows)

        def __getitem__(self, ranks):
            gathered.append(len(rows[ranks]))
            return rows[ranks]

    gathered = []
    low, high = len(rows) // 2, len(rows) // 2 + 1
    max_similarity(Watched(), low, high, batch)
    assert max(gathered) <= max(batch, high - low)


@pytest.mark.parametrize("d", [210, 251, 306, 384])
@pytest.mark.parametrize("batch", [5, 64])
def test_binary_embeddings_whose_products_round_most_are_compared_exactly(d, batch):
    rng = np.random.default_rng(d)
    rows = np.ones((60, d))
    for row in rows:
        row[rng.choice(d, rng.integers(0, 3), replace=False)] = -1
    assert_same(max_similarity(oracle.normalized(rows), 0, 60, batch), oracle.max_similarity(oracle.normalized(rows)))


# From rows and labels to duplicates


def dedup(rows, ids, labels, centroids, strategy, batch=1024, block=10**9, positions=None, id_type=None):
    """The (id, max_id, score) of every row by centroid and rank: what the pairwise stage writes."""
    l2, cosine = assignment.distances(rows, centroids, labels)
    table = pa.table(
        {
            "id": pa.array(ids, id_type),
            "centroid": pa.array(labels, pa.int32()),
            "l2_dist_to_cent": l2,
            "cosine_dist_to_cent": cosine,
            "source_file": pa.array(np.zeros(len(rows)), pa.int32()),
            "source_row": pa.array(np.arange(len(rows)) if positions is None else positions, pa.int64()),
        }
    )
    order = strategy.order(table)
    found = []
    for label in np.unique(labels):
        ranked = order[np.asarray(labels)[order] == label]
        for low in range(0, len(ranked), block):
            high = min(low + block, len(ranked))
            scores, winners = max_similarity(rows[ranked], low, high, batch)
            found += [
                (ids[ranked[low + i]], ids[ranked[w]], s) for i, (s, w) in enumerate(zip(scores, winners, strict=True))
            ]
    return found


KNOWN = oracle.normalized([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], [1, 2, 3], [1, 2, 3]])


@pytest.mark.parametrize(
    ("keep", "ids", "max_ids", "scores"),
    [
        ("hard", [3, 2, 1, 5, 4, 0], [3, 3, 2, 1, 5, 5], [0, 0.99961, 0.99819, 0.974631, 1, 1]),
        ("easy", [0, 4, 5, 1, 2, 3], [0, 0, 0, 0, 1, 2], [0, 1, 1, 0.97464, 0.99819, 0.999618]),
    ],
)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("batch", [1, 2, 1024])
@pytest.mark.parametrize("block", [1, 4, 6])
def test_the_numbers_of_the_design(keep, ids, max_ids, scores, metric, batch, block):
    strategy = RankingStrategy.by_distance(keep, metric, 42)
    found = dedup(KNOWN, list(range(6)), np.zeros(6, int), KNOWN[:1], strategy, batch, block)
    assert [row[0] for row in found] == ids
    assert [row[1] for row in found] == max_ids
    np.testing.assert_allclose([row[2] for row in found], scores, atol=1e-5)
    assert [row[2] for row, score in zip(found, scores, strict=True) if score == 1] == [1.0, 1.0]


@given(
    rows=clusters(),
    keep=st.sampled_from(["hard", "easy", "random"]),
    kind=st.sampled_from(["unique", "repeated", "strings", "unsigned"]),
    seed=st.integers(0, 2**32),
    batch=st.sampled_from(BATCHES),
    block=st.integers(1, 30),
)
@example(rows=KNOWN, keep="hard", kind="repeated", seed=0, batch=3, block=2)
@settings(max_examples=70)
def test_the_result_is_that_of_the_oracle_and_independent_of_order_tiles_and_blocks(
    rows, keep, kind, seed, batch, block
):
    rng = np.random.default_rng(seed)
    n = len(rows)
    centroids = rows[rng.integers(0, n, 3)]
    labels = assignment.assign(rows, centroids, 1024)
    ids = {
        "unique": rng.permutation(n).tolist(),
        "repeated": rng.integers(0, 3, n).tolist(),
        "strings": [f"row {i}" for i in rng.integers(0, n, n)],
        "unsigned": (np.uint64(2**64 - 1) - np.arange(n, dtype=np.uint64)).tolist(),
    }[kind]
    id_type = pa.uint64() if kind == "unsigned" else None
    strategy = RankingStrategy.by_distance(keep, "cosine", 42)
    found = dedup(rows, ids, labels, centroids, strategy, id_type=id_type)

    if keep != "random":
        _, cosine = assignment.distances(rows, centroids, labels)
        keys = [(cosine.tolist(), keep == "easy"), (ids, keep == "easy"), (list(range(n)), True)]
        compared = oracle.compare(rows, labels, ids, oracle.rank_order(labels.tolist(), keys))
        assert found == list(zip(compared.ids, compared.max_ids, compared.scores, strict=True))

    shuffle = rng.permutation(n)
    other_ids = [ids[i] for i in shuffle]
    other_labels = assignment.assign(rows[shuffle], centroids, batch)
    other = dedup(rows[shuffle], other_ids, other_labels, centroids, strategy, batch, block, shuffle, id_type)
    assert other == found


def test_eps_0_finds_the_exact_duplicates_and_no_first_row():
    compared = oracle.compare(KNOWN, np.zeros(6, int), list(range(6)), [3, 2, 1, 5, 4, 0])
    found = dedup(KNOWN, list(range(6)), np.zeros(6, int), KNOWN[:1], RankingStrategy.by_distance("hard", "l2", 1))
    assert oracle.duplicates(compared, 0) == found[4:]
    assert oracle.duplicates(compared, 1.99) == found[1:]


@given(clusters() | grids(), st.sampled_from(BATCHES), st.data())
def test_rows_from_before_on_are_compared_with_those_ahead_of_it_alone(rows, batch, data):
    before = data.draw(st.integers(0, len(rows) - 1))
    low = data.draw(st.integers(before, len(rows) - 1))
    scores, winners = max_similarity(rows, low, len(rows), batch, before=before)
    for place, i in enumerate(range(low, len(rows))):
        assert (scores[place], winners[place]) == (oracle.best_of(rows[:before], rows[i]) if before else (0, i))
