from collections import Counter

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.embeddings import INVALID_ID, NOT_FINITE, NULL_EMBEDDING, NULL_ID, WRONG_LENGTH, ZERO_NORM

WIDTHS = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64()}
LISTS = {
    "list": lambda width: pa.list_(width),
    "large_list": lambda width: pa.large_list(width),
    "fixed_size_list": lambda width: pa.list_(width, 3),
}
TYPES = [pytest.param(make(width), id=f"{name}-{w}") for name, make in LISTS.items() for w, width in WIDTHS.items()]

NAN, INF = float("nan"), float("inf")
CASES = [
    ([3.0, 4.0, 0.0], 0),
    (None, NULL_EMBEDDING),
    ([1.0, None, 2.0], NOT_FINITE),
    ([1.0, NAN, 2.0], NOT_FINITE),
    ([1.0, INF, 2.0], NOT_FINITE),
    ([-INF, 1.0, 2.0], NOT_FINITE),
    ([0.0, -0.0, 0.0], ZERO_NORM),
    ([-1.0, 2.0, -2.0], 0),
    ([1.0, 2.0], WRONG_LENGTH),
    ([1.0, 2.0, 3.0, 4.0], WRONG_LENGTH),
    ([], WRONG_LENGTH),
    ([None, None, None], NOT_FINITE),
]


def column(cases, type_):
    """The vectors that `type_` can hold."""
    held = [c for c in cases if not pa.types.is_fixed_size_list(type_) or c[0] is None or len(c[0]) == 3]
    vectors = [None if v is None else [None if x is None else np.float64(x) for x in v] for v, _ in held]
    if pa.types.is_float16(type_.value_type):
        vectors = [None if v is None else [None if x is None else np.float16(x) for x in v] for v in vectors]
    return pa.array(vectors, type_), [reason for _, reason in held]


def usable(cases):
    return np.array([v for v, reason in cases if reason == 0], dtype=np.float64)


@pytest.mark.parametrize("type_", TYPES)
def test_every_list_type_and_width_gives_unit_rows_and_reasons(type_):
    vectors, expected = column(CASES, type_)
    matrix, reasons = embeddings.to_matrix(vectors, 3)
    assert reasons.tolist() == expected
    assert (matrix.dtype, reasons.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(matrix, oracle.normalized(usable(CASES)))


@pytest.mark.parametrize("type_", TYPES)
@given(cases=st.lists(st.sampled_from(CASES), max_size=12), data=st.data(), normalize=st.booleans())
@settings(max_examples=15)
def test_a_slice_gives_what_its_rows_alone_give(type_, cases, data, normalize):
    held = [c for c in cases if not pa.types.is_fixed_size_list(type_) or c[0] is None or len(c[0]) == 3]
    start = data.draw(st.integers(0, len(held)))
    stop = data.draw(st.integers(start, len(held)))
    vectors, _ = column(held, type_)
    matrix, reasons = embeddings.to_matrix(vectors.slice(start, stop - start), 3, normalize)
    assert reasons.tolist() == [reason for _, reason in held[start:stop]]
    expected = usable(held[start:stop]).reshape(-1, 3)
    np.testing.assert_array_equal(matrix, oracle.normalized(expected) if normalize else expected.astype(np.float32))


@pytest.mark.parametrize("type_", TYPES)
def test_the_chunks_of_a_column_are_joined(type_):
    vectors, expected = column(CASES, type_)
    chunked = pa.chunked_array([vectors[2:], vectors[:0], vectors[:2]])
    matrix, reasons = embeddings.to_matrix(chunked, 3)
    assert reasons.tolist() == expected[2:] + expected[:2]
    np.testing.assert_array_equal(matrix, oracle.normalized(usable(CASES)[[1, 0]]))


@pytest.mark.parametrize("type_", TYPES)
def test_no_vectors_give_an_empty_matrix(type_):
    for vectors in (pa.array([], type_), pa.array([None, None], type_), pa.chunked_array([], type_)):
        matrix, reasons = embeddings.to_matrix(vectors, 3)
        assert matrix.shape == (0, 3)
        assert reasons.tolist() == [NULL_EMBEDDING] * len(vectors)


def test_a_fixed_size_list_of_another_size_is_of_the_wrong_length():
    matrix, reasons = embeddings.to_matrix(pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), 3)
    assert matrix.shape == (0, 3)
    assert reasons.tolist() == [WRONG_LENGTH, NULL_EMBEDDING]


def test_without_normalising_the_values_stay_as_they_are():
    matrix, reasons = embeddings.to_matrix(pa.array([[3.0, 4.0], [0.0, 0.0]], pa.list_(pa.float64())), 2, False)
    np.testing.assert_array_equal(matrix, np.array([[3, 4]], np.float32))
    assert reasons.tolist() == [0, ZERO_NORM]


def test_the_norm_of_large_and_small_values_neither_overflows_nor_vanishes():
    vectors = np.array([[3e30, 4e30], [3e-30, 4e-30]], np.float32)
    matrix, reasons = embeddings.to_matrix(pa.array(list(vectors)), 2)
    assert reasons.tolist() == [0, 0]
    np.testing.assert_allclose(matrix, [[0.6, 0.8]] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("width", "largest"),
    [("float64", [1e200, -1e308, 1e39, 1e-40, 1e-60, 5e-300]), ("float32", [3e38, -2e38, 1e-38])],
    ids=str,
)
@pytest.mark.parametrize("dimension", [2, 400])
def test_values_whose_norm_is_beyond_float32_are_normalised_before_they_are_cast(width, largest, dimension):
    directions = np.random.default_rng(0).uniform(0.1, 1, size=(len(largest), dimension))
    directions[:, 0] = 1
    rows = directions * np.array(largest)[:, None]
    rows = rows.astype(width).astype(np.float64)
    matrix, reasons = embeddings.to_matrix(pa.array([*rows, np.ones(dimension)], pa.list_(WIDTHS[width])), dimension)
    assert not reasons.any()
    scaled = rows / np.abs(rows).max(axis=1, keepdims=True)
    expected = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    np.testing.assert_allclose(matrix[:-1], expected, rtol=3e-7)


def test_what_is_not_finite_or_zero_stays_so_beside_extreme_values():
    rows = [[1e200, INF], [NAN, 1e-60], [0.0, -0.0], [1e300, 1.0], [1e200, None], [-1e-320, 0.0]]
    matrix, reasons = embeddings.to_matrix(pa.array(rows, pa.list_(pa.float64())), 2)
    assert reasons.tolist() == [NOT_FINITE, NOT_FINITE, ZERO_NORM, 0, NOT_FINITE, 0]
    np.testing.assert_array_equal(matrix, [[1, 0], [-1, 0]])


def test_a_value_beyond_float32_is_not_finite_where_it_is_not_normalised():
    _, reasons = embeddings.to_matrix(pa.array([[1e300, 1.0], [1.0, 1.0]], pa.list_(pa.float64())), 2, False)
    assert reasons.tolist() == [NOT_FINITE, 0]


@pytest.mark.parametrize(("normalize", "value"), [(True, -0.0), (False, -0.0), (True, -1e-44)])
def test_equal_rows_have_equal_bits_though_zeros_were_negative(normalize, value):
    vectors = pa.array([np.array([1e10, value], np.float32), np.array([1e10, 0.0], np.float32)])
    matrix, _ = embeddings.to_matrix(vectors, 2, normalize)
    assert matrix[0].tobytes() == matrix[1].tobytes()


@given(seed=st.integers(0, 2**32), n=st.integers(1, 30), d=st.integers(1, 40), data=st.data())
@settings(max_examples=40)
def test_a_row_is_normalised_in_the_same_way_wherever_it_stands(seed, n, d, data):
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    chosen = data.draw(st.permutations(range(n)))
    whole, _ = embeddings.to_matrix(pa.array(list(vectors)), d)
    shuffled, _ = embeddings.to_matrix(pa.array(list(vectors[chosen])), d)
    alone, _ = embeddings.to_matrix(pa.array(list(vectors[:1])), d)
    np.testing.assert_array_equal(shuffled, whole[chosen])
    np.testing.assert_array_equal(alone, whole[:1])
    np.testing.assert_allclose(np.linalg.norm(whole.astype(np.float64), axis=1), 1, atol=3e-7)


def test_the_column_is_not_changed():
    values = pa.array(np.array([3, 4, -0.0, 2], np.float32))
    to_keep = values.to_numpy().copy()
    embeddings.to_matrix(pa.FixedSizeListArray.from_arrays(values, 2), 2)
    assert values.to_numpy().tobytes() == to_keep.tobytes()


def test_lengths_are_counted_without_nulls():
    assert embeddings.lengths(pa.array([[1.0], None, [2.0], [], [1.0, None]])) == {1: 2, 0: 1, 2: 1}
    assert embeddings.lengths(pa.array([[1.0, 2.0], None], pa.list_(pa.float16(), 2))) == {2: 1}
    assert embeddings.lengths(pa.array([], pa.large_list(pa.float64()))) == {}


def test_the_commonest_length_is_no_empty_one_and_of_equally_common_ones_the_shortest():
    assert embeddings.commonest_length(Counter({0: 9, 2: 3, 1: 3, 5: 1})) == 1
    assert embeddings.commonest_length(Counter({0: 9})) is None


def test_ids_are_integers_strings_or_binary():
    good = [pa.int8(), pa.uint64(), pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.binary(4)]
    bad = [pa.float64(), pa.bool_(), pa.timestamp("s"), pa.list_(pa.int64()), pa.null()]
    assert [t for t in good + bad if embeddings.is_id_type(t)] == good


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()])
def test_a_text_that_is_not_utf8_is_no_id(type_):
    values = [b"a", b"\xff", None, "é".encode(), b"\xc3(", b"\xed\xa0\x80"]
    binary = pa.large_binary() if type_ == pa.large_string() else pa.binary()
    stored = pa.array(values, binary)
    texts = pa.Array.from_buffers(type_, len(values), stored.buffers())
    reasons = [0, INVALID_ID, NULL_ID, 0, INVALID_ID, INVALID_ID]
    assert embeddings.id_reasons(pa.chunked_array([texts[:3], texts[3:]])).tolist() == reasons
    assert embeddings.id_reasons(pa.chunked_array([stored])).tolist() == [0, 0, NULL_ID, 0, 0, 0]
    assert embeddings.id_reasons(pa.chunked_array([[1, None]])).tolist() == [0, NULL_ID]
    assert embeddings.id_reasons(pa.chunked_array([], type_)).tolist() == []


@pytest.mark.parametrize("type_", TYPES)
def test_a_list_of_floats_is_an_embedding(type_):
    assert embeddings.is_embedding_type(type_)


@pytest.mark.parametrize("type_", [pa.float32(), pa.list_(pa.bool_()), pa.list_(pa.list_(pa.float32())), pa.string()])
def test_nothing_else_is_an_embedding(type_):
    assert not embeddings.is_embedding_type(type_)


def test_a_dictionary_encoded_column_is_decoded():
    column = pa.chunked_array([pa.array(["a", None, "a"]).dictionary_encode()])
    assert embeddings.decoded(column).equals(pa.chunked_array([["a", None, "a"]]))
    plain = pa.chunked_array([[1, 2]])
    assert embeddings.decoded(plain) is plain


TENSOR = pa.fixed_shape_tensor(pa.float32(), (2,))


@pytest.mark.parametrize(
    ("type_", "plain"),
    [
        (pa.uuid(), pa.binary(16)),
        (pa.json_(pa.large_string()), pa.large_string()),
        (pa.string_view(), pa.string()),
        (pa.binary_view(), pa.binary()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (TENSOR, pa.list_(pa.float32(), 2)),
        (pa.fixed_shape_tensor(pa.float32(), (1, 2)), pa.fixed_shape_tensor(pa.float32(), (1, 2))),
        (pa.int64(), pa.int64()),
    ],
)
def test_a_decoded_column_has_the_plain_type(type_, plain):
    assert embeddings.plain_type(type_) == plain
    stored = getattr(type_, "storage_type", type_)
    column = pa.chunked_array([pa.nulls(2, stored).cast(type_)])
    assert embeddings.decoded(column).type == plain


@pytest.mark.parametrize("width", [pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.int64()])
@pytest.mark.parametrize("make", [pa.list_, pa.large_list, lambda width: pa.list_(width, 2)])
def test_integers_are_vectors_too(make, width):
    vectors = pa.array([[3, 4], None, [1, None], [0, 0], [0, 127]], make(width))
    assert embeddings.is_embedding_type(vectors.type)
    matrix, reasons = embeddings.to_matrix(vectors, 2)
    assert reasons.tolist() == [0, NULL_EMBEDDING, NOT_FINITE, ZERO_NORM, 0]
    np.testing.assert_array_equal(matrix, np.array([[0.6, 0.8], [0, 1]], np.float32))


def test_each_reason_has_a_code():
    assert embeddings.REASONS[NULL_EMBEDDING] == "embedding is null"
    assert embeddings.REASONS[embeddings.MALFORMED] == "malformed line"
    assert len({embeddings.NULL_ID, NULL_EMBEDDING, WRONG_LENGTH, NOT_FINITE, ZERO_NORM, embeddings.MALFORMED}) == 6
