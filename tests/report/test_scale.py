from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.report.scale import BANDS, Scale

EPS = st.one_of(
    st.integers(0, 1999).map(lambda k: k / 1000),
    st.integers(0, 9999).map(lambda k: k / 10_000),
    st.integers(0, 1000).map(lambda k: k / 100_000),
)


@given(eps=EPS, scores=st.lists(st.floats(-1, 1, width=32), max_size=50))
def test_rows_are_counted_as_a_run_with_that_eps_counts_them(eps: float, scores: list[float]) -> None:
    scale, found = Scale.around(0.05, None), np.array(scores, dtype=np.float64)
    assert scale.values[scale.place(eps)] == eps
    assert (scale.places(found) <= scale.place(eps)).tolist() == (found >= 1 - eps).tolist()


@given(eps=st.floats(0, 1.99), steps=st.integers(-3, 3))
def test_scores_next_to_any_threshold_are_counted_as_a_run_does(eps: float, steps: int) -> None:
    score = np.float32(1 - eps)
    for _ in range(abs(steps)):
        score = np.nextafter(score, np.float32(np.sign(steps) * 2))
    scale = Scale.around(eps, None)
    assert (scale.places(np.array([float(score)]))[0] <= scale.place(eps)) == (float(score) >= 1 - eps)


@pytest.mark.parametrize("number", [1, BANDS, 160])
@pytest.mark.parametrize(("eps", "reach"), [(None, None), (0.05, None), (0.7, None), (0.01, 0.013), (0.0, 0.0)])
def test_every_place_up_to_the_end_is_in_one_part(number: int, eps: float | None, reach: float | None) -> None:
    scale = Scale.around(eps, reach)
    edges = scale.edges(number)
    assert (edges[0], scale.values[edges[-1]]) == (0, scale.end)
    parts = scale.parts_of(np.arange(len(scale.values) + 1), edges)
    for place, part in enumerate(parts.tolist()):
        if place > edges[-1]:
            assert part == number
        else:
            assert edges[part] < place or place == part == 0
            assert place <= edges[part + 1]


def test_a_row_without_a_match_is_found_by_no_eps() -> None:
    scale = Scale.around(0.05, None)
    assert scale.places(np.array([-np.inf, -1.1])).tolist() == [len(scale.values)] * 2
