"""What comparing rows in more clusters than their own takes: visits, pairs and seconds, and the clusters that suit it.

Everything here is known before a run, from its sizes and from a `Spread`: how near rows are to the borders of clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from beam_semdedup.compute.short_vectors import WIDTHS
from beam_semdedup.config.parameters import ForecastParameters
from beam_semdedup.plan.rates import REFERENCE, Rates
from beam_semdedup.plan.sizes import SizeParameters, Sizing, default_clusters

_PASS = 16  # what a pair costs besides the product of its short vectors, in multiplications
_UNSETTLED = (
    1.2  # of those the pairs that short vectors leave open cost about a fifth more, at the width that suits best
)
_LEAST_VISITS = 1e-3
_MEMORY = 8 << 30
_STEPS = (1.0, 0.5, 2.0, 0.25, 4.0)
_WORTH = 1.05  # how many times the least seconds are too few to be worth another number of clusters, and so another fit

_TEXT_CLUSTERS = (64, 256, 1024)
_TEXT_VISITS = {
    0.001: (0.196, 0.157, 0.086),
    0.003: (0.387, 0.331, 0.205),
    0.01: (0.892, 0.814, 0.577),
    0.03: (2.39, 2.51, 2.02),
    0.1: (11.0, 16.3, 16.5),
    0.3: (47.3, 135.0, 268.0),
    1.0: (63.0, 255.0, 1023.0),
}
_TEXT_LARGER = (1.15, 1.2, 1.35)
_TEXT_WIDTHS = {0.01: 32, 0.1: 64}
_WIDEST_REACH = 0.2  # from which on short vectors of texts settle too little


@dataclass(frozen=True)
class Spread:
    """How many clusters besides its own a row visits, for some numbers of clusters; between these it is interpolated.

    Attributes:
        clusters: (p,) numbers of clusters, ascending.
        visits: (p,) of a row, in each of them.
        larger: (p,) how many times the mean the rows of a visited cluster are.
        width: coordinates of the short vectors by which rows are compared, 0 where whole ones are.
    """

    clusters: tuple[int, ...]
    visits: tuple[float, ...]
    larger: tuple[float, ...]
    width: int

    def visits_in(self, n_clusters: int) -> float:
        """Returns the visits of a row in this many clusters; beyond those that are known they go on as before."""
        at, known = np.log(self.clusters), np.log(np.maximum(self.visits, _LEAST_VISITS))
        where = math.log(n_clusters)
        value = float(np.interp(where, at, known))
        if len(at) > 1 and not at[0] <= where <= at[-1]:
            low, high = (0, 1) if where < at[0] else (-2, -1)
            end = 0 if where < at[0] else -1
            value = float(known[end] + (where - at[end]) * (known[high] - known[low]) / (at[high] - at[low]))
        return min(math.exp(value), n_clusters - 1.0)

    def met_in(self, n_clusters: int) -> float:
        """Returns the share of all rows that a row meets by its visits."""
        larger = float(np.interp(math.log(n_clusters), np.log(self.clusters), self.larger))
        return min(1.0, self.visits_in(n_clusters) * larger / n_clusters)


def multiplications_of(width: int) -> float:
    """Returns the multiplications that a pair costs whose short vectors have this width; 0 where there are none."""
    return _UNSETTLED * width + _PASS if width else 0.0


def of_nearest(spread: Spread, n_probes: int) -> Spread:
    """Returns the spread of rows that visit their n_probes - 1 next nearest clusters, not those within a reach."""
    visits = tuple(min(n_probes, number) - 1.0 for number in spread.clusters)
    return Spread(spread.clusters, visits, spread.larger, spread.width)


def of_texts(reach: float, dimension: int) -> Spread:
    """Returns the spread that 63,541 real texts of 384 dimensions have, for rows of which nothing is known.

    Args:
        reach: how far apart rows may be that meet, as `eps` is.
        dimension: of the rows; short vectors are shorter.
    """
    known = np.log(np.array(list(_TEXT_VISITS.values())).T)
    at = np.log(np.array(list(_TEXT_VISITS)))
    visits = np.exp([np.interp(math.log(max(reach, 1e-9)), at, column) for column in known])
    asked = np.interp(math.log(max(reach, 1e-9)), np.log(list(_TEXT_WIDTHS)), list(_TEXT_WIDTHS.values()))
    width = next((w for w in WIDTHS if w >= asked), 0) if reach < _WIDEST_REACH else 0
    return Spread(_TEXT_CLUSTERS, tuple(visits.tolist()), _TEXT_LARGER, width if width < dimension else 0)


@dataclass(frozen=True)
class Comparison:
    """The seconds that comparing `rows` rows in `n_clusters` clusters takes one worker, by kind of work.

    Attributes:
        num_keys: groups of neighbouring clusters; what a row visits in one is one record.
        spread: what the rows visit; None: nothing, with n_probes=1.
        skew: the pairs in clusters as a multiple of those in clusters of one size.
        earlier: rows besides, that rank before all of them and for which nothing is found; the visits of `visited` of
            them are known.
        within: whether the rows are compared with each other too.
    """

    rows: int
    dimension: int
    n_clusters: int
    num_keys: int
    spread: Spread | None
    skew: float = ForecastParameters.skew
    earlier: int = 0
    visited: int = 0
    within: bool = True

    @property
    def all_rows(self) -> int:
        """The rows and the earlier ones."""
        return self.rows + self.earlier

    @property
    def native_pairs(self) -> float:
        """The pairs of rows that live in one cluster."""
        own = self.rows / 2 * max(0.0, self.rows / self.n_clusters * self.skew - 1) if self.within else 0.0
        return own + self.rows * self.earlier / self.n_clusters * self.skew

    @property
    def visits(self) -> float:
        """The visits of all rows."""
        return self.all_rows * self.spread.visits_in(self.n_clusters) if self.spread else 0.0

    @property
    def records(self) -> float:
        """The records that say so: one of each row in each key that it visits, into which visits fall at random."""
        of_row = self.visits / self.all_rows
        return self.all_rows * min(of_row, self.num_keys * (1 - (1 - 1 / self.num_keys) ** of_row))

    @property
    def visiting_pairs(self) -> float:
        """The pairs of a row and one that it meets by a visit, or that visits it."""
        met = self.rows**2 if self.within else 0
        return (met + 2 * self.rows * self.earlier) * self.spread.met_in(self.n_clusters) if self.spread else 0.0

    @property
    def multiplications(self) -> float:
        """The multiplications that all pairs cost."""
        of_pair = multiplications_of(self.spread.width) if self.spread else 0.0
        return (self.native_pairs + self.visiting_pairs) * (of_pair or self.dimension)

    def visiting(self, rates: Rates) -> dict[str, float]:
        """Returns the seconds of the stage that finds the visits."""
        rows = self.all_rows - self.visited
        return {
            "products": 2.0 * rows * self.dimension * self.n_clusters / rates.assign_flops,
            "memory": rows * self.dimension * rates.visit_value,
            "visits": self.records * rows / self.all_rows * rates.visit,
        }

    def matching(self, rates: Rates) -> dict[str, float]:
        """Returns the seconds of the stage that compares rows with those of their clusters and with visitors."""
        return {
            "products": 2.0 * self.multiplications / rates.match_flops,
            "memory": self.all_rows * self.dimension * rates.compare_value,
            "visits": self.records * rates.visitor,
        }

    def merging(self, rates: Rates) -> dict[str, float]:
        """Returns the seconds of the stage that finds each row's best match."""
        return {"memory": self.rows * rates.merge}

    def seconds(self, rates: Rates = REFERENCE) -> float:
        """Returns the seconds of all of it; with no spread, of comparing within clusters."""
        if self.spread is None:
            products = 2.0 * self.dimension * (2 * self.native_pairs + self.rows) / rates.compare_flops
            return products + self.rows * self.dimension * rates.compare_value
        parts = (self.visiting(rates), self.matching(rates), self.merging(rates))
        return sum(sum(part.values()) for part in parts)


def choose_clusters(
    parameters: SizeParameters, rows: int, dimension: int, n_probes: int | Literal["exact"], reach: float
) -> int:
    """Returns `n_clusters` where it is null.

    With one probe that is `default_clusters`. With more, half, twice, a quarter or four times as many where that saves
    a twentieth of the run, by the model of this module for rows like real texts on the reference machine. It depends on
    no machine, and on the rows by their number only, so that the same run has the same clusters everywhere, and runs
    with another reach mostly share a fit.
    """
    usual = default_clusters(rows)
    if n_probes == 1:
        return usual
    texts = of_texts(reach, dimension)
    spread = texts if n_probes == "exact" else of_nearest(texts, int(n_probes))
    numbers = [min(rows, max(1, round(usual * step))) for step in _STEPS]
    seconds = {number: run_seconds(parameters, rows, dimension, number, spread) for number in numbers}
    return next(number for number in numbers if seconds[number] <= _WORTH * min(seconds.values()))


def run_seconds(parameters: SizeParameters, rows: int, dimension: int, n_clusters: int, spread: Spread | None) -> float:
    """Returns about how long a whole run takes the reference machine, as one worker; see `Comparison`."""
    sizing = Sizing(parameters, rows, dimension, 0, n_clusters, _MEMORY)
    comparison = Comparison(rows, dimension, n_clusters, sizing.sizes(0).num_keys, spread)
    fit = (
        2.0
        * dimension
        * sizing.asked_sample
        * n_clusters
        * (ForecastParameters.fit_iterations + 1)
        / REFERENCE.fit_flops
    )
    values = rows * dimension * (REFERENCE.read_value + REFERENCE.assign_value)
    assign = 2.0 * dimension * rows * n_clusters / REFERENCE.assign_flops
    return REFERENCE.start + fit + values + assign + comparison.seconds()
