"""The parameters of the commands: each is declared, documented, bounded and defaulted once.

What several commands take is declared in the groups of `shared`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, InstanceOf
from pydantic.dataclasses import dataclass

from beam_semdedup.config.shared import (
    ClusterParameters,
    ColumnParameters,
    EarlierParameters,
    InputParameters,
    MachineParameters,
    ModelParameters,
    OptionalModelParameters,
    OutputParameters,
    PlaceParameters,
    ReachParameters,
    ReferenceParameters,
    SimilarityParameters,
    SizeParameters,
    SourceParameters,
    WriterParameters,
)
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
    KMEANS,
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
)
from beam_semdedup.fit.base import FitDataFraction, FitParameters, KMeansConfig
from beam_semdedup.fit.local import LocalKMeansConfig
from beam_semdedup.inputs.registry import FORMATS
from beam_semdedup.runners.base import RunnerConfig
from beam_semdedup.runners.direct import DirectConfig
from beam_semdedup.runners.ports import LOOPBACK
from beam_semdedup.runners.ray.settings import RayConfig


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
class CorpusParameters(SizeParameters, FitParameters, ClusterParameters):
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
    """memory of each worker of a refit, such as 4GiB; null: its share of half of what is free"""
    kmeans: InstanceOf[KMeansConfig] = field(default_factory=LocalKMeansConfig)

    @property
    def corpus_options(self) -> dict[str, Any]:
        """Storage options of `corpus_path`."""
        return self.corpus_kwargs.get("storage_options", {})


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
