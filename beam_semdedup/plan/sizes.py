"""How a run is cut: every number of rows that the parameters and a worker's memory decide."""

from __future__ import annotations

import math
from dataclasses import dataclass

from beam_semdedup.config.parameters import Parameters

SEGMENT_BYTES = 256 << 10
"""What the vectors of a segment should have at least: each is a ranged read, and a reference in the driver."""
_MIN_SAMPLE, _SAMPLE_PER_CLUSTER = 100_000, 256
_UNIT_ROWS, _ASSIGN_UNIT_BYTES = 16_384, 64 << 20
_MIN_CLUSTER_ROWS, _MAX_CLUSTER_ROWS = 1024, 65_536
_ROWS_PER_DUPLICATES_FILE, _ID_BYTES = 4_000_000, 100


def default_clusters(rows: int) -> int:
    """`n_clusters` where it is null."""
    return max(1, round(rows**0.5))


@dataclass(frozen=True)
class Sizes:
    """The sizes of a run with these parameters, `n_clusters` set.

    Attributes:
        rows: of the input.
        dimension: values of each.
        carried_bytes: of a row in the columns besides id and embedding.
        memory: bytes per worker.
    """

    parameters: Parameters
    rows: int
    dimension: int
    carried_bytes: int
    memory: int

    @property
    def n_clusters(self) -> int:
        """The number of centroids."""
        assert self.parameters.n_clusters is not None
        return self.parameters.n_clusters

    @property
    def vector_bytes(self) -> int:
        """Bytes of a row's float32 vector."""
        return 4 * self.dimension

    @property
    def asked_sample(self) -> int:
        """The rows that the parameters ask to fit on."""
        p = self.parameters
        if p.fit_data_fraction is not None:
            return max(1, round(p.fit_data_fraction * self.rows))
        return min(self.rows, max(_MIN_SAMPLE, _SAMPLE_PER_CLUSTER * self.n_clusters))

    @property
    def affordable_sample(self) -> int:
        """The rows to fit on that a worker's memory holds, some of them twice: as candidates for centroids."""
        return self.memory // 4 // self.vector_bytes

    @property
    def width(self) -> int:
        """Neighbouring centroids per key.

        There is a segment for each key in each assign unit: they are largest where a key has as many rows as a unit.
        """
        balanced = math.isqrt(self.rows * SEGMENT_BYTES // self.vector_bytes)
        key_rows = min(self.parameters.comparison_rows or max(_UNIT_ROWS, balanced), self._affordable_unit)
        return max(1, round(key_rows * self.n_clusters / self.rows))

    @property
    def keys(self) -> int:
        """The number of keys."""
        return -(-self.n_clusters // self.width)

    @property
    def unit_rows(self) -> int:
        """Rows per assign unit."""
        unit_bytes = self.parameters.assign_unit_bytes or max(_ASSIGN_UNIT_BYTES, SEGMENT_BYTES * self.keys)
        return max(1, min(unit_bytes // self.vector_bytes, self._affordable_unit))

    @property
    def cluster_rows(self) -> int:
        """The ranked rows that are compared as one unit where a key is split."""
        return self.parameters.max_cluster_rows or max(_MIN_CLUSTER_ROWS, min(_MAX_CLUSTER_ROWS, self._compared_rows))

    def key_rows(self, width: int) -> int:
        """The rows of a key above which it is split: twice the usual number, as then it has a large cluster.

        Args:
            width: centroids per key; the rows of a key of many are each compared with few of the others.
        """
        if self.parameters.max_cluster_rows or width == 1:
            return self.cluster_rows
        return max(self.cluster_rows, min(2 * width * self.rows // self.n_clusters, self._compared_rows))

    @property
    def rows_per_file(self) -> int:
        """The compared rows whose duplicates go into one file."""
        return min(_ROWS_PER_DUPLICATES_FILE, self.memory // 4 // (_ID_BYTES + self.carried_bytes))

    @property
    def _affordable_unit(self) -> int:
        return max(1, self.memory // 8 // (self.vector_bytes + self.carried_bytes))

    @property
    def _compared_rows(self) -> int:
        return self.memory // 4 // (self.vector_bytes + self.carried_bytes)
