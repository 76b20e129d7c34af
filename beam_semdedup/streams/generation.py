"""A generation of a watched input: how it is planned, and how its results come to stand in the output."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import pyarrow.parquet as pq

from beam_semdedup.config.parameters import Parameters, RemovalParameters
from beam_semdedup.embed.models import TextModel
from beam_semdedup.embed.plan import InputJob
from beam_semdedup.embed.stage import input_jobs
from beam_semdedup.errors import RunError
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job, ranking_of
from beam_semdedup.plan.locate import Embedding, locate
from beam_semdedup.plan.planning import Plan, make_plan
from beam_semdedup.plan.sizes import Blocks, Sizes
from beam_semdedup.removal import plan as removal
from beam_semdedup.removal.id_list import IdList
from beam_semdedup.removal.lookup import open_reader
from beam_semdedup.removal.plan import RemovalManifest
from beam_semdedup.removal.repetitions import RepeatedIds, repetitions
from beam_semdedup.removal.unit import finish as finish_removal
from beam_semdedup.removal.unit import remove_from_files
from beam_semdedup.stages.fit import fit_centroids
from beam_semdedup.storage import layout, tables
from beam_semdedup.storage.folder import File, Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.streams.arrivals import Arrivals
from beam_semdedup.text import counted
from beam_semdedup.workflow.summary import Found, find_results, too_many_rejected

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """An arrival, by its number, and the plan of the generation of the corpus that it becomes."""

    number: int
    plan: Plan


@dataclass(frozen=True)
class Begun(Record):
    """The job of a generation that is planned and has a model, without the parameters of the watch, and its centroids.

    It is how a worker knows the job of a window. `schema` is that of the input, as Arrow serialises it, in base64;
    `references` is the same of the rows of `against`.
    """

    n_clusters: int
    reach: float | None
    kmeans_fingerprint: str
    pairwise_fingerprint: str
    output_fingerprint: str
    model_fingerprint: str
    generation: int
    earlier: tuple[int, ...]
    schema: str
    sizes: Sizes
    blocks: Blocks
    rows_per_file: int
    recall_reach: float
    embedding_key: str
    centroids: str
    references: Begun | None

    @classmethod
    def of(cls, job: Job, fitted: FittedKMeans) -> Begun:
        """Returns what is stored of a job."""
        assert job.parameters.n_clusters is not None
        own = ({field.name for field in fields(cls)} & {field.name for field in fields(job)}) - {"references"}
        return cls(
            n_clusters=job.parameters.n_clusters,
            reach=job.parameters.reach,
            schema=stored.encoded(job.input_schema),
            centroids=fitted.content_hash,
            references=cls.of(job.references, fitted) if job.references else None,
            **{name: getattr(job, name) for name in own},
        )

    def job(self, parameters: Parameters) -> Job:
        """Returns the job, from the parameters that its generation was planned with."""
        own = ({field.name for field in fields(self)} & {field.name for field in fields(Job)}) - {"references"}
        references = None
        if self.references:
            theirs = parameters.of_references(ranking_of(parameters).without_columns())
            references = self.references.job(theirs)
        return Job(
            parameters=replace(parameters, n_clusters=self.n_clusters, reach=self.reach),
            input_schema=stored.decoded(self.schema),
            references=references,
            **{name: getattr(self, name) for name in own},
        )


@dataclass(frozen=True)
class Finished(Record):
    """What was found in a generation, which has the number `generation` in the corpus.

    Attributes:
        removed: rows that `deduplicated/` has not, or `marked/` marks; null where there was nothing to do, or `refused`
            says why it was not done.
        refused: why rows were not removed; empty where they were, or were not to be.
        seconds: from when its files were recorded.
        finished: seconds since the epoch.
    """

    generation: int
    files: int
    rows: int
    duplicates: int
    kept: int
    rejected: int
    removed: int | None
    refused: str
    seconds: float
    finished: float

    def describe(self) -> str:
        """Returns a line for people."""
        found = [f"{self.duplicates:,} duplicates", f"{self.kept:,} kept"]
        found += [f"{self.rejected:,} rejected"] if self.rejected else []
        rows = f"{counted(self.rows, 'row')} in {counted(self.files, 'file')}"
        return f"Generation {self.generation}: {rows}: {', '.join(found)}; {self.seconds:.1f} s after they were seen"


@dataclass(frozen=True)
class Watched:
    """A watched input, by parameters that have absolute paths and a memory budget; it is pickled into transforms.

    Attributes:
        texts: the model by which its texts are embedded; None where its files hold vectors.
    """

    parameters: Parameters
    texts: tuple[TextModel, Embedding] | None = None

    @property
    def model(self) -> TextModel:
        """The model by which texts are embedded."""
        assert self.texts is not None
        return self.texts[0]

    @property
    def embedding(self) -> Embedding | None:
        """What plans know of it."""
        return self.texts[1] if self.texts else None

    @property
    def arrivals(self) -> Arrivals:
        """What arrived at it."""
        return Arrivals(self.parameters, self.embedding.dimension if self.embedding else None)

    def plan(self, number: int) -> Generation:
        """Plans the generation of an arrival, which has a number in the corpus then.

        Raises:
            InputError: it does not fit to the corpus.
            RunError: a file is gone, or another run does not go on that adds rows to the corpus.
        """
        files = self.arrivals.files(number)
        return Generation(number, make_plan(locate(self._parameters(number), files, self.embedding)))

    def to_embed(self, generation: Generation) -> list[tuple[InputJob, AssignUnit]]:
        """Returns the units of the texts whose vectors a generation needs, with what embeds each."""
        assert self.texts is not None
        return [(job, unit) for job, units in input_jobs(generation.plan, *self.texts) for unit in units]

    def begin(self, generation: Generation) -> Generation:
        """Finds the model of a generation, or fits it, and stores what `job` and `fitted` return."""
        job = generation.plan.job
        fitted = generation.plan.fitted or fit_centroids(job)
        Begun.of(job, fitted).write(self._begun(generation.number))
        return replace(generation, plan=replace(generation.plan, fitted=fitted))

    def job(self, number: int) -> Job:
        """Returns the job of an arrival whose generation has begun.

        Raises:
            RunError: what was stored of it is damaged or gone.
        """
        return _read_begun(self._begun(number)).job(self._parameters(number))

    def references(self, number: int) -> Job:
        """Returns the job that assigns the rows of `against` for such an arrival; raises as `job`."""
        job = self.job(number).references
        assert job is not None
        return job

    def fitted(self, number: int) -> FittedKMeans:
        """Returns the model of an arrival whose generation has begun; raises as `job`."""
        centroids = self.job(number).model.file(layout.CENTROIDS)
        return FittedKMeans(centroids.url, _read_begun(self._begun(number)).centroids)

    def _parameters(self, number: int) -> Parameters:
        """Returns those that the generation of an arrival is planned with; its results have a folder of their own."""
        scratch = self.scratch(number).url
        return replace(self.parameters, output_path=scratch, cache_path=scratch, cache_kwargs=None)

    def _begun(self, number: int) -> File:
        return self.scratch(number).file(layout.BEGUN)

    def scratch(self, number: int) -> Folder:
        """Where the results of an arrival come to stand before they are put together."""
        return self.arrivals.output / layout.ARRIVALS / f"{number:010d}"

    def finish(self, generation: Generation) -> tuple[Finished, list[File]]:
        """Writes the results of a generation that is compared; returns what was found, and the file of duplicates.

        Raises:
            RunError: rows were lost, or files of the generation are gone.
        """
        number, plan = generation.number, generation.plan
        output, compression = self.arrivals.output, self.parameters.write_compression
        part, name = f"generation={plan.job.generation:04d}", layout.part_name(plan.job.output_fingerprint, "00000")
        earlier = Finished.read(self.arrivals.finished(number))
        if earlier:  # the runner calls again, since it did not hear of the end
            self.scratch(number).delete_tree()
            listed = (output / layout.DUPLICATES / part).file(name)
            return earlier, [listed] if listed.exists() else []
        found, written = find_results(plan), []
        for results, files in (
            (layout.DUPLICATES, found.duplicates_files),
            (layout.REJECTED, _rejected(plan.job)),
        ):
            if files:
                file = (output / results / part).file(name)
                _put_together(files, file, compression)
                written += [file] if results == layout.DUPLICATES else []
        removed, refused = None, too_many_rejected(plan, found.rejected)
        if plan.references and not refused:
            refused = too_many_rejected(plan.references, found.rejected_references, "against")
        if self.parameters.remove and not refused:
            results = layout.MARKED if self.parameters.remove == "mark" else layout.DEDUPLICATED
            removed, refused = self._remove(plan, found, output / results / part)
        now = time.time()
        finished = Finished(
            generation=plan.job.generation,
            files=len(plan.files),
            rows=plan.job.sizes.num_rows,
            duplicates=found.duplicates,
            kept=found.kept,
            rejected=found.rejected.total(),
            removed=removed,
            refused=refused if self.parameters.remove else "",
            seconds=round(now - self.arrivals.read(number).recorded, 3),
            finished=now,
        )
        finished.write(self.arrivals.finished(number))
        self.scratch(number).delete_tree()
        return finished, written

    def _remove(self, plan: Plan, found: Found, place: Folder) -> tuple[int | None, str]:
        """Writes the files of a generation without its duplicates; returns how many rows went, or why none did."""
        p, allowed = plan.job.parameters, plan.job.parameters.repeated_ids == "allow"
        if found.repeated_ids.count and not allowed:
            return None, str(RepeatedIds.because(found.repeated_ids))
        parameters = RemovalParameters.of_run(p, place.url)
        ids = IdList.open(found.duplicates_files, plan.memory, details=parameters.mode == "mark")
        job, units = removal.make_plan(parameters, plan.files, ids, plan.memory)
        removal.prepare(job, units)
        reader = open_reader(job.ids)
        finish_removal(job, [remove_from_files(job, unit, reader) for unit in units])
        manifest = RemovalManifest.find(job.output)
        assert manifest
        stored.forget([job.stage])
        if manifest.repeated_ids and not allowed:
            removal.clear(job.output)
            where = f"{manifest.repeated_ids:,} of the listed ones in the generation"
            return None, str(RepeatedIds.because(repetitions(where, ids.examples(manifest.repeated_entries))))
        return manifest.rows_removed, ""


@functools.lru_cache(maxsize=1 << 4)
def _read_begun(file: File) -> Begun:
    """Reads what stays as it is as long as a generation is not finished."""
    found = Begun.read(file)
    if found is None:
        raise RunError(f"{file} is gone or damaged, though the watch wrote it: start it again")
    return found


def _rejected(job: Job) -> list[File]:
    """Returns the files with the rejected rows of a generation, without those of `against`."""
    folder = job.output / layout.REJECTED
    return [folder.file(name) for name, key in layout.parts(folder).items() if key == job.kmeans_fingerprint]


def _put_together(files: Sequence[File], target: File, compression: str) -> None:
    """Writes the rows of parquet files with the same columns to one, which is whole or absent."""
    with files[0].open() as source:
        schema = tables.opened(source).schema_arrow.remove_metadata()
    with (
        target.atomic_write() as scratch,
        pq.ParquetWriter(scratch, schema, compression=compression, write_page_checksum=True) as writer,
    ):
        for file in files:
            with file.open() as source:
                for batch in tables.opened(source).iter_batches():
                    writer.write_batch(batch)
