import doctest

import numpy as np
from hypothesis import given, settings
from strategies import folded, folds, plainly_folded

from beam_semdedup.compute import tiles


@given(case=folds())
@settings(max_examples=100)
def test_a_fold_keeps_the_two_best_of_all_tiles(case):
    for found, wanted in zip(folded(tiles.fold, *case), plainly_folded(*case[:2]), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_example_is_true():
    failed, tried = doctest.testmod(tiles)
    assert not failed
    assert tried
