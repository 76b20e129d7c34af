from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.report.target import _shortest


@given(score=st.floats(0.0625, 1, width=32), steps=st.integers(1, 10**6), most=st.floats(0, 1))
def test_the_eps_is_reached_by_the_score_and_by_none_below_it(score: float, steps: int, most: float) -> None:
    below = score
    for _ in range(min(steps, 30)):
        below = float(np.nextafter(np.float32(below), np.float32(-2)))
    eps = _shortest(score, below, 1 - score + most)
    assert below < 1 - eps <= score
    assert 1 - _shortest(score, -math.inf, 1.999) <= score


def test_it_has_as_few_decimals_as_that_allows() -> None:
    assert _shortest(0.95123, 0.94, 0.06) == 0.05
    assert _shortest(0.95123, 0.9503, 0.05) == 0.049
    assert _shortest(1.0, 0.9, 0.3) == 0.0
