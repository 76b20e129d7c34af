import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds, unit_rows

from beam_semdedup.fit.shard import Shard


@given(seed=seeds, n=st.integers(1, 80), d=st.integers(1, 6), k=st.integers(1, 9))
@settings(max_examples=40)
def test_a_step_counts_and_sums_the_rows_of_each_centroid(seed, n, d, k):
    rows, rng = unit_rows(seed, n, d), np.random.default_rng(seed)
    shard = Shard(rows, batch=7)
    before = np.full(n, -1)
    for _ in range(4):
        centroids = rng.normal(size=(k, d)).astype(np.float32)
        sums, counts, moved = shard.step(centroids)
        labels = ((rows[:, None].astype(np.float64) - centroids) ** 2).sum(axis=2).argmin(axis=1)
        np.testing.assert_array_equal(counts, np.bincount(labels, minlength=k))
        np.testing.assert_allclose(
            sums, [rows[labels == c].sum(axis=0, dtype=np.float64) for c in range(k)], atol=1e-12
        )
        assert moved == (labels != before).sum()
        before = labels


def test_sums_that_follow_the_moving_rows_do_not_drift():
    rows, rng = unit_rows(0, 2000, 16), np.random.default_rng(0)
    shard = Shard(rows)
    start = rows[:5].copy()
    for _ in range(300):
        start += 0.02 * rng.normal(size=start.shape).astype(np.float32)
        sums, _, moved = shard.step(start)
        assert moved
    np.testing.assert_allclose(sums, Shard(rows).step(start)[0], atol=1e-11)
