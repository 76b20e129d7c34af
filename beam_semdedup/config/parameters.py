"""The parameters of the commands: each is declared, documented, bounded and defaulted once.

They are declared in groups, which the parameters of a command inherit, so that what needs a group takes it whole. The
heading of a group, or beside a type that of one parameter, is a part of `--help`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationInfo, with_config
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from beam_semdedup.errors import InputError
from beam_semdedup.fields import (
    CHECKED,
    COLUMNS,
    EMBEDDING,
    EXECUTION,
    KMEANS,
    LARGEST,
    MACHINES,
    REFERENCES,
    REPORT,
    SIMILARITY,
    SIZE,
    WHERE,
    NotNegative,
    Number,
    OneOf,
    Positive,
    PositiveOrExact,
)
from beam_semdedup.fit.base import FitDataFraction, FitParameters, KMeansConfig
from beam_semdedup.fit.local import LocalKMeansConfig
from beam_semdedup.inputs.registry import FORMATS
from beam_semdedup.runners.base import RunnerConfig
from beam_semdedup.runners.direct import DirectConfig
from beam_semdedup.runners.ports import LOOPBACK
from beam_semdedup.runners.ray.settings import RayConfig
from beam_semdedup.storage.options import StorageOptions
from beam_semdedup.text import shown


def number_of_bytes(value: Any) -> int:
    """Returns the number of bytes that `1500000`, `512MB` or `4GiB` stand for; ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(value), re.IGNORECASE)
    if not match:
        raise ValueError(f"{shown(value)} is not a size such as 4GiB")
    number, prefix, binary = match.groups()
    power = " kmgt".index(prefix.lower() or " ")
    size = float(number) * (1024 if binary else 1000) ** power
    return LARGEST + 1 if math.isinf(size) else int(size)


def _list_of_paths(value: Any, info: ValidationInfo) -> list[str]:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise InputError(f"{info.field_name} must be a path or a list of paths, found {shown(value)}")
    return paths


@with_config(ConfigDict(extra="forbid"))
class ReadKwargs(TypedDict, total=False):
    """How fsspec reaches what is read."""

    storage_options: Annotated[dict[str, Any], AfterValidator(StorageOptions)]


@with_config(ConfigDict(extra="forbid"))
class WriteKwargs(ReadKwargs, total=False):
    """How fsspec reaches what is written, and what parquet files there are compressed with."""

    compression: Literal["zstd", "snappy", "gzip", "brotli", "lz4", "none"]


Paths: TypeAlias = Annotated[list[str], BeforeValidator(_list_of_paths)]
Size: TypeAlias = Annotated[int, BeforeValidator(number_of_bytes), Field(ge=1, le=LARGEST)]

# What a plan has in common with a run, without the rest of a group.
EmbeddingField: TypeAlias = Annotated[
    str, Field(description="column with the vectors: a list of floats or integers"), COLUMNS
]
MetadataFields: TypeAlias = Annotated[list[str], Field(description="columns carried through to the results"), COLUMNS]
MarkFields: TypeAlias = Annotated[
    list[str],
    Field(
        min_length=3,
        max_length=3,
        description="names of the columns that marking adds: the row that a duplicate resembles, how much, and whether "
        "it is one",
    ),
    SIMILARITY,
]
MARK_FIELDS = ("duplicate_of", "similarity", "duplicate")
WriteArrays: TypeAlias = Annotated[
    bool, Field(description="npy: a removal writes the arrays too, not only the numbers of the rows that are kept")
]
PairwiseBatchSize: TypeAlias = Annotated[
    Positive, Field(description="rows per tile of similarities; on a GPU its cache and memory decide"), SIMILARITY
]
Verbose: TypeAlias = Annotated[bool, Field(description="false: only warnings, errors and the result"), EXECUTION]


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
class Parameters(
    ReferenceParameters,
    SimilarityParameters,
    FitParameters,
    SizeParameters,
    SourceParameters,
    OptionalModelParameters,
    ColumnParameters,
    OutputParameters,
    WriterParameters,
    InputParameters,
):
    """Everything that a run depends on; see `semdedup --help`."""

    kmeans: InstanceOf[KMeansConfig] = field(default_factory=LocalKMeansConfig)
    report: Annotated[bool, REPORT] = False
    """also write report.html to output_path: what each eps would remove, with the pairs"""
    max_removed_share: Annotated[Annotated[Number, Field(ge=0, le=1)] | None, REPORT] = None
    """a run ends with 2, before it removes, where more than this share of a source's rows is removed; null: no limit"""

    def of_references(self, ranking_strategy: Any) -> Parameters:
        """Returns the parameters by which the rows of `against` are read and assigned.

        Args:
            ranking_strategy: what their order depends on.
        """
        assert self.against is not None
        return dataclasses.replace(
            self,
            input_path=self.against,
            input_filetype=self.against_filetype,
            input_file_extensions=None,
            ids_path=None,
            read_kwargs=self.read_kwargs if self.against_kwargs is None else self.against_kwargs,
            id_field=self.against_id_field or self.id_field,
            embedding_field=self.against_embedding_field or self.embedding_field,
            text_field=self.against_text_field or self.text_field,
            metadata_fields=[],
            ranking_strategy=ranking_strategy,
            within=True,
        )


@dataclass(kw_only=True, config=CHECKED)
class WatchParameters(Parameters):
    """What `semdedup-watch` depends on; see `semdedup-watch --help`."""

    heading: ClassVar[str] = EXECUTION

    input_filetype: Annotated[str | None, OneOf(FORMATS), COLUMNS] = "parquet"
    poll_interval: Annotated[Number, Field(gt=0)] = 30.0
    """seconds from one look for new files to the next; a file is taken when two looks find it alike"""
    stop_after: Positive | None = None
    """end after so many generations; null: do not"""
    idle: Annotated[Number, Field(gt=0)] | None = None
    """end after so many seconds in which no file came; null: do not"""


@dataclass(kw_only=True, config=CHECKED)
class EndpointParameters(ClusterParameters):
    """What `python -m beam_semdedup.cli.ray_endpoint` depends on."""

    ray_address: str | None = "auto"
    """the Ray cluster: auto, or host:port; local: one on this machine"""
    port: Annotated[NotNegative, Field(le=65535)] = 8099
    """where Beam pipelines are submitted to; 0: any free port"""
    host: str = LOOPBACK
    """the address of this machine that it listens on, where it takes pipelines from whoever reaches it; 0.0.0.0: all"""
    runner: InstanceOf[RunnerConfig] = field(default_factory=RayConfig)


@dataclass(kw_only=True, config=CHECKED)
class RemovalParameters(WriterParameters, InputParameters):
    """What `semdedup-remove` depends on; see `semdedup-remove --help`."""

    heading: ClassVar[str] = WHERE

    output_path: str
    """directory or URL for the dataset without its duplicates; of a Lance dataset also input_path itself, in a new
    version of which they are deleted"""
    duplicates_path: str
    """the output_path of a finished run, or its duplicates directory"""
    mode: Annotated[Literal["remove", "mark"], SIMILARITY] = "remove"
    """mark: keep every row, and add columns that say which are duplicates"""
    mark_fields: MarkFields = field(default_factory=lambda: list(MARK_FIELDS))
    partial: Annotated[Literal["error", "allow"], SIMILARITY] = "error"
    """allow: accept a list that no finished run stands behind"""
    repeated_ids: Annotated[Literal["error", "allow"], SIMILARITY] = "error"
    """allow: remove although ids repeat: all rows of a listed id go, the kept one included"""
    write_arrays: Annotated[WriteArrays, SIMILARITY] = False
    duplicates_kwargs: ReadKwargs | None = None
    """the same for duplicates_path; null: read_kwargs"""
    write_kwargs: ReadKwargs = field(default_factory=ReadKwargs)
    """the same for output_path"""
    clear_output: bool = True
    """remove an earlier removal's files from output_path first (never foreign files)"""

    @classmethod
    def of_run(cls, p: Parameters, output_path: str) -> RemovalParameters:
        """Returns the removal of the duplicates that a run found in its input, where and as the run itself was done."""
        storage = ReadKwargs(storage_options=p.write_options)
        return cls(
            **_shared(p, InputParameters, ClusterParameters),
            mode="mark" if p.remove == "mark" else "remove",
            mark_fields=p.mark_fields,
            duplicates_path=p.output_path,
            duplicates_kwargs=storage,
            output_path=output_path,
            write_kwargs=storage,
            repeated_ids=p.repeated_ids,
            write_arrays=p.write_arrays,
            clear_output=p.clear_output,
        )

    @property
    def write_options(self) -> dict[str, Any]:
        """Storage options of `output_path`."""
        return self.write_kwargs.get("storage_options", {})

    @property
    def duplicates_options(self) -> dict[str, Any]:
        """Storage options of `duplicates_path`."""
        return (self.read_kwargs if self.duplicates_kwargs is None else self.duplicates_kwargs).get(
            "storage_options", {}
        )


@dataclass(kw_only=True, config=CHECKED)
class EmbedParameters(ModelParameters, WriterParameters, InputParameters):
    """What `semdedup-embed` depends on; see `semdedup-embed --help`."""

    heading: ClassVar[str] = WHERE

    output_path: str
    """directory or URL for the parquet files with the embeddings"""
    image_field: Annotated[str | None, COLUMNS] = None
    """column with images, in place of texts: bytes, paths, or structs of bytes and path; model then is a directory with
    vision_model.onnx (or model.onnx) and preprocessor_config.json"""
    images_path: Annotated[str | None, COLUMNS] = None
    """directory or URL that the paths of images are in; null: the directory of the file that names them"""
    metadata_fields: MetadataFields = field(default_factory=list)
    embedding_field: Annotated[str, COLUMNS] = "embeddings"
    """what the column of vectors is called in the output"""
    dtype: Annotated[Literal["float32", "float16"], EMBEDDING] = "float32"
    """of the values that are written"""
    device: Annotated[Literal["auto", "cpu", "gpu"], EMBEDDING] = "auto"
    """auto: a GPU where ONNX Runtime sees one"""
    file_rows: Annotated[Positive, EXECUTION] = 8192
    """rows of a file of the output, which is a unit of work"""
    write_kwargs: WriteKwargs = field(default_factory=WriteKwargs)
    """{storage_options: {…}, compression: zstd} for output_path"""
    clear_output: bool = True
    """remove the embeddings of other texts, or by another model, from output_path first (never foreign files)"""

    @property
    def source_field(self) -> str:
        """The column that is embedded."""
        return self.image_field or self.text_field

    @property
    def write_options(self) -> dict[str, Any]:
        """Storage options of `output_path`."""
        return self.write_kwargs.get("storage_options", {})


@dataclass(kw_only=True, config=CHECKED)
class ReportParameters(SourceParameters, PlaceParameters):
    """What `semdedup-report` depends on; see `semdedup-report --help`."""

    heading: ClassVar[str] = REPORT

    output_path: Annotated[str, WHERE]
    """the output_path of a finished run, where report.html goes too"""
    cache_path: Annotated[str | None, WHERE] = None
    """where the run's cache is now; null: where the run left it"""
    eps: Annotated[Number, Field(ge=0, lt=2)] | None = None
    """the threshold to begin with, which groups and chains are of; null: the run's, or 0.05"""
    labels: str | None = None
    """a file of labels that the report saved"""
    text: bool = False
    """true: print what there is to see, and write no page"""
    pairs: Annotated[Positive, Field(le=20)] = 5
    """with text=true: pairs of each kind"""
    memory_budget: Annotated[Size | None, EXECUTION] = None
    """memory to use, such as 4GiB; null: half of what is free"""
    verbose: Verbose = True

    @classmethod
    def of_run(cls, p: Parameters) -> ReportParameters:
        """Returns the report of a run, where and as the run itself was done."""
        return cls(**_shared(p, SourceParameters, PlaceParameters), memory_budget=p.memory_budget, verbose=p.verbose)


@dataclass(kw_only=True, config=CHECKED)
class CorpusParameters(SizeParameters, FitParameters):
    """What `semdedup-corpus` depends on; see `semdedup-corpus --help`."""

    action: Annotated[Literal["list", "verify", "refit", "drop"], WHERE] = "list"
    """list: what is in the corpus; verify: read all of it; refit: cluster its rows anew, for which no other run may add
    any; drop: take a generation out; given without action="""
    corpus_path: Annotated[str, WHERE]
    """directory or URL of the corpus"""
    corpus_kwargs: Annotated[ReadKwargs, WHERE] = field(default_factory=ReadKwargs)
    """{storage_options: {…}} for fsspec"""
    generation: Annotated[NotNegative | None, WHERE] = None
    """the number of the generation to drop"""
    memory_budget: Annotated[Size | None, EXECUTION] = None
    """memory for refit, such as 4GiB; null: half of what is free"""
    ray_address: Annotated[str | None, EXECUTION] = None
    """the Ray cluster of kmeans=ray: auto, or host:port; null: one on this machine"""
    ray_timeout: Annotated[Number, Field(gt=0), EXECUTION] = 60.0
    """seconds to wait until the Ray cluster has room for the actors"""
    verbose: Verbose = True
    kmeans: InstanceOf[KMeansConfig] = field(default_factory=LocalKMeansConfig)

    @property
    def corpus_options(self) -> dict[str, Any]:
        """Storage options of `corpus_path`."""
        return self.corpus_kwargs.get("storage_options", {})


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


@dataclass(kw_only=True, config=CHECKED)
class ForecastParameters(
    EarlierParameters, ReachParameters, SizeParameters, OptionalModelParameters, InputParameters, MachineParameters
):
    """What `semdedup-plan` depends on; see `semdedup-plan --help`."""

    heading: ClassVar[str] = SIZE

    input_path: Annotated[Paths | None, WHERE] = None  # type: ignore[assignment]  # there may be none
    rows: Positive | None = None
    """rows of embeddings, in place of input_path"""
    dimension: Positive | None = None
    """values of each, in place of input_path"""
    against_rows: Annotated[NotNegative, REFERENCES] = 0
    """rows of references, in place of against"""
    corpus_rows: Annotated[NotNegative, REFERENCES] = 0
    """rows of a corpus, in place of corpus_path"""
    corpus_kwargs: Annotated[ReadKwargs | None, REFERENCES] = None
    """the same as read_kwargs for corpus_path; null: read_kwargs"""
    carried_bytes: NotNegative = 0
    """bytes of a row in the metadata_fields, in place of input_path"""
    skew: Annotated[Number, Field(ge=1)] = 1.4
    """pairs to compare as a multiple of what clusters of one size have; 1.1 to 1.4 where the centroids were fitted"""
    embedding_field: EmbeddingField = "embeddings"
    metadata_fields: MetadataFields = field(default_factory=list)
    n_clusters: Annotated[Positive | None, KMEANS] = None
    """number of centroids; null: what is recommended"""
    fit_data_fraction: FitDataFraction = None
    fit_iterations: Annotated[NotNegative, KMEANS] = 12
    """Lloyd iterations to expect; 0: centroids are given, no fit"""
    pairwise_batch_size: PairwiseBatchSize = 1024
    memory_budget: Annotated[Size | None, MACHINES] = None
    calibrate: Annotated[bool, MACHINES] = False
    """true: measure how fast this machine is, in about half a minute"""
    calibration: Annotated[str | None, MACHINES] = None
    """file that calibrate=true writes, and that is read without; null: rates of 2 cores"""
    verbose: Verbose = True

    @property
    def corpus_options(self) -> dict[str, Any]:
        """Storage options of `corpus_path`."""
        given = self.read_kwargs if self.corpus_kwargs is None else self.corpus_kwargs
        options: dict[str, Any] = given.get("storage_options", {})
        return options

    def run(self, n_clusters: int | None) -> Parameters:
        """Returns the parameters of the run that is planned, as far as its sizes depend on them."""
        common = {f.name for f in dataclasses.fields(self)} & {f.name for f in dataclasses.fields(Parameters)}
        values = {name: getattr(self, name) for name in common}
        places = {"input_path": self.input_path or ["-"], "output_path": ""}
        return Parameters(
            **{**values, **places, "n_clusters": n_clusters, "runner": DirectConfig(num_workers=self.workers)}
        )


def _shared(p: Any, *groups: type[Any]) -> dict[str, Any]:
    """Returns the values that some parameters have for those of some groups."""
    return {f.name: getattr(p, f.name) for group in groups for f in dataclasses.fields(group)}
