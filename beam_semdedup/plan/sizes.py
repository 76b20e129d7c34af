"""How a run is cut: every number of rows that the parameters and a worker's memory decide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

SEGMENT_BYTES = 256 << 10
"""What the vectors of a segment should have at least: each is a ranged read, and a reference in the driver."""
_MIN_SAMPLE, _SAMPLE_PER_CLUSTER = 100_000, 256
_COMPARISON_ROWS, _ASSIGN_UNIT_BYTES = 16_384, 64 << 20
_MIN_CLUSTER_ROWS, _MAX_CLUSTER_ROWS = 1024, 65_536
_ROWS_PER_DUPLICATES_FILE, _ID_BYTES = 4_000_000, 100
_INDEX_SEGMENTS = 1 << 20  # of a unit that indexes them, which take about 200 bytes of memory each


def default_clusters(rows: int) -> int:
    """Returns `n_clusters` where it is null."""
    return max(1, round(rows**0.5))


def index_units(num_segments: int, num_keys: int) -> int:
    """Returns into how many units the indexing of segments by key is cut; each reads the indexes of all their files."""
    return min(num_keys, max(1, -(-num_segments // _INDEX_SEGMENTS)))


@dataclass(frozen=True)
class Sizes:
    """How the fit and the assign stage are cut; stored in their plan, and held by the job and by a forecast.

    Attributes:
        num_rows: of the input, the ones that will be rejected included.
        dimension: values of each vector.
        carried_bytes: of a row in the columns besides id and embedding.
        n_clusters: the number of centroids.
        sample_rows: that are fitted on; 0 where the centroids are given.
        centroids_per_key: neighbouring centroids whose rows are compared as one unit.
        assign_rows: rows of an assign unit, at most.
    """

    num_rows: int
    dimension: int
    carried_bytes: int
    n_clusters: int
    sample_rows: int
    centroids_per_key: int
    assign_rows: int

    @property
    def num_keys(self) -> int:
        """The number of groups of neighbouring centroids."""
        return -(-self.n_clusters // self.centroids_per_key)


@dataclass(frozen=True)
class Blocks:
    """How the pairwise stage is cut.

    Attributes:
        max_cluster_rows: ranked rows of a block, where a key is split.
        max_key_rows: rows of a key above which it is split.
        max_visitors: rows of other clusters that are compared with those of a key in one unit.
        max_rows: rows of a key, those of earlier generations included, whose vectors a worker's memory holds.
    """

    max_cluster_rows: int
    max_key_rows: int
    max_visitors: int = 1 << 20
    max_rows: int = 0

    def bounds(self, own: int, rows: int) -> list[tuple[int, int]]:
        """Returns the bounds of the blocks that the rows of a key are cut into, `own` of which are of the input.

        Those of earlier generations are little work, as nothing is found for them, but each block reads all of them.
        """
        most = max(self.max_key_rows, self.max_rows)
        block = min(rows, most if own <= self.max_key_rows else -(-self.max_cluster_rows * rows // own), most)
        stops = [*range(block, rows, max(1, block)), rows]
        return list(zip([0, *stops], stops, strict=False)) if rows else []


class SizeParameters(Protocol):
    """The parameters that sizes depend on."""

    fit_data_fraction: float | None
    comparison_rows: int | None
    assign_unit_bytes: int | None
    max_cluster_rows: int | None


@dataclass(frozen=True)
class Sizing:
    """Chooses the sizes of a run, for these parameters and `memory` bytes per worker; the rest as in `Sizes`."""

    parameters: SizeParameters
    num_rows: int
    dimension: int
    carried_bytes: int
    n_clusters: int
    memory: int

    def sizes(self, sample_rows: int) -> Sizes:
        """Returns the sizes of the fit on so many rows and of the assign stage.

        There is a segment for each key in each assign unit: they are largest where a key has as many rows as a unit.
        """
        balanced = math.isqrt(self.num_rows * SEGMENT_BYTES // self._vector_bytes)
        asked = self.parameters.comparison_rows or max(_COMPARISON_ROWS, balanced)
        per_key = max(1, round(min(asked, self._affordable_unit) * self.n_clusters / self.num_rows))
        num_keys = -(-self.n_clusters // per_key)
        unit_bytes = self.parameters.assign_unit_bytes or max(_ASSIGN_UNIT_BYTES, SEGMENT_BYTES * num_keys)
        assign_rows = max(1, min(unit_bytes // self._vector_bytes, self._affordable_unit))
        return Sizes(
            self.num_rows, self.dimension, self.carried_bytes, self.n_clusters, sample_rows, per_key, assign_rows
        )

    def blocks(self, centroids_per_key: int) -> Blocks:
        """Returns the sizes of the pairwise stage.

        A key is split above twice the usual number of rows, as then it has a large cluster; the rows of a key of many
        centroids are each compared with few of the others.
        """
        asked = self.parameters.max_cluster_rows
        rows = asked or max(_MIN_CLUSTER_ROWS, min(_MAX_CLUSTER_ROWS, self._compared_rows))
        if asked or centroids_per_key == 1:
            return Blocks(rows, rows, self._affordable_unit, self._compared_rows)
        usual = centroids_per_key * self.num_rows // self.n_clusters
        key_rows = max(rows, min(2 * usual, self._compared_rows))
        return Blocks(rows, key_rows, self._affordable_unit, self._compared_rows)

    @property
    def asked_sample(self) -> int:
        """The rows that the parameters ask to fit on."""
        fraction = self.parameters.fit_data_fraction
        if fraction is not None:
            return max(1, round(fraction * self.num_rows))
        return min(self.num_rows, max(_MIN_SAMPLE, _SAMPLE_PER_CLUSTER * self.n_clusters))

    @property
    def affordable_sample(self) -> int:
        """The rows to fit on that a worker's memory holds, some of them twice: as candidates for centroids."""
        return self.memory // 4 // self._vector_bytes

    @property
    def rows_per_file(self) -> int:
        """The compared rows whose duplicates go into one file."""
        return min(_ROWS_PER_DUPLICATES_FILE, self.memory // 4 // (_ID_BYTES + self.carried_bytes))

    @property
    def _vector_bytes(self) -> int:
        return 4 * self.dimension

    @property
    def _affordable_unit(self) -> int:
        return max(1, self.memory // 8 // (self._vector_bytes + self.carried_bytes))

    @property
    def _compared_rows(self) -> int:
        return self.memory // 4 // (self._vector_bytes + self.carried_bytes)
