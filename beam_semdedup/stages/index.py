"""A unit of the index: where all that concerns the keys of a range lies, in one file with a record batch for each key.

Files of segments are few, and each says in its own index where what it has of a key begins. Put together by key that is
what the units read that compare rows: what travels to them is one reference to it, however many segments a key has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.errors import naming_unit
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.sizes import index_units
from beam_semdedup.storage import layout, segments
from beam_semdedup.storage.damage import DamagedFile
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import MATCHES, ROWS, VISITS, Segment, SegmentFile
from beam_semdedup.storage.threads import in_io_threads

_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("offset", pa.uint64()),
        ("length", pa.uint64()),
        ("key", pa.uint64()),
        ("num_rows", pa.uint64()),
        ("checksum", pa.uint64()),
        ("kind", pa.int8()),
        ("generation", pa.int32()),
    ]
)


@dataclass(frozen=True)
class IndexUnit:
    """Keys `[first, stop)`, of whose segments an index is written; `files` names what lists the files with them."""

    first: int
    stop: int
    files: str


@dataclass(frozen=True)
class _Files(Record):
    """The files whose segments are put together, in an order that depends on nothing else."""

    files: tuple[SegmentFile, ...]


@dataclass(frozen=True)
class _Facts(Record):
    """What an index says of itself: the files that it is of, as a fingerprint."""

    files: str


@dataclass(frozen=True)
class _AnyFacts(Record):
    """Whatever a file of segments says of itself."""


def plan_index(job: Job, files: Iterable[SegmentFile]) -> list[IndexUnit]:
    """Lists the files for the units that put their segments together; returns these units.

    They are so many that each holds its segments in little memory, and each reads the indexes of all files.
    """
    listed = tuple(sorted(files, key=lambda file: (file.generation, file.name, file.kind)))
    name = layout.fingerprint([job.has_recall, *(dataclasses.astuple(file) for file in listed)])
    _Files(listed).write(_listing(job, name))
    keys = job.sizes.num_keys
    units = index_units(sum(file.num_segments for file in listed), keys)
    bounds = [keys * unit // units for unit in range(units + 1)]
    return [IndexUnit(first, stop, name) for first, stop in zip(bounds[:-1], bounds[1:], strict=True)]


def index_keys(job: Job, unit: IndexUnit) -> list[Segment]:
    """Writes the index of the keys of a unit; returns where it has each of them, that with most rows first.

    Runners deal keys out to their workers in turn, so that each has about as much to do. Keys are left out of which the
    job's own generation has neither rows nor visits, unless the recall is estimated: by what is missed there.
    """
    facts, name = _Facts(unit.files), f"{unit.first:08d}-{unit.stop - 1:08d}-{unit.files}.arrow"
    with naming_unit(f"the index of keys {unit.first} to {unit.stop - 1}"):
        found = segments.read_index(job.index.file(name), _Facts, segments.INDEX)
        if found is None or found[0] != facts:
            listing = _listing(job, unit.files)
            listed = _Files.read(listing)
            if listed is None:
                raise RuntimeError(f"{listing} is gone or damaged, though the run wrote it; run again")
            batches = _batches(job, unit, listed.files)
            return list(segments.write_batches(job.index, name, _SCHEMA, batches, facts, segments.INDEX, 0).segments)
        return list(found[1].segments)


def _listing(job: Job, name: str) -> File:
    return job.index.file(f"{name}.json")


def index_all(job: Job, files: Iterable[SegmentFile]) -> list[Segment]:
    """Returns where the index of some files has each key, after writing all of it in this process."""
    return [key for unit in plan_index(job, files) for key in index_keys(job, unit)]


def segments_of(job: Job, key: Segment) -> list[Segment]:
    """Returns all that an index says of a key, in an order that depends on nothing else: earlier generations first."""
    with stored.discarding(job.pairwise):
        (batch,) = segments.read(job.index, [key], _SCHEMA)
    return [Segment(*values) for values in zip(*(column.to_pylist() for column in batch.columns), strict=True)]


def _batches(job: Job, unit: IndexUnit, files: Sequence[SegmentFile]) -> list[tuple[int, pa.RecordBatch]]:
    """Returns the segments of each key of a unit as they are stored, and the key."""

    def read(file: SegmentFile) -> npt.NDArray[np.void]:
        entries = _entries(job, file)
        return entries[(entries["key"] >= unit.first) & (entries["key"] < unit.stop)]

    parts = in_io_threads(read, files)
    entries = np.concatenate([np.empty(0, segments.ENTRY), *parts])
    which = np.repeat(np.arange(len(files)), [len(part) for part in parts])
    kinds = np.array([file.kind for file in files], dtype=np.int8)[which]
    generations = np.array([file.generation for file in files], dtype=np.int32)[which]
    is_own = ((generations == job.generation) & (kinds != MATCHES)) | job.has_recall
    chosen = np.flatnonzero(np.isin(entries["key"], np.unique(entries["key"][is_own])))
    chosen = chosen[np.argsort(entries["key"][chosen], kind="stable")]
    entries, which = entries[chosen], which[chosen]
    names = pa.array([file.name for file in files], pa.string())
    table = pa.record_batch(
        [
            names.take(pa.array(which)),
            *(pa.array(np.ascontiguousarray(entries[column])) for column in entries.dtype.names or ()),
            pa.array(kinds[chosen]),
            pa.array(generations[chosen]),
        ],
        schema=_SCHEMA,
    )
    present, starts = np.unique(entries["key"], return_index=True)
    stops = np.append(starts[1:], len(entries))
    rows = np.add.reduceat(entries["num_rows"], starts) if len(starts) else np.empty(0)
    largest_first = np.argsort(-rows.astype(np.int64), kind="stable").tolist()
    return [(int(present[n]), table.slice(starts[n], stops[n] - starts[n])) for n in largest_first]


def _entries(job: Job, file: SegmentFile) -> npt.NDArray[np.void]:
    """Returns the index of a file; UnitError where it is not what the unit said that wrote it."""
    at = job if file.kind == MATCHES else job.at(file.generation)
    stage = job.pairwise if file.kind == MATCHES else at.kmeans
    with stored.discarding(stage, remedy=at.remedy):
        place: File = {ROWS: at.segments, VISITS: at.visits, MATCHES: job.matches}[file.kind].file(file.name)
        found = segments.read_index(place, _AnyFacts, file.kind, file.generation)
        if found is None or found[1].file != file:
            raise DamagedFile(place, "its index cannot be read, or is another than was written")
    return found[1].entries
