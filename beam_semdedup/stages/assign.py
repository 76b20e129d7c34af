"""A unit of the assign stage: the rows of a piece of the input, each with its nearest centroid, in a segment file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.compute import arrays
from beam_semdedup.compute.assignment import assign_with_distances
from beam_semdedup.compute.threads import in_threads
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.inputs import embeddings, partitions
from beam_semdedup.inputs.base import InputUnit, RowBatch
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import AssignManifest, Counts, UnitId
from beam_semdedup.storage import layout, segments, tables
from beam_semdedup.storage.damage import DamagedFile
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import Segment
from beam_semdedup.text import without_secrets


@dataclass(frozen=True)
class AssignResult:
    """A finished unit of the assign stage, whose rows are in the segment file `name`, and what it refers to.

    `began` is when the attempt that tells of it began it, in seconds since the epoch.
    """

    name: str
    num_rows: int
    rejected: int
    reused: bool
    began: float
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class _Facts(Record):
    """What a segment file says of itself; its rejected rows are in a file beside it."""

    unit: UnitId
    rejected: int


def assign_unit(job: Job, unit: InputUnit, fitted: FittedKMeans) -> AssignResult:
    """Writes the segment file of a unit, and its rejected rows before it."""
    began = time.time()
    width, suffix = job.sizes.centroids_per_key, job.input_format.suffix(unit.piece)
    name = f"{unit.file:06d}-{unit.first_row:012d}-{unit.num_rows:010d}{suffix}-w{width}"
    file_name, wanted = f"{name}.arrow", UnitId(name, fitted.content_hash, unit.num_rows)
    with naming_unit(job.input_format.describe(unit)):
        finished = segments.read_index(job.segments.file(file_name), _Facts)
        if finished and finished[0].unit == wanted:
            return AssignResult(file_name, unit.num_rows, finished[0].rejected, True, began, finished[1])
        table, rejected = _assign_rows(job, unit, fitted.centroids(job.kmeans.options))
        if table.num_rows + rejected.num_rows != unit.num_rows:
            raise RuntimeError(
                f"{table.num_rows + rejected.num_rows} rows instead of the planned {unit.num_rows}: the file changed "
                "during the run; run again"
            )
        if rejected.num_rows:
            file = (job.kmeans / layout.REJECTED).file(f"{name}.parquet")
            tables.write(file, rejected, None, job.parameters.cache_compression)
        index = segments.write(job.segments, file_name, table, width, _Facts(wanted, rejected.num_rows))
        return AssignResult(file_name, unit.num_rows, rejected.num_rows, False, began, index)


def find_assigned(job: Job, name: str) -> tuple[Segment, ...]:
    """Returns the references of a segment file that a finished stage's manifest names."""
    file = job.segments.file(name)
    with stored.discarding(job.kmeans):
        finished = segments.read_index(file, _Facts)
        if finished is None:
            raise DamagedFile(file, "its index cannot be read")
    return finished[1]


def rejected_schema(job: Job) -> pa.Schema:
    """Returns the columns of the files of rejected rows."""
    return pa.schema(
        [
            ("source_file", pa.string()),
            ("row_group", pa.int32()),
            ("row", pa.int64()),
            ("id", job.id_type),
            ("reason", pa.string()),
        ]
    )


def finish(job: Job, units: Iterable[AssignResult], fitted: FittedKMeans) -> None:
    """Writes the manifest of the stage."""
    units = sorted(units, key=lambda unit: unit.name)
    manifest = AssignManifest(
        centroids=fitted.content_hash,
        counts=Counts.of(units),
        began=min((unit.began for unit in units), default=time.time()),
        finished=time.time(),
        centroids_per_key=job.sizes.centroids_per_key,
        files=tuple(unit.name for unit in units),
        rejected=sum(unit.rejected for unit in units),
    )
    manifest.store(job.kmeans)


def _assign_rows(job: Job, unit: InputUnit, centroids: np.ndarray) -> tuple[pa.Table, pa.Table]:
    """Returns the usable rows with their centroids and distances, and the rejected rows."""
    p, xp = job.parameters, arrays.library(job.parameters.device)
    batches = partitions.read(job.input_format, job.input_file(unit.path), unit, job.input_schema)

    def parse(rows: RowBatch) -> _Batch:
        return _parse(job, unit, rows)

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
        parts = in_threads(lambda rows: assign([parse(rows)]), batches)
    else:  # all together: a GPU wants many rows, and the centroids are copied there each time
        parsed = in_threads(parse, batches)
        parts = [assign(parsed)] if parsed else []
    empty = job.segment_schema.empty_table(), rejected_schema(job).empty_table()
    usable, rejected = (pa.concat_tables(tables) for tables in zip(empty, *parts, strict=True))
    return usable, rejected


@dataclass(frozen=True)
class _Batch:
    """Rows of a unit: the usable ones, without the columns that their centroid decides, and the rejected ones."""

    usable: pa.Table
    vectors: np.ndarray
    rejected: pa.Table


def _parse(job: Job, unit: InputUnit, rows: RowBatch) -> _Batch:
    p, ids = job.parameters, rows.table.column(job.parameters.id_field)
    reasons = embeddings.id_reasons(ids)
    if (reasons == embeddings.INVALID_ID).any():  # which no file can hold as the text that it is said to be
        ids = pc.if_else(pa.array(reasons == embeddings.INVALID_ID), pa.scalar(None, ids.type), ids)
    named = reasons == 0
    vectors, reasons[named] = embeddings.to_matrix(
        rows.table.column(p.embedding_field).filter(pa.array(named)),
        job.sizes.dimension,
        not p.assume_normalized,
    )
    bad = reasons != 0
    usable = pa.array(~bad)
    columns = {
        "id": ids.filter(usable),
        "source_file": pa.array(np.full(len(vectors), unit.file, dtype=np.int32)),
        "source_row": pa.array(rows.positions[~bad]),
        **{field.name: rows.table.column(field.name).filter(usable) for field in job.carried},
    }
    schema = pa.schema([job.segment_schema.field(name) for name in columns])
    rejected = [_rejected(job, unit, rows.numbers[bad], ids.filter(pa.array(bad)), reasons[bad])]
    if len(rows.malformed):
        malformed = np.full(len(rows.malformed), embeddings.MALFORMED, dtype=np.uint8)
        rejected.append(_rejected(job, unit, rows.malformed, pa.nulls(len(malformed), ids.type), malformed))
    return _Batch(pa.table(columns, schema=schema), vectors, pa.concat_tables(rejected))


def _rejected(job: Job, unit: InputUnit, numbers: np.ndarray, ids: Any, reasons: np.ndarray) -> pa.Table:
    if not len(numbers):
        return rejected_schema(job).empty_table()
    row_group, row = job.input_format.places(job.input_file(unit.path), numbers)
    reason = pa.array(np.array(embeddings.REASONS)[reasons])
    path = pa.array([without_secrets(unit.path)] * len(numbers))
    return pa.table([path, row_group, row, ids, reason], schema=rejected_schema(job))
