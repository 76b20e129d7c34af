from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.config.validation import resolve
from beam_semdedup.plan.sizes import SEGMENT_BYTES, Blocks, Sizing

MEMORY = 64 << 30


def sizes(rows, clusters, dimension=384, memory=MEMORY, **values):
    p = resolve({"input_path": "in", "output_path": "out", "n_clusters": clusters, **values})
    sizing = Sizing(p, rows, dimension, 0, clusters, memory)
    found = sizing.sizes(0)
    return found.centroids_per_key, found.assign_rows, sizing.blocks(found.centroids_per_key).max_key_rows


@pytest.mark.parametrize(("rows", "clusters"), [(10_000, 100), (250_000, 500), (1_000_000, 1000), (1_000_000, 50)])
def test_units_of_a_million_rows_are_of_the_usual_sizes(rows, clusters):
    width, unit_rows, block = sizes(rows, clusters)
    assert width == max(1, round(16_384 * clusters / rows))
    assert unit_rows == (64 << 20) // (4 * 384)
    assert block == 65_536


@pytest.mark.parametrize(("rows", "clusters"), [(10**8, 10**4), (10**9, 3 * 10**4), (10**10, 10**5), (10**10, 500)])
def test_segments_of_very_many_rows_have_a_floor(rows, clusters):
    width, unit_rows, block = sizes(rows, clusters)
    key_rows = rows * width / clusters
    assert unit_rows / (rows / key_rows) * 4 * 384 >= 0.85 * SEGMENT_BYTES
    if width > 1:
        assert block >= 1.9 * key_rows  # a key of many clusters is one unit of work


def test_memory_and_what_is_asked_for_limit_them():
    row, memory = 4 * 384, 1 << 30
    width, unit_rows, block = sizes(10**10, 10**6, memory=memory)
    assert 4 * row * max(unit_rows, width * 10**4) <= memory
    assert row * block <= memory // 4
    asked = sizes(10**9, 10**5, comparison_rows=50_000, assign_unit_bytes=row * 1000, max_cluster_rows=7)
    assert asked == (5, 1000, 7)


def test_visitors_of_a_key_take_no_more_than_the_vectors_of_an_assign_unit():
    p = resolve({"input_path": "in", "output_path": "out", "n_clusters": 1000})
    for per_key in (1, 60):
        blocks = Sizing(p, 10**6, 384, 100, 1000, 1 << 30).blocks(per_key)
        assert 0.9 * (1 << 27) < blocks.max_visitors * (4 * 384 + 100) <= 1 << 27


@given(st.integers(1, 50), st.integers(0, 60), st.integers(0, 90), st.integers(0, 400), st.integers(0, 300))
def test_blocks_are_all_rows_and_as_many_as_those_of_the_input_ask_for(small, more, own, earlier, most):
    blocks = Blocks(small, small + more, max_rows=most)
    rows = own + earlier
    found = blocks.bounds(own, rows)
    assert [n for low, high in found for n in range(low, high)] == list(range(rows))
    assert all(low < high for low, high in found)
    assert len(found) <= -(-own // small if own > small + more else 0) + -(-rows // max(small + more, most))
    if own <= small + more and rows:
        assert len(found) == -(-rows // max(small + more, most))
    if not earlier and own > small + more:
        assert {high - low for low, high in found[:-1]} <= {small}
