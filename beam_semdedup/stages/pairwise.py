"""A unit of the pairwise stage: the most similar earlier-ranked row of each row of a key, or of a block of its rows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from beam_semdedup.compute import arrays, small_clusters
from beam_semdedup.compute.screens import screen_at
from beam_semdedup.compute.similarity import max_similarity
from beam_semdedup.compute.threads import in_threads
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import Counts, PairwiseManifest, PairwiseResult, UnitId
from beam_semdedup.stages.repeated import Repeated, repeated
from beam_semdedup.storage import segments, tables
from beam_semdedup.storage.columns import RESULT_COLUMNS, SOURCE
from beam_semdedup.storage.layout import comparison_name
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import RankedRows, Segment
from beam_semdedup.text import EXAMPLES

_LARGE_BATCHES = 4


@dataclass(frozen=True)
class PairwiseUnit:
    """The rows ranked `[low, high)` of a key, to be compared with all that rank before them in their clusters."""

    key: int
    low: int
    high: int
    num_rows: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class PairwiseFacts(Record):
    """What the file of a unit says of itself.

    Attributes:
        starts_cluster: whether its first row is the first-ranked of its cluster.
        pairs: of rows that were compared.
        repeated_ids: how many ids stand in a cluster more than once; `examples` are some of them.
    """

    unit: UnitId
    starts_cluster: bool
    pairs: int
    largest_cluster: int
    repeated_ids: int
    examples: tuple[str, ...]


def pairwise_units(job: Job, key: int, parts: Sequence[Segment]) -> list[PairwiseUnit]:
    """Returns the units that compare the rows of a key: one up to `max_key_rows`, else blocks of `max_cluster_rows`."""
    ordered = tuple(sorted(parts, key=lambda s: (s.file, s.offset)))
    num_rows = sum(s.num_rows for s in ordered)
    block = num_rows if num_rows <= job.blocks.max_key_rows else job.blocks.max_cluster_rows
    bounds = [*range(0, num_rows, block), num_rows]
    return [PairwiseUnit(key, low, high, num_rows, ordered) for low, high in zip(bounds[:-1], bounds[1:], strict=True)]


def compare_unit(job: Job, unit: PairwiseUnit, fitted: FittedKMeans) -> PairwiseResult:
    """Writes the most similar earlier-ranked row of each row of a unit, in rank order."""
    began = time.time()
    first, last = centroids_of(job, unit.key)
    name = comparison_name(first, last, unit.low, unit.high, unit.num_rows)
    file, wanted = job.pairwise.file(f"{name}.parquet"), UnitId(name, fitted.content_hash, unit.high - unit.low)
    with naming_unit(f"centroids {first} to {last}, ranked rows {unit.low} to {unit.high - 1} of {unit.num_rows}"):
        facts = tables.read_facts(file, PairwiseFacts)
        reused = facts is not None and facts.unit == wanted
        if facts is None or not reused:
            table, facts = _compare_rows(job, unit, wanted)
            tables.write(file, table, facts, job.parameters.cache_compression)
        return result_of(file.name, unit.key, facts, reused, began)


def centroids_of(job: Job, key: int) -> tuple[int, int]:
    """Returns the first and the last centroid of a key."""
    first = key * job.sizes.centroids_per_key
    return first, min(first + job.sizes.centroids_per_key, job.sizes.n_clusters) - 1


def result_of(name: str, key: int, facts: PairwiseFacts, reused: bool, began: float) -> PairwiseResult:
    """Returns what is said of a finished unit of a key, whose file has this name and these facts."""
    return PairwiseResult(
        name,
        key,
        facts.unit.num_rows,
        facts.pairs,
        facts.largest_cluster,
        facts.repeated_ids,
        facts.examples,
        reused,
        began,
    )


def finish(job: Job, units: Iterable[PairwiseResult], fitted: FittedKMeans) -> None:
    """Writes the manifest of the stage."""
    units = sorted(units, key=lambda unit: unit.name)
    examples = dict.fromkeys(example for unit in units for example in unit.examples)
    manifest = PairwiseManifest(
        centroids=fitted.content_hash,
        counts=Counts.of(units),
        began=min((unit.began for unit in units), default=time.time()),
        finished=time.time(),
        units=tuple(replace(unit, reused=True) for unit in units),
        largest_cluster=max((unit.largest_cluster for unit in units), default=0),
        repeated_ids=sum(unit.repeated_ids for unit in units),
        examples=tuple(examples)[:EXAMPLES],
        pairs_done=sum(unit.pairs for unit in units if not unit.reused),
    )
    manifest.store(job.pairwise)


def _compare_rows(job: Job, unit: PairwiseUnit, wanted: UnitId) -> tuple[pa.Table, PairwiseFacts]:
    """Returns the result rows of a unit, and the facts of its file that depend on them."""
    with stored.discarding(job.kmeans):
        batches = segments.read(job.segments, unit.segments, job.segment_schema)
    names = [name for name in job.segment_schema.names if name != "embedding"]
    table = pa.Table.from_batches([batch.select(names) for batch in batches])
    order = job.ranking.order(table)
    xp = arrays.library(job.parameters.device)
    rows = gathered(RankedRows(batches, order, xp), job.blocks.max_key_rows, xp)
    centroids = table.column("centroid").to_numpy()[order]
    starts = np.flatnonzero(np.diff(centroids, prepend=-1))
    stops = np.append(starts[1:], len(order))
    scores, winners, pairs = _compare_clusters(job, rows, starts, stops, unit, xp)
    metadata = job.parameters.metadata_fields
    own = tables.take(table.select(["id", SOURCE, *metadata]), order[unit.low : unit.high])
    result = pa.table(
        [
            own.column("id"),
            tables.take(table.select(["id"]), order[winners]).column("id"),
            pa.array(scores),
            pa.array(centroids[unit.low : unit.high]),
            *(own.column(name) for name in (SOURCE, *metadata)),
        ],
        names=[*RESULT_COLUMNS, SOURCE, *metadata],
    )
    found = repeated_in_clusters(table) if unit.low == 0 else Repeated()
    facts = PairwiseFacts(
        unit=wanted,
        starts_cluster=bool(unit.low in starts),
        pairs=pairs,
        largest_cluster=int((stops - starts).max()),
        repeated_ids=found.count,
        examples=tuple(map(str, found.examples)),
    )
    return result, facts


def gathered(rows: RankedRows, most: int, xp: Any) -> Any:
    """Returns the rows as an array, if they are no more than `most` and there is room for them where `xp` computes."""
    if len(rows) <= most and arrays.has_room(xp, rows.nbytes):
        with contextlib.suppress(MemoryError):  # others may have taken it
            return rows[:]
    return rows


def _compare_clusters(
    job: Job, rows: Any, starts: np.ndarray, stops: np.ndarray, unit: PairwiseUnit, xp: Any
) -> tuple[np.ndarray, np.ndarray, int]:
    """Finds scores and winners, as positions in `rows`, of the rows ranked `[unit.low, unit.high)`, and their pairs.

    Args:
        rows: all of the key, cluster after cluster: an array of `xp`, or what gathers them when it is indexed.
        starts, stops: where each cluster begins and ends.
    """
    p, sizes = job.parameters, stops - starts
    scores = np.empty(unit.high - unit.low, dtype=np.float32)
    winners = np.empty(unit.high - unit.low, dtype=np.int64)
    lows, highs = np.maximum(starts, unit.low), np.minimum(stops, unit.high)
    tile, screen = arrays.tile_rows(xp, p.pairwise_batch_size), screen_at(p.screening_threshold)

    def compare(cluster: int) -> None:
        start, low, high = starts[cluster], lows[cluster], highs[cluster]
        if isinstance(rows, RankedRows):
            ranked = gathered(rows.window(start, stops[cluster]), job.blocks.max_cluster_rows, xp)
        else:
            ranked = rows[start : stops[cluster]]
        score, winner = arrays.halving_on_memory_error(
            tile, lambda batch: max_similarity(ranked, low - start, high - start, batch, screen)
        )
        scores[low - unit.low : high - unit.low] = score
        winners[low - unit.low : high - unit.low] = winner + start

    def compare_together(which: np.ndarray) -> None:
        inside = np.repeat(which, sizes)[unit.low : unit.high]
        scores[inside], winners[inside] = arrays.halving_on_memory_error(
            arrays.tile_bytes(xp),
            lambda memory: small_clusters.max_similarity_of_each(rows, starts[which], stops[which], memory, screen),
        )

    wanted = lows < highs
    # On a GPU small clusters share launches; else each is computed in one thread, and a large one in all.
    together = wanted & (highs - lows == sizes) & (xp is not np and not isinstance(rows, RankedRows))
    together &= small_clusters.fit_together(sizes, job.sizes.dimension, arrays.tile_bytes(xp))
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


def repeated_in_clusters(table: pa.Table) -> Repeated:
    """Counts the ids that stand in a cluster more than once, in each of them."""
    ids = table.column("id")
    codes = pa.chunked_array([chunk.indices for chunk in ids.dictionary_encode().chunks]).to_numpy()
    keys = codes.astype(np.uint64) << np.uint64(32) | table.column("centroid").to_numpy().astype(np.uint64)
    return repeated([ids], lambda ids: [(ids, keys)])
