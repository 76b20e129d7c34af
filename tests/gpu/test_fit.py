from __future__ import annotations

import numpy as np
import pytest
from device_checks import assert_rows_are_assigned_as_on_numpy

from beam_semdedup.compute import assignment
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.fit.local import LocalEngine
from beam_semdedup.fit.shard import Shard


@pytest.mark.parametrize("k", [7, 300])
@pytest.mark.parametrize("batch", [333, 100_000])
def test_rows_are_assigned_as_on_numpy(cupy, texts, k, batch):
    centroids = np.concatenate([texts[:k], texts[:3]])
    assert_rows_are_assigned_as_on_numpy(cupy, texts, centroids, batch)


def test_a_step_sums_and_counts_as_on_numpy(cupy, texts):
    there, here = Shard(cupy.asarray(texts), batch=512), Shard(texts)
    for seed in range(3):
        centroids = texts[np.random.default_rng(seed).choice(len(texts), 40, replace=False)]
        for found, wanted in zip(there.step(centroids), here.step(centroids), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-10)
    first, again = (Shard(there.rows).step(centroids)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("init", ["k-means||", "random"])
def test_a_fit_is_that_of_numpy(cupy, texts, init):
    fits = {}
    for device in ("gpu", "cpu"):
        p = Parameters(input_path=["/"], output_path="/", n_clusters=50, init=init, device=device, min_moved=0)
        fits[device] = LocalEngine(p).fit(lambda: texts, None, p)
    assert fits["gpu"].inertia == pytest.approx(fits["cpu"].inertia, rel=0.01)
    assert set(assignment.assign(texts, fits["gpu"].centroids, 1024)) == set(range(50))
