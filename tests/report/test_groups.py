from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.report.groups import follow


@given(seed=st.integers(0, 10_000), rows=st.integers(0, 60), kept=st.integers(1, 5))
def test_rows_lead_to_the_kept_row_that_a_walk_comes_to(seed: int, rows: int, kept: int) -> None:
    rng = np.random.default_rng(seed)
    names = rng.choice(1 << 30, rows + kept, replace=False).astype(np.uint64)  # ranked: each resembles an earlier one
    targets = {int(names[row]): int(names[rng.integers(0, row)]) for row in range(kept, rows + kept)}

    def walk(row: int) -> tuple[int, int]:
        steps = 0
        while row in targets:
            row, steps = targets[row], steps + 1
        return row, steps

    ids = np.array(sorted(targets), dtype=np.uint64)
    roots, steps = follow(ids, np.array([targets[row] for row in ids.tolist()], dtype=np.uint64))
    assert list(zip(roots.tolist(), steps.tolist(), strict=True)) == [walk(row) for row in ids.tolist()]


@pytest.mark.parametrize("targets", [[2, 3, 1], [1, 2, 3], [2, 1, 9]])
def test_circles_end_where_ids_repeat(targets: list[int]) -> None:
    roots, steps = follow(np.array([1, 2, 3], dtype=np.uint64), np.array(targets, dtype=np.uint64))
    assert len(roots) == 3
    assert (steps >= 1).all()


def test_long_chains_are_followed_to_their_end() -> None:
    ids = np.arange(1, 5000, dtype=np.uint64)
    roots, steps = follow(ids, ids - np.uint64(1))
    assert (roots == 0).all()
    assert steps.tolist() == list(range(1, 5000))
