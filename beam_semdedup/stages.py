"""What one unit of each stage does: read, compute, write one whole file, and say what is in it.

Each function finds an earlier attempt's finished file first, and then writes nothing. A failure names the unit.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_semdedup import arrays, embeddings, inputs, kmeans, segments, small_clusters, storage
from beam_semdedup.arrays import in_threads
from beam_semdedup.failures import UnitError, naming_unit
from beam_semdedup.formats import FORMATS, InputUnit, Rows
from beam_semdedup.kmeans import FittedKMeans
from beam_semdedup.plan import Job, load_units
from beam_semdedup.ranking import hash_ids
from beam_semdedup.segments import RankedRows, Segment
from beam_semdedup.similarity import max_similarity

_LOG = logging.getLogger(__name__)
_FACTS = b"semdedup"
_EXAMPLES = 5
_LARGE_BATCHES = 4


@dataclass(frozen=True)
class AssignedUnit:
    """A finished unit of the assign stage and what it refers to."""

    path: str
    num_rows: int
    rejected: int
    reused: bool
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class PairwiseUnit:
    """The rows ranked `[low, high)` of a key, to be compared with all that rank before them in their clusters."""

    key: int
    low: int
    high: int
    num_rows: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class ComparedUnit:
    """A finished unit of the pairwise stage: `num_rows` rows in `path`, from that many `pairs` of rows."""

    path: str
    key: int
    num_rows: int
    pairs: int
    largest_cluster: int
    repeated_ids: int
    examples: tuple[str, ...]
    reused: bool


@dataclass(frozen=True)
class DuplicatesFile:
    """A finished file of duplicates and how many rows of its clusters are none."""

    path: str
    duplicates: int
    kept: int


def fit(job: Job) -> FittedKMeans:
    """Fits the centroids of the run, or finds them fitted."""
    sample = functools.partial(read_sample, job)
    return kmeans.fit_or_load(job.kmeans_dir, sample, job.dimension, job.parameters)


def read_sample(job: Job, part: int = 0, parts: int = 1) -> np.ndarray:
    """The rows to fit on, or one of several shares of them; see `inputs.sample`."""
    stored = storage.read_json(storage.join(job.kmeans_dir, "plan.json"), job.cache_options)
    p = job.parameters
    return inputs.sample(
        load_units(stored),
        p.input_filetype,
        job.input_schema.field(p.embedding_field),
        job.sample_rows,
        p.random_state,
        job.dimension,
        not p.assume_normalized,
        job.read_options,
        part,
        parts,
    )


def assign_unit(job: Job, unit: InputUnit, fitted: FittedKMeans) -> AssignedUnit:
    """Writes the segment file of a unit, and its rejected rows before it."""
    name = f"{unit.file:06d}-{unit.first_row:012d}-{unit.num_rows:010d}"
    if unit.row_groups:
        name += f"-g{unit.row_groups[0]:06d}-{unit.row_groups[-1]:06d}"
    p, path = job.parameters, storage.join(job.kmeans_dir, "segments", name + ".arrow")
    wanted = {"unit": name, "centroids": fitted.content_hash, "num_rows": unit.num_rows, "width": job.width}
    with naming_unit(unit):
        finished = segments.read_index(path, job.cache_options)
        if finished and finished[0].items() >= wanted.items():
            return AssignedUnit(path, unit.num_rows, finished[0]["rejected"], True, finished[1])
        table, rejected = _assign_rows(job, unit, fitted.centroids(job.cache_options))
        if table.num_rows + rejected.num_rows != unit.num_rows:
            raise RuntimeError(
                f"{table.num_rows + rejected.num_rows} rows instead of the planned {unit.num_rows}: the file changed "
                "during the run; run again"
            )
        rejected_path = storage.join(job.kmeans_dir, "rejected", name + ".parquet")
        if rejected.num_rows:
            _write_parquet(rejected_path, rejected, {}, p.cache_options, p.cache_compression)
        facts = {**wanted, "rejected": rejected.num_rows}
        index = segments.write(path, table, job.width, facts, job.cache_options)
        return AssignedUnit(path, unit.num_rows, rejected.num_rows, False, index)


def find_assigned(job: Job, path: str) -> tuple[Segment, ...]:
    """The references of a segment file that a finished stage's manifest names."""
    finished = segments.read_index(path, job.cache_options)
    if finished is None:
        raise UnitError(f"{path} is gone though {job.kmeans_dir}/manifest.json lists it; run with reuse_cache=false")
    return finished[1]


def pairwise_units(job: Job, key: int, parts: Sequence[Segment]) -> list[PairwiseUnit]:
    """The units that compare the rows of a key: one up to `max_key_rows`, else blocks of `max_cluster_rows`."""
    ordered = tuple(sorted(parts, key=lambda s: (s.path, s.offset)))
    num_rows = sum(s.num_rows for s in ordered)
    block = num_rows if num_rows <= job.max_key_rows else job.max_cluster_rows
    bounds = [*range(0, num_rows, block), num_rows]
    return [PairwiseUnit(key, low, high, num_rows, ordered) for low, high in zip(bounds[:-1], bounds[1:], strict=True)]


def compare_unit(job: Job, unit: PairwiseUnit, fitted: FittedKMeans) -> ComparedUnit:
    """Writes the most similar earlier-ranked row of each row of a unit, in rank order."""
    first = unit.key * job.width
    last = min(first + job.width, job.n_clusters) - 1
    name = f"{first:08d}-{last:08d}"
    if unit.high - unit.low < unit.num_rows:
        name += f"-rows{unit.low:010d}-{unit.high:010d}"
    p, path = job.parameters, storage.join(job.pairwise_dir, name + ".parquet")
    wanted = {"unit": name, "centroids": fitted.content_hash, "num_rows": unit.high - unit.low}
    with naming_unit(f"centroids {first} to {last}, ranked rows {unit.low} to {unit.high - 1} of {unit.num_rows}"):
        facts = read_facts(path, job.cache_options)
        reused = facts is not None and facts.items() >= wanted.items()
        if not reused:
            table, facts = _compare_rows(job, unit)
            facts.update(wanted)
            _write_parquet(path, table, facts, p.cache_options, p.cache_compression)
        assert facts is not None
        return ComparedUnit(
            path,
            unit.key,
            facts["num_rows"],
            facts["pairs"],
            facts["largest_cluster"],
            facts["repeated_ids"],
            tuple(facts["examples"]),
            reused,
        )


def select_duplicates(job: Job, number: int, parts: Sequence[ComparedUnit]) -> DuplicatesFile:
    """Writes the rows of some pairwise units whose score reaches 1 - eps, sorted by id."""
    p = job.parameters
    assert p.eps is not None
    threshold = 1 - p.eps
    path = storage.join(p.output_path, "duplicates", f"part-{job.output_key}-{number:05d}.parquet")
    kept, found = 0, []
    with naming_unit(f"duplicates file {number}"):
        for part in sorted(parts, key=lambda u: u.path):
            with storage.open_input(part.path, job.cache_options) as source:
                file = pq.ParquetFile(source)
                starts_cluster = json.loads(file.schema_arrow.metadata[_FACTS])["starts_cluster"]
                previous = None if starts_cluster else file.read_row_group(0, columns=["centroid"])[0][0].as_py()
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    centroids = table.column("centroid").to_numpy()
                    first_ranked = np.diff(centroids, prepend=-1 if previous is None else previous) != 0
                    scores = table.column("cosine_sim_score").to_numpy().astype(np.float64)
                    kept += int(((scores < threshold) | first_ranked).sum())
                    found.append(table.filter(pa.array((scores >= threshold) & ~first_ranked)))
                    previous = centroids[-1]
        table = pa.concat_tables(found)
        by_id = [("id", "ascending", "at_end"), ("centroid", "ascending", "at_end")]
        table = table.take(pc.sort_indices(table, sort_keys=by_id))
        groups = p.duplicates_num_row_groups_hint
        size = max(1, -(-table.num_rows // groups)) if groups else 65_536
        facts = {"duplicates": table.num_rows, "kept": kept}
        _write_parquet(path, table, facts, p.write_options, p.write_compression, size)
    return DuplicatesFile(path, table.num_rows, kept)


def repeated_ids(paths: Sequence[str], options: storage.Options, memory: int) -> tuple[int, list[str]]:
    """How many ids stand more than once in the files' columns `id`, by a 64-bit hash of them, and some of them.

    Reads the files once for each part of the hashes that fits in `memory` bytes.
    """
    with contextlib.ExitStack() as opened:
        files = [pq.ParquetFile(opened.enter_context(storage.open_input(path, options))) for path in paths]
        return _repeated_ids_of(files, memory)


def _repeated_ids_of(files: Sequence[pq.ParquetFile], memory: int) -> tuple[int, list[str]]:
    parts = 1 + sum(file.metadata.num_rows for file in files) * 32 // memory
    count, examples = 0, dict[str, None]()
    for part in range(parts):
        hashes = [np.empty(0, dtype=np.uint64)]
        for ids in _ids(files):
            values = hash_ids(ids, seed=0)
            hashes.append(values[values % np.uint64(parts) == part])
        values, counts = np.unique(np.concatenate(hashes), return_counts=True)
        repeated = values[counts > 1]
        count += len(repeated)
        if len(repeated) and len(examples) < _EXAMPLES:
            for ids in _ids(files):
                found = ids.filter(pa.array(np.isin(hash_ids(ids, seed=0), repeated[:_EXAMPLES])))
                examples.update((str(value), None) for value in found.to_pylist())
    return count, list(examples)[:_EXAMPLES]


def write_manifest(directory: str, manifest: dict[str, Any], options: storage.Options) -> None:
    """Finishes a stage; written after all of its units."""
    storage.write_json(storage.join(directory, "manifest.json"), {**manifest, "finished": time.time()}, options)


def read_facts(path: str, options: storage.Options) -> dict[str, Any] | None:
    """What the program wrote into a parquet file's metadata; None where there is no file that can be read."""
    try:
        with storage.open_input(path, options) as source:
            return json.loads(pq.read_schema(source).metadata[_FACTS])
    except FileNotFoundError:
        return None
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        _LOG.warning("%s is damaged and computed again: %s", path, error)
        return None


def _assign_rows(job: Job, unit: InputUnit, centroids: np.ndarray) -> tuple[pa.Table, pa.Table]:
    """The usable rows with their centroids and distances, and the rejected rows."""
    p = job.parameters

    def assign(rows: Rows) -> tuple[pa.Table, pa.Table]:
        ids = rows.table.column(p.id_field)
        reasons = np.full(rows.table.num_rows, embeddings.NULL_ID, dtype=np.uint8)
        named = ids.is_valid().to_numpy()
        matrix, reasons[named] = embeddings.to_matrix(
            rows.table.column(p.embedding_field).filter(pa.array(named)),
            job.dimension,
            not p.assume_normalized,
        )
        good = pa.array(reasons == 0)
        labels, l2, cosine = kmeans.place(matrix, centroids, p.max_samples_per_batch, arrays.library(p.device))
        columns = [
            ids.filter(good),
            segments.to_column(matrix),
            pa.array(labels),
            pa.array(l2),
            pa.array(cosine),
            pa.array(np.full(len(matrix), unit.file, dtype=np.int32)),
            pa.array(rows.positions[reasons == 0]),
            *(rows.table.column(f.name).filter(good) for f in job.carried),
        ]
        bad = reasons != 0
        rejected = [_rejected(job, unit, rows.numbers[bad], ids.filter(pa.array(bad)), reasons[bad])]
        if len(rows.malformed):
            malformed = np.full(len(rows.malformed), embeddings.MALFORMED, dtype=np.uint8)
            rejected.append(_rejected(job, unit, rows.malformed, pa.nulls(len(malformed), ids.type), malformed))
        return pa.table(columns, schema=job.segment_schema), pa.concat_tables(rejected)

    parts = in_threads(assign, FORMATS[p.input_filetype].read(unit, job.input_schema, job.read_options))
    empty = job.segment_schema.empty_table(), _rejected_schema(job).empty_table()
    usable, rejected = (pa.concat_tables(tables) for tables in zip(empty, *parts, strict=True))
    return usable, rejected


def _rejected_schema(job: Job) -> pa.Schema:
    return pa.schema(
        [
            ("source_file", pa.string()),
            ("row_group", pa.int32()),
            ("row", pa.int64()),
            ("id", job.input_schema.field(job.parameters.id_field).type),
            ("reason", pa.string()),
        ]
    )


def _rejected(job: Job, unit: InputUnit, numbers: np.ndarray, ids: Any, reasons: np.ndarray) -> pa.Table:
    if not len(numbers):
        return _rejected_schema(job).empty_table()
    row_group, row = FORMATS[job.parameters.input_filetype].places(unit, numbers, job.read_options)
    reason = pa.array(np.array(embeddings.REASONS)[reasons])
    return pa.table([pa.array([unit.path] * len(numbers)), row_group, row, ids, reason], schema=_rejected_schema(job))


def _compare_rows(job: Job, unit: PairwiseUnit) -> tuple[pa.Table, dict[str, Any]]:
    """The result rows of a unit, and the facts of its file that depend on them."""
    batches = segments.read(unit.segments, job.segment_schema, job.cache_options)
    names = [name for name in job.segment_schema.names if name != "embedding"]
    table = pa.Table.from_batches([batch.select(names) for batch in batches])
    order = job.ranking.order(table)
    xp = arrays.library(job.parameters.device)
    rows: Any = RankedRows(batches, order, xp)
    if unit.num_rows <= job.max_key_rows and arrays.has_room(xp, 4 * job.dimension * unit.num_rows):
        rows = rows[:]
    centroids = table.column("centroid").to_numpy()[order]
    starts = np.flatnonzero(np.diff(centroids, prepend=-1))
    stops = np.append(starts[1:], len(order))
    scores, winners, pairs = _compare_clusters(job, rows, starts, stops, unit, xp)
    own, best = order[unit.low : unit.high], pa.array(order[winners])
    ids = table.column("id")
    metadata = job.parameters.metadata_fields
    result = pa.table(
        [
            ids.take(pa.array(own)),
            ids.take(best),
            pa.array(scores),
            pa.array(centroids[unit.low : unit.high]),
            *(table.column(name).take(pa.array(own)) for name in metadata),
        ],
        names=["id", "max_id", "cosine_sim_score", "centroid", *metadata],
    )
    repeated, examples = _repeated_ids(table) if unit.low == 0 else (0, [])
    facts = {
        "starts_cluster": bool(unit.low in starts),
        "pairs": pairs,
        "largest_cluster": int((stops - starts).max()),
        "repeated_ids": repeated,
        "examples": examples,
    }
    return result, facts


def _compare_clusters(
    job: Job, rows: Any, starts: np.ndarray, stops: np.ndarray, unit: PairwiseUnit, xp: Any
) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores and winners, as positions in `rows`, of the rows ranked `[unit.low, unit.high)`, and their pairs.

    Args:
        rows: all of the key, cluster after cluster: an array of `xp`, or what gathers them when it is indexed.
        starts, stops: where each cluster begins and ends.
    """
    p, sizes = job.parameters, stops - starts
    scores = np.empty(unit.high - unit.low, dtype=np.float32)
    winners = np.empty(unit.high - unit.low, dtype=np.int64)
    lows, highs = np.maximum(starts, unit.low), np.minimum(stops, unit.high)
    tile = arrays.tile_rows(xp, p.pairwise_batch_size)

    def compare(cluster: int) -> None:
        start, low, high = starts[cluster], lows[cluster], highs[cluster]
        if isinstance(rows, RankedRows):
            ranked = rows.window(start, stops[cluster])
            if len(ranked) <= job.max_cluster_rows and arrays.has_room(xp, 4 * job.dimension * len(ranked)):
                ranked = ranked[:]
        else:
            ranked = rows[start : stops[cluster]]
        score, winner = arrays.within_memory(
            tile, lambda batch: max_similarity(ranked, low - start, high - start, batch, p.screening_threshold)
        )
        scores[low - unit.low : high - unit.low] = score
        winners[low - unit.low : high - unit.low] = winner + start

    def compare_together(which: np.ndarray) -> None:
        inside = np.repeat(which, sizes)[unit.low : unit.high]
        scores[inside], winners[inside] = arrays.within_memory(
            arrays.tile_bytes(xp),
            lambda memory: small_clusters.max_similarity_of_each(
                rows, starts[which], stops[which], memory, p.screening_threshold
            ),
        )

    wanted = lows < highs
    # On a GPU small clusters share launches; else each is computed in one thread, and a large one in all.
    together = wanted & (highs - lows == sizes) & (sizes <= small_clusters.LARGEST)
    together &= xp is not np and not isinstance(rows, RankedRows)
    large = wanted & ~together & (sizes >= _LARGE_BATCHES * tile)
    with arrays.exclusive(xp):  # only now: what was read and copied before was so while other threads computed
        if together.any():
            compare_together(together)
        for cluster in np.flatnonzero(large).tolist():
            compare(cluster)
        small = np.flatnonzero(wanted & ~together & ~large)
        in_threads(compare, small[np.argsort(-sizes[small])].tolist())  # the largest first, so that none is waited for
    pairs = ((highs - lows) * (lows + highs - 1 - 2 * starts) // 2)[wanted].sum()
    return scores, winners, int(pairs)


def _repeated_ids(table: pa.Table) -> tuple[int, list[str]]:
    """How many ids stand in a cluster more than once, and some of them."""
    counts = table.group_by(["centroid", "id"]).aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts.column("count_all"), 1)).column("id")
    return len(repeated), [str(v) for v in repeated.slice(0, _EXAMPLES).to_pylist()]


def _ids(files: Sequence[pq.ParquetFile]) -> Iterator[pa.ChunkedArray]:
    for file in files:
        for batch in file.iter_batches(columns=["id"]):
            yield pa.chunked_array([batch.column(0)])


def _write_parquet(
    path: str,
    table: pa.Table,
    facts: dict[str, Any],
    options: storage.Options,
    compression: str,
    row_group_size: int = 65_536,
) -> None:
    """Writes a table, whole, with `facts` in place of its schema's metadata."""
    table = table.replace_schema_metadata({_FACTS: json.dumps(facts).encode()})
    with storage.whole_file(path, options) as scratch:
        pq.write_table(table, scratch, compression=compression, row_group_size=row_group_size)
