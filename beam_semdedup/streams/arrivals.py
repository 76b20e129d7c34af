"""What arrives at the input while it is watched: files that are new, whole and readable, each recorded once."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError, RunError, StorageError
from beam_semdedup.inputs import dataset
from beam_semdedup.inputs.dataset import Columns, InputFacts
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.inputs.registry import format_named
from beam_semdedup.plan.corpus import Common, Corpus
from beam_semdedup.plan.job import ranking_of
from beam_semdedup.plan.stored import KMeansPlan
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import File, FileInfo, Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.threads import in_io_threads
from beam_semdedup.text import without_secrets

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"(\d{10})\.json")
_MOST_FILES = 10_000
"""How many files may arrive together; the others follow."""


@dataclass(frozen=True)
class Seen:
    """A file as a look found it; the URL is without what gives access."""

    url: str
    size: int
    version: str

    @classmethod
    def of(cls, file: FileInfo) -> Seen:
        """Returns what was seen of a file that was listed."""
        return cls(without_secrets(file.url), file.size, file.version)

    @property
    def fingerprint(self) -> str:
        """Names this version of the file."""
        return layout.fingerprint([self.url, self.size, self.version])


@dataclass(frozen=True)
class Arrival(Record):
    """The files of a generation, and when they were recorded, in seconds since the epoch."""

    files: tuple[Seen, ...]
    recorded: float


@dataclass(frozen=True)
class SetAside(Record):
    """A file that cannot be read or does not fit, and why; it is looked at again when it changes."""

    file: Seen
    reason: str


@dataclass(frozen=True)
class Position:
    """How far the input was looked at: the number of the next arrival, and the fingerprints of what waits for it."""

    number: int
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arrivals:
    """The arrivals at the input of some parameters, which have absolute paths.

    They are recorded in `output_path`, as `arrivals/0000000000.json` and so on; what cannot be taken is in
    `set_aside/`, and of each generation that is finished there is a file in `generations/`.

    Attributes:
        dimension: of the vectors that a model computes of the texts; None where the files hold vectors.
    """

    parameters: Parameters
    dimension: int | None = None

    @property
    def output(self) -> Folder:
        """The `output_path`."""
        return Folder(self.parameters.output_path, self.parameters.write_options)

    @property
    def corpus(self) -> Corpus:
        """What the arrivals are added to."""
        p = self.parameters
        assert p.corpus_path is not None
        return Corpus.at(Folder(p.corpus_path, p.corpus_options))

    def numbers(self) -> list[int]:
        """Returns the numbers of the arrivals that are recorded."""
        return _numbers(self.output / layout.ARRIVALS)

    def first_unfinished(self) -> int:
        """Returns the number of the first arrival, recorded or to come, that no generation is finished of."""
        return len(_numbers(self.output / layout.GENERATIONS))

    def next(self, position: Position) -> tuple[int | None, Position]:
        """Looks at the input once.

        A file belongs to the next arrival when a look finds it as the one before did. The arrival is recorded when
        the generation of the one before is finished.

        Returns:
            the number of the arrival that `position` speaks of, if it is recorded, and the position after it; else
            None, and how far this look came.
        """
        number = position.number
        try:
            if self._file(number).exists():
                return number, Position(number + 1, position.waiting)
            new = self.new_files()[:_MOST_FILES]
            settled = set(position.waiting)
            whole = [file for file in new if Seen.of(file).fingerprint in settled]
            if whole and (number == 0 or self.finished(number - 1).exists()) and self._record(number, whole):
                return number, Position(number + 1)
            return None, Position(number, tuple(Seen.of(file).fingerprint for file in new))
        except StorageError as error:
            _LOG.warning("The input is looked at again later: %s", error)
            return None, position

    def new_files(self) -> list[FileInfo]:
        """Returns the files of the input that neither an arrival nor the corpus has, and that are not set aside.

        Raises:
            StorageError: a place cannot be listed.
        """
        arrived, aside = self._arrived(), {record.file for record in self.set_aside()}
        others = self._in_corpus()
        found = []
        for file in list_files(self.parameters, warn=False, may_be_none=True):
            seen = Seen.of(file)
            if seen.url not in arrived:
                found += [] if seen in aside or seen.url in others else [file]
            elif arrived[seen.url] != seen:
                _warn_of_change(seen.url)
        return found

    def files(self, number: int) -> list[FileInfo]:
        """Returns the files of an arrival, as they are listed now.

        Raises:
            RunError: one has changed, or is gone.
        """
        listed = {Seen.of(file): file for file in list_files(self.parameters, warn=False, may_be_none=True)}
        wanted = self.read(number).files
        if gone := [seen.url for seen in wanted if seen not in listed]:
            raise RunError(
                f"{gone[0]} was changed or removed after it arrived, and before its rows were compared: put it back as "
                f"it was, or give another output_path and corpus_path"
            )
        return [listed[seen] for seen in wanted]

    def read(self, number: int) -> Arrival:
        """Returns a recorded arrival.

        Raises:
            InputError: the record is damaged or gone.
        """
        return _arrival(self._file(number))

    def set_aside(self) -> list[SetAside]:
        """Returns what is set aside."""
        folder = self.output / layout.SET_ASIDE
        return [record for name in sorted(folder.names()) if (record := _set_aside(folder.file(name)))]

    def finished(self, number: int) -> File:
        """Returns the file that is there when the generation of an arrival is finished."""
        return (self.output / layout.GENERATIONS).file(_name(number))

    def _file(self, number: int) -> File:
        return (self.output / layout.ARRIVALS).file(_name(number))

    def _in_corpus(self) -> set[str]:
        """Returns the URLs of the files that the generations of the corpus are of."""
        found = set[str]()
        for number in self.corpus.numbers():
            with contextlib.suppress(LookupError):  # it is not planned yet
                found.update(_files_of_plan(self.corpus.generation(number).file(layout.PLAN)))
        return found

    def _arrived(self) -> Mapping[str, Seen]:
        """Returns the files of all arrivals by their URLs."""
        records = in_io_threads(self.read, self.numbers())
        return {file.url: file for record in records for file in record.files}

    def _record(self, number: int, files: Iterable[FileInfo]) -> bool:
        """Records files that can be read and fit, and sets the others aside; returns whether there is any."""
        corpus, sound = self.corpus, []
        common = corpus.common()
        for file, facts in in_io_threads(lambda file: (file, self._inspect(file)), files):
            if isinstance(facts, InputFacts):
                common = common or Common.of(replace(self.parameters, n_clusters=1), facts, 1)
                differs = common.what_differs(self.parameters, facts)
                reason = f"{file}: {differs} in this file" if differs else ""
            else:
                reason = facts
            if not reason:
                sound.append(Seen.of(file))
            elif file.exists():
                self._set_aside(file, reason)
        if sound:
            self._file(number).create_if_absent(Arrival(tuple(sound), time.time()).to_json())
        return bool(sound)

    def _inspect(self, file: FileInfo) -> InputFacts | str:
        """Returns what is in a file, or why it cannot be read."""
        p = self.parameters
        carried = sorted({*p.metadata_fields, *ranking_of(p).input_columns})
        columns = Columns(
            p.id_column, p.embedding_field, carried, self.dimension or p.embedding_dim, None, p.text_field
        )
        try:
            return dataset.inspect([file], format_named(str(p.input_filetype)), columns)
        except InputError as error:
            return str(error)

    def _set_aside(self, file: FileInfo, reason: str) -> None:
        record = SetAside(Seen.of(file), without_secrets(reason))
        _LOG.warning("Set aside: %s", reason)
        folder = self.output / layout.SET_ASIDE
        for name in folder.names():
            former = _set_aside(folder.file(name))
            if former and former.file.url == record.file.url:
                folder.delete([name])
        record.write(folder.file(f"{record.file.fingerprint}.json"))


def _name(number: int) -> str:
    return f"{number:010d}.json"


def _numbers(folder: Folder) -> list[int]:
    """Returns the numbers of the records in a folder, as far as none is missing."""
    found = {int(match[1]) for name in folder.names() if (match := _NAME.fullmatch(name))}
    return list(range(next(number for number in range(len(found) + 1) if number not in found)))


@functools.lru_cache(maxsize=1 << 16)
def _arrival(file: File) -> Arrival:
    """Reads an arrival, which never changes."""
    found = Arrival.read(file)
    if found is None:
        raise InputError(f"{file} is damaged; which files arrived then cannot be known: give another output_path")
    return found


@functools.lru_cache(maxsize=1 << 10)
def _files_of_plan(file: File) -> tuple[str, ...]:
    """Returns the files that a generation of the corpus is of; LookupError as long as it is not planned."""
    found = KMeansPlan.read(file)
    if found is None:
        raise LookupError
    return found.files


@functools.lru_cache(maxsize=1 << 12)
def _set_aside(file: File) -> SetAside | None:
    """Reads why a file is set aside; another version of it has another record."""
    return SetAside.read(file)


@functools.lru_cache(maxsize=1 << 12)
def _warn_of_change(url: str) -> None:
    """Warns once of each file."""
    _LOG.warning("%s was changed after it arrived; what it holds now is not read: write new rows to new files", url)
