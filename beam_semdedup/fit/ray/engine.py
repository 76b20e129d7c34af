"""`kmeans=ray`: the fit in actors of a Ray cluster."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from beam_semdedup.errors import InputError
from beam_semdedup.fit.base import Centroids, Engine, Fit, FitParameters, Sample
from beam_semdedup.fit.ray.settings import RayKMeansConfig


class RayEngine(Engine[RayKMeansConfig]):
    """Fits on one shard in each of `kmeans.num_actors` actors, which reads its share of the rows from storage.

    With `kmeans.num_gpus` above 0 the rows lie on the first GPU that Ray gives the actor, as CuPy arrays.
    """

    settings = RayKMeansConfig
    fits_ahead = True

    def check(self) -> None:
        if find_spec("ray") is None:
            raise InputError("kmeans=ray: Ray is not installed: pip install 'beam-semdedup[ray]'")

    def depends_on(self) -> list[Any]:
        return ["ray", self.config.num_actors, None]

    def fit(self, sample: Sample, initial: Centroids | None, parameters: FitParameters) -> Fit:
        """See `Engine.fit`; an actor that dies is replaced, three times at most.

        Args:
            sample: can be pickled.

        Raises:
            RunError: no room for the actors in the cluster, or too many died.
        """
        from beam_semdedup.fit.lloyd import fit_shards
        from beam_semdedup.fit.ray.actors import shards_in_actors
        from beam_semdedup.runners.ray import cluster

        cluster.connect(self.parameters.ray_address, self.parameters.verbose)
        batch, seconds = parameters.max_samples_per_batch, self.parameters.ray_timeout
        with shards_in_actors(sample, batch, self.config, seconds) as run:
            return fit_shards(run, initial, parameters)
