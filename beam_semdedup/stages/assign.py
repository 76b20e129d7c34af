"""A unit of the assign stage: the rows of a piece of the input, each with its nearest centroid, in a segment file."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.compute import arrays
from beam_semdedup.compute.assignment import assign_with_distances
from beam_semdedup.compute.threads import in_threads
from beam_semdedup.errors import UnitError, naming_unit
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.base import InputUnit, RowBatch
from beam_semdedup.inputs.rows import read
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.neighbours import neighbours
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import AssignManifest, Counts, UnitId
from beam_semdedup.storage import layout, segments, tables
from beam_semdedup.storage.damage import DamagedFile
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import Index, SegmentFile
from beam_semdedup.storage.threads import read_ahead
from beam_semdedup.text import without_secrets

_NAME = re.compile(r"(?P<first>\d+)-\d+-\d+(?:-f(?P<last>\d+))?")
_BATCH_BYTES = 4 << 20  # of rows that are assigned together, where files are smaller

_Rows: TypeAlias = tuple[InputUnit, RowBatch]
"""Some rows, and the part of a unit that they are of."""


@dataclass(frozen=True)
class AssignResult:
    """A finished unit of the assign stage, whose usable rows are in the segment file `file`.

    `began` is when the attempt that tells of it began it, in seconds since the epoch.
    """

    file: SegmentFile
    num_rows: int
    rejected: int
    reused: bool
    began: float


@dataclass(frozen=True)
class AssignFacts(Record):
    """What a unit's segment file says of itself, and the file of its rejected rows."""

    unit: UnitId
    rejected: int


def assign_unit(job: Job, unit: AssignUnit, fitted: FittedKMeans) -> AssignResult:
    """Writes the segment file of a unit, and its rejected rows before it."""
    began = time.time()
    width, kind, first, last = job.sizes.centroids_per_key, job.input_format, unit.parts[0], unit.parts[-1]
    suffix = kind.suffix(first.piece) if first is last else f"-f{last.file:06d}"
    name = f"{first.file:06d}-{first.first_row:012d}-{unit.num_rows:010d}{suffix}-w{width}"
    file_name, wanted = f"{name}.arrow", UnitId(name, fitted.content_hash, unit.num_rows)
    with naming_unit(unit.describe(kind)):
        finished = segments.read_index(job.segments.file(file_name), AssignFacts, generation=job.generation)
        if finished and finished[0].unit == wanted:
            return AssignResult(finished[1].file, unit.num_rows, finished[0].rejected, True, began)
        try:
            table, rejected = _assign_rows(job, unit, fitted.centroids(job.model.options))
        except UnitError:
            if job.vectors:  # those of a finished stage are gone, and are not computed again as long as it is finished
                job.kmeans.delete([layout.MANIFEST])
            raise
        facts = AssignFacts(wanted, rejected.num_rows)
        if rejected.num_rows:
            file = (job.kmeans / layout.REJECTED).file(f"{name}.parquet")
            tables.write(file, rejected, facts, job.parameters.cache_compression)
        index = segments.write(job.segments, file_name, table, width, facts, generation=job.generation)
        return AssignResult(index.file, unit.num_rows, rejected.num_rows, False, began)


def files_of(name: str) -> tuple[int, int]:
    """Returns the numbers of the first and the last input file that rows of a segment file, by its name, are of."""
    match = _NAME.match(name)
    if match is None:
        raise ValueError(f"{name} is not the name of a segment file")
    return int(match["first"]), int(match["last"] or match["first"])


def find_assigned(job: Job, name: str) -> Index:
    """Returns the index of a segment file that a finished stage's manifest names."""
    with stored.discarding(job.kmeans, remedy=job.remedy):
        return index_of(job.segments.file(name), job.generation)[1]


def index_of(file: File, generation: int = 0) -> tuple[AssignFacts, Index]:
    """Returns what a segment file says of itself, and its index; DamagedFile where it is damaged or gone."""
    found = segments.read_index(file, AssignFacts, generation=generation)
    if found is None:
        raise DamagedFile(file, "its index cannot be read")
    return found


def finish(job: Job, units: Iterable[AssignResult], fitted: FittedKMeans) -> None:
    """Writes the manifest of the stage."""
    units = sorted(units, key=lambda unit: unit.file.name)
    manifest = AssignManifest(
        centroids=fitted.content_hash,
        counts=Counts.of(units),
        began=min((unit.began for unit in units), default=time.time()),
        finished=time.time(),
        centroids_per_key=job.sizes.centroids_per_key,
        files=tuple(unit.file.name for unit in units),
        rejected=sum(unit.rejected for unit in units),
    )
    manifest.store(job.kmeans)


def _assign_rows(job: Job, unit: AssignUnit, centroids: np.ndarray) -> tuple[pa.Table, pa.Table]:
    """Returns the usable rows with their centroids and distances, and the rejected rows."""
    p, xp = job.parameters, arrays.library(job.parameters.device)
    batches = _gathered(_read(job, unit))

    def assign(parsed: Sequence[_Batch]) -> tuple[pa.Table, pa.Table]:
        vectors = parsed[0].vectors if len(parsed) == 1 else np.concatenate([batch.vectors for batch in parsed])
        labels, l2, cosine = assign_with_distances(vectors, centroids, p.max_samples_per_batch, xp)
        usable = pa.concat_tables([batch.usable for batch in parsed])
        for name, values in (
            ("embedding", segments.to_column(vectors)),
            ("centroid", pa.array(labels)),
            ("l2_dist_to_cent", pa.array(l2)),
            ("cosine_dist_to_cent", pa.array(cosine)),
        ):
            usable = usable.append_column(job.segment_schema.field(name), values)
        return usable.select(job.segment_schema.names), pa.concat_tables([batch.rejected for batch in parsed])

    if xp is np:  # each batch while others are read
        parts = in_threads(lambda rows: assign([_parse(job, rows)]), batches)
    else:  # all together: a GPU wants many rows, and the centroids are copied there each time
        parsed = in_threads(lambda rows: _parse(job, rows), batches)
        parts = [assign(parsed)] if parsed else []
    empty = job.segment_schema.empty_table(), _rejected_schema(job).empty_table()
    usable, rejected = (pa.concat_tables(tables) for tables in zip(empty, *parts, strict=True))
    return usable, rejected


def _read(job: Job, unit: AssignUnit) -> Iterator[_Rows]:
    """Yields the rows of a unit in order; those of several files are read at the same time."""
    if len(unit.parts) == 1:
        return _read_part(job, unit.parts[0])
    parts = read_ahead(lambda part: list(_read_part(job, part)), unit.parts)
    return itertools.chain.from_iterable(parts)


def _read_part(job: Job, part: InputUnit) -> Iterator[_Rows]:
    found = 0
    with naming_unit(job.input_format.describe(part)):
        for rows in read(job.input_format, job.input_file(part.path), part, job.input_schema, job.vectors):
            found += rows.table.num_rows + len(rows.malformed)
            yield part, rows
        if found != part.num_rows:
            raise RuntimeError(
                f"{found} rows instead of the planned {part.num_rows}: the file changed during the run; run again"
            )


def _gathered(batches: Iterable[_Rows]) -> Iterator[list[_Rows]]:
    """Yields batches that can be one table: neighbours with the same types, up to about `_BATCH_BYTES`."""
    for _, alike in itertools.groupby(batches, key=lambda batch: batch[1].table.schema):
        yield from neighbours(alike, lambda batch: batch[1].table.nbytes, _BATCH_BYTES)


@dataclass(frozen=True)
class _Batch:
    """Rows of a unit: the usable ones, without the columns that their centroid decides, and the rejected ones."""

    usable: pa.Table
    vectors: np.ndarray
    rejected: pa.Table


def _parse(job: Job, batches: Sequence[_Rows]) -> _Batch:
    p, table = job.parameters, pa.concat_tables([rows.table for _, rows in batches]).combine_chunks()
    ids = table.column(p.id_column)
    reasons = embeddings.id_reasons(ids)
    if (reasons == embeddings.INVALID_ID).any():  # which no file can hold as the text that it is said to be
        ids = pc.if_else(pa.array(reasons == embeddings.INVALID_ID), pa.scalar(None, ids.type), ids)
    named = reasons == 0
    vectors, reasons[named] = embeddings.to_matrix(
        table.column(p.embedding_field).filter(pa.array(named)),
        job.sizes.dimension,
        not p.assume_normalized,
    )
    good = reasons == 0
    usable = pa.array(good)
    sizes = [rows.table.num_rows for _, rows in batches]
    files = np.repeat(np.array([part.file for part, _ in batches], dtype=np.int32), sizes)
    columns = {
        "id": ids.filter(usable),
        "source_file": pa.array(files[good]),
        "source_row": pa.array(np.concatenate([rows.positions for _, rows in batches])[good]),
        **{field.name: table.column(field.name).filter(usable) for field in job.carried},
    }
    schema = pa.schema([job.segment_schema.field(name) for name in columns])
    rejected = [_rejected_schema(job).empty_table()]
    for (part, rows), stop in zip(batches, itertools.accumulate(sizes), strict=True):
        first = stop - rows.table.num_rows
        bad = np.flatnonzero(reasons[first:stop])
        if len(bad):
            why = reasons[first + bad]
            rejected.append(_rejected(job, part, rows.numbers[bad], ids.take(pa.array(first + bad)), why))
        if len(rows.malformed):
            malformed = np.full(len(rows.malformed), embeddings.MALFORMED, dtype=np.uint8)
            rejected.append(_rejected(job, part, rows.malformed, pa.nulls(len(malformed), ids.type), malformed))
    return _Batch(pa.table(columns, schema=schema), vectors, pa.concat_tables(rejected))


def _rejected_schema(job: Job) -> pa.Schema:
    return pa.schema(
        [
            ("source_file", pa.string()),
            ("row_group", pa.int32()),
            ("row", pa.int64()),
            ("id", job.id_type),
            ("reason", pa.string()),
        ]
    )


def _rejected(job: Job, part: InputUnit, numbers: np.ndarray, ids: Any, reasons: np.ndarray) -> pa.Table:
    row_group, row = job.input_format.places(job.input_file(part.path), numbers)
    reason = pa.array(np.array(embeddings.REASONS)[reasons])
    path = pa.array([without_secrets(part.path)] * len(numbers))
    return pa.table([path, row_group, row, ids, reason], schema=_rejected_schema(job))
