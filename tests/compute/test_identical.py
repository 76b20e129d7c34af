import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BATCHES, clusters, grids, units

from beam_semdedup.compute.identical import first_identical, first_of_hash, hash_rows


@given(rows=clusters() | grids(), batch=st.sampled_from(BATCHES), buckets=st.sampled_from([1, 2, 5]))
@settings(max_examples=40)
def test_rows_whose_hashes_collide_are_not_taken_for_identical(rows, batch, buckets):
    first = first_of_hash(rows, hash_rows(rows) % np.uint64(buckets), batch)
    exact = [int((rows == row).all(axis=1).argmax()) for row in rows]
    for rank in range(len(rows)):
        assert first[rank] in (rank, exact[rank])


@given(rows=clusters(), batch=st.sampled_from(BATCHES), data=st.data())
@settings(max_examples=40)
def test_the_first_identical_row_is_found_whatever_the_tile(rows, batch, data):
    high = data.draw(st.integers(1, len(rows)))
    expected = [int((rows == row).all(axis=1).argmax()) for row in rows[:high]]
    assert first_identical(rows, high, batch).tolist() == expected


@given(unit=units(), batch=st.sampled_from(BATCHES))
@settings(max_examples=40)
def test_equal_rows_of_two_clusters_are_not_identical(unit, batch):
    rows, starts, stops = unit
    expected = [
        a + int((rows[a:b] == row).all(axis=1).argmax())
        for a, b in zip(starts, stops, strict=True)
        for row in rows[a:b]
    ]
    cluster = np.repeat(np.arange(len(starts)), stops - starts)
    assert first_identical(rows, len(rows), batch, cluster).tolist() == expected
