"""`kmeans=cuml`: the fit by cuML on one GPU."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from beam_semdedup.errors import InputError
from beam_semdedup.fields import CHECKED, NotNegative
from beam_semdedup.fit.base import Centroids, Engine, Fit, FitParameters, KMeansConfig, Sample

_LOG = logging.getLogger(__name__)
_BUFFER_ROWS, _INIT_ROWS_PER_CLUSTER = 1 << 20, 32
_SMALLEST_TOL = 1e-30  # cuML refuses 0; it is a float32 there


@dataclass(kw_only=True, config=CHECKED)
class CumlKMeansConfig(KMeansConfig):
    """cuml.cluster.KMeans on the GPU of the process that runs the fit; parameters of the same names go to it."""

    name: Literal["cuml"] = "cuml"
    device_buffer_samples: NotNegative | None = None
    """rows that are on the GPU at a time; 0: all; null: all where they fit, else what fits"""


class CumlEngine(Engine[CumlKMeansConfig]):
    """Fits by `cuml.cluster.KMeans` (26.10); what it has no parameter for (`min_moved`) does not apply.

    It stops when the centroids move less than `tol` in all, or the inertia falls by less than that share: not relative
    to the rows' variance, as ours.
    """

    settings = CumlKMeansConfig

    def check_device(self, device: str) -> None:
        if device == "cpu":
            raise InputError("kmeans=cuml needs a GPU, found device=cpu")

    def check(self) -> None:
        if find_spec("cuml") is None:
            raise InputError(
                "kmeans=cuml: cuML is not installed: install beam-semdedup[gpu], or kmeans=local needs CuPy only"
            )

    def depends_on(self) -> list[Any]:
        return ["cuml", 1, self.config.device_buffer_samples]

    def fit(self, sample: Sample, initial: Centroids | None, parameters: FitParameters) -> Fit:
        """See `Engine.fit`; raises InputError where there is no GPU or no cuML, too.

        Args:
            sample: read into this machine's memory; copied to the GPU as a whole where `device_buffer_samples` is 0,
                or not given and the GPU holds all rows.
        """
        self.check()
        import numpy as np
        from cuml.cluster import KMeans

        from beam_semdedup.compute.arrays import exclusive, has_room, library
        from beam_semdedup.fit.lloyd import check_enough_rows

        p, k, xp, rows = parameters, parameters.n_clusters, library("gpu"), sample()
        assert k is not None
        check_enough_rows(k, len(rows))
        _LOG.info("Fitting %s centroids on %s rows by cuML", k, f"{len(rows):,}")
        pool = xp.get_default_memory_pool()
        with exclusive(xp):
            buffered = self.config.device_buffer_samples
            if buffered is None:
                buffered = 0 if has_room(xp, rows.nbytes) else min(len(rows), _BUFFER_ROWS)
            model = KMeans(
                n_clusters=k,
                max_iter=p.max_iter,
                tol=max(p.tol, _SMALLEST_TOL),
                random_state=p.random_state,
                init=p.init if initial is None else initial,
                n_init=p.n_init if initial is None else 1,
                oversampling_factor=p.oversampling_factor,
                max_samples_per_batch=p.max_samples_per_batch,
                device_buffer_samples=buffered,
                init_size=min(len(rows), _INIT_ROWS_PER_CLUSTER * k),  # used where not all rows are copied
                output_type="numpy",
            )
            pool.free_all_blocks()  # cuML cannot take what CuPy keeps
            try:
                model.fit(rows)
            finally:
                xp.cuda.set_allocator(pool.malloc)  # cuML put its own in its place, which keeps nothing
        centroids = np.ascontiguousarray(model.cluster_centers_, dtype=np.float32)
        return Fit(centroids, float(model.inertia_), int(model.n_iter_), len(rows))
