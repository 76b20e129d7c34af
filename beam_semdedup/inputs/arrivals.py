"""What arrives at the input while it is watched: files that are new, whole and readable, each recorded once."""

from __future__ import annotations

import base64
import functools
import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from beam_semdedup.errors import InputError, StorageError
from beam_semdedup.inputs import dataset
from beam_semdedup.inputs.base import joined_type
from beam_semdedup.inputs.dataset import Columns, InputFacts
from beam_semdedup.inputs.listing import InputPlace, filetype_of, list_files
from beam_semdedup.inputs.registry import format_named
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
    """The files of a generation, and when they were recorded, in seconds since the epoch.

    `schema` is that of the columns that are read, as Arrow serialises it, in base64, and `dimension` that of the
    vectors; the files of later arrivals must fit to them.
    """

    files: tuple[Seen, ...]
    schema: str
    dimension: int
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
    """The arrivals at an input, which are recorded, as `0000000000.json` and so on, in a folder.

    Attributes:
        place: where the input is.
        columns: that are read.
        output: holds `layout.ARRIVALS`, `layout.SET_ASIDE` and `layout.GENERATIONS`.
    """

    place: InputPlace
    columns: Columns
    output: Folder

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
        """Returns the files of the input that no arrival has, and that are not set aside.

        Raises:
            StorageError: a place cannot be listed.
        """
        known, aside = self._known(), {record.file for record in self.set_aside()}
        found = []
        for file in list_files(self.place, warn=False, may_be_none=True):
            seen = Seen.of(file)
            if seen.url not in known:
                found += [] if seen in aside else [file]
            elif known[seen.url] != seen:
                _warn_of_change(seen.url)
        return found

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

    def _known(self) -> Mapping[str, Seen]:
        """Returns the files of all arrivals by their URLs."""
        records = in_io_threads(self.read, self.numbers())
        return {file.url: file for record in records for file in record.files}

    def _record(self, number: int, files: Iterable[FileInfo]) -> bool:
        """Records files that can be read and fit, and sets the others aside; returns whether there is any."""
        sound, schema, dimension = [], None, 0
        if number:
            first = self.read(0)
            schema, dimension = _schema_of(first), first.dimension
        for file, facts in in_io_threads(lambda file: (file, self._inspect(file)), files):
            if isinstance(facts, InputFacts):
                reason = self._what_differs(file, facts, schema, dimension)
                schema, dimension = schema or facts.schema, dimension or facts.dimension
            else:
                reason = facts
            if not reason:
                sound.append(Seen.of(file))
            elif file.exists():
                self._set_aside(file, reason)
        if not sound:
            return False
        assert schema
        encoded = base64.b64encode(schema.serialize()).decode()
        self._file(number).create_if_absent(Arrival(tuple(sound), encoded, dimension, time.time()).to_json())
        return True

    def _inspect(self, file: FileInfo) -> InputFacts | str:
        """Returns what is in a file, or why it cannot be read."""
        try:
            kind = format_named(self.place.input_filetype or filetype_of([file]))
            return dataset.inspect([file], kind, self.columns)
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

    def _what_differs(self, file: FileInfo, facts: InputFacts, schema: pa.Schema | None, dimension: int) -> str:
        """Says what of a file does not fit to those before; nothing where it fits, or is the first."""
        if schema is None:
            return ""
        if facts.dimension != dimension:
            return f"{file}: the vectors have dimension {facts.dimension}, those of earlier files {dimension}"
        for name in schema.names:
            theirs, ours = schema.field(name).type, facts.schema.field(name).type
            if name != self.columns.embedding and joined_type(theirs, ours) is None:
                return f"{file}: column {name!r} is {ours}, in earlier files {theirs}: write it with one type"
        return ""


def _schema_of(arrival: Arrival) -> pa.Schema:
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(arrival.schema)))


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


@functools.lru_cache(maxsize=1 << 12)
def _set_aside(file: File) -> SetAside | None:
    """Reads why a file is set aside; another version of it has another record."""
    return SetAside.read(file)


@functools.lru_cache(maxsize=1 << 12)
def _warn_of_change(url: str) -> None:
    """Warns once of each file."""
    _LOG.warning("%s was changed after it arrived; what it holds now is not read: write new rows to new files", url)
