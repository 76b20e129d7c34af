"""The rows that are compared, of whichever generation: those of the input, and those that rank before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.plan import stored
from beam_semdedup.plan.job import REFERENCES, Job
from beam_semdedup.plan.stored import KMeansPlan, PairwiseManifest, UnitId
from beam_semdedup.storage import layout, segments, tables
from beam_semdedup.storage.columns import GENERATION, INPUT
from beam_semdedup.storage.damage import as_damage
from beam_semdedup.storage.folder import Folder
from beam_semdedup.storage.segments import Segment

ROW_BITS = 40  # of a row's number in its file, in what identifies it


def read_rows(job: Job, parts: Sequence[Segment], names: Sequence[str]) -> tuple[list[pa.RecordBatch], pa.Table]:
    """Reads segments of any generations.

    Args:
        names: columns of them, besides the embedding.

    Returns:
        their batches, in their order, as they are stored, and a table of the columns `names` of all. In it ids have the
        type that all generations have in common, columns that a generation lacks are null, and where there may be
        earlier ones a column `GENERATION` says which one a row is of.
    """
    batches = _read(job, parts, lambda at: at.segments, lambda at: at.segment_schema)
    return batches, _together(job, parts, batches, names)


def read_visits(job: Job, parts: Sequence[Segment], width: int) -> pa.Table:
    """Reads visits of any generations, with short vectors of `width` values; see `read_rows`."""
    schema = job.visit_schema(width)
    others = [name for name in schema.names if name not in job.ranking.columns]
    batches = _read(job, parts, lambda at: at.visits, lambda at: at.visit_schema(width))
    visits = _together(job, parts, batches, job.ranking.columns)
    for place, name in enumerate(others):
        chunks = [batch.column(name) for batch in batches]
        visits = visits.add_column(place, schema.field(name), pa.chunked_array(chunks, schema.field(name).type))
    return visits


def read_vectors(
    job: Job,
    generations: npt.NDArray[np.int64],
    names: npt.NDArray[np.str_],
    offsets: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Returns the vectors (n, d) that begin at these bytes of the segment files `names` of these generations."""
    result = np.empty((len(names), job.sizes.dimension), dtype=np.float32)
    for generation in np.unique(generations).tolist():
        mine = generations == generation
        folder = job.at(generation).segments
        result[mine] = segments.read_vectors(folder, names[mine].tolist(), offsets[mine], job.sizes.dimension)
    return result


def is_own(job: Job, rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Returns which rows (n,) are of the job's own generation, and not of an earlier one."""
    if not job.earlier:
        return np.ones(len(rows), dtype=bool)
    own: npt.NDArray[np.bool_] = rows.column(GENERATION).to_numpy() == job.generation
    return own


def is_reference(job: Job, rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Returns which rows (n,) are of `against`."""
    if job.references is None:
        return np.zeros(len(rows), dtype=bool)
    references: npt.NDArray[np.bool_] = rows.column(GENERATION).to_numpy() == REFERENCES
    return references


def sources(job: Job, rows: pa.Table, known: npt.NDArray[np.bool_]) -> pa.Array:
    """Returns what rows (n,) are of: `INPUT`, or the input file of an earlier generation; null where not `known`."""
    generations, files = rows.column(GENERATION).to_numpy(), rows.column("source_file").to_numpy()
    keys = generations.astype(np.int64) << 32 | files
    unique, which = np.unique(keys[known], return_inverse=True)
    names, urls = [], dict[int, tuple[str, ...]]()
    for key in unique.tolist():
        generation, file = key >> 32, key & 0xFFFFFFFF
        if generation == job.generation:
            names.append(INPUT)
        else:
            if generation not in urls:
                urls[generation] = input_files(job.at(generation))
            names.append(urls[generation][file])
    places = np.zeros(len(rows), dtype=np.int32)
    places[known] = which
    return pa.DictionaryArray.from_arrays(pa.array(places, mask=~known), pa.array(names, pa.string())).cast(pa.string())


def input_files(job: Job) -> tuple[str, ...]:
    """Returns the URLs of the files that the rows of a generation are from, without what gives access."""
    plan = KMeansPlan.read(job.kmeans.file(layout.PLAN))
    if plan is None:
        raise RuntimeError(f"{job.kmeans.file(layout.PLAN)} is gone, though the run wrote it; run again")
    return plan.files


def compared(job: Job, own: pa.Table) -> pa.Table:
    """Returns rows of the job's own generation in the columns that the order of rows of several depends on."""
    schema = pa.schema([job.compared_schema.field(name) for name in job.compared_columns])
    if job.has_generations:
        own = own.append_column(GENERATION, pa.array(np.full(len(own), job.generation, dtype=np.int32)))
    return own.select(schema.names).cast(schema)


def write_resembled(
    job: Job,
    unit: UnitId,
    rows: pa.Table,
    chosen: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float32],
) -> None:
    """Writes how similar references are to the most similar row that a unit compared them with.

    Args:
        rows: n rows, in the columns of segments.
        chosen: (n,) which of them are references.
        scores: (n,) minus infinity where nothing similar is found.
    """
    which = np.flatnonzero(chosen & (scores > -np.inf))
    table = tables.take(rows.select(["source_file", "source_row"]), which)
    table = table.append_column("cosine_sim_score", pa.array(scores[which]))
    tables.write(job.resembled.file(_resembled_name(unit.name)), table, unit, job.parameters.cache_compression)


def resembled_references(job: Job, compared: PairwiseManifest) -> Counter[str]:
    """Counts the references that rows of a finished run are within eps of, by the file that they are from.

    Raises:
        UnitError: it cannot be read.
    """
    if job.references is None or job.parameters.eps is None:
        return Counter()
    units, folder = [unit.name for unit in compared.units], job.pairwise
    if job.has_visits:
        folder = job.matches
        units = layout.finished_units(folder)
    found = [np.empty(0, dtype=np.int64)]
    for unit in units:
        file = job.resembled.file(_resembled_name(unit))
        with stored.discarding(job.pairwise, folder.file(unit)), as_damage(file), file.open() as source:
            rows = tables.opened(source).read()
            similar = rows.column("cosine_sim_score").to_numpy().astype(np.float64) >= 1 - job.parameters.eps
            found.append(source_keys(rows.filter(pa.array(similar)), "source_file", "source_row"))
    numbers, counts = np.unique(np.unique(np.concatenate(found)) >> ROW_BITS, return_counts=True)
    files = input_files(job.references)
    return Counter({files[number]: count for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)})


def source_keys(rows: pa.Table, file: str, row: str) -> npt.NDArray[np.int64]:
    """Returns what identifies rows (n,) of a generation: the number of the file, and of the row in it."""
    numbers: npt.NDArray[np.int64] = rows.column(file).to_numpy().astype(np.int64) << ROW_BITS
    return numbers | rows.column(row).to_numpy()


def _resembled_name(unit: str) -> str:
    return f"{unit.removesuffix('.arrow').removesuffix('.parquet')}.parquet"


def _read(
    job: Job, parts: Sequence[Segment], folder: Callable[[Job], Folder], schema: Callable[[Job], pa.Schema]
) -> list[pa.RecordBatch]:
    """Reads what the segments refer to, each from its generation's folder and with that one's schema."""
    result: list[pa.RecordBatch] = [None] * len(parts)
    for generation in dict.fromkeys(part.generation for part in parts):
        at, places = job.at(generation), [n for n, part in enumerate(parts) if part.generation == generation]
        with stored.discarding(at.kmeans, remedy=at.remedy):
            found = segments.read(folder(at), [parts[n] for n in places], schema(at))
        for place, batch in zip(places, found, strict=True):
            result[place] = batch
    return result


def _together(job: Job, parts: Sequence[Segment], batches: Sequence[pa.RecordBatch], names: Sequence[str]) -> pa.Table:
    wanted = pa.schema([job.compared_schema.field(name) for name in [*names, *(name for name, _ in job.by_generation)]])
    if not job.has_generations:
        return pa.Table.from_batches([batch.select(names) for batch in batches], wanted)
    tables = [wanted.empty_table()]
    for part, batch in zip(parts, batches, strict=True):
        columns = []
        for field in wanted:
            if field.name == GENERATION:
                columns.append(pa.array(np.full(len(batch), part.generation, dtype=np.int32)))
            elif field.name in batch.schema.names:
                columns.append(batch.column(field.name).cast(field.type))
            else:
                columns.append(pa.nulls(len(batch), field.type))
        tables.append(pa.table(columns, schema=wanted))
    return pa.concat_tables(tables)
