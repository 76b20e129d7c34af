"""What must hold on a GPU and on the stand-in for one alike; `xp` is the module that computes there."""

import numpy as np

from beam_semdedup.compute import arrays, identical
from beam_semdedup.compute.assignment import assign_with_distances


def assert_rows_are_multiplied_and_hashed_as_on_numpy(xp, n, d):
    a, b = (np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) for seed in (0, 1))
    on_device = xp.asarray(a), xp.asarray(b)
    found = arrays.row_dot(*on_device).get()
    np.testing.assert_allclose(found, arrays.row_dot(a, b), rtol=0, atol=1e-13 * d)
    np.testing.assert_array_equal(arrays.row_dot(on_device[0][3:9], on_device[1][3:9]).get(), found[3:9])
    np.testing.assert_array_equal(identical.hash_rows(on_device[0]).get(), identical.hash_rows(a))


def assert_rows_are_assigned_as_on_numpy(xp, rows, centroids, batch):
    found, wanted = (assign_with_distances(rows, centroids, batch, module) for module in (xp, np))
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(found[0], wanted[0])
