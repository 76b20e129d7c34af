import datetime
import json
import warnings

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_semdedup.compute.ranking import RankingStrategy, hash_ids
from beam_semdedup.errors import InputError

NAN, INF = float("nan"), float("inf")
IDS = {
    pa.int64(): st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 3) | st.integers(2**63, 2**64 - 1),
    pa.string(): st.text(max_size=3),
    pa.large_string(): st.sampled_from(["a", "B", "", "aa"]),
    pa.binary(): st.binary(max_size=2),
    pa.large_binary(): st.binary(max_size=2),
    pa.binary(2): st.binary(min_size=2, max_size=2),
}
METADATA = {
    pa.float64(): st.sampled_from([None, NAN, INF, -INF, 0.0, -0.0, 1.5, -2.5]),
    pa.float32(): st.sampled_from([None, NAN, 0.0, 0.5]),
    pa.int32(): st.sampled_from([None, -1, 0, 5]),
    pa.uint64(): st.sampled_from([None, 0, 2**64 - 1]),
    pa.string(): st.sampled_from([None, "", "a", "é", "Z"]),
    pa.bool_(): st.sampled_from([None, True, False]),
    pa.timestamp("s"): st.sampled_from([None, datetime.datetime(2024, 1, 1), datetime.datetime(1969, 1, 1)]),
}


def make_table(ids, id_type, labels, cosine=None, l2=None, **columns):
    """Rows of two files, with equal distances unless others are given."""
    n = len(labels)
    return pa.table(
        {
            "id": pa.array(ids, id_type),
            "centroid": pa.array(labels, pa.int32()),
            "l2_dist_to_cent": pa.array([0.5] * n if l2 is None else l2, pa.float32()),
            "cosine_dist_to_cent": pa.array([0.5] * n if cosine is None else cosine, pa.float32()),
            "source_file": pa.array([i % 2 for i in range(n)], pa.int32()),
            "source_row": pa.array([n - i for i in range(n)], pa.int64()),
            **columns,
        }
    )


@st.composite
def tables(draw, min_size=1):
    """A table with few different values in every column, so that ties and repeated ids are common."""
    id_type = draw(st.sampled_from(list(IDS)))
    n = draw(st.integers(min_size, 25))
    pool = draw(st.lists(IDS[id_type], min_size=1, max_size=8))

    def column(strategy):
        return draw(st.lists(strategy, min_size=n, max_size=n))

    first, second = draw(st.sampled_from(list(METADATA))), draw(st.sampled_from(list(METADATA)))
    distances = st.sampled_from([0.0, 0.25, 0.1, 1.0])
    return make_table(
        column(st.sampled_from(pool)),
        id_type,
        column(st.integers(0, 2)),
        column(distances),
        column(distances),
        first=pa.array(column(METADATA[first]), first),
        second=pa.array(column(METADATA[second]), second),
    )


def expected_order(table, *keys):
    """By the oracle: centroid, `keys`, and where a row stands."""
    named = [*keys, ("source_file", True), ("source_row", True)]
    return oracle.rank_order(
        table.column("centroid").to_pylist(), [(table.column(name).to_pylist(), up) for name, up in named]
    )


def shuffled(table, seed):
    return table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))


def sources(table, order):
    """Which rows of which files come one after the other."""
    ranked = table.take(pa.array(order))
    return list(zip(ranked["source_file"].to_pylist(), ranked["source_row"].to_pylist(), strict=True))


@given(table=tables(), metric=st.sampled_from(["cosine", "l2"]), keep=st.sampled_from(["hard", "easy"]))
@settings(max_examples=50)
def test_hard_and_easy_order_by_distance_and_id(table, metric, keep):
    order = RankingStrategy.by_distance(keep, metric, 42).order(table)
    ascending = keep == "easy"
    assert order.dtype == np.int64
    assert order.tolist() == expected_order(table, (f"{metric}_dist_to_cent", ascending), ("id", ascending))


@given(table=tables(), flags=st.tuples(st.booleans(), st.booleans()))
@settings(max_examples=60)
def test_metadata_orders_by_columns_then_id_with_nulls_and_nan_last(table, flags):
    order = RankingStrategy.metadata_based(["first", "second"], list(flags)).order(table)
    assert order.tolist() == expected_order(table, ("first", flags[0]), ("second", flags[1]), ("id", True))


@pytest.mark.parametrize("ascending", [True, False])
def test_nulls_and_nan_rank_last_whether_ascending_or_not(ascending):
    quality = pa.array([None, 2.0, NAN, 1.0, INF], pa.float64())
    table = make_table([0, 1, 2, 3, 4], pa.int64(), [0] * 5, quality=quality)
    order = RankingStrategy.metadata_based(["quality"], ascending).order(table).tolist()
    assert order[:3] == ([3, 1, 4] if ascending else [4, 1, 3])
    assert set(order[3:]) == {0, 2}


@given(table=tables(), ascending=st.booleans())
@settings(max_examples=30)
def test_metadata_may_name_the_id_and_the_distances(table, ascending):
    by_id = RankingStrategy.metadata_based(["id"], ascending).order(table)
    assert by_id.tolist() == expected_order(table, ("id", ascending))
    by_both = RankingStrategy.metadata_based(["l2_dist_to_cent", "cosine_dist_to_cent"], [ascending, True]).order(table)
    keys = ("l2_dist_to_cent", ascending), ("cosine_dist_to_cent", True), ("id", True)
    assert by_both.tolist() == expected_order(table, *keys)


STRATEGIES = {
    "hard": RankingStrategy.by_distance("hard", "cosine", 42),
    "easy": RankingStrategy.by_distance("easy", "l2", 42),
    "random": RankingStrategy.by_distance("random", "cosine", 42),
    "metadata": RankingStrategy.metadata_based(["first", "second"], [False, True]),
}


@pytest.mark.parametrize("name", STRATEGIES)
@given(table=tables(), seed=st.integers(0, 2**32), cut=st.integers(0, 25))
@settings(max_examples=20)
def test_the_order_is_independent_of_the_order_of_the_input_and_its_chunks(name, table, seed, cut):
    strategy = STRATEGIES[name]
    other = shuffled(table, seed)
    other = pa.concat_tables([other[:cut], other[:0], other[cut:]])
    assert sources(other, strategy.order(other)) == sources(table, strategy.order(table))


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_rows_have_an_empty_order(name):
    columns = {name: pa.array([], pa.float64()) for name in ("first", "second")}
    assert STRATEGIES[name].order(make_table([], pa.string(), [], **columns)).tolist() == []


# Random


def hashed(ids, type_=None, seed=42):
    return hash_ids(pa.chunked_array([pa.array(ids, type_)]), seed).tolist()


@pytest.mark.parametrize(
    ("ids", "types"),
    [
        ([5, 3, 100, 0, 77], [pa.int8(), pa.int32(), pa.int64(), pa.uint16(), pa.uint64()]),
        ([-1, 3, -100, 0, 77], [pa.int8(), pa.int32(), pa.int64()]),
        ([b"a", b"", b"ab", b"ba", b"long id"], [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]),
        ([b"abcd", b"abce", b"bbcd"], [pa.string(), pa.binary(), pa.binary(4)]),
    ],
    ids=["positive", "negative", "text", "fixed size"],
)
def test_the_hash_of_an_id_depends_on_its_value_and_not_on_its_type_or_chunk(ids, types):
    expected = hashed(ids, types[0])
    assert len(set(expected)) == len(ids)
    for type_ in types:
        array = pa.array(ids, type_)
        assert hashed(ids, type_) == expected
        assert hash_ids(pa.chunked_array([array[:1], array[:0], array[1:3], array[3:]]), 42).tolist() == expected
        assert [hash_ids(pa.chunked_array([array[i : i + 1]]), 42)[0] for i in range(len(ids))] == expected
        assert hash_ids(pa.chunked_array([array[::-1]]), 42).tolist() == expected[::-1]


def test_hashes_stay_what_they_are_from_one_version_to_the_next():
    assert hashed([0, 1, -1], seed=42) == [6261192649386533117, 12637305812656021769, 13695456481641292480]
    assert hashed(["", "a", "ab"], seed=7) == [13064396156225473817, 6841252233744827489, 12005124218961884988]


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1, 2**70, -1])
def test_any_seed_is_taken_without_a_warning(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(set(hashed([1, 2, 3], seed=seed))) == 3
        assert len(set(hashed(["a", "b"], seed=seed))) == 2


def test_no_ids_have_no_hashes():
    for type_ in (pa.int32(), pa.string(), pa.binary(3)):
        assert hashed([], type_) == []
        assert hash_ids(pa.chunked_array([], type_), 1).tolist() == []


@pytest.mark.parametrize("kind", ["integers", "strings", "multiples", "zeros"])
def test_hashes_of_similar_ids_look_random(kind):
    n = 20_000
    ids = {
        "integers": np.arange(n),
        "multiples": np.arange(n) << 40,
        "strings": [f"document-{i:06d}" for i in range(n)],
        "zeros": [b"\0" * i for i in range(1000)],
    }[kind]
    hashes = np.array(hashed(ids), dtype=np.uint64)
    assert len(np.unique(hashes)) == len(hashes)
    for bit in (63, 40, 0):
        assert abs(((hashes >> np.uint64(bit)) & np.uint64(1)).mean() - 0.5) < 4 * 0.5 / len(hashes) ** 0.5
    ranks = np.argsort(np.argsort(hashes))
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 4 / len(ranks) ** 0.5


@given(table=tables(min_size=2), data=st.data(), seed=st.integers(0, 5))
@settings(max_examples=40)
def test_the_random_order_of_rows_depends_on_their_ids_and_the_seed_alone(table, data, seed):
    strategy = RankingStrategy.random(seed)
    ids = table.column("id")
    keys = make_table(ids, ids.type, table["centroid"].to_pylist(), random=pa.array(hash_ids(ids, seed)))
    assert strategy.order(table).tolist() == expected_order(keys, ("random", True), ("id", True))

    kept = data.draw(st.lists(st.booleans(), min_size=table.num_rows, max_size=table.num_rows))
    part = table.filter(pa.array(kept))
    everything = sources(table, strategy.order(table))
    rest = set(zip(part["source_file"].to_pylist(), part["source_row"].to_pylist(), strict=True))
    assert sources(part, strategy.order(part)) == [place for place in everything if place in rest]


def test_random_orders_differ_with_the_seed_and_from_that_of_the_ids():
    table = make_table(list(range(50)), pa.int64(), [0] * 50)
    orders = [RankingStrategy.random(seed).order(table).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] not in (list(range(50)), list(range(49, -1, -1)))
    assert RankingStrategy.by_distance("random", "l2", 2).order(table).tolist() == orders[2]


# What a strategy is made of


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metadata_cols": ["a"], "strategy": "best"}, "strategy='best' is not known; it is sort or random"),
        ({"metadata_cols": "a"}, "metadata_cols must be a list of columns, found 'a'"),
        ({"metadata_cols": ["a", 1]}, "metadata_cols must be a list of columns"),
        ({"metadata_cols": []}, "metadata_cols is empty"),
        ({"metadata_cols": ["a", "b"], "ascending": [True]}, r"one of them for each of \['a', 'b'\]"),
        ({"metadata_cols": ["a"], "ascending": ["yes"]}, "ascending=.*must be true, false"),
    ],
)
def test_what_makes_no_order_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        RankingStrategy(**arguments)


@pytest.mark.parametrize("value", [[], "sort", {"columns": ["a"]}, {"metadata_cols": ["a"], "seed": 1}])
def test_a_value_that_is_no_strategy_is_refused(value):
    with pytest.raises(InputError, match="expected a mapping with metadata_cols"):
        RankingStrategy.from_value(value, 42)


@pytest.mark.parametrize(
    "strategy",
    [
        RankingStrategy.metadata_based(["a", "b"], [True, False]),
        RankingStrategy(["a"], False, random_seed=7),
        RankingStrategy.random(7),
    ],
)
def test_a_strategy_comes_back_from_its_value(strategy):
    value = json.loads(json.dumps(strategy.to_value()))
    assert RankingStrategy.from_value(value, 42).describe() == strategy.describe()
    assert RankingStrategy.from_value(strategy, 42) is strategy


def test_a_value_needs_neither_flags_nor_a_seed():
    strategy = RankingStrategy.from_value({"metadata_cols": ["a", "b"]}, 9)
    assert strategy.to_value() == {
        "metadata_cols": ["a", "b"],
        "ascending": [True, True],
        "strategy": "sort",
        "random_seed": 9,
    }
    assert RankingStrategy.from_value({"strategy": "random"}, 9).describe() == RankingStrategy.random(9).describe()


def test_orders_that_differ_are_described_differently_and_equal_ones_equally():
    different = [
        RankingStrategy.by_distance("hard", "cosine", 1),
        RankingStrategy.by_distance("easy", "cosine", 1),
        RankingStrategy.by_distance("hard", "l2", 1),
        RankingStrategy.metadata_based(["cosine_dist_to_cent"], False),
        RankingStrategy.random(1),
        RankingStrategy.random(2),
    ]
    assert len({json.dumps(s.describe()) for s in different}) == len(different)
    assert different[0].describe() == RankingStrategy.by_distance("hard", "cosine", 2).describe()


def test_the_input_columns_are_those_that_the_program_does_not_compute():
    strategy = RankingStrategy.metadata_based(["quality", "l2_dist_to_cent", "date", "cosine_dist_to_cent"])
    assert strategy.input_columns == ["quality", "date"]
    assert RankingStrategy.by_distance("hard", "l2", 1).input_columns == []
    assert RankingStrategy(["quality"], strategy="random").input_columns == []


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.map_(pa.string(), pa.int64()), pa.string_view()]
)
def test_columns_without_an_order_are_refused_before_the_run(type_):
    with pytest.raises(InputError, match=r"ranking_strategy: column 'x' is .*, which has no order; rank by numbers"):
        RankingStrategy.metadata_based(["x"]).check(pa.schema([("x", type_)]))


@pytest.mark.parametrize("type_", [*METADATA, pa.float16(), pa.decimal128(9, 2), pa.date32(), pa.time64("us")])
def test_columns_with_an_order_pass(type_):
    RankingStrategy.metadata_based(["x", "cosine_dist_to_cent", "id"]).check(pa.schema([("x", type_)]))


def test_half_floats_rank_as_numbers():
    table = make_table([1, 2, 3, 4], pa.int64(), [0] * 4, x=pa.array(np.array([0.5, np.nan, -2, 0.25], np.float16)))
    assert RankingStrategy.metadata_based(["x"]).order(table).tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize("ascending", [1, None, "yes", [1]])
def test_flags_that_are_none_are_refused(ascending):
    with pytest.raises(InputError, match=r"ascending=.* must be true, false or one of them for each"):
        RankingStrategy(["x"], ascending)


@pytest.mark.parametrize("columns", [None, 5, "x", [1]])
def test_columns_that_are_no_list_of_names_are_refused(columns):
    with pytest.raises(InputError, match="metadata_cols must be a list of columns"):
        RankingStrategy(columns)
