"""The whole job of watching: the pipeline, and what the process that started it sees of it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from beam_semdedup.config.parameters import WatchParameters
from beam_semdedup.config.places import naming_places
from beam_semdedup.config.validation import resolve
from beam_semdedup.embed.stage import find_model
from beam_semdedup.errors import InputError, RunError, StorageError, WorkerLost
from beam_semdedup.fit.registry import make_engine
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.inputs.registry import copier, format_named, marker
from beam_semdedup.plan.checks import check_dimension, check_installed, check_places
from beam_semdedup.plan.corpus import Corpus
from beam_semdedup.plan.locate import find_references
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.resources import memory_per_worker
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.streams.generation import Finished, Watched
from beam_semdedup.streams.transforms import DeduplicateGenerations, ReadNewFiles
from beam_semdedup.text import counted, in_time

_LOG = logging.getLogger(__name__)


def watch(p: WatchParameters, draining: Callable[[], bool] = lambda: False) -> list[Finished]:
    """Deduplicates what arrives at an input, until `stop_after` or `idle` says that it is enough.

    Args:
        draining: says whether to end when what has arrived is finished.

    Returns:
        what was found in each generation that was finished meanwhile.

    Raises:
        InputError: the input, the places or the corpus are wrong, or the runner has no streams.
        RunError: a unit or a worker failed; the same call goes on.
    """
    with progress.logged(p.verbose), naming_places(p, InputError):
        runner = make_runner(p)
        runner.check_streams()
        watched = _prepare(p, runner)
        state = _State(watched, p, draining)
        stream = runners.Stream(state.is_enough, f"semdedup-watch-{layout.fingerprint(watched.parameters.output_path)}")
        _LOG.info(
            "Watching %s, every %s; %s finished before",
            ", ".join(watched.parameters.input_path),
            in_time(p.poll_interval),
            counted(state.number, "generation"),
        )
        while not state.is_enough():
            state.clear()
            done = len(state.finished)
            try:
                runners.run(
                    lambda pipeline: (
                        pipeline | ReadNewFiles(watched, p.poll_interval) | DeduplicateGenerations(watched)
                    ),
                    runner,
                    stream,
                )
            except WorkerLost as error:
                if len(state.finished) == done or not runner.config.max_retries:
                    raise
                _LOG.warning("Trying again: %s", error)
        state.clear()
    return state.finished


def watched_input(**parameters: Any) -> Watched:
    """Returns what `ReadNewFiles` and `DeduplicateGenerations` are given in a pipeline of your own.

    Args:
        **parameters: as `semdedup-watch --help` lists them; those that say when and where it runs have no meaning.

    Raises:
        InputError: a parameter is wrong or missing, or the places are wrong, or the corpus does not fit.
    """
    p = resolve(parameters, WatchParameters)
    with naming_places(p, InputError):
        return _prepare(p, make_runner(p))


def _prepare(p: WatchParameters, runner: runners.Runner[Any]) -> Watched:
    """Checks all that can be checked before the first file arrives; writes nothing."""
    p = replace(p, recall_sample=0)  # it would read all of the corpus for each generation
    if p.n_probes != "exact":
        _LOG.warning("n_probes=%s: duplicates in other clusters are missed; n_probes=exact misses none", p.n_probes)
    check_installed(p)
    if p.remove:
        (marker if p.remove == "mark" else copier)(str(p.input_filetype))  # raises
    if p.input_filetype is not None and format_named(p.input_filetype).pinned:
        raise InputError(
            f"input_filetype={p.input_filetype}: a dataset with versions is not watched; run semdedup on it, with "
            "against or corpus_path to compare with others"
        )
    files = list_files(p, may_be_none=True)
    check_places(p, files)
    p.input_path = [Folder.at(path, p.read_options).url for path in p.input_path]
    texts = find_model(p) if p.model else None
    theirs = None if p.against is None else find_references(p, files, texts[1] if texts else None)
    p.against_filetype = theirs.parameters.input_filetype if theirs else None
    p.output_path = Folder.at(p.output_path, p.write_options).url
    assert p.corpus_path is not None
    p.corpus_path = Folder.at(p.corpus_path, p.corpus_options).url
    output = Folder(p.output_path, p.write_options)
    if output.file(layout.SUMMARY).exists():
        raise InputError(f"output_path={p.output_path} has the results of another command; give another output_path")
    corpus = Corpus.at(Folder(p.corpus_path, p.corpus_options))
    common = corpus.common()
    if common is not None:
        common.check_parameters(p.corpus_path, p)
    elif make_engine(p).fits_ahead:
        raise InputError(
            f"kmeans={p.kmeans.name} fits before a pipeline starts: begin the corpus with semdedup, or give "
            "kmeans=local"
        )
    p.memory_budget = memory_per_worker(runner, runner.num_workers(), p.memory_budget)
    corpus.check_model(p, texts[1].key if texts else "")
    if theirs and common:
        check_dimension(common.dimension, "corpus_path", theirs.inspect().dimension, "against")
    return Watched(p, texts)


@dataclass(frozen=True)
class _Watch(Record):
    """Which process watches an input with an output."""

    name: str


class _State:
    """What the storage says of a stream, which is looked at now and then.

    Attributes:
        number: of the arrival that is finished next.
        finished: what was found in those that were finished meanwhile.
    """

    def __init__(self, watched: Watched, p: WatchParameters, draining: Callable[[], bool]) -> None:
        self._watched, self._arrivals, self._parameters, self._draining = watched, watched.arrivals, p, draining
        self._every = progress.interval(watched.parameters.output_path)
        self._file, self._own = watched.arrivals.output.file(layout.WATCH), _Watch(uuid.uuid4().hex)
        self._own.write(self._file)
        self._looked, self._changed = 0.0, time.monotonic()
        self._last: int | None = None
        self.number = self._arrivals.first_unfinished()
        self.finished: list[Finished] = []

    def clear(self) -> None:
        """Takes away what the last finished generation left, if its worker was stopped before it did so."""
        if self.number:
            self._watched.scratch(self.number - 1).delete_tree()

    def is_enough(self) -> bool:
        """Says whether the stream is to end; tells of what was finished since it was asked last."""
        now = time.monotonic()
        if now - self._looked < self._every and not self._draining():
            return self._is_over()
        self._looked = now
        try:
            self._look()
            return self._is_over() or self._is_idle()
        except StorageError as error:
            _LOG.warning("The results are looked at again later: %s", error)
            return False

    def _look(self) -> None:
        if _Watch.read(self._file) != self._own:
            raise RunError(
                f"another semdedup-watch was started with output_path={self._parameters.output_path}, or "
                f"{layout.WATCH} was deleted there: this one ends; give each its own"
            )
        for number in range(self.number, self._arrivals.first_unfinished()):
            found = Finished.read(self._arrivals.finished(number))
            self.number = number + 1
            self._changed = time.monotonic()
            if found is None:
                continue
            self.finished.append(found)
            _LOG.info(found.describe())
            if found.refused:
                _LOG.warning("Generation %s: not removed: %s", found.generation, found.refused)

    def _is_over(self) -> bool:
        if self._parameters.stop_after and len(self.finished) >= self._parameters.stop_after:
            return True
        if not self._draining():
            return False
        if self._last is None:
            self._last = len(self._arrivals.numbers())
            if self._last > self.number:
                _LOG.info("Ending when the generation at hand is finished")
        return self.number >= self._last

    def _is_idle(self) -> bool:
        idle = self._parameters.idle
        if idle is None or time.monotonic() - self._changed < idle:
            return False
        if len(self._arrivals.numbers()) > self.number or self._arrivals.new_files():
            self._changed = time.monotonic()
            return False
        return True
