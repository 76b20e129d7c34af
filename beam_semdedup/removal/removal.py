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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsIter, AsSingleton

from beam_semdedup.coders import register
from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.errors import InputError, RunError, naming_unit
from beam_semdedup.inputs import dataset as inputs
from beam_semdedup.inputs import embeddings
from beam_semdedup.removal.entries import JoinEntries, halves, pack
from beam_semdedup.removal.id_list import IdList, IdReader
from beam_semdedup.runners import base as runners
from beam_semdedup.runners import progress
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.resources import memory_per_worker
from beam_semdedup.storage import files as storage
from beam_semdedup.storage import layout
from beam_semdedup.text import EXAMPLES, counted, in_bytes

_LOG = logging.getLogger(__name__)
_LEDGER = "_removal.json"
_FOUND = "_removal"
_FORMAT = 2


@dataclass(frozen=True)
class RemovalUnit:
    """A file of the dataset and where it goes."""

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


class RepeatedIds(InputError):
    """Ids repeat, so that removing by id would remove rows that are no duplicates."""


register(RemovalUnit, RemovedUnit)


def remove_duplicates(p: RemovalParameters, listed: Sequence[str] | None = None) -> RemovalResult:
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
    runner = make_runner(p)
    runner.check("auto")
    memory = memory_per_worker(runner, runner.num_workers(), p.memory_budget)
    read_options = p.read_options
    write_options = p.write_options
    paths = find_list(p) if listed is None else listed
    ids = IdList.open(paths, p.duplicates_options, memory)
    files = inputs.list_files(p.input_path, p.input_filetype, p.input_file_extensions, read_options)
    output = storage.absolute(p.output_path, write_options)
    units = _units(p, files, output, read_options)
    _check_id_column(p, files, ids, read_options)
    job = RemovalJob(p, ids, output, _key(p, ids, files, units, output), memory)
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
            lambda: len({f.url for f in storage.find(output, write_options)} & {u.target for u in units}),
        )
    ]
    with progress.shown(stages, p.verbose, progress.interval(output)):
        runners.run(lambda pipeline: pipeline | RemoveDuplicates(job, units), runner)
    ledger = storage.read_json(storage.join(output, _LEDGER), write_options)
    if not ledger or not ledger["finished"]:
        raise RunError(f"{output}/{_LEDGER} says that the removal did not finish; run it again")
    if ledger["repeated_ids"] and p.repeated_ids != "allow":
        clear(output, write_options)
        repeated = {"in_dataset": ledger["repeated_ids"], "examples": ids.examples(ledger["repeated_entries"])}
        raise RepeatedIds(repeated_ids_message(repeated))
    result = RemovalResult(
        ledger["rows_read"],
        ledger["rows_removed"],
        ledger["ids_removed"],
        ids.num_ids - ledger["ids_removed"],
        tuple(storage.join(output, name) for name in ledger["files"]),
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


def find_list(p: RemovalParameters) -> list[str]:
    """The files of the list at `p.duplicates_path`: those that the finished run's summary names.

    Raises:
        InputError: there is no finished run (unless partial=allow), or it had no eps.
        RepeatedIds: it found repeated ids (unless repeated_ids=allow).
    """
    options = p.duplicates_options
    url = storage.absolute(p.duplicates_path, options)
    for place in (url, url.rsplit("/", 1)[0]):
        summary = storage.read_json(storage.join(place, layout.SUMMARY), options)
        if isinstance(summary, dict) and "duplicates_files" in summary:
            if summary["eps"] is None:
                raise InputError(f"duplicates_path={p.duplicates_path}: that run had no eps and found no duplicates")
            if summary["repeated_ids"]["count"] and p.repeated_ids != "allow":
                raise RepeatedIds(repeated_ids_message(summary["repeated_ids"]))
            return [storage.join(place, layout.DUPLICATES, name) for name in summary["duplicates_files"]]
    if not storage.exists(url, options):
        raise InputError(f"duplicates_path={p.duplicates_path} does not exist")
    if p.partial != "allow":
        raise InputError(
            f"duplicates_path={p.duplicates_path}: not from a finished run (there is no summary.json): run "
            "semdedup to its end, or give partial=allow"
        )
    for place in (storage.join(url, layout.DUPLICATES), url):
        # Not below it: the cache in a run's output_path holds the ids of all rows.
        files = [f.url for f in storage.find(place, options) if "/" not in f.url[len(place) + 1 :]]
        files = [file for file in files if file.endswith(".parquet")]
        if files:
            return files
    raise InputError(f"duplicates_path={p.duplicates_path}: no parquet files there")


def repeated_ids_in_words(repeated: dict[str, Any]) -> str:
    """Where ids were found to repeat, how many, and some of them."""
    clusters, duplicates, dataset = (repeated.get(name, 0) for name in ("in_clusters", "in_duplicates", "in_dataset"))
    where = {
        f"{counted(clusters, 'time')} within clusters": clusters,  # an id counts in each of them
        f"{duplicates:,} among the duplicates": duplicates,
        f"{dataset:,} of the listed ones in the dataset": dataset,
    }
    found = " and ".join(words for words, count in where.items() if count)
    return f"ids repeat, {found}, such as {', '.join(map(repr, repeated['examples']))}"


def repeated_ids_message(repeated: dict[str, Any]) -> str:
    """Why a removal by id refuses."""
    return (
        f"{repeated_ids_in_words(repeated)}; a removal would take all rows of a listed id, the kept one included: make "
        "the ids unique, or give repeated_ids=allow"
    )


def owned_files(output: str, options: storage.Options) -> list[str]:
    """The files in `output` that an earlier removal wrote, its ledger last."""
    ledger = storage.read_json(storage.join(output, _LEDGER), options)
    if not ledger:
        return []
    found = [file.url for file in storage.find(storage.join(output, _FOUND), options)]
    return [*found, *(storage.join(output, name) for name in (*ledger["files"], _LEDGER))]


def clear(output: str, options: storage.Options) -> None:
    """Deletes what an earlier removal wrote in `output`."""
    storage.delete(owned_files(output, options), options)


@dataclass(frozen=True)
class RemovalJob:
    """What the units of a removal share.

    `output` is the absolute output_path, `key` what the written files depend on, `memory` a worker's, in bytes.
    """

    parameters: RemovalParameters
    ids: IdList
    output: str
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
        write_options = self.job.parameters.write_options
        return (
            root
            | "End" >> beam.Create([self.job.output])
            | "Write ledger" >> beam.Map(_write_ledger, AsIter(written), AsSingleton(found), write_options)
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
    options = job.parameters.write_options
    name = storage.fingerprint([job.key, unit.target[len(job.output) :]])
    done = storage.join(job.output, _FOUND, f"{name}.json")
    with naming_unit(unit.source):
        facts = storage.read_json(done, options)
        if not facts or not storage.exists(unit.target, options):
            facts = _write_unit(job, unit, ids)
            storage.write_json(done, facts, options)
    return RemovedUnit(unit.target, facts["rows_read"], facts["rows_removed"]), base64.b64decode(facts["found"])


def _write_unit(job: RemovalJob, unit: RemovalUnit, ids: IdReader) -> dict[str, Any]:
    p = job.parameters
    found = [np.empty(0, dtype=np.int64)]

    def is_listed(batch: pa.ChunkedArray) -> np.ndarray:
        mask, entries = ids.find(batch)
        found.append(entries)
        return mask

    with storage.whole_file(unit.target, p.write_options) as scratch:
        rows_read, rows_removed = inputs.FORMATS[p.input_filetype].copy_without(
            unit.source, scratch, pa.field(p.id_field, job.ids.id_type), is_listed, job.memory // 8, p.read_options
        )
    entries, rows = np.unique(np.concatenate(found), return_counts=True)
    # More than twice says no more than twice.
    packed = base64.b64encode(pack(np.repeat(entries, np.minimum(rows, 2)))).decode()
    return {"rows_read": rows_read, "rows_removed": rows_removed, "found": packed}


def _write_ledger(output: str, written: Any, entries: bytes, options: storage.Options) -> None:
    units = list(written)
    found, repeated = halves(entries)
    some = np.flatnonzero(repeated)[:EXAMPLES]
    numbers = np.argwhere(np.unpackbits(repeated[some, None], axis=1, bitorder="little"))
    ledger = {
        "finished": True,
        "files": _names(units, output),
        "rows_read": sum(u.rows_read for u in units),
        "rows_removed": sum(u.rows_removed for u in units),
        "ids_removed": int(np.unpackbits(found).sum()),
        "repeated_ids": int(np.unpackbits(repeated).sum()),
        "repeated_entries": [int(8 * some[byte] + bit) for byte, bit in numbers[:EXAMPLES]],
    }
    storage.write_json(storage.join(output, _LEDGER), ledger, options)
    storage.delete_tree(storage.join(output, _FOUND), options)


def _key(
    p: RemovalParameters, ids: IdList, files: Sequence[storage.FileInfo], units: Sequence[RemovalUnit], output: str
) -> str:
    """What the written files depend on."""
    facts = {
        "format": _FORMAT,
        "list": [[f.url, f.size, f.version] for f in ids.files],
        "input": [[f.url, f.size, f.version] for f in files],
        "targets": [[u.source, u.target[len(output) :]] for u in units],
        "id_field": p.id_field,
        "input_filetype": p.input_filetype,
    }
    return storage.fingerprint(facts)


def _names(units: Sequence[RemovalUnit | RemovedUnit], output: str) -> list[str]:
    """The files as a ledger names them: relative to `output`, which may be copied or moved as a whole."""
    return sorted(u.target[len(output) + 1 :] for u in units)


def _units(
    p: RemovalParameters, files: Sequence[storage.FileInfo], output: str, read_options: storage.Options
) -> list[RemovalUnit]:
    """Each file with its target, the same path below `output` as below its input_path."""
    roots = [storage.absolute(path, read_options) for path in p.input_path]
    fixed = [storage.fixed_part(root, read_options) for root in roots]
    place = storage.followed(output)
    targets: dict[str, str] = {}
    for file in files:
        root = max((r for r in fixed if storage.is_inside(file.url, r)), key=len, default="")
        inner = file.url[len(root) :].strip("/") if root != file.url else ""
        target = storage.join(output, inner or file.url.rsplit("/", 1)[-1])
        if target in targets:
            raise InputError(
                f"input_path: {targets[target]} and {file.url} would both be written to {target}: give a "
                "directory that holds both as input_path, or remove from one after the other with an output_path each"
            )
        if storage.is_inside(storage.followed(file.url), place):
            raise InputError(f"output_path={p.output_path} holds the input file {file.url}; choose another")
        targets[target] = file.url
    for root in roots:
        if storage.is_inside(place, storage.followed(root)):
            raise InputError(f"output_path={p.output_path} lies inside input_path={root}; choose another")
    return [RemovalUnit(source, target) for target, source in targets.items()]


def _check_id_column(
    p: RemovalParameters, files: Sequence[storage.FileInfo], ids: IdList, options: storage.Options
) -> None:
    kind = inputs.FORMATS[p.input_filetype]

    def check_type(info: storage.FileInfo, schema: pa.Schema) -> None:
        inputs.check_column(info.url, schema, p.id_field, f"id_field={p.id_field!r}")
        type_ = embeddings.plain_type(schema.field(p.id_field).type)
        differs = ids.num_ids and pa.types.is_integer(type_) != pa.types.is_integer(ids.id_type)
        if type_ != pa.null() and (differs or not embeddings.is_id_type(type_)):
            raise InputError(
                f"{info.url}: the ids in {p.id_field!r} are {type_}, those in the list of duplicates {ids.id_type}"
            )

    def check(info: storage.FileInfo) -> None:
        # The start of a file is enough to say that it fits, but not that it does not.
        with contextlib.suppress(InputError):
            check_type(info, kind.head(info, options))
            return
        facts = kind.inspect(info, options)
        inputs.check_any_column(kind, facts)
        if facts.num_rows:
            check_type(info, facts.schema)

    inputs.in_io_threads(check, files)


def _prepare(job: RemovalJob, units: Sequence[RemovalUnit]) -> None:
    """Clears what an earlier removal wrote, and writes a ledger of what this one is going to write.

    What an unfinished removal of the same files wrote stays: this one goes on from it.
    """
    output, options = job.output, job.parameters.write_options
    ledger = storage.read_json(storage.join(output, _LEDGER), options)
    owned = owned_files(output, options)
    goes_on = bool(ledger) and not ledger["finished"] and ledger.get("key") == job.key
    if goes_on:
        _LOG.info("Going on with the removal that was not finished in %s", output)
    else:
        storage.delete_tree(storage.join(output, _FOUND), options)
        if job.parameters.clear_output:
            storage.delete(owned, options)
            owned = []
    places = {posixpath.dirname(unit.target) for unit in units}
    present = {storage.join(place, name) for place in places for name in storage.names(place, options)}
    for unit in units:
        if unit.target in present and unit.target not in owned:
            raise InputError(f"{unit.target} exists and is not from an earlier removal; choose another output_path")
    storage.write_json(
        storage.join(output, _LEDGER), {"finished": False, "key": job.key, "files": _names(units, output)}, options
    )
