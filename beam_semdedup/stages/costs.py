"""A warning where comparing across clusters costs much more than within them, before any of it is done."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.assignment import assign
from beam_semdedup.compute.visits import Clusters
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.probes import Comparison, Spread
from beam_semdedup.plan.rates import REFERENCE

_LOG = logging.getLogger(__name__)
MUCH = 5
"""Comparing with n_probes=exact takes so many times what it takes with 1 where a run warns."""
_SECONDS = REFERENCE.start  # what takes less is not worth a word
_ROWS = 2048
_REACHES = (0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001)
_FEWER = (4, 16, 64)
_WORTH = 0.7


def warn_of_cost(
    job: Job,
    rows: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    centroids: npt.NDArray[np.float32],
    width: int,
) -> None:
    """Logs a warning where n_probes=exact costs much, with an `eps` and an `n_clusters` that would cost less.

    What it takes is estimated from the visits of some rows, by the rates of the reference machine.

    Args:
        rows, labels: of a unit: (n, d), and where each lives (n,).
        width: of the short vectors.
    """
    some = np.linspace(0, len(rows), min(_ROWS, len(rows)), endpoint=False, dtype=np.int64)
    unit = _Unit(job, rows[some], labels[some], labels, centroids, width)
    reach, k = job.parameters.matching_reach, job.sizes.n_clusters
    visits, times = unit.visits(reach), unit.times(reach)
    if times <= MUCH or unit.comparison(reach).seconds() < _SECONDS:
        return
    _LOG.warning(
        "n_probes=exact: a row visits %.1f of the %s other clusters within %s=%s, so that comparing takes about %.0f "
        "times as long as with n_probes=1%s",
        visits,
        f"{k - 1:,}",
        "eps" if job.parameters.reach is None else "reach",
        reach,
        times,
        "".join(f"; {advice}" for advice in _advice(unit, reach)),
    )


class _Unit:
    """Some rows of a unit, by which all are judged."""

    def __init__(
        self,
        job: Job,
        rows: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int32],
        all_labels: npt.NDArray[np.int32],
        centroids: npt.NDArray[np.float32],
        width: int,
    ) -> None:
        self._job, self._rows, self._labels, self._width = job, rows, labels, width
        self._shares = np.bincount(all_labels, minlength=len(centroids)) / len(all_labels)
        self.centroids = centroids

    def visits(self, reach: float) -> float:
        """Returns the visits of a row."""
        clusters = Clusters(self.centroids, self._job.parameters.pairwise_batch_size)
        return len(clusters.in_reach(self._rows, self._labels, reach)[0]) / len(self._rows)

    def times(self, reach: float) -> float:
        """Returns how many times as long comparing takes as within clusters."""
        return self.comparison(reach).seconds() / self.comparison(None).seconds()

    def seconds(self, reach: float) -> float:
        """Returns the seconds that assigning and comparing take."""
        values = self._job.sizes.num_rows * self._job.sizes.dimension
        return 2.0 * values * len(self.centroids) / REFERENCE.assign_flops + self.comparison(reach).seconds()

    def comparison(self, reach: float | None) -> Comparison:
        """Returns what is compared; within clusters where there is no reach."""
        sizes, k = self._job.sizes, len(self.centroids)
        skew = float(k * self._shares @ self._shares)
        spread = None if reach is None else Spread((k,), (self.visits(reach),), (skew,), self._width)
        return Comparison(sizes.num_rows, sizes.dimension, k, min(k, sizes.num_keys), spread, skew)

    def with_fewer(self, n_clusters: int) -> _Unit:
        """Returns the same rows in clusters around some of the centroids."""
        some = np.linspace(0, len(self.centroids), n_clusters, endpoint=False, dtype=np.int64)
        centroids = self.centroids[some]
        labels = assign(self._rows, centroids, self._job.parameters.pairwise_batch_size)
        return _Unit(self._job, self._rows, labels, labels, centroids, self._width)


def _advice(unit: _Unit, reach: float) -> Iterator[str]:
    """Yields what would cost less: the largest eps that costs little, and fewer clusters where these cost less."""
    for smaller in (value for value in _REACHES if value < reach):
        times = unit.times(smaller)
        if times <= MUCH:
            yield f"eps={smaller} would take {times:.1f} times"
            break
    k, now = len(unit.centroids), unit.seconds(reach)
    taken = {number: unit.with_fewer(number).seconds(reach) for number in {max(1, k // few) for few in _FEWER}}
    best = min(taken, key=taken.__getitem__)
    if best < k and taken[best] < _WORTH * now:
        yield f"n_clusters={best} would take {taken[best] / now:.1f} times what {k} take"
