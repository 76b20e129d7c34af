"""A corpus looked after: what is in it, whether it is whole, without one of its generations, or clustered anew."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.compute import arrays
from beam_semdedup.compute.assignment import assign_with_distances
from beam_semdedup.config.parameters import CorpusParameters
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit import model
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.plan import stored
from beam_semdedup.plan.corpus import Common, Corpus, Present
from beam_semdedup.plan.probes import choose_clusters
from beam_semdedup.plan.sizes import Sizing
from beam_semdedup.plan.stored import AssignManifest, KMeansPlan
from beam_semdedup.runners.resources import free_memory
from beam_semdedup.stages.assign import AssignFacts
from beam_semdedup.storage import layout, segments, tables
from beam_semdedup.storage.damage import DamagedFile
from beam_semdedup.storage.folder import File, Folder
from beam_semdedup.storage.segments import Segment

_LOG = logging.getLogger(__name__)
_DRIFT_SEGMENTS = 64
_FAR = 0.95


@dataclass(frozen=True)
class GenerationFacts:
    """What is in a generation.

    Attributes:
        first_file: of the input that was added; `files` counts them.
        rows: assigned; None where the generation is not finished. `rejected` ones are not among them.
        num_bytes: of all of its files.
        drift: the share of its rows that are farther from their centroid than 95 % of those of the first generation,
            which the model was fitted to: .05 is none.
    """

    number: int
    first_file: str
    files: int
    at: float
    rows: int | None
    rejected: int
    num_bytes: int
    drift: float | None


@dataclass(frozen=True)
class CorpusFacts:
    """What is in a corpus: what its rows have in common, its generations, and how its clusters are filled.

    Attributes:
        largest: rows in the largest key, a group of `common.centroids_per_key` clusters.
    """

    place: str
    common: Common
    generations: tuple[GenerationFacts, ...]
    largest: int

    @property
    def rows(self) -> int:
        """The rows of all finished generations."""
        return sum(generation.rows or 0 for generation in self.generations)


def look(p: CorpusParameters) -> CorpusFacts:
    """Returns what is in a corpus."""
    corpus, common = _opened(p)
    found, keys, far = [], np.zeros(-(-common.n_clusters // common.centroids_per_key), dtype=np.int64), None
    for number, claim in corpus.claims().items():
        folder, manifest = corpus.generation(number), corpus.finished(number)
        size, drift, rows = sum(file.size for file in folder.find()), None, None
        if manifest is not None:
            rows = manifest.counts.num_rows - manifest.rejected
            distances = []
            for file in _spread(_segment_files(folder, manifest)):
                schema, references = _index(file)
                np.add.at(keys, [r.key for r in references], [r.num_rows for r in references])
                distances.append(_distances(file, schema, references))
            joined = np.concatenate([np.empty(0, np.float32), *distances])
            if far is None and len(joined):
                far = float(np.quantile(joined, _FAR))
            drift = float((joined > far).mean()) if len(joined) else None
        rejected = manifest.rejected if manifest else 0
        found.append(GenerationFacts(number, claim.first_file, claim.num_files, claim.at, rows, rejected, size, drift))
    return CorpusFacts(corpus.place.url, common, tuple(found), int(keys.max()))


def verify(p: CorpusParameters) -> list[str]:
    """Reads all that a corpus holds; returns what is wrong with it, in words."""
    corpus, common = _opened(p)
    wrong = []
    try:
        fitted = corpus.fitted(common)
    except RunError as error:
        return [str(error)]
    if fitted is None:
        return [f"{corpus.model.file(layout.CENTROIDS)} is not there"]
    for number in corpus.claims():
        folder, manifest = corpus.generation(number), corpus.finished(number)
        if manifest is None:
            wrong.append(f"generation {number} is not finished: {folder} has no manifest")
            continue
        if manifest.centroids != fitted.content_hash:
            wrong.append(f"generation {number} is assigned to other centroids than {corpus.model} has")
        rows = 0
        for file in _segment_files(folder, manifest):
            try:
                schema, references = _index(file)
                rows += sum(map(len, segments.read(file.parent, references, schema)))
            except DamagedFile as error:
                wrong.append(f"generation {number}: {error}")
        expected = manifest.counts.num_rows - manifest.rejected
        if rows != expected and not wrong:
            wrong.append(f"generation {number} has {rows:,} rows, and its manifest says {expected:,}")
    return wrong


def drop(p: CorpusParameters) -> int:
    """Takes a generation out of a corpus; returns its number.

    Raises:
        InputError: there is none of that number.
    """
    corpus = Corpus.at(Folder.at(p.corpus_path, p.corpus_options))
    claims = corpus.claims()
    if p.generation is None or p.generation not in claims:
        known = ", ".join(map(str, claims)) or "none"
        raise InputError(f"generation={p.generation}: the corpus {corpus.place} has {known}")
    stored.forget([corpus.generation(p.generation)])
    corpus.claim_file(p.generation).delete()
    return p.generation


def refit(p: CorpusParameters) -> CorpusFacts:
    """Fits a new model to the rows of a corpus, assigns them to it, and returns what is in it then.

    The new model and the rows are made beside the present ones, which count until all is there, and go then. What an
    interrupted attempt finished is used. No run may add rows meanwhile.

    Raises:
        InputError: a generation is not finished, or there are fewer rows than clusters.
        RunError: a file is damaged.
    """
    corpus, common = _opened(p)
    claims = corpus.claims()
    manifests = {number: corpus.finished(number) for number in claims}
    finished = {number: manifest for number, manifest in manifests.items() if manifest is not None}
    if missing := sorted(set(claims) - set(finished)):
        raise InputError(f"corpus_path={corpus.place}: generation {missing[0]} is not finished; finish it, or drop it")
    rows = sum(manifest.counts.num_rows - manifest.rejected for manifest in finished.values())
    n_clusters = p.n_clusters or choose_clusters(p, rows, common.dimension, common.n_probes, common.reach)
    if rows < n_clusters:
        raise InputError(f"n_clusters={n_clusters} is more than the {rows} rows of the corpus; give fewer or null")
    new = Corpus(corpus.place, f"fits/{int(corpus.home.rpartition('/')[2]) + 1:04d}")
    memory = p.memory_budget or free_memory() // 2
    sizing = Sizing(p, rows, common.dimension, 0, n_clusters, memory)
    per_key = sizing.sizes(0).centroids_per_key
    common = new.agree(dataclasses.replace(common, n_clusters=n_clusters, centroids_per_key=per_key))
    parameters = dataclasses.replace(p, n_clusters=common.n_clusters)
    files = [file for number in finished for file in _segment_files(corpus.generation(number), finished[number])]

    def sample() -> npt.NDArray[np.float32]:
        return _sample(files, min(sizing.asked_sample, sizing.affordable_sample), rows, p.random_state)

    fitted = model.fit_or_load(new.model, None, make_engine(p), sample, common.dimension, parameters)
    centroids = fitted.centroids(new.place.options)
    for number, manifest in finished.items():
        if new.finished(number) is None:
            _LOG.info("Assigning generation %s", number)
            _assign_anew(p, corpus.generation(number), new.generation(number), manifest, common, centroids, fitted)
        new.claim_file(number).write_bytes(corpus.claim_file(number).read_bytes())
    Present(new.home).write(corpus.place.file(layout.CORPUS))
    corpus.folder.delete_tree()
    return look(p)


def _opened(p: CorpusParameters) -> tuple[Corpus, Common]:
    corpus = Corpus.at(Folder.at(p.corpus_path, p.corpus_options))
    common = corpus.common()
    if common is None:
        raise InputError(f"corpus_path={p.corpus_path}: there is no corpus that a run has begun")
    return corpus, common


def _segment_files(folder: Folder, manifest: AssignManifest) -> list[File]:
    return [(folder / layout.SEGMENTS).file(name) for name in manifest.files]


def _spread(files: Sequence[File]) -> Sequence[File]:
    return files[:: max(1, math.ceil(len(files) / _DRIFT_SEGMENTS))]


def _index(file: File) -> tuple[pa.Schema, tuple[Segment, ...]]:
    """Returns the columns of a segment file and its references; DamagedFile where it has none."""
    found = segments.read_index(file, AssignFacts)
    if found is None:
        raise DamagedFile(file, "its index cannot be read")
    with file.open() as source:
        return pa.ipc.open_file(source).schema, found[1].segments


def _distances(file: File, schema: pa.Schema, references: Sequence[Segment]) -> npt.NDArray[np.float32]:
    batches = segments.read(file.parent, references[:_DRIFT_SEGMENTS], schema)
    return np.concatenate([np.empty(0, np.float32), *(batch.column("l2_dist_to_cent").to_numpy() for batch in batches)])


def _rows(file: File) -> Iterator[pa.RecordBatch]:
    schema, references = _index(file)
    return iter(segments.read(file.parent, references, schema))


def _sample(files: Sequence[File], size: int, rows: int, seed: int) -> npt.NDArray[np.float32]:
    """Returns about `size` rows of all `rows` that are in these segment files, each as likely as the others."""
    rng, parts = np.random.default_rng(seed), []
    for file in files:
        for batch in _rows(file):
            chosen = np.flatnonzero(rng.random(len(batch)) < size / rows)
            parts.append(segments.RankedRows([batch], chosen)[:])
    return np.concatenate(parts)


def _assign_anew(
    p: CorpusParameters,
    source: Folder,
    target: Folder,
    manifest: AssignManifest,
    common: Common,
    centroids: npt.NDArray[np.float32],
    fitted: model.FittedKMeans,
) -> None:
    """Writes a generation with its rows assigned to other centroids, its manifest last."""
    width, names = common.centroids_per_key, []
    for file in _segment_files(source, manifest):
        stem = f"{file.name.rpartition('-w')[0]}-w{width}"
        names.append(f"{stem}.arrow")
        found = segments.read_index(file, AssignFacts)
        if found is None:
            raise RunError(f"{file} is damaged or gone; see semdedup-corpus verify")
        unit = dataclasses.replace(found[0].unit, name=stem, centroids=fitted.content_hash)
        facts = dataclasses.replace(found[0], unit=unit)
        done = segments.read_index((target / layout.SEGMENTS).file(names[-1]), AssignFacts)
        if done is None or done[0] != facts:
            try:
                table = pa.Table.from_batches(_rows(file), _index(file)[0])
            except DamagedFile as error:
                raise RunError(f"{error}; see semdedup-corpus verify") from error
            vectors = segments.RankedRows(table.to_batches(), np.arange(len(table)))[:] if len(table) else None
            if vectors is not None:
                batch, xp = p.max_samples_per_batch, arrays.library(p.device)
                columns = ("centroid", "l2_dist_to_cent", "cosine_dist_to_cent")
                for name, values in zip(columns, assign_with_distances(vectors, centroids, batch, xp), strict=True):
                    table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
            segments.write(target / layout.SEGMENTS, names[-1], table, width, facts)
        rejected = (source / layout.REJECTED).file(f"{file.name.removesuffix('.arrow')}.parquet")
        if facts.rejected:
            rows = tables.opened(pa.BufferReader(rejected.read_bytes())).read()
            tables.write((target / layout.REJECTED).file(f"{stem}.parquet"), rows, facts, "zstd")
    plan = KMeansPlan.read(source.file(layout.PLAN))
    if plan is None:
        raise RunError(f"{source.file(layout.PLAN)} is damaged or gone; see semdedup-corpus verify")
    sizes = dataclasses.replace(plan.sizes, n_clusters=common.n_clusters, centroids_per_key=width, sample_rows=0)
    dataclasses.replace(plan, sizes=sizes).write(target.file(layout.PLAN))
    dataclasses.replace(
        manifest, centroids=fitted.content_hash, centroids_per_key=width, files=tuple(sorted(names))
    ).store(target)
