"""`kmeans=local`: the fit in one process."""

from __future__ import annotations

from typing import Any, Literal

from pydantic.dataclasses import dataclass

from beam_semdedup.fields import CHECKED
from beam_semdedup.fit.base import Centroids, Engine, Fit, FitParameters, KMeansConfig, Sample


@dataclass(kw_only=True, config=CHECKED)
class LocalKMeansConfig(KMeansConfig):
    """Lloyd iterations in the process that runs the fit."""

    name: Literal["local"] = "local"


class LocalEngine(Engine[LocalKMeansConfig]):
    """Fits on one shard in this process, on a GPU where there is one with room for it."""

    settings = LocalKMeansConfig

    def depends_on(self) -> list[Any]:
        return ["local", 1, None]  # as caches have it

    def fit(self, sample: Sample, initial: Centroids | None, parameters: FitParameters) -> Fit:
        from beam_semdedup.compute.arrays import exclusive, library, namespace
        from beam_semdedup.fit.lloyd import fit_shards, in_this_process
        from beam_semdedup.fit.shard import Shard, where_computed

        rows = where_computed(sample(), library(parameters.device))
        run = in_this_process(Shard(rows, parameters.max_samples_per_batch))
        with exclusive(namespace(rows)):
            return fit_shards(run, initial, parameters)
