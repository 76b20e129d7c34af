"""The original dataset without its duplicates: same files, same columns, in bounded memory.

Every input file is one unit. Its rows stream through in batches, and the ids of each batch are looked up in the
list of duplicates: in memory where it is small, else in the row groups whose range of ids meets the batch.

A finished unit notes in `_removal/` what it removed. A removal that was killed goes on from these notes; they are
deleted when it is done.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import posixpath
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsIter, AsSingleton

from beam_semdedup.coders import register
from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.errors import InputError, RunError, naming_unit
from beam_semdedup.inputs import dataset, embeddings
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.inputs.registry import FORMATS, copier
from beam_semdedup.removal.entries import JoinEntries, halves, pack
from beam_semdedup.removal.id_list import IdList, IdReader
from beam_semdedup.removal.repetitions import Repetitions
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.resources import memory_per_worker
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import File, FileInfo, Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.threads import in_io_threads
from beam_semdedup.text import EXAMPLES, counted, in_bytes

_LOG = logging.getLogger(__name__)
_LEDGER = "_removal.json"
_FOUND = "_removal"
_FORMAT = 3


@dataclass(frozen=True)
class RemovalUnit:
    """A file of the dataset, by its URL, and where it goes, by its name in the output."""

    source: str
    target: str


@dataclass(frozen=True)
class RemovedUnit:
    """A written file, and how many rows were read and removed."""

    target: str
    rows_read: int
    rows_removed: int


@dataclass(frozen=True)
class RemovalResult:
    """What a removal did. `ids_not_found` are entries of the list that no row has, which is no error."""

    rows_read: int
    rows_removed: int
    ids_removed: int
    ids_not_found: int
    files: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Ledger(Record):
    """What a removal wrote in its output: the files, and once it is finished what it found in them.

    Attributes:
        key: what the files depend on; a removal with the same goes on from an unfinished one.
        files: their names.
        repeated_ids: listed ids that stand on several rows; `repeated_entries` are the numbers of some in the list.
    """

    finished: bool
    key: str
    files: tuple[str, ...]
    rows_read: int = 0
    rows_removed: int = 0
    ids_removed: int = 0
    repeated_ids: int = 0
    repeated_entries: tuple[int, ...] = ()


@dataclass(frozen=True)
class _RemovedFrom(Record):
    """What was removed from a file: rows, and the packed numbers of the entries that were found, in base64."""

    rows_read: int
    rows_removed: int
    found: str


@dataclass(frozen=True)
class FinishedRun(Record):
    """What a removal must know of the run whose duplicates it removes, from its summary."""

    eps: float | None
    duplicates_files: tuple[str, ...]
    repeated_ids: Repetitions


class RepeatedIds(InputError):
    """Ids repeat, so that removing by id would remove rows that are no duplicates."""


register(RemovalUnit, RemovedUnit)


def remove_duplicates(p: RemovalParameters, listed: Sequence[File] | None = None) -> RemovalResult:
    """Writes the dataset at `p.input_path` without the ids listed at `p.duplicates_path`.

    Args:
        listed: the files of the list, given by a caller that has just finished the run; None: the run's summary
            names them.

    Raises:
        InputError: the list is not from a finished run, the id column is missing or of another type than the
            list's, or the output would mix with the input or with files that are not from an earlier removal.
        RepeatedIds: the run found repeated ids, or a listed id stands on several rows of the dataset, of which what
            was written is removed again (unless repeated_ids=allow).
    """
    started = time.time()
    copier(p.input_filetype)
    runner = make_runner(p)
    runner.check("auto")
    memory = memory_per_worker(runner, runner.num_workers(), p.memory_budget)
    ids = IdList.open(find_list(p) if listed is None else listed, memory)
    files = list_files(p)
    output = Folder.at(p.output_path, p.write_options)
    units = _units(p, files, output)
    _check_id_column(p, files, ids)
    job = RemovalJob(p, ids, output, _key(p, ids, files, units), memory)
    _prepare(job, units)
    _LOG.info(
        "Removing %s from %s, %s",
        counted(ids.num_ids, "listed id"),
        counted(len(units), "file"),
        in_bytes(sum(f.size for f in files)),
    )
    stages = [
        progress.StageProgress(
            "Remove duplicates",
            len(units),
            lambda: len({output.name_of(f) for f in output.find()} & {u.target for u in units}),
        )
    ]
    with progress.shown(stages, p.verbose, progress.interval(output.url)):
        runners.run(lambda pipeline: pipeline | RemoveDuplicates(job, units), runner)
    ledger = Ledger.read(output.file(_LEDGER))
    if not ledger or not ledger.finished:
        raise RunError(f"{output}/{_LEDGER} says that the removal did not finish; run it again")
    if ledger.repeated_ids and p.repeated_ids != "allow":
        clear(output)
        count, examples = ledger.repeated_ids, ids.examples(ledger.repeated_entries)
        raise RepeatedIds(Repetitions(count, in_dataset=count, examples=tuple(examples)).refusal())
    result = RemovalResult(
        ledger.rows_read,
        ledger.rows_removed,
        ledger.ids_removed,
        ids.num_ids - ledger.ids_removed,
        tuple(output.file(name).url for name in ledger.files),
        round(time.time() - started, 3),
    )
    if result.ids_not_found > result.ids_removed:
        _LOG.warning(
            "Not found in id_field=%s of input_path=%s: %s of %s in duplicates_path=%s; check that the run was on this "
            "dataset, and that this is the column of its ids",
            p.id_field,
            ", ".join(p.input_path),
            f"{result.ids_not_found:,}",
            counted(ids.num_ids, "listed id"),
            p.duplicates_path,
        )
    return result


def find_list(p: RemovalParameters) -> list[File]:
    """The files of the list at `p.duplicates_path`: those that the finished run's summary names.

    Raises:
        InputError: there is no finished run (unless partial=allow), or it had no eps.
        RepeatedIds: it found repeated ids (unless repeated_ids=allow).
    """
    folder = Folder.at(p.duplicates_path, p.duplicates_options)
    for place in (folder, folder.parent):
        run = FinishedRun.read(place.file(layout.SUMMARY))
        if run is not None:
            if run.eps is None:
                raise InputError(f"duplicates_path={p.duplicates_path}: that run had no eps and found no duplicates")
            if run.repeated_ids.count and p.repeated_ids != "allow":
                raise RepeatedIds(run.repeated_ids.refusal())
            return [(place / layout.DUPLICATES).file(name) for name in run.duplicates_files]
    if not folder.exists():
        raise InputError(f"duplicates_path={p.duplicates_path} does not exist")
    if p.partial != "allow":
        raise InputError(
            f"duplicates_path={p.duplicates_path}: not from a finished run (there is no summary.json): run "
            "semdedup to its end, or give partial=allow"
        )
    for place in (folder / layout.DUPLICATES, folder):
        # Not below it: the cache in a run's output_path holds the ids of all rows.
        files: list[File] = [f for f in place.find() if "/" not in place.name_of(f) and f.url.endswith(".parquet")]
        if files:
            return files
    raise InputError(f"duplicates_path={p.duplicates_path}: no parquet files there")


def owned_files(output: Folder) -> list[str]:
    """Returns the names of the files in `output` that an earlier removal wrote, its ledger last."""
    ledger = Ledger.read(output.file(_LEDGER))
    if not ledger:
        return []
    return [*(output.name_of(file) for file in (output / _FOUND).find()), *ledger.files, _LEDGER]


def clear(output: Folder) -> None:
    """Deletes what an earlier removal wrote in `output`."""
    output.delete(owned_files(output))


@dataclass(frozen=True)
class RemovalJob:
    """What the units of a removal share.

    `key` is what the written files depend on, `memory` a worker's, in bytes.
    """

    parameters: RemovalParameters
    ids: IdList
    output: Folder
    key: str
    memory: int


@dataclass
class RemoveDuplicates(beam.PTransform):
    """Writes every unit's file, then the ledger with the counts; the root transform of a pipeline."""

    job: RemovalJob
    units: list[RemovalUnit]

    def expand(self, root: Any) -> Any:
        """From the root of the pipeline."""
        num_bytes = -(-self.job.ids.num_ids // 8)
        results = (
            root
            | "List files" >> beam.Create(self.units)
            | "Spread files" >> beam.Reshuffle()
            | "Remove duplicates" >> beam.ParDo(_Remove(self.job)).with_outputs("found", main="written")
        )
        written = results.written | "Written" >> beam.Map(lambda unit: unit).with_output_types(RemovedUnit)
        found = (
            results.found
            | "Found" >> beam.Map(lambda packed: packed).with_output_types(bytes)
            | "Join found" >> beam.CombineGlobally(JoinEntries(num_bytes))
        )
        job = self.job
        return (
            root
            | "End" >> beam.Create([0])
            | "Write ledger"
            >> beam.Map(lambda _, *found: _write_ledger(job, *found), AsIter(written), AsSingleton(found))
        )


class _Remove(beam.DoFn):
    def __init__(self, job: RemovalJob) -> None:
        self._job = job

    def setup(self) -> None:
        self._reader = self._job.ids.reader()

    def process(self, unit: RemovalUnit) -> Iterator[Any]:
        removed, found = remove_from_unit(self._job, unit, self._reader)
        yield removed
        yield beam.pvalue.TaggedOutput("found", found)


def remove_from_unit(job: RemovalJob, unit: RemovalUnit, ids: IdReader) -> tuple[RemovedUnit, bytes]:
    """Writes a unit's file, unless an earlier attempt did.

    Returns:
        The counts; and the numbers of the entries of the list that were found in the file, packed.
    """
    done = (job.output / _FOUND).file(f"{layout.fingerprint([job.key, unit.target])}.json")
    with naming_unit(unit.source):
        facts = _RemovedFrom.read(done)
        if not facts or not job.output.file(unit.target).exists():
            facts = _write_unit(job, unit, ids)
            facts.write(done)
    return RemovedUnit(unit.target, facts.rows_read, facts.rows_removed), base64.b64decode(facts.found)


def _write_unit(job: RemovalJob, unit: RemovalUnit, ids: IdReader) -> _RemovedFrom:
    p = job.parameters
    found = [np.empty(0, dtype=np.int64)]

    def is_listed(batch: pa.ChunkedArray) -> np.ndarray:
        mask, entries = ids.find(batch)
        found.append(entries)
        return mask

    source, id_column = File(unit.source, p.read_options), pa.field(p.id_field, job.ids.id_type)
    with job.output.file(unit.target).atomic_write() as scratch:
        rows_read, rows_removed = copier(p.input_filetype).copy_without(
            source, scratch, id_column, is_listed, job.memory // 8
        )
    entries, rows = np.unique(np.concatenate(found), return_counts=True)
    # More than twice says no more than twice.
    packed = base64.b64encode(pack(np.repeat(entries, np.minimum(rows, 2)))).decode()
    return _RemovedFrom(rows_read, rows_removed, packed)


def _write_ledger(job: RemovalJob, written: Iterable[RemovedUnit], entries: bytes) -> None:
    units = list(written)
    found, repeated = halves(entries)
    some = np.flatnonzero(repeated)[:EXAMPLES]
    numbers = np.argwhere(np.unpackbits(repeated[some, None], axis=1, bitorder="little"))
    ledger = Ledger(
        finished=True,
        key=job.key,
        files=_names(units),
        rows_read=sum(u.rows_read for u in units),
        rows_removed=sum(u.rows_removed for u in units),
        ids_removed=int(np.unpackbits(found).sum()),
        repeated_ids=int(np.unpackbits(repeated).sum()),
        repeated_entries=tuple(int(8 * some[byte] + bit) for byte, bit in numbers[:EXAMPLES]),
    )
    ledger.write(job.output.file(_LEDGER))
    (job.output / _FOUND).delete_tree()


def _key(p: RemovalParameters, ids: IdList, files: Sequence[FileInfo], units: Sequence[RemovalUnit]) -> str:
    """Returns what the written files depend on."""
    facts = {
        "format": _FORMAT,
        "list": [[f.url, f.size, f.version] for f in ids.files],
        "input": [[f.url, f.size, f.version] for f in files],
        "targets": [[u.source, u.target] for u in units],
        "id_field": p.id_field,
        "input_filetype": p.input_filetype,
    }
    return layout.fingerprint(facts)


def _names(units: Iterable[RemovalUnit | RemovedUnit]) -> tuple[str, ...]:
    return tuple(sorted(u.target for u in units))


def _units(p: RemovalParameters, files: Sequence[FileInfo], output: Folder) -> list[RemovalUnit]:
    """Pairs each file with its target, the same name in `output` as in its input_path."""
    roots = [Folder.at(path, p.read_options) for path in p.input_path]
    fixed = [root.fixed_part() for root in roots]
    place = output.realpath()
    targets: dict[str, str] = {}
    for file in files:
        root = max((r for r in fixed if file.is_inside(r)), key=lambda r: len(r.url), default=None)
        target = (root and root.name_of(file)) or file.name
        if target in targets:
            raise InputError(
                f"input_path: {targets[target]} and {file} would both be written to {output.file(target)}: give a "
                "directory that holds both as input_path, or remove from one after the other with an output_path each"
            )
        if file.realpath().is_inside(place):
            raise InputError(f"output_path={p.output_path} holds the input file {file}; choose another")
        targets[target] = file.url
    for root in roots:
        if place.is_inside(root.realpath()):
            raise InputError(f"output_path={p.output_path} lies inside input_path={root}; choose another")
    return [RemovalUnit(source, target) for target, source in targets.items()]


def _check_id_column(p: RemovalParameters, files: Sequence[FileInfo], ids: IdList) -> None:
    kind = FORMATS[p.input_filetype]

    def check_type(info: FileInfo, schema: pa.Schema) -> None:
        dataset.check_column(info.url, schema, p.id_field, f"id_field={p.id_field!r}")
        type_ = embeddings.plain_type(schema.field(p.id_field).type)
        differs = ids.num_ids and pa.types.is_integer(type_) != pa.types.is_integer(ids.id_type)
        if type_ != pa.null() and (differs or not embeddings.is_id_type(type_)):
            raise InputError(
                f"{info.url}: the ids in {p.id_field!r} are {type_}, those in the list of duplicates {ids.id_type}"
            )

    def check(info: FileInfo) -> None:
        # The start of a file is enough to say that it fits, but not that it does not.
        with contextlib.suppress(InputError):
            check_type(info, kind.head(info))
            return
        facts = kind.inspect(info)
        dataset.check_any_column(kind, facts)
        if facts.num_rows:
            check_type(info, facts.schema)

    in_io_threads(check, files)


def _prepare(job: RemovalJob, units: Sequence[RemovalUnit]) -> None:
    """Clears what an earlier removal wrote, and writes a ledger of what this one is going to write.

    What an unfinished removal of the same files wrote stays: this one goes on from it.
    """
    output = job.output
    ledger = Ledger.read(output.file(_LEDGER))
    owned = owned_files(output)
    goes_on = ledger is not None and not ledger.finished and ledger.key == job.key
    if goes_on:
        _LOG.info("Going on with the removal that was not finished in %s", output)
    else:
        (output / _FOUND).delete_tree()
        if job.parameters.clear_output:
            output.delete(owned)
            owned = []
    folders = {posixpath.dirname(unit.target) for unit in units}
    present = {
        posixpath.join(folder, name) for folder in folders for name in (output / folder if folder else output).names()
    }
    for unit in units:
        if unit.target in present and unit.target not in owned:
            taken = output.file(unit.target)
            raise InputError(f"{taken} exists and is not from an earlier removal; choose another output_path")
    Ledger(finished=False, key=job.key, files=_names(units)).write(output.file(_LEDGER))
