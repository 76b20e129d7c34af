"""A corpus looked after: what is in it, whether it is whole, without one of its generations, or clustered anew."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_semdedup.config.parameters import CorpusParameters
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit import model
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.plan import stored
from beam_semdedup.plan.corpus import Claim, Common, Corpus, Present
from beam_semdedup.plan.fingerprints import fit_facts
from beam_semdedup.plan.probes import choose_clusters
from beam_semdedup.plan.sizes import Sizing
from beam_semdedup.plan.stored import AssignManifest, KMeansPlan
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.runners.base import Runner
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.resources import memory_per_worker
from beam_semdedup.stages.assign import index_of
from beam_semdedup.stages.refit import RefitJob, read_rejected
from beam_semdedup.storage import layout, segments
from beam_semdedup.storage.damage import DamagedFile
from beam_semdedup.storage.folder import File, Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import Index
from beam_semdedup.storage.threads import read_ahead

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
        reference_bytes: of the rows of `against` that runs compared with, which stay for those that do so too.
    """

    place: str
    common: Common
    generations: tuple[GenerationFacts, ...]
    largest: int
    reference_bytes: int

    @property
    def rows(self) -> int:
        """The rows of all finished generations."""
        return sum(generation.rows or 0 for generation in self.generations)


@contextlib.contextmanager
def _saying_what_to_do() -> Iterator[None]:
    """Turns a DamagedFile into a RunError, with what to do about it."""
    try:
        yield
    except DamagedFile as error:
        raise RunError(f"{error}; see semdedup-corpus verify") from error


@_saying_what_to_do()
def look(p: CorpusParameters) -> CorpusFacts:
    """Returns what is in a corpus; RunError where a file is damaged."""
    corpus, common = _opened(p)
    found, keys, far = [], np.zeros(-(-common.n_clusters // common.centroids_per_key), dtype=np.int64), None
    for number, claim in corpus.claims().items():
        folder, manifest = corpus.generation(number), corpus.finished(number)
        size, drift, rows = sum(file.size for file in folder.find()), None, None
        if manifest is not None:
            rows = manifest.counts.num_rows - manifest.rejected
            files, distances = _segment_files(folder, manifest), []
            every = max(1, math.ceil(len(files) / _DRIFT_SEGMENTS))
            for place, (_, index) in enumerate(read_ahead(index_of, files)):
                np.add.at(keys, index.entries["key"].astype(np.int64), index.entries["num_rows"].astype(np.int64))
                if place % every == 0:
                    distances.append(_distances(files[place], index))
            joined = np.concatenate([np.empty(0, np.float32), *distances])
            if far is None and len(joined):
                far = float(np.quantile(joined, _FAR))
            drift = float((joined > far).mean()) if len(joined) else None
        rejected = manifest.rejected if manifest else 0
        found.append(GenerationFacts(number, claim.first_file, claim.num_files, claim.at, rows, rejected, size, drift))
    references = sum(file.size for file in (corpus.folder / layout.REFERENCES).find())
    return CorpusFacts(corpus.place.url, common, tuple(found), int(keys.max()), references)


def verify(p: CorpusParameters) -> list[str]:
    """Reads all that a corpus holds; returns what is wrong with it, in words."""
    corpus, common = _opened(p)
    try:
        fitted = corpus.fitted(common)
    except RunError as error:
        return [str(error)]
    if fitted is None:
        return [f"{corpus.model.file(layout.CENTROIDS)} is not there"]
    wrong = list[str]()
    for number in corpus.numbers():
        wrong += (f"generation {number} {what}" for what in _faults(corpus, number, fitted.content_hash))
    return wrong


def _faults(corpus: Corpus, number: int, centroids: str) -> Iterator[str]:
    """Yields what is wrong with a generation, which is to be assigned to these centroids."""
    folder, manifest = corpus.generation(number), corpus.finished(number)
    if Claim.read(corpus.claim_file(number)) is None:
        yield f"is not used, as what says whose it is cannot be read: {corpus.claim_file(number)}"
    if manifest is None:
        yield f"is not finished: {folder} has no manifest"
        return
    if manifest.centroids != centroids:
        yield f"is assigned to other centroids than {corpus.model} has"
    if KMeansPlan.read(folder.file(layout.PLAN)) is None:
        yield f"has no plan, which names its files: {folder.file(layout.PLAN)} is damaged or gone"
    rows = rejected = 0
    is_whole = True
    for file in _segment_files(folder, manifest):
        try:
            facts, index = index_of(file)
            rows += sum(map(len, segments.read(file.parent, index.segments, segments.read_schema(file))))
            rejected += len(read_rejected(file)) if facts.rejected else 0
        except DamagedFile as error:
            is_whole = False
            yield f"is not whole: {error}"
    expected = manifest.counts.num_rows - manifest.rejected
    if is_whole and (rows, rejected) != (expected, manifest.rejected):
        said = f"{expected:,} and {manifest.rejected:,}"
        yield f"has {rows:,} rows and {rejected:,} rejected ones; its manifest says {said}"


def drop(p: CorpusParameters) -> int:
    """Takes a generation out of a corpus; returns its number.

    Raises:
        InputError: there is none of that number.
    """
    corpus = Corpus.at(Folder.at(p.corpus_path, p.corpus_options))
    numbers = corpus.numbers()
    if p.generation is None or p.generation not in numbers:
        known = ", ".join(map(str, numbers)) or "none"
        raise InputError(f"generation={p.generation}: the corpus {corpus.place} has {known}")
    stored.forget([corpus.generation(p.generation)])
    corpus.claim_file(p.generation).delete()
    return p.generation


@_saying_what_to_do()
def refit(p: CorpusParameters) -> CorpusFacts:
    """Fits a new model to the rows of a corpus, assigns them to it in a pipeline, and returns what is in it then.

    The new model and the rows are made beside the present ones, which count until all is there, and go then. What an
    interrupted attempt finished is used, if it was of the same rows and parameters. No run may add rows meanwhile.

    Raises:
        InputError: a generation is not finished, or there are fewer rows than clusters.
        RunError: a file is damaged.
    """
    runner = make_runner(p)
    runner.check(p.device)
    corpus, common = _opened(p)
    claims = corpus.claims()
    manifests = {number: corpus.finished(number) for number in claims}
    finished = {number: manifest for number, manifest in manifests.items() if manifest is not None}
    if missing := sorted(set(claims) - set(finished)):
        raise InputError(f"corpus_path={corpus.place}: generation {missing[0]} is not finished; finish it, or drop it")
    rows = sum(manifest.counts.num_rows - manifest.rejected for manifest in finished.values())
    init = File.at(p.init, p.corpus_options if "://" in p.init else {}) if p.centroids_given else None
    if init:
        p = dataclasses.replace(p, n_clusters=len(model.load_init(init, p.n_clusters, common.dimension)))
    n_clusters = p.n_clusters or choose_clusters(p, rows, common.dimension, common.n_probes, common.reach)
    if rows < n_clusters:
        raise InputError(f"n_clusters={n_clusters} is more than the {rows} rows of the corpus; give fewer or null")
    new = Corpus(corpus.place, corpus.homes[-1])
    _clear(corpus)
    inputs = [[number, claim.key] for number, claim in claims.items()]
    attempt = _Attempt(layout.fingerprint(inputs), n_clusters, layout.fingerprint(fit_facts(p, init)))
    if _Attempt.read(new.folder.file(layout.REFIT)) != attempt:
        new.folder.delete_tree()
        attempt.write(new.folder.file(layout.REFIT))
    memory = memory_per_worker(runner, runner.num_workers(), p.memory_budget)
    sizing = Sizing(p, rows, common.dimension, 0, n_clusters, memory)
    per_key = sizing.sizes(0).centroids_per_key
    common = new.agree(dataclasses.replace(common, n_clusters=n_clusters, centroids_per_key=per_key))
    parameters = dataclasses.replace(p, n_clusters=common.n_clusters)
    files = [file for number in finished for file in _segment_files(corpus.generation(number), finished[number])]

    def sample() -> npt.NDArray[np.float32]:
        return _sample(files, min(sizing.asked_sample, sizing.affordable_sample), rows, p.random_state)

    fitted = model.fit_or_load(new.model, init, make_engine(p), sample, common.dimension, parameters)
    job = RefitJob(parameters, corpus, new, fitted, common.centroids_per_key)
    left = {number: manifest for number, manifest in finished.items() if new.finished(number) is None}
    _assign_anew(job, [(number, name) for number, manifest in left.items() for name in manifest.files], runner)
    for number, manifest in left.items():
        _finish_generation(job, number, manifest)
    for number in finished:
        new.claim_file(number).write_bytes(corpus.claim_file(number).read_bytes())
    new.keep_model_of_texts(corpus.model_of_texts())
    Present(new.home).write(corpus.place.file(layout.CORPUS))
    _clear(new)
    return look(p)


@dataclass(frozen=True)
class _Attempt(Record):
    """What a refit is of: the inputs in the corpus, as a fingerprint, how many clusters, and how these are fitted."""

    claims: str
    n_clusters: int
    fit: str


def _clear(corpus: Corpus) -> None:
    """Takes away what earlier refits left, should they have been interrupted at their end."""
    for home in corpus.homes[:-2]:
        (corpus.place / home).delete_tree()


def _assign_anew(job: RefitJob, units: list[tuple[int, str]], runner: Runner[Any]) -> None:
    """Assigns the rows of all segment files, each by its generation and name."""

    def done() -> int:
        folders = [job.new.generation(number) / layout.SEGMENTS for number in {number for number, _ in units}]
        return sum(len(layout.finished_units(folder)) for folder in folders)

    with progress.importing_beam():  # not above: it takes longer than all that needs no pipeline
        from beam_semdedup.transforms import Refit
    stage = progress.StageProgress("Assign nearest centroid", len(units), done)
    with progress.shown([stage], job.parameters.verbose, progress.interval(job.new.place.url)):
        runners.run(lambda pipeline: pipeline | Refit(job, units), runner)


def _opened(p: CorpusParameters) -> tuple[Corpus, Common]:
    corpus = Corpus.at(Folder.at(p.corpus_path, p.corpus_options))
    common = corpus.common()
    if common is None:
        raise InputError(f"corpus_path={p.corpus_path}: there is no corpus that a run has begun")
    return corpus, common


def _segment_files(folder: Folder, manifest: AssignManifest) -> list[File]:
    return [(folder / layout.SEGMENTS).file(name) for name in manifest.files]


def _distances(file: File, index: Index) -> npt.NDArray[np.float32]:
    batches = segments.read(file.parent, index.segments[:_DRIFT_SEGMENTS], segments.read_schema(file))
    return np.concatenate([np.empty(0, np.float32), *(batch.column("l2_dist_to_cent").to_numpy() for batch in batches)])


def _sample(files: Sequence[File], size: int, rows: int, seed: int) -> npt.NDArray[np.float32]:
    """Returns about `size` rows of all `rows` that are in these segment files, each as likely as the others."""
    rng, parts = np.random.default_rng(seed), list[npt.NDArray[np.float32]]()
    for file in files:
        for batch in segments.read(file.parent, index_of(file)[1].segments, segments.read_schema(file)):
            chosen = np.flatnonzero(rng.random(len(batch)) < size / rows)
            parts.append(segments.RankedRows([batch], chosen)[:])
    return np.concatenate(parts)


def _finish_generation(job: RefitJob, number: int, manifest: AssignManifest) -> None:
    """Writes the plan and the manifest of a generation whose rows are all assigned anew."""
    source, target = job.old.generation(number), job.new.generation(number)
    plan = KMeansPlan.read(source.file(layout.PLAN))
    if plan is None:
        raise RunError(f"{source.file(layout.PLAN)} is damaged or gone; see semdedup-corpus verify")
    n_clusters = job.parameters.n_clusters
    assert n_clusters is not None
    sizes = dataclasses.replace(plan.sizes, n_clusters=n_clusters, centroids_per_key=job.width, sample_rows=0)
    dataclasses.replace(plan, sizes=sizes).write(target.file(layout.PLAN))
    files = tuple(sorted(map(job.name, manifest.files)))
    centroids, width = job.fitted.content_hash, job.width
    dataclasses.replace(manifest, centroids=centroids, centroids_per_key=width, files=files).store(target)
