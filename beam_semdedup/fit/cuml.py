"""The fit by cuML on one GPU. It has not yet been run on one."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import numpy as np

from beam_semdedup.compute.arrays import exclusive, has_room, library
from beam_semdedup.config.groups import CumlKMeansConfig
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError
from beam_semdedup.fit.lloyd import Fit, Sample, check_enough_rows

_LOG = logging.getLogger(__name__)
_BUFFER_ROWS, _INIT_ROWS_PER_CLUSTER = 1 << 20, 32
_SMALLEST_TOL = 1e-30  # cuML refuses 0; it is a float32 there


class CumlEngine:
    """`cuml.cluster.KMeans`; what it has no parameter for (`min_moved`) does not apply.

    It stops when the centroids move less than `tol` in all, or the inertia falls by less than that share: not relative
    to the rows' variance, as ours.
    """

    def fit(self, sample: Sample, initial: np.ndarray | None, parameters: Parameters) -> Fit:
        """See `Engine.fit`.

        Raises:
            InputError: no GPU, no cuML, or fewer rows than `n_clusters`.
        """
        check()
        from cuml.cluster import KMeans

        assert parameters.n_clusters is not None
        xp, rows = library("gpu"), sample()
        check_enough_rows(parameters.n_clusters, len(rows))
        _LOG.info("Fitting %s centroids on %s rows by cuML", parameters.n_clusters, f"{len(rows):,}")
        pool = xp.get_default_memory_pool()
        with exclusive(xp):
            model = KMeans(**arguments(rows, initial, parameters, has_room(xp, rows.nbytes)))
            pool.free_all_blocks()  # cuML cannot take what CuPy keeps
            try:
                model.fit(rows)
            finally:
                xp.cuda.set_allocator(pool.malloc)  # cuML put its own in its place, which keeps nothing
        return Fit(
            np.ascontiguousarray(model.cluster_centers_, dtype=np.float32),
            float(model.inertia_),
            int(model.n_iter_),
            len(rows),
        )


def check() -> None:
    """InputError where cuML is not installed."""
    if find_spec("cuml") is None:
        raise InputError(
            "kmeans=cuml: cuML is not installed: install beam-semdedup[gpu], or kmeans=local needs CuPy only"
        )


def arguments(rows: np.ndarray, initial: np.ndarray | None, p: Parameters, has_room: bool) -> dict[str, Any]:
    """What `cuml.cluster.KMeans` (26.10) is made with.

    Args:
        rows: (m, d) float32 in the machine's memory; copied to the GPU as a whole where `device_buffer_samples` is 0.
        initial: (k, d) or None.
        p: the parameters, with `kmeans` a `CumlKMeansConfig`.
        has_room: whether the GPU holds all rows.
    """
    assert isinstance(p.kmeans, CumlKMeansConfig)
    assert p.n_clusters is not None
    buffered = p.kmeans.device_buffer_samples
    if buffered is None:
        buffered = 0 if has_room else min(len(rows), _BUFFER_ROWS)
    return {
        "n_clusters": p.n_clusters,
        "max_iter": p.max_iter,
        "tol": max(p.tol, _SMALLEST_TOL),
        "random_state": p.random_state,
        "init": p.init if initial is None else initial,
        "n_init": p.n_init if initial is None else 1,
        "oversampling_factor": p.oversampling_factor,
        "max_samples_per_batch": p.max_samples_per_batch,
        "device_buffer_samples": buffered,
        "init_size": min(len(rows), _INIT_ROWS_PER_CLUSTER * p.n_clusters),  # used where not all rows are copied
        "output_type": "numpy",
    }
