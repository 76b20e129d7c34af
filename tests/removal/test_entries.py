from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.removal import entries


@given(st.lists(st.sets(st.integers(0, 99)), max_size=5))
def test_what_units_found_is_counted_and_what_was_found_more_than_once(sets):
    packed = [entries.pack(np.array(sorted([*s, *(n for n in s if n % 7 == 0)]), dtype=np.int64)) for s in sets]
    combine = entries.JoinEntries(13)
    halves = [combine.create_accumulator(), combine.create_accumulator()]
    for number, element in enumerate(packed):
        halves[number % 2] = combine.add_input(halves[number % 2], element)
    both = entries.halves(combine.extract_output(combine.merge_accumulators(halves)))
    found, repeated = (np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist() for bits in both)
    assert found == sorted(set().union(*sets))
    assert repeated == [n for n in found if n % 7 == 0 or sum(n in s for s in sets) > 1]


def test_a_unit_that_found_little_of_a_long_list_says_so_in_few_bytes():
    assert len(entries.pack(np.array([5, 10**8]))) < 100
    assert len(entries.pack(np.arange(10**6))) < 10**5
