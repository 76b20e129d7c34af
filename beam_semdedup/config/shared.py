"""The parameters that several commands share, in groups.

The parameters of a command inherit them, so that what needs a group takes it whole. The heading of a group, or beside a
type that of one parameter, is a part of `--help`.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, InstanceOf
from pydantic.dataclasses import dataclass

from beam_semdedup.config.types import (
    MARK_FIELDS,
    EmbeddingField,
    MarkFields,
    MetadataFields,
    PairwiseBatchSize,
    Paths,
    ReadKwargs,
    Size,
    Verbose,
    WriteArrays,
    WriteKwargs,
)
from beam_semdedup.fields import (
    CHECKED,
    COLUMNS,
    EMBEDDING,
    EXECUTION,
    MACHINES,
    REFERENCES,
    REPORT,
    SIMILARITY,
    WHERE,
    NotNegative,
    Number,
    OneOf,
    Positive,
    PositiveOrExact,
)
from beam_semdedup.inputs.registry import FORMATS
from beam_semdedup.runners.base import RunnerConfig
from beam_semdedup.runners.direct import DirectConfig


@dataclass(kw_only=True, config=CHECKED)
class InputParameters:
    """The rows that are read, and the memory that there is for them."""

    heading: ClassVar[str] = WHERE

    input_path: Paths
    """file, directory (searched recursively; names that begin with _ or . are skipped), glob, fsspec URL, or a list of
    them"""
    input_filetype: Annotated[str | None, OneOf(FORMATS)] = None
    """null: as the names of the files say, or how they begin; all have one"""
    input_file_extensions: list[str] | None = None
    """how the names of files end that are read, in any case; null: as input_filetype says, or part-00000 without any"""
    read_kwargs: ReadKwargs = field(default_factory=ReadKwargs)
    """{storage_options: {…}} for fsspec when reading the input"""
    id_field: Annotated[str | None, COLUMNS] = "id"
    """column with a unique id: integer, string or binary (a UUID too); null: the rows have none, and are called by the
    places where they are: file:row"""
    ids_path: Annotated[str | None, COLUMNS] = None
    """the file with the ids of an input file that has none in it (its column id_field), row by row; of several files a
    directory, which has them under the same names"""
    memory_budget: Annotated[Size | None, EXECUTION] = None
    """memory per worker, such as 4GiB; null: half of what is free, divided by the workers"""

    @property
    def read_options(self) -> dict[str, Any]:
        """Storage options of `input_path`."""
        return self.read_kwargs.get("storage_options", {})

    @property
    def id_column(self) -> str:
        """What the ids are called among the columns that are read."""
        return self.id_field or "id"


@dataclass(kw_only=True, config=CHECKED)
class ColumnParameters:
    """The columns of the input, besides the id."""

    heading: ClassVar[str] = COLUMNS

    embedding_field: EmbeddingField = "embeddings"
    embedding_dim: Positive | None = None
    """length of the vectors; null: found out; checked when given"""
    metadata_fields: MetadataFields = field(default_factory=list)
    assume_normalized: bool = False
    """true: the vectors have length 1 already and are not divided by it"""
    max_rejected_share: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """a run ends with 2 where more than this share of the rows, or of one file's rows, cannot be used; 1 allows all"""


@dataclass(kw_only=True, config=CHECKED)
class ClusterParameters:
    """Where whatever runs a pipeline runs it."""

    heading: ClassVar[str] = EXECUTION

    ray_address: str | None = None
    """the Ray cluster of runner=ray and kmeans=ray: auto, or host:port; null: one on this machine"""
    ray_timeout: Annotated[Number, Field(gt=0)] = 60.0
    """seconds to wait until the Ray cluster has room for the actors"""
    verbose: Verbose = True
    runner: InstanceOf[RunnerConfig] = field(default_factory=DirectConfig)

    def __getstate__(self) -> dict[str, Any]:
        # The settings of the runner may hold credentials, and no worker needs them.
        return {**vars(self), "runner": DirectConfig()}


@dataclass(kw_only=True, config=CHECKED)
class WriterParameters(ClusterParameters):
    """Where a pipeline runs that writes to an `output_path`, which is then its own: of a sweep's jobs each has one."""

    heading: ClassVar[str] = EXECUTION


@dataclass(kw_only=True, config=CHECKED)
class PlaceParameters:
    """Where the results of a run are, and what later runs reuse."""

    heading: ClassVar[str] = WHERE

    output_path: str
    """directory or fsspec URL for the results"""
    cache_path: str | None = None
    """directory or URL for what later runs reuse; null: output_path"""
    write_kwargs: WriteKwargs = field(default_factory=WriteKwargs)
    """{storage_options: {…}, compression: zstd} for what is written to output_path; files in deduplicated/ keep the
    compression of the input's"""
    cache_kwargs: WriteKwargs | None = None
    """the same for cache_path; null: write_kwargs"""

    @property
    def write_options(self) -> dict[str, Any]:
        """Storage options of `output_path`."""
        return self.write_kwargs.get("storage_options", {})

    @property
    def write_compression(self) -> str:
        """What files in `output_path` are compressed with."""
        return self.write_kwargs.get("compression", "zstd")

    @property
    def cache_options(self) -> dict[str, Any]:
        """Storage options of the cache."""
        return self._cache_kwargs.get("storage_options", {})

    @property
    def cache_compression(self) -> str:
        """What parquet files in the cache are compressed with."""
        return self._cache_kwargs.get("compression", "zstd")

    @property
    def _cache_kwargs(self) -> WriteKwargs:
        return self.write_kwargs if self.cache_kwargs is None else self.cache_kwargs

    @property
    def cache_root(self) -> str:
        """`cache_path`, or what stands in for it."""
        return self.cache_path or self.output_path


@dataclass(kw_only=True, config=CHECKED)
class OutputParameters(PlaceParameters):
    """Where a run writes, and what it may reuse of what is there."""

    heading: ClassVar[str] = WHERE

    clear_output: bool = True
    """remove an earlier run's results from output_path first (never foreign files)"""
    reuse_cache: Annotated[bool, EXECUTION] = True
    """false: compute everything again"""


@dataclass(kw_only=True, config=CHECKED)
class ModelParameters:
    """The model that embeds texts, and what it is given."""

    heading: ClassVar[str] = EMBEDDING

    model: str
    """directory with model.onnx (or onnx/model.onnx) and tokenizer.json, at the same place for every worker; or the
    name of such a model on the Hugging Face hub"""
    model_revision: str | None = None
    """commit, tag or branch of a model on the hub; only a commit stays what it is; null: main"""
    text_field: Annotated[str, COLUMNS] = "text"
    """column with the texts"""
    pooling: Literal["mean", "cls"] | None = None
    """how a text's vector is made of its tokens'; null: as the model's 1_Pooling/config.json says, else their mean"""
    max_tokens: Positive | None = None
    """tokens of a text, what follows is cut; null: as the model's sentence_bert_config.json says, else 512"""
    batch_tokens: Positive = 8192
    """tokens that are computed together, of texts of about one length"""


@dataclass(kw_only=True, config=CHECKED)
class OptionalModelParameters(ModelParameters):
    """The model of a run that may get texts in place of embeddings."""

    heading: ClassVar[str] = EMBEDDING

    model: Annotated[str | None, EMBEDDING] = None  # type: ignore[assignment]  # there may be none
    """embed the texts in text_field first: directory with model.onnx (or onnx/model.onnx) and tokenizer.json, at the
    same place for every worker, or the name of such a model on the Hugging Face hub; null: the input has embeddings"""
    text_field: Annotated[str | None, COLUMNS] = None  # type: ignore[assignment]
    """column with texts, which model embeds; null: the input has embeddings"""


@dataclass(kw_only=True, config=CHECKED)
class SourceParameters:
    """What is told of the rows that are removed."""

    heading: ClassVar[str] = REPORT

    group_field: str | None = None
    """one of metadata_fields that says the source of a row; null: the file that it is from"""
    image_field: str | None = None
    """one of metadata_fields that holds paths or URLs of images, which the report shows"""


@dataclass(kw_only=True, config=CHECKED)
class ReachParameters:
    """How similar duplicates are, and in which clusters they are looked for."""

    heading: ClassVar[str] = SIMILARITY

    eps: Annotated[Number, Field(ge=0, lt=2)] | None = None
    """a row is a duplicate if its cosine similarity to a row ranked before it is at least 1 - eps; null: stop after the
    similarities"""
    target_rows: Positive | None = None
    """in place of eps: the smallest one that leaves at most so many rows, which is found in the scores, and said"""
    n_probes: PositiveOrExact = 1
    """clusters that a row is compared in: its own (1), the n nearest, or exact: all that can hold a row within eps of
    it, so that no duplicate is missed"""
    reach: Annotated[Number, Field(ge=0, lt=2)] | None = None
    """the largest eps that the similarities found with n_probes, and the recall, serve; null: eps, in a sweep the
    largest"""

    @property
    def matching_reach(self) -> float:
        """How far apart, as `eps` is, two rows may be that n_probes finds; 2 where nothing is too far."""
        return max((value for value in (self.eps, self.reach) if value is not None), default=2.0)


@dataclass(kw_only=True, config=CHECKED)
class SimilarityParameters(ReachParameters):
    """Which rows are similar, which of them is kept, and what becomes of the others."""

    heading: ClassVar[str] = SIMILARITY

    recall_sample: NotNegative = 1000
    """about how many rows, drawn at random, are compared with the whole dataset, to say what share of the duplicates
    there are was found; 0: it is not said"""
    which_to_keep: Literal["hard", "easy", "random"] = "hard"
    """of similar rows keep the one farthest from its centroid (hard), nearest to it (easy), or any (random)"""
    distance_metric: Literal["cosine", "l2"] = "cosine"
    """the distance to the centroid that ranks; with vectors of length 1 both order alike"""
    ranking_strategy: Any = None
    """{metadata_cols: [col, …], ascending: true}: keep what sorts first by these columns; overrides which_to_keep"""
    pairwise_batch_size: PairwiseBatchSize = 1024
    precision: Literal["exact", "screened"] = "exact"
    """exact: float32 products; screened: cheap ones, of short vectors on a CPU and in float16 on a GPU, and better ones
    where these do not settle which rows are duplicates at eps (the same; the max_id of others may be less similar)"""
    remove: bool | Literal["mark"] = False
    """also write the input without its duplicates to output_path/deduplicated; mark: all of it, with columns that say
    which rows are duplicates, to output_path/marked"""
    mark_fields: MarkFields = field(default_factory=lambda: list(MARK_FIELDS))
    repeated_ids: Literal["error", "allow"] = "error"
    """what a removal does when ids repeat; allow: all rows of a duplicate's id go, the kept one included"""
    write_arrays: WriteArrays = False
    duplicates_num_row_groups_hint: Positive | None = None
    """row groups per file in duplicates/; null: one per 65536 rows"""

    @property
    def screening_threshold(self) -> float | None:
        """1 - eps with precision=screened, else None."""
        return None if self.precision == "exact" or self.eps is None or self.n_probes != 1 else 1 - self.eps


@dataclass(kw_only=True, config=CHECKED)
class EarlierParameters:
    """Rows that those of the input are compared with, and that are kept whatever they resemble."""

    heading: ClassVar[str] = REFERENCES

    against: Paths | None = None
    """files as of input_path: rows of the input that are within eps of one of theirs are duplicates of it"""
    against_filetype: Annotated[str | None, OneOf(FORMATS)] = None
    """the format of the files of against; null: found out"""
    against_kwargs: ReadKwargs | None = None
    """the same as read_kwargs for against; null: read_kwargs"""
    against_id_field: str | None = None
    """null: id_field; ids there may be the same as in the input: they are other rows"""
    against_embedding_field: str | None = None
    """null: embedding_field"""
    against_text_field: str | None = None
    """null: text_field"""
    within: bool = True
    """false: rows of the input are compared with those of against or of the corpus alone, not with each other"""
    corpus_path: str | None = None
    """directory or URL of a corpus, which a first run begins: the input is compared with all inputs that earlier runs
    added to it, which rank before, and is added too"""
    corpus_kwargs: ReadKwargs | None = None
    """the same as write_kwargs for corpus_path; null: write_kwargs"""


@dataclass(kw_only=True, config=CHECKED)
class ReferenceParameters(EarlierParameters):
    """The same, and what a run does where another adds rows to the corpus too."""

    corpus_timeout: Annotated[Number, Field(gt=0)] = 600.0
    """seconds to wait for another run that adds rows to the corpus, from when its assignment was last seen to go on"""

    @property
    def corpus_options(self) -> dict[str, Any]:
        """Storage options of `corpus_path`."""
        given = self.write_kwargs if self.corpus_kwargs is None else self.corpus_kwargs  # type: ignore[attr-defined]
        options: dict[str, Any] = given.get("storage_options", {})
        return options


@dataclass(kw_only=True, config=CHECKED)
class SizeParameters:
    """How the work of a run is cut."""

    heading: ClassVar[str] = EXECUTION

    max_cluster_rows: Positive | None = None
    """split clusters above this into blocks; null: from the memory"""
    comparison_rows: Positive | None = None
    """rows of neighbouring clusters that are compared as one unit of work; null: 16384, more for very many rows"""
    assign_unit_bytes: Size | None = None
    """float32 bytes of the rows that are assigned as one unit of work; null: 64MiB, more for more clusters"""


@dataclass(kw_only=True, config=CHECKED)
class MachineParameters:
    """The machines to plan for, but for their memory."""

    heading: ClassVar[str] = MACHINES

    workers: Positive = 1
    """worker processes"""
    cores: Positive | None = None
    """cores of each; null: those of this machine, shared by the workers"""
    gpus: NotNegative = 0
    """GPUs of all workers together; they compute the products"""
    fit_workers: Positive = 1
    """1: the fit is in one process (kmeans=local); n: actors of kmeans=ray"""
    storage_bandwidth: Size | None = None
    """bytes per second between each worker and an object store, such as 1GB; null: a disk as calibrated"""
