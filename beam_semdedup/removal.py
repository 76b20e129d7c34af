"""The original dataset without its duplicates: same files, same columns, in bounded memory.

Every input file is one unit. Its rows stream through in batches, and the ids of each batch are looked up in the
list of duplicates: in memory where it is small, else in the row groups whose range of ids meets the batch.

A unit that has written its file leaves what it found beside it, in `_removal/`, until the whole removal is done, so
that one that was killed goes on where it stopped.
"""

from __future__ import annotations

import base64
import logging
import posixpath
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam import coders
from apache_beam.pvalue import AsIter, AsSingleton

from beam_semdedup import embeddings, formats, inputs, progress, runners, storage
from beam_semdedup.capacity import memory_per_worker
from beam_semdedup.config import RemovalParameters
from beam_semdedup.failures import InputError, RunError, naming_unit
from beam_semdedup.id_list import IdList
from beam_semdedup.transforms import ReferenceCoder
from beam_semdedup.wording import counted, in_bytes

_LOG = logging.getLogger(__name__)
_LEDGER = "_removal.json"
_FOUND = "_removal"


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


for _element in (RemovalUnit, RemovedUnit):
    coders.registry.register_coder(_element, ReferenceCoder)


def remove_duplicates(p: RemovalParameters, listed: Sequence[str] | None = None) -> RemovalResult:
    """Writes the dataset at `p.input_path` without the ids listed at `p.duplicates_path`.

    Args:
        listed: the files of the list, where the caller stands behind them instead of a finished run.

    Raises:
        InputError: a list that no finished run stands behind, a wrong id column, an output that would mix
            with the input or with files that are not from an earlier removal.
    """
    started = time.time()
    memory = memory_per_worker(p)
    read_options = p.read_options
    write_options = p.write_options
    paths = find_list(p) if listed is None else listed
    ids = IdList.open(paths, p.duplicates_options, memory)
    files = inputs.list_files(p.input_path, p.input_filetype, p.input_file_extensions, read_options)
    output = storage.absolute(p.output_path, write_options)
    units = _units(p, files, output, read_options)
    _check_id_column(p, files, ids, read_options)
    key = _key(p, ids, files, units, output)
    _prepare(output, units, key, p.clear_output, write_options)
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
        runners.run(lambda pipeline: pipeline | RemoveDuplicates(p, units, ids, output, key, memory), p)
    ledger = storage.read_json(storage.join(output, _LEDGER), write_options)
    if not ledger or not ledger["finished"]:
        raise RunError(f"{output}/{_LEDGER} says that the removal did not finish; run it again")
    return RemovalResult(
        ledger["rows_read"],
        ledger["rows_removed"],
        ledger["ids_removed"],
        ids.num_ids - ledger["ids_removed"],
        tuple(storage.join(output, name) for name in ledger["files"]),
        round(time.time() - started, 3),
    )


def find_list(p: RemovalParameters) -> list[str]:
    """The files of the list at `p.duplicates_path`: those that the finished run's summary names.

    Raises:
        InputError: there is no finished run, it had no eps, or it found repeated ids; unless allowed.
    """
    options = p.duplicates_options
    url = storage.absolute(p.duplicates_path, options)
    for place in (url, url.rsplit("/", 1)[0]):
        summary = storage.read_json(storage.join(place, "summary.json"), options)
        if isinstance(summary, dict) and "duplicates_files" in summary:
            if summary["eps"] is None:
                raise InputError(f"duplicates_path={p.duplicates_path}: that run had no eps and found no duplicates")
            if summary["repeated_ids"]["count"] and p.repeated_ids != "allow":
                raise InputError(repeated_ids_message(summary["repeated_ids"]))
            return [storage.join(place, "duplicates", name) for name in summary["duplicates_files"]]
    if p.partial != "allow":
        raise InputError(
            f"duplicates_path={p.duplicates_path}: no finished run stands behind it (there is no summary.json): run "
            "semdedup to its end, or give partial=allow"
        )
    for place in (storage.join(url, "duplicates"), url):
        # Not below it: the cache in a run's output_path holds the ids of all rows.
        files = [f.url for f in storage.find(place, options) if "/" not in f.url[len(place) + 1 :]]
        files = [file for file in files if file.endswith(".parquet")]
        if files:
            return files
    raise InputError(f"duplicates_path={p.duplicates_path}: no parquet files there")


def repeated_ids_message(repeated: dict[str, Any]) -> str:
    """Why a removal by id refuses."""
    return (
        f"{repeated['count']} ids stand on more than one row (such as {', '.join(repeated['examples'])}); removing by "
        "id would remove all of their rows: make the ids unique, or give repeated_ids=allow"
    )


def owned_files(output: str, options: storage.Options) -> list[str]:
    """The files in `output` that an earlier removal wrote, its ledger last."""
    ledger = storage.read_json(storage.join(output, _LEDGER), options)
    if not ledger:
        return []
    found = [file.url for file in storage.find(storage.join(output, _FOUND), options)]
    return [*found, *(storage.join(output, name) for name in (*ledger["files"], _LEDGER))]


@dataclass
class RemoveDuplicates(beam.PTransform):
    """Writes every unit's file, then the ledger with the counts; the root transform of a pipeline."""

    parameters: RemovalParameters
    units: list[RemovalUnit]
    ids: IdList
    output: str
    key: str
    memory: int

    def expand(self, root: Any) -> Any:
        """From the root of the pipeline."""
        num_bytes = -(-self.ids.num_ids // 8)
        results = (
            root
            | "List files" >> beam.Create(self.units)
            | "Spread files" >> beam.Reshuffle()
            | "Remove duplicates"
            >> beam.ParDo(_Remove(self.parameters, self.ids, self.output, self.key, self.memory)).with_outputs(
                "found", main="written"
            )
        )
        written = results.written | "Written" >> beam.Map(lambda unit: unit).with_output_types(RemovedUnit)
        found = (
            results.found
            | "Found" >> beam.Map(lambda packed: packed).with_output_types(bytes)
            | "Join found" >> beam.CombineGlobally(_Bits(num_bytes))
        )
        write_options = self.parameters.write_options
        return (
            root
            | "End" >> beam.Create([self.output])
            | "Write ledger" >> beam.Map(_write_ledger, AsIter(written), AsSingleton(found), write_options)
        )


class _Remove(beam.DoFn):
    def __init__(self, parameters: RemovalParameters, ids: IdList, output: str, key: str, memory: int) -> None:
        self._p, self._ids, self._output, self._key, self._memory = parameters, ids, output, key, memory

    def setup(self) -> None:
        self._reader = self._ids.reader()

    def process(self, unit: RemovalUnit) -> Iterator[Any]:
        options = self._p.write_options
        name = storage.fingerprint([self._key, unit.target[len(self._output) :]])
        done = storage.join(self._output, _FOUND, f"{name}.json")
        with naming_unit(unit.source):
            facts = storage.read_json(done, options)
            if not facts or not storage.exists(unit.target, options):
                facts = self._write(unit, options)
                storage.write_json(done, facts, options)
        yield RemovedUnit(unit.target, facts["rows_read"], facts["rows_removed"])
        yield beam.pvalue.TaggedOutput("found", base64.b64decode(facts["found"]))

    def _write(self, unit: RemovalUnit, options: storage.Options) -> dict[str, Any]:
        write = {"parquet": self._parquet, "jsonl": self._jsonl}[self._p.input_filetype]
        found = [np.empty(0, dtype=np.int64)]
        with storage.whole_file(unit.target, options) as scratch:
            rows_read, rows_removed = write(unit, scratch, found)
        packed = base64.b64encode(_packed(np.unique(np.concatenate(found)))).decode()
        return {"rows_read": rows_read, "rows_removed": rows_removed, "found": packed}

    def _parquet(self, unit: RemovalUnit, scratch: Path, found: list[np.ndarray]) -> tuple[int, int]:
        rows_read = rows_removed = 0
        with storage.open_input(unit.source, self._p.read_options) as source:
            file = pq.ParquetFile(source)
            schema = file.schema_arrow
            metadata = file.metadata
            first = metadata.row_group(0) if metadata.num_row_groups else None
            columns = [first.column(i) for i in range(first.num_columns)] if first else []
            codecs = {c.path_in_schema: c.compression.replace("UNCOMPRESSED", "NONE") for c in columns}
            with pq.ParquetWriter(scratch, schema, compression=codecs or "SNAPPY") as writer:
                for group in range(metadata.num_row_groups):
                    size, rows = metadata.row_group(group).total_byte_size, metadata.row_group(group).num_rows
                    batch_rows = max(1, min(rows, rows * (self._memory // 8) // max(1, size)))
                    for batch in file.iter_batches(batch_rows, row_groups=[group]):
                        table = pa.Table.from_batches([batch])
                        ids = embeddings.decoded(table.column(self._p.id_field))
                        duplicate, entries = self._reader.find(ids)
                        found.append(entries)
                        writer.write_table(table.filter(pa.array(~duplicate)).cast(schema), row_group_size=max(1, rows))
                        rows_read += table.num_rows
                        rows_removed += int(duplicate.sum())
        return rows_read, rows_removed

    def _jsonl(self, unit: RemovalUnit, scratch: Path, found: list[np.ndarray]) -> tuple[int, int]:
        rows_read = rows_removed = 0
        is_integer = pa.types.is_integer(self._ids.id_type)
        schema = pa.schema([(self._p.id_field, pa.int64() if is_integer else pa.string())])
        options = self._p.read_options
        kind = formats.compression(unit.source)
        with (
            formats.open_stream(unit.source, options) as stream,
            fsspec.open(str(scratch), "wb", compression=kind) as sink,
        ):
            for block in formats.blocks(stream):
                starts, ends, _ = formats.line_spans(block)
                table, good = formats.parse_lines([block[s:e] for s, e in zip(starts, ends, strict=True)], schema)
                duplicate = np.zeros(len(starts), dtype=bool)
                duplicate[good], entries = self._reader.find(table.column(0))
                found.append(entries)
                written = 0
                for line in np.flatnonzero(duplicate):
                    sink.write(block[written : starts[line]])
                    written = ends[line] + 1
                sink.write(block[written:])
                rows_read += len(duplicate)
                rows_removed += int(duplicate.sum())
        return rows_read, rows_removed


class _Bits(beam.CombineFn):
    """The union of packed sets of numbers as a set of `num_bytes` * 8 bits."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes

    def create_accumulator(self) -> bytes:
        return bytes(self._num_bytes)

    def add_input(self, accumulator: bytes, element: bytes) -> bytes:
        numbers = _unpacked(element)
        bits = np.frombuffer(bytearray(accumulator), np.uint8)
        np.bitwise_or.at(bits, numbers >> 3, (1 << (numbers & 7)).astype(np.uint8))
        return bits.tobytes()

    def merge_accumulators(self, accumulators: Any) -> bytes:
        result = np.zeros(self._num_bytes, np.uint8)
        for accumulator in accumulators:
            result |= np.frombuffer(accumulator, np.uint8)
        return result.tobytes()

    def extract_output(self, accumulator: bytes) -> bytes:
        return accumulator


def _packed(numbers: np.ndarray) -> bytes:
    """Ascending int64 numbers in few bytes."""
    return zlib.compress(np.diff(numbers, prepend=0).astype("<i8").tobytes(), level=1)


def _unpacked(packed: bytes) -> np.ndarray:
    """The numbers that `_packed` was given."""
    return np.cumsum(np.frombuffer(zlib.decompress(packed), "<i8"), dtype=np.int64)


def _write_ledger(output: str, written: Any, found: bytes, options: storage.Options) -> None:
    units = list(written)
    ledger = {
        "finished": True,
        "files": _names(units, output),
        "rows_read": sum(u.rows_read for u in units),
        "rows_removed": sum(u.rows_removed for u in units),
        "ids_removed": int(np.unpackbits(np.frombuffer(found, np.uint8)).sum()),
    }
    storage.write_json(storage.join(output, _LEDGER), ledger, options)
    storage.delete_tree(storage.join(output, _FOUND), options)


def _key(
    p: RemovalParameters, ids: IdList, files: Sequence[storage.FileInfo], units: Sequence[RemovalUnit], output: str
) -> str:
    """What the written files depend on."""
    facts = {
        "list": [[f.url, f.size, f.version] for f in ids.files],
        "input": [[f.url, f.size, f.version] for f in files],
        "targets": [[u.source, u.target[len(output) :]] for u in units],
        "id_field": p.id_field,
        "input_filetype": p.input_filetype,
    }
    return storage.fingerprint(facts)


def _names(units: Sequence[RemovalUnit | RemovedUnit], output: str) -> list[str]:
    """The files of a ledger, as they are called in `output`, which may be copied or moved as a whole."""
    return sorted(u.target[len(output) + 1 :] for u in units)


def _units(
    p: RemovalParameters, files: Sequence[storage.FileInfo], output: str, read_options: storage.Options
) -> list[RemovalUnit]:
    """Each file with its target, the same path below `output` as below its input_path."""
    roots = [storage.absolute(path, read_options) for path in p.input_path]
    targets: dict[str, str] = {}
    for file in files:
        containing = [r for r in map(_fixed_part, roots) if storage.is_inside(file.url, r)]
        root = max(containing, key=len, default="")
        inner = file.url[len(root) :].strip("/") if root != file.url else ""
        target = storage.join(output, inner or file.url.rsplit("/", 1)[-1])
        if target in targets:
            raise InputError(f"input_path: {targets[target]} and {file.url} would both be written to {target}")
        if storage.is_inside(file.url, output):
            raise InputError(f"output_path={p.output_path} holds the input file {file.url}; choose another")
        targets[target] = file.url
    for root in roots:
        if storage.is_inside(output, root):
            raise InputError(f"output_path={p.output_path} lies inside input_path={root}; choose another")
    return [RemovalUnit(source, target) for target, source in targets.items()]


def _fixed_part(root: str) -> str:
    """A glob's directory before its first wildcard; any other path itself."""
    cut = min((root.index(c) for c in "*?[" if c in root), default=-1)
    return root if cut < 0 else root[:cut].rsplit("/", 1)[0]


def _check_id_column(
    p: RemovalParameters, files: Sequence[storage.FileInfo], ids: IdList, options: storage.Options
) -> None:
    kind = formats.FORMATS[p.input_filetype]

    def wrong(info: storage.FileInfo, schema: pa.Schema) -> str:
        if p.id_field not in schema.names:
            return f"{info.url}: no column id_field={p.id_field!r}; it has: {', '.join(schema.names)}"
        type_ = schema.field(p.id_field).type
        differs = ids.num_ids and pa.types.is_integer(type_) != pa.types.is_integer(ids.id_type)
        if type_ != pa.null() and (differs or not embeddings.is_id_type(type_)):
            return f"{info.url}: the ids in {p.id_field!r} are {type_}, those in the list of duplicates {ids.id_type}"
        return ""

    def check(info: storage.FileInfo) -> None:
        # The start of a file is enough to say that it fits, but not that it does not.
        head = kind.head(info, options)
        if head.names and wrong(info, head) and (error := wrong(info, kind.inspect(info, options).schema)):
            raise InputError(error)

    inputs.each(check, files)


def _prepare(output: str, units: Sequence[RemovalUnit], key: str, clear: bool, options: storage.Options) -> None:
    """Clears what an earlier removal wrote, and states what this one will write before it writes it.

    What an unfinished removal of the same files wrote stays, for this one to go on from.
    """
    ledger = storage.read_json(storage.join(output, _LEDGER), options)
    owned = owned_files(output, options)
    goes_on = bool(ledger) and not ledger["finished"] and ledger.get("key") == key
    if goes_on:
        _LOG.info("Going on with the removal that was not finished in %s", output)
    else:
        storage.delete_tree(storage.join(output, _FOUND), options)
        if clear:
            storage.delete(owned, options)
            owned = []
    places = {posixpath.dirname(unit.target) for unit in units}
    present = {storage.join(place, name) for place in places for name in storage.names(place, options)}
    for unit in units:
        if unit.target in present and unit.target not in owned:
            raise InputError(f"{unit.target} exists and is not from an earlier removal; choose another output_path")
    storage.write_json(
        storage.join(output, _LEDGER), {"finished": False, "key": key, "files": _names(units, output)}, options
    )
