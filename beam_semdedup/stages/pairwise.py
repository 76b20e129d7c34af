"""A unit of the pairwise stage: the most similar earlier-ranked row of each row of a key, or of a block of its rows."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.compute import arrays, small_clusters
from beam_semdedup.compute.screens import screen_at, short_screen_at
from beam_semdedup.compute.similarity import chosen, max_similarity
from beam_semdedup.compute.threads import in_threads
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.neighbours import neighbours
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import Counts, PairwiseManifest, PairwiseResult, UnitId
from beam_semdedup.stages import generations, sample
from beam_semdedup.stages.index import segments_of
from beam_semdedup.stages.repeated import Repeated, repeated
from beam_semdedup.storage import tables
from beam_semdedup.storage.columns import MAX_SOURCE, RESULT_COLUMNS, SOURCE
from beam_semdedup.storage.layout import comparison_name
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import ROWS, RankedRows, Segment
from beam_semdedup.text import EXAMPLES

_LARGE_BATCHES = 4


@dataclass(frozen=True)
class PairwiseUnit:
    """Rows of a key, to be compared with all that rank before them in their clusters.

    They are those ranked `[low, high)` of the `num_rows` rows of the key of the last generation; where these are
    compared with earlier ones alone, and so in any order, those of the segments that begin there. `index` says where
    the rows of the key lie.
    """

    low: int
    high: int
    num_rows: int
    index: Segment

    @property
    def key(self) -> int:
        """The key."""
        return self.index.key


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


def pairwise_units(job: Job, key: Segment) -> list[PairwiseUnit]:
    """Returns the units that compare the rows of a key: one up to `max_key_rows`, else blocks of `max_cluster_rows`.

    Args:
        key: where the index has it.
    """
    own = own_rows(job, segments_of(job, key))
    num_rows = sum(segment.num_rows for segment in own)
    if not own:
        return []
    if job.parameters.within:
        bounds = job.blocks.bounds(num_rows, num_rows)
    else:
        groups = neighbours(own, lambda segment: segment.num_rows, job.blocks.max_cluster_rows)
        stops = list(itertools.accumulate(sum(segment.num_rows for segment in group) for group in groups))
        bounds = list(zip([0, *stops], stops, strict=False))
    return [PairwiseUnit(low, high, num_rows, key) for low, high in bounds]


def own_rows(job: Job, found: Iterable[Segment]) -> list[Segment]:
    """Returns the segments with rows of the job's own generation."""
    return [segment for segment in found if segment.kind == ROWS and segment.generation == job.generation]


def _read_by(job: Job, unit: PairwiseUnit) -> list[Segment]:
    """Returns the segments of rows that a unit reads."""
    rows = [segment for segment in segments_of(job, unit.index) if segment.kind == ROWS]
    if job.parameters.within:
        return rows
    own = own_rows(job, rows)
    starts = itertools.accumulate((segment.num_rows for segment in own), initial=0)
    earlier = rows[: len(rows) - len(own)]
    return [*earlier, *(part for part, start in zip(own, starts, strict=False) if unit.low <= start < unit.high)]


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
        else:
            ranked = slice(unit.low, unit.high) if job.parameters.within else slice(None)
            sample.draw_again(job, wanted, lambda: own_rows(job, _read_by(job, unit)), ranked, file)
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
    """Returns the result rows of a unit, and the facts of their file; writes how similar the references are to them."""
    metadata = job.parameters.metadata_fields
    names = list(dict.fromkeys(["centroid", SOURCE, *job.ranking.columns, *metadata]))
    batches, table = generations.read_rows(job, _read_by(job, unit), names)
    order = job.ranking.order(table, within=[("centroid", "ascending"), *job.by_generation])
    xp = arrays.library(job.parameters.device)
    rows = gathered(RankedRows(batches, order, xp), job.blocks.max_key_rows, xp)
    is_own = generations.is_own(job, table)[order]
    part = slice(unit.low, unit.high) if job.parameters.within else slice(None)
    asked = np.flatnonzero(is_own)[part]
    centroids = table.column("centroid").to_numpy()[order]
    starts = np.flatnonzero(np.diff(centroids, prepend=-1))
    is_reference = generations.is_reference(job, table)[order]
    clusters = _Clusters(starts, np.append(starts[1:], len(order)), is_own, is_reference, asked)
    scores, winners, pairs, resembled = _compare_clusters(job, rows, clusters, xp)
    sample.draw(job, wanted, table, batches, order[asked], sample.without_first(scores, winners == asked))
    own = tables.take(table.select(["id", SOURCE, *metadata]), order[asked])
    result = pa.table(
        [
            own.column("id").cast(job.id_type),
            tables.take(table.select(["id"]), order[winners]).column("id"),
            pa.array(scores),
            pa.array(centroids[asked]),
            *(own.column(name) for name in (SOURCE, *metadata)),
        ],
        names=[*RESULT_COLUMNS, SOURCE, *metadata],
    )
    if job.has_generations:
        sources = generations.sources(job, tables.take(table, order[winners]), winners != asked)
        result = result.add_column(len(RESULT_COLUMNS), MAX_SOURCE, sources)
    if job.references is not None:
        generations.write_resembled(job, wanted, tables.take(table, order), is_reference, resembled)
    counted = table.filter(pa.array(generations.is_own(job, table))) if job.earlier else table
    found = repeated_in_clusters(counted) if unit.low == 0 or not job.parameters.within else Repeated()
    facts = PairwiseFacts(
        unit=wanted,
        starts_cluster=bool(asked[0] in starts),
        pairs=pairs,
        largest_cluster=int((clusters.stops - starts).max()),
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


class _Clusters:
    """The clusters of a key, of each of which the references come first, then rows of the corpus, then the job's own.

    Args:
        starts, stops: (c,) where each begins and ends among the n rows.
        is_own, is_reference: (n,) which rows are the job's own, and which are references.
        asked: (m,) the rows that are compared, ascending.

    Attributes:
        references: (c,) where the references end.
        own: (c,) where the job's own rows begin.
        lows, highs: (c,) between which the rows stand that are compared.
        at: (c,) where these stand among all that are compared.
    """

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        stops: npt.NDArray[np.int64],
        is_own: npt.NDArray[np.bool_],
        is_reference: npt.NDArray[np.bool_],
        asked: npt.NDArray[np.int64],
    ) -> None:
        self.starts, self.stops, self.asked = starts, stops, asked
        self.references = starts + _count(is_reference, starts, stops)
        self.own = stops - _count(is_own, starts, stops)
        self.at = np.searchsorted(asked, starts)
        number = np.searchsorted(asked, stops) - self.at
        first = asked[np.minimum(self.at, len(asked) - 1)]
        self.lows = np.where(number > 0, first, stops)
        self.highs = self.lows + number

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The rows of each, (c,)."""
        return self.stops - self.starts


def _count(
    chosen: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Counts the chosen rows in each of some ranges (c,)."""
    before = np.concatenate([[0], np.cumsum(chosen)])
    return before[stops] - before[starts]


def _compare_clusters(
    job: Job, rows: Any, clusters: _Clusters, xp: Any
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], int, npt.NDArray[np.float32]]:
    """Finds scores and winners, as positions in `rows`, of the rows that are asked for, and counts their pairs.

    Args:
        rows: all of the key, cluster after cluster: an array of `xp`, or what gathers them when it is indexed.

    Returns:
        scores (m,), winners (m,), the number of pairs, and for all rows (n,) the score of references with what they are
        like among the rows that are asked for, minus infinity for all else.
    """
    p, starts, stops, lows, highs = job.parameters, clusters.starts, clusters.stops, clusters.lows, clusters.highs
    scores = np.empty(len(clusters.asked), dtype=np.float32)
    winners = np.empty(len(clusters.asked), dtype=np.int64)
    resembled = np.full(len(rows), -np.inf, dtype=np.float32)
    tile = arrays.tile_rows(xp, p.pairwise_batch_size)
    threshold = p.screening_threshold
    screen = short_screen_at(threshold, rows, starts) if xp is np else screen_at(threshold)

    def compare(cluster: int) -> None:
        columns = (starts, clusters.references, clusters.own, lows, highs)
        start, references, own, low, high = (int(column[cluster]) for column in columns)
        if isinstance(rows, RankedRows):
            ranked = gathered(rows.window(start, stops[cluster]), job.blocks.max_cluster_rows, xp)
        else:
            ranked = rows[start : stops[cluster]]
        before = None if p.within else own - start
        score, winner = arrays.halving_on_memory_error(
            tile, lambda batch: max_similarity(ranked, low - start, high - start, batch, screen, before)
        )
        at = slice(clusters.at[cluster], clusters.at[cluster] + high - low)
        scores[at], winners[at] = score, winner + start
        if references > start:  # the other way around: the references after what is asked for
            turned = chosen(ranked, np.concatenate([np.arange(low, high), np.arange(start, references)]) - start)
            number = high - low
            resembled[start:references], _ = arrays.halving_on_memory_error(
                tile, lambda batch: max_similarity(turned, number, len(turned), batch, screen, number)
            )

    def compare_together(which: npt.NDArray[np.bool_]) -> None:
        inside = np.repeat(which, clusters.sizes)[clusters.asked]
        scores[inside], winners[inside] = arrays.halving_on_memory_error(
            arrays.tile_bytes(xp),
            lambda memory: small_clusters.max_similarity_of_each(rows, starts[which], stops[which], memory, screen),
        )

    wanted = lows < highs
    # On a GPU small clusters share launches; else each is computed in one thread, and a large one in all.
    together = wanted & (highs - lows == clusters.sizes) & (xp is not np and not isinstance(rows, RankedRows))
    together &= small_clusters.fit_together(clusters.sizes, job.sizes.dimension, arrays.tile_bytes(xp)) & p.within
    large = wanted & ~together & (clusters.sizes >= _LARGE_BATCHES * tile)
    with arrays.exclusive(xp):  # only now: what was read and copied before was so while other threads computed
        if together.any():
            compare_together(together)
        for cluster in np.flatnonzero(large).tolist():
            compare(cluster)
        small = np.flatnonzero(wanted & ~together & ~large)
        # The largest first, so that none is waited for.
        in_threads(compare, small[np.argsort(-clusters.sizes[small])].tolist())
    each = (lows + highs - 1 - 2 * starts) / 2 if p.within else clusters.own - starts
    return scores, winners, int(((highs - lows) * each)[wanted].sum()), resembled


def repeated_in_clusters(table: pa.Table) -> Repeated:
    """Counts the ids that stand in a cluster more than once, in each of them."""
    ids = table.column("id")
    codes = pa.chunked_array([chunk.indices for chunk in ids.dictionary_encode().chunks]).to_numpy()
    keys = codes.astype(np.uint64) << np.uint64(32) | table.column("centroid").to_numpy().astype(np.uint64)
    return repeated([ids], lambda ids: [(ids, keys)])
