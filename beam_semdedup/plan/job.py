"""What a worker must know of a run: its parameters, its sizes, and where its results lie."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from beam_semdedup.compute.ranking import RankingStrategy
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.storage import files as storage
from beam_semdedup.storage import layout
from beam_semdedup.storage.segments import segment_schema


@dataclass(frozen=True)
class Places:
    """Where a run's results lie, by keys that hash everything they depend on.

    `parameters` have absolute paths, and `n_clusters` set.
    """

    parameters: Parameters
    kmeans_key: str
    pairwise_key: str
    output_key: str

    @property
    def kmeans_dir(self) -> str:
        """Of the fit and the assign stage."""
        return storage.join(self.parameters.cache_root, layout.KMEANS, self.kmeans_key)

    @property
    def segments_dir(self) -> str:
        """Of the assign stage's segment files."""
        return storage.join(self.kmeans_dir, layout.SEGMENTS)

    @property
    def pairwise_dir(self) -> str:
        """Of the pairwise stage."""
        return storage.join(self.parameters.cache_root, layout.PAIRWISE, self.pairwise_key)

    @property
    def duplicates_dir(self) -> str:
        """Of the duplicates."""
        return storage.join(self.parameters.output_path, layout.DUPLICATES)

    @property
    def read_options(self) -> storage.Options:
        """Storage options of the input."""
        return self.parameters.read_options

    @property
    def cache_options(self) -> storage.Options:
        """Storage options of the cache."""
        return self.parameters.cache_options

    @property
    def write_options(self) -> storage.Options:
        """Storage options of the output."""
        return self.parameters.write_options


@dataclass(frozen=True)
class Job(Places):
    """What a worker must know of the run; small, and pickled into the transforms."""

    input_schema: pa.Schema
    dimension: int
    num_rows: int
    width: int
    sample_rows: int
    max_cluster_rows: int
    max_key_rows: int
    rows_per_file: int

    @property
    def n_clusters(self) -> int:
        """The number of centroids, resolved."""
        assert self.parameters.n_clusters is not None
        return self.parameters.n_clusters

    @property
    def num_keys(self) -> int:
        """Groups of neighbouring centroids that are compared as one unit."""
        return -(-self.n_clusters // self.width)

    @property
    def keys_per_file(self) -> int:
        """How many keys' duplicates go into one file."""
        return max(1, round(self.rows_per_file * self.num_keys / self.num_rows))

    @property
    def ranking(self) -> RankingStrategy:
        """The order within clusters."""
        return ranking_of(self.parameters)

    @property
    def carried(self) -> list[pa.Field]:
        """The input's columns that segments hold besides id and embedding."""
        p = self.parameters
        return [f for f in self.input_schema if f.name not in (p.id_field, p.embedding_field)]

    @property
    def segment_schema(self) -> pa.Schema:
        """The columns of this run's segment files."""
        return segment_schema(self.input_schema.field(self.parameters.id_field).type, self.dimension, self.carried)


def ranking_of(p: Parameters) -> RankingStrategy:
    """The order that the parameters ask for, by the columns of segments, where the id column is called `id`."""
    if p.ranking_strategy is not None:
        strategy = RankingStrategy.from_value(p.ranking_strategy, p.random_state)
        strategy.metadata_cols = ["id" if name == p.id_field else name for name in strategy.metadata_cols]
        return strategy
    return RankingStrategy.by_distance(p.which_to_keep, p.distance_metric, p.random_state)
