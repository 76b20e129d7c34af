"""What a worker must know of a run: its parameters, its plans, and where its results lie."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from beam_semdedup.compute.ranking import RankingStrategy
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.inputs.base import Format, joined_type
from beam_semdedup.inputs.registry import format_named
from beam_semdedup.inputs.vectors import VectorFiles
from beam_semdedup.plan.sizes import Blocks, Sizes
from beam_semdedup.storage import layout
from beam_semdedup.storage.columns import (
    GENERATION,
    MATCH_COLUMNS,
    MATCH_TYPES,
    SAMPLE_COLUMNS,
    VISIT_COLUMNS,
    VISIT_TYPES,
)
from beam_semdedup.storage.folder import File, Folder
from beam_semdedup.storage.segments import segment_schema

_VISITS_FORMAT = 3
"""The version of the files of visits."""
REFERENCES = -1
"""The number of the generation that the rows of `against` are: they rank before all others."""


@dataclass(frozen=True)
class Places:
    """Where the results of a run lie, by keys that hash everything they depend on.

    Attributes:
        parameters: with absolute paths, and `n_clusters` set.
        model_fingerprint: the key of the k-means results with the centroids that rows are assigned to; of a corpus the
            folder with its model and its generations.
        generation: the number of the rows that are assigned: `REFERENCES`, or the one that they have in a corpus; they
            rank after those of the `earlier` ones.
        without_clusters: whether each row is compared with all references, so that there is nothing to fit.
        embedding_key: of the model by which vectors are computed; empty where the input holds them.
    """

    parameters: Parameters
    kmeans_fingerprint: str
    pairwise_fingerprint: str
    output_fingerprint: str
    model_fingerprint: str
    generation: int = 0
    earlier: tuple[int, ...] = ()
    without_clusters: bool = False
    embedding_key: str = ""

    @property
    def vectors(self) -> VectorFiles | None:
        """The vectors that are computed; None where the input holds them."""
        return vector_files(self.parameters, self.embedding_key) if self.embedding_key else None

    @property
    def model(self) -> Folder:
        """What the fit leaves: the centroids, and the directions of short vectors."""
        corpus = self.corpus
        return corpus / layout.MODEL_FOLDER if corpus else self._cache / layout.KMEANS / self.model_fingerprint

    @property
    def corpus(self) -> Folder | None:
        """The model and the generations of the corpus, where there is one."""
        p = self.parameters
        if p.corpus_path is None:
            return None
        return Folder(p.corpus_path, p.corpus_options) / self.model_fingerprint

    @property
    def kmeans(self) -> Folder:
        """The results of the fit and the assign stage."""
        corpus = self.corpus
        if corpus and self.generation == REFERENCES:
            return corpus / layout.REFERENCES / self.kmeans_fingerprint
        if corpus:
            return corpus / layout.GENERATIONS / f"{self.generation:06d}"
        return self._cache / layout.KMEANS / self.kmeans_fingerprint

    @property
    def segments(self) -> Folder:
        """The assign stage's segment files."""
        return self.kmeans / layout.SEGMENTS

    @property
    def pairwise(self) -> Folder:
        """The results of the pairwise stage."""
        return self._cache / layout.PAIRWISE / self.pairwise_fingerprint

    @property
    def visits(self) -> Folder:
        """Which rows of the segment files visit which clusters, a file for each."""
        p = self.parameters
        order = ranking_of(p).columns
        facts = [_VISITS_FORMAT, p.n_probes, p.matching_reach, order, self.model_fingerprint, self.compares_itself]
        return self.kmeans / layout.VISITS / layout.fingerprint(facts)

    @property
    def has_generations(self) -> bool:
        """Whether rows are compared with such of earlier generations, if there are any."""
        return bool(self.parameters.against or self.parameters.corpus_path)

    @property
    def generations(self) -> tuple[int, ...]:
        """The earlier generations of the corpus."""
        return tuple(number for number in self.earlier if number != REFERENCES)

    @property
    def compares_itself(self) -> bool:
        """Whether rows of the generation are compared with each other, and not with earlier ones alone."""
        return self.parameters.within or not self.earlier

    @property
    def remedy(self) -> str:
        """What a message says of a file of the generation that is damaged."""
        if self.corpus and not self.earlier and self.generation != REFERENCES:
            return (
                f"the command that added generation {self.generation} to the corpus computes it again; or drop it: "
                f"semdedup-corpus drop corpus_path={self.parameters.corpus_path} generation={self.generation}"
            )
        return "the same command computes it again"

    @property
    def basis(self) -> File:
        """The directions of the short vectors of all rows that are assigned to the model."""
        p = self.parameters
        return (self.model / layout.VISITS / layout.fingerprint([p.n_probes, p.matching_reach])).file(layout.BASIS)

    @property
    def matches(self) -> Folder:
        """The matches that are found in each cluster, of its own rows and of those that visit it."""
        return self.pairwise / layout.MATCHES

    @property
    def index(self) -> Folder:
        """Where all that concerns a key lies, by key."""
        return self.pairwise / layout.INDEX

    @property
    def sample(self) -> Folder:
        """The rows that are drawn at random, with what was found for them."""
        facts = [self.parameters.recall_sample, self.parameters.random_state]
        return self.pairwise / layout.RECALL / layout.fingerprint(facts)

    @property
    def resembled(self) -> Folder:
        """How similar the references are to rows of the input, a file for each unit that compared them."""
        return self.pairwise / layout.RESEMBLED

    @property
    def output(self) -> Folder:
        """The `output_path`."""
        return Folder(self.parameters.output_path, self.parameters.write_options)

    @property
    def duplicates(self) -> Folder:
        """The files of duplicates."""
        return self.output / layout.DUPLICATES

    @property
    def _cache(self) -> Folder:
        return Folder(self.parameters.cache_root, self.parameters.cache_options)


@dataclass(frozen=True, kw_only=True)
class Job(Places):
    """What a worker must know of the run; small, and pickled into the transforms.

    Attributes:
        input_schema: the id, the embedding and the carried columns.
        sizes, blocks: how the stages are cut.
        rows_per_file: the compared rows whose duplicates go into one file.
        recall_reach: how far apart, as `eps` is, two rows may be that are found for the recall.
        references: the job that assigns the rows of `against`.
    """

    input_schema: pa.Schema
    sizes: Sizes
    blocks: Blocks
    rows_per_file: int
    recall_reach: float = 2.0
    references: Job | None = None

    @property
    def recall(self) -> Folder:
        """What there is to be found for the sampled rows, within the reach."""
        return self.sample / str(self.recall_reach)

    @property
    def recall_manifest(self) -> File:
        """The manifest of the stage that finds it."""
        return self.sample.file(layout.recall_manifest(self.recall_reach))

    def at(self, generation: int) -> Job:
        """Returns the job that assigned, or assigns, the rows of this generation or of an earlier one."""
        if generation == self.generation:
            return self
        if generation not in self.earlier:
            raise RuntimeError(f"the run has no generation {generation}")
        if generation == REFERENCES and self.references:
            return self.references
        return replace(self, generation=generation, earlier=())

    @property
    def keys_per_file(self) -> int:
        """How many keys' duplicates go into one file."""
        return max(1, round(self.rows_per_file * self.sizes.num_keys / self.sizes.num_rows))

    @property
    def ranking(self) -> RankingStrategy:
        """The order within clusters."""
        return ranking_of(self.parameters)

    @property
    def carried(self) -> list[pa.Field]:
        """The input's columns that segments hold besides id and embedding."""
        p = self.parameters
        fields = [f for f in self.input_schema if f.name not in (p.id_column, p.embedding_field)]
        return [field.remove_metadata() for field in fields]

    @property
    def id_type(self) -> pa.DataType:
        """The type of the ids."""
        return self.input_schema.field(self.parameters.id_column).type

    @property
    def segment_schema(self) -> pa.Schema:
        """The columns of this run's segment files."""
        return segment_schema(self.id_type, self.sizes.dimension, self.carried)

    @property
    def has_visits(self) -> bool:
        """Whether rows are compared in other clusters than their own, and have one order of the whole dataset."""
        return self.parameters.n_probes != 1 and not self.without_clusters

    @property
    def has_sample(self) -> bool:
        """Whether rows are drawn by which the recall can be estimated, where it is not 1 as it is."""
        p = self.parameters
        return p.recall_sample > 0 and p.n_probes != "exact" and not self.without_clusters

    @property
    def has_recall(self) -> bool:
        """Whether the recall is estimated."""
        return self.has_sample and self.parameters.eps is not None

    @property
    def order_schema(self) -> pa.Schema:
        """The columns of this generation's rows that their order depends on."""
        return pa.schema([self.segment_schema.field(name) for name in self.ranking.columns])

    @property
    def compared_schema(self) -> pa.Schema:
        """The columns of segments without the embedding, as rows of several generations have them together."""
        fields = [f for f in self.segment_schema if f.name not in ("id", "embedding")]
        return pa.schema(
            [("id", self.max_id_type), *fields, *([(GENERATION, pa.int32())] if self.has_generations else [])]
        )

    @property
    def max_id_type(self) -> pa.DataType:
        """The type of the ids of all generations."""
        if self.references is None:
            return self.id_type
        common = joined_type(self.id_type, self.references.id_type)
        if common is None:
            raise RuntimeError(f"ids of {self.id_type} and {self.references.id_type}")
        return common

    @property
    def compared_columns(self) -> list[str]:
        """The names of the columns that the order of rows of several generations depends on."""
        return [*self.ranking.columns, *([GENERATION] if self.has_generations else [])]

    @property
    def by_generation(self) -> list[tuple[str, str]]:
        """What an order of rows of several generations begins with."""
        return [(GENERATION, "ascending")] if self.has_generations else []

    @property
    def match_schema(self) -> pa.Schema:
        """The columns of matches: of the row, its score, and of the earlier row what its order depends on."""
        earlier = [self.compared_schema.field(name) for name in self.compared_columns]
        return pa.schema([*zip(MATCH_COLUMNS, MATCH_TYPES, strict=True), *earlier])

    @property
    def sample_schema(self) -> pa.Schema:
        """The columns of sampled rows."""
        types = (self.segment_schema.field("embedding").type, pa.int32(), pa.float32())
        return pa.schema([*zip(SAMPLE_COLUMNS, types, strict=True), *self.order_schema])

    def visit_schema(self, width: int) -> pa.Schema:
        """Returns the columns of visits, whose embedding is a short vector of this many values."""
        vector = pa.list_(pa.float32(), width)
        return pa.schema([*zip(VISIT_COLUMNS, (vector, *VISIT_TYPES), strict=True), *self.order_schema])

    @property
    def input_format(self) -> Format:
        """The format of the input files."""
        assert self.parameters.input_filetype is not None
        return format_named(self.parameters.input_filetype)

    def input_file(self, url: str) -> File:
        """Returns one of the input files."""
        return File(url, self.parameters.read_options)


def vector_files(p: Parameters, key: str) -> VectorFiles:
    """Returns the vectors that a model, by its key, computes of the texts of an input."""
    cache = Folder(p.cache_root, p.cache_options)
    return VectorFiles(cache / layout.VECTORS / key, pa.field(p.text_field, pa.string()))


def ranking_of(p: Parameters) -> RankingStrategy:
    """Returns the order that the parameters ask for, by the columns of segments, where the id column is called `id`."""
    if p.ranking_strategy is not None:
        strategy = RankingStrategy.from_value(p.ranking_strategy, p.random_state)
        strategy.metadata_cols = ["id" if name == p.id_column else name for name in strategy.metadata_cols]
        return strategy
    return RankingStrategy.by_distance(p.which_to_keep, p.distance_metric, p.random_state)


def init_file(p: Parameters) -> File | None:
    """Returns the file of given initial centroids, by the options of the cache if it lies there, else of the input."""
    if not p.centroids_given:
        return None
    file, cache = File.at(p.init, p.read_options), Folder.at(p.cache_root, p.cache_options)
    return File(file.url, cache.options) if file.is_inside(cache) else file
