"""A unit of matches: the rows of a key, and those that visit its clusters, each with the best earlier row found there.

And what comes of them: each row's best match wherever it was found.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.compute.arrays import rows_at
from beam_semdedup.compute.identical import first_identical
from beam_semdedup.compute.matches import NO_MATCH, Best, Elsewhere, Rows, match, num_pairs
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.visits import Clusters, is_place_of
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.neighbours import neighbours
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import PairwiseResult, UnitId
from beam_semdedup.stages import generations, sample
from beam_semdedup.stages.index import segments_of
from beam_semdedup.stages.pairwise import (
    PairwiseFacts,
    PairwiseUnit,
    centroids_of,
    gathered,
    own_rows,
    repeated_in_clusters,
    result_of,
)
from beam_semdedup.stages.visits import find_basis, segment_file
from beam_semdedup.storage import segments, tables
from beam_semdedup.storage.columns import GENERATION, MATCH_COLUMNS, MAX_SOURCE, RESULT_COLUMNS, SOURCE
from beam_semdedup.storage.layout import comparison_name
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import RankedRows, Segment, SegmentFile

_STEP_ROWS = 4096


@dataclass(frozen=True)
class _Facts(Record):
    """What a file of matches says of itself.

    `visits` counts the visitors, `pairs` those of rows that were compared, `parts` the units among which the visitors
    of these rows are dealt out; `began` is in seconds since the epoch.
    """

    unit: UnitId
    visits: int
    pairs: int
    parts: int
    began: float


@dataclass(frozen=True)
class MatchUnit(PairwiseUnit):
    """The rows ranked `[low, high)` of a key, of all generations, to be compared with their clusters and visitors.

    For rows of earlier ones nothing is found; they are compared with the visitors of the last. The first of the `parts`
    among which the visitors are dealt out compares the rows with each other too.
    """

    part: int
    parts: int


def match_units(job: Job, key: Segment) -> list[MatchUnit]:
    """Returns the units that compare the rows of a key.

    Visitors that are more than `max_visitors` are dealt out to several.

    Args:
        key: where the index has it.
    """
    return _units(job, key, segments_of(job, key))


def _units(job: Job, key: Segment, found: Sequence[Segment]) -> list[MatchUnit]:
    rows, visits = _rows_and_visits(job, found)
    num_rows = sum(segment.num_rows for segment in rows)
    own = sum(segment.num_rows for segment in own_rows(job, rows))
    if not own and not visits[0]:
        return []
    return [
        MatchUnit(low, high, num_rows, key, part, len(visits))
        for low, high in job.blocks.bounds(own, num_rows)
        for part in range(len(visits))
    ]


def _rows_and_visits(job: Job, found: Sequence[Segment]) -> tuple[list[Segment], list[list[Segment]]]:
    """Returns those of a key's segments that have rows, and those that have visits, as they are dealt out to units."""
    rows = [segment for segment in found if segment.kind == segments.ROWS]
    visits = [segment for segment in found if segment.kind == segments.VISITS]
    if not own_rows(job, rows):  # nothing is found for the others
        visits = [segment for segment in visits if segment.generation == job.generation]
    return rows, list(neighbours(visits, lambda segment: segment.num_rows, job.blocks.max_visitors)) or [[]]


def find_matches(job: Job, unit: MatchUnit, fitted: FittedKMeans) -> SegmentFile:
    """Writes the matches that a unit finds, by the keys where their rows live; returns the file."""
    began = time.time()
    name = _name(job, unit, unit.part)
    wanted = UnitId(name, fitted.content_hash, unit.high - unit.low)
    with naming_unit(f"matches in {name}"):
        rows, groups = _rows_and_visits(job, segments_of(job, unit.index))
        visits = groups[unit.part]
        num_visits = sum(segment.num_rows for segment in visits)
        found = segments.read_index(job.matches.file(name), _Facts, segments.MATCHES)
        if found and (found[0].unit, found[0].visits, found[0].parts) == (wanted, num_visits, unit.parts):
            return found[1].file
        table, pairs = _compare(job, unit, _Everyone(job, rows, visits), wanted, fitted)
        facts = _Facts(wanted, num_visits, pairs, unit.parts, began)
        return segments.write(job.matches, name, table, job.sizes.centroids_per_key, facts, segments.MATCHES).file


def merge_matches(job: Job, key: Segment, fitted: FittedKMeans) -> PairwiseResult | None:
    """Writes the best match of each row of a key, in rank order; a row without a match has itself and no score.

    Args:
        key: where the index has its rows and matches.

    Returns:
        the finished unit; None where the key has no row of the job's own generation.
    """
    found = segments_of(job, key)
    own, matches = own_rows(job, found), [segment for segment in found if segment.kind == segments.MATCHES]
    if not own:
        return None
    num_rows = sum(segment.num_rows for segment in own)
    units = _units(job, key, found)
    first, last = centroids_of(job, key.key)
    name = comparison_name(first, last, 0, num_rows, num_rows)
    file, wanted = job.pairwise.file(f"{name}.parquet"), UnitId(name, fitted.content_hash, num_rows)
    with naming_unit(f"centroids {first} to {last}"):
        facts = tables.read_facts(file, PairwiseFacts)
        compared = [facts for unit in units for facts in _all_facts(job, unit)]
        reused = facts is not None and facts.unit == wanted
        if facts is None or not reused:
            best = _best_of_each(job, matches)
            table, facts = _merge(job, own, best, wanted, sum(facts.pairs for facts in compared))
            tables.write(file, table, facts, job.parameters.cache_compression)
        else:
            sample.draw_again(job, wanted, lambda: own, slice(None), file)
        return result_of(file.name, key.key, facts, reused, min(facts.began for facts in compared))


def _name(job: Job, unit: PairwiseUnit, part: int) -> str:
    name = comparison_name(*centroids_of(job, unit.key), unit.low, unit.high, unit.num_rows)
    return f"{name}-visitors{part}.arrow" if part else f"{name}.arrow"


def _all_facts(job: Job, unit: PairwiseUnit) -> list[_Facts]:
    """Returns what the files of matches of some rows say of themselves."""
    first = _facts(job, _name(job, unit, 0))
    return [first, *(_facts(job, _name(job, unit, part)) for part in range(1, first.parts))]


def _facts(job: Job, name: str) -> _Facts:
    found = segments.read_index(job.matches.file(name), _Facts, segments.MATCHES)
    if found is None:
        raise RuntimeError(f"{job.matches.file(name)} is gone, though the run wrote it; run again")
    return found[0]


def _compare(job: Job, unit: MatchUnit, rows: _Everyone, wanted: UnitId, fitted: FittedKMeans) -> tuple[pa.Table, int]:
    """Returns the matches of the rows of a unit and of its visitors, and the pairs that were compared.

    Writes how similar the references are to them.
    """
    p, table = job.parameters, rows.all
    same = first_identical(rows.vectors, unit.high, p.pairwise_batch_size)
    is_own, each = rows.is_own[: unit.high], np.arange(unit.high)
    # What is the same as an earlier row has that one as its match, unless the two are not to be compared.
    first = same if p.within else np.where(is_own & is_own[same], each, same)
    different = np.flatnonzero(first == each)
    resembled = Best(len(table))
    resembled.scores[: unit.high][rows.is_reference[: unit.high] & np.isin(same, same[is_own])] = 1

    clusters = Clusters(fitted.centroids(job.model.options), p.pairwise_batch_size) if p.n_probes == "exact" else None
    best, among_natives = Best(len(table)), unit.part == 0

    def compare(centroid: int) -> int:
        natives, visitors = rows.of(centroid, different), rows.visiting(centroid)
        if not rows.is_own[natives].any() and not rows.is_own[visitors].any():
            return 0  # there is nothing to find
        low, high = np.searchsorted(natives, [unit.low, unit.high]).tolist()
        mine, theirs = rows.ranked(natives, best), rows.ranked(visitors, best)
        homes = rows.homes[visitors]
        elsewhere = _elsewhere(clusters, centroid, mine, homes, p.matching_reach) if clusters else None
        match(mine, theirs, low, high, p.matching_reach, p.pairwise_batch_size, p.within, among_natives, elsewhere)
        if job.references is not None:
            _resemble(job, rows, rows.of(centroid, each), visitors, unit, resembled)
        return num_pairs(mine, theirs, low, high, p.within, among_natives)

    pairs = sum(in_threads(compare, np.unique(rows.centroids[unit.low : unit.high]).tolist()))
    copies = unit.low + np.flatnonzero((is_own & (first != each))[unit.low :])
    if not among_natives:
        copies = copies[:0]
    matched = np.flatnonzero(best.winners != NO_MATCH)
    later = np.concatenate([copies, matched])
    sources = table.select(["source_file", "source_row"]).take(pa.array(later))
    columns = [
        pa.array(rows.homes[later]),
        sources.column("source_file"),
        sources.column("source_row"),
        pa.array((np.arange(len(later)) < len(copies)).astype(np.int8)),
        pa.array(np.concatenate([np.ones(len(copies), dtype=np.float32), best.scores[matched]])),
    ]
    matches = tables.take(table, np.concatenate([first[copies], rows.by_rank[best.winners[matched]]]))
    for place, (column, values) in enumerate(zip(MATCH_COLUMNS, columns, strict=True)):
        matches = matches.add_column(place, column, values)
    if job.references is not None:
        generations.write_resembled(job, wanted, table, rows.is_reference, resembled.scores)
    return matches.cast(job.match_schema), pairs


def _elsewhere(
    clusters: Clusters, centroid: int, natives: Rows, homes: npt.NDArray[np.int32], reach: float
) -> Elsewhere:
    """Returns what says which pairs of visitors and natives of a cluster are compared where the visitor lives.

    Args:
        homes: (v,) where each visitor lives.
    """

    @functools.cache  # it is seldom asked
    def sure() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        others, which = np.unique(homes.astype(np.int64), return_inverse=True)
        there = np.flatnonzero(~is_place_of(centroid, others))
        result = np.zeros((len(others), len(natives)), dtype=bool)
        for part in slices(0, len(natives), _STEP_ROWS):
            rows = natives.gather(np.arange(part.start, part.stop))
            result[there, part] = clusters.surely_visits(rows, centroid, others[there], reach).T
        return result, which

    def elsewhere(visitors: npt.NDArray[np.int64], strip: slice) -> npt.NDArray[np.bool_]:
        result, which = sure()
        return rows_at(result[:, strip], which[visitors])

    return elsewhere


class _Everyone:
    """The rows of a key, in their order, and after them those that visit its clusters.

    Attributes:
        number: of the rows of the key.
        visits: the visits, as they are stored.
        all: (n,) the columns that the order depends on.
        by_rank: (n,) the position of each from the first-ranked to the last.
        is_own: (n,) which are of the job's own generation.
        is_reference: (n,) which are of `against`.
        centroids: (number,) where each of the key lives.
        homes: (n,) where each lives.
        vectors: of the rows of the key.
    """

    def __init__(self, job: Job, natives: Sequence[Segment], visitors: Sequence[Segment]) -> None:
        found = find_basis(job)
        if found is None:
            raise RuntimeError(f"{job.basis} has no directions any more, though the run wrote them; run again")
        self._job, (self._basis, _) = job, found
        batches, table = generations.read_rows(job, natives, _columns(job))
        order = job.ranking.order(table, within=[("centroid", "ascending"), *job.by_generation])
        table = tables.take(table, order)
        self.number, self.centroids = len(table), table.column("centroid").to_numpy()
        most = max(job.blocks.max_key_rows, job.blocks.max_rows)
        self.vectors = gathered(RankedRows(batches, order), most, np)
        self.visits = generations.read_visits(job, visitors, self._basis.width + 1)
        self.all = pa.concat_tables([part.select(job.compared_columns) for part in (table, self.visits)])
        self.is_own = generations.is_own(job, self.all)
        self.is_reference = generations.is_reference(job, self.all)
        self.by_rank = job.ranking.order(self.all, within=job.by_generation)
        self._ranks = np.empty(len(self.by_rank), dtype=np.int64)
        self._ranks[self.by_rank] = np.arange(len(self.by_rank))
        self._visitors = self.by_rank[self.by_rank >= self.number]
        visited = self.visits.column("__visited").take(pa.array(self._visitors - self.number))
        self._visited = pc.list_flatten(visited).to_numpy()
        self._stops = np.cumsum(pc.list_value_length(visited).to_numpy())
        self.homes = np.concatenate([self.centroids, self.visits.column("__home").to_numpy()])
        self._short = np.empty((0, self._basis.width + 1), dtype=np.float32)
        if len(self.visits):
            self._short = RankedRows(self.visits.to_batches(), np.arange(len(self.visits)))[:]
        visits = [(segment_file(segment.file), segment.generation) for segment in visitors]
        self._segment = np.repeat(np.arange(len(visits)), [segment.num_rows for segment in visitors])
        self._files, self._generations = (np.array(column) for column in zip(*(visits or [("", 0)]), strict=True))
        self._offsets = self.visits.column("__offset").to_numpy()
        self._lock = threading.Lock()
        self._places = np.full(len(self.visits), -1)
        self._vectors_read = np.empty((len(self.visits), job.sizes.dimension), dtype=np.float32)  # none is touched yet
        self._num_read = 0

    def of(self, centroid: int, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns those of some rows of the key, ascending, that live in a cluster."""
        return chosen[slice(*np.searchsorted(self.centroids[chosen], [centroid, centroid + 1]))]

    def visiting(self, centroid: int) -> npt.NDArray[np.int64]:
        """Returns those that visit a cluster, in their order."""
        # A list by cluster would take many times the memory, where rows visit many.
        return self._visitors[np.searchsorted(self._stops, np.flatnonzero(self._visited == centroid), side="right")]

    def ranked(
        self, chosen: npt.NDArray[np.int64], best: Best, first: int | None = None, references: int | None = None
    ) -> Rows:
        """Returns some rows, of the key or visitors, to compare with others.

        Args:
            chosen: their positions, in their order.
            best: what is found, of all rows.
            first: the rank of the first of them, if they are to have other ranks than their own.
            references: how many of the first are not asked for; None: those of earlier generations.
        """
        ranks = self._ranks[chosen] if first is None else first + np.arange(len(chosen))
        number = int(np.count_nonzero(~self.is_own[chosen])) if references is None else references
        if len(chosen) and chosen[0] >= self.number:
            visitors = chosen - self.number
            short = rows_at(self._short, visitors)
            return Rows(ranks, short, lambda at: self._read(visitors[at]), number, best, chosen)
        return Rows(ranks, self._shorten(chosen), lambda at: rows_at(self.vectors, chosen[at]), number, best, chosen)

    def _read(self, visitors: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns the vectors themselves of visitors, read once from the segment files where they live."""
        new = visitors[self._places[visitors] < 0]
        if len(new):
            whose = self._segment[new]
            places = self._generations[whose], self._files[whose], self._offsets[new]
            vectors = generations.read_vectors(self._job, *places)
            with self._lock:  # another thread may have read some of them too
                still = self._places[new] < 0
                slots = self._num_read + np.arange(np.count_nonzero(still))
                self._num_read += len(slots)
                # One after the other: pages that are touched here and there would take the memory of all.
                self._vectors_read[slots] = vectors[still]
                self._places[new[still]] = slots
        return rows_at(self._vectors_read, self._places[visitors])

    def _shorten(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns the short vectors of rows of the key, whose vectors are gathered some at a time."""
        none = np.empty((0, self._basis.width + 1), dtype=np.float32)
        parts = slices(0, len(chosen), _STEP_ROWS)
        return np.concatenate([none, *(self._basis.shorten(rows_at(self.vectors, chosen[part])) for part in parts)])


def _resemble(
    job: Job,
    rows: _Everyone,
    natives: npt.NDArray[np.int64],
    visitors: npt.NDArray[np.int64],
    unit: MatchUnit,
    best: Best,
) -> None:
    """Finds how similar the references of a cluster are to the rows that a unit compares them with.

    These rank before the references here. As for the rows themselves each pair is compared by one unit alone: that of
    the native, of two natives that of the row of the job's own generation.

    Args:
        natives, visitors: of the cluster, positions in `rows`; `natives` ends with the last of the unit.
        best: of all rows, in which the scores of references are raised; its winners say nothing.
    """
    p = job.parameters

    def compare(natives: Rows, visitors: Rows) -> None:
        of_natives = unit.part == 0
        match(natives, visitors, 0, len(natives), p.matching_reach, p.pairwise_batch_size, False, of_natives)

    asking, references = natives[rows.is_own[natives] & (natives >= unit.low)], natives[rows.is_reference[natives]]
    if len(asking):
        both, others = np.concatenate([asking, references]), visitors[rows.is_reference[visitors]]
        compare(rows.ranked(both, best, 0, len(asking)), rows.ranked(others, best, len(both), 0))
    references, asking = references[references >= unit.low], visitors[rows.is_own[visitors]]
    if len(references) and len(asking):
        compare(rows.ranked(references, best, len(asking), 0), rows.ranked(asking, best, 0, len(asking)))


def _merge(
    job: Job, rows: Sequence[Segment], matches: pa.Table, wanted: UnitId, pairs: int
) -> tuple[pa.Table, PairwiseFacts]:
    """Returns the result rows of a key, and the facts of their file."""
    metadata = job.parameters.metadata_fields
    names = list(dict.fromkeys([*_columns(job), *metadata]))
    batches, table = generations.read_rows(job, rows, names)
    repeated = repeated_in_clusters(table)
    order = job.ranking.order(table)
    unordered, table = table, tables.take(table, order)
    whose = generations.source_keys(matches, "__file", "__row")
    sources = generations.source_keys(table, "source_file", "source_row")
    by_source = np.argsort(sources)
    places = by_source[np.searchsorted(sources, whose, sorter=by_source)]
    if not np.array_equal(sources[places], whose):
        raise RuntimeError("matches of rows that are not in the key; delete the cache and run again")
    # What a row has is at the place of the row itself, or behind all rows at that of its match.
    at = np.arange(len(table))
    at[places] = len(table) + np.arange(len(matches))
    scores = np.full(len(table), np.nan, dtype=np.float32)
    scores[places] = matches.column("cosine_sim_score").to_numpy()
    sample.draw(job, wanted, unordered, batches, order, scores)
    ids = pa.concat_tables([table.select(["id"]), matches.select(["id"])])
    centroids = table.column("centroid")
    result = pa.table(
        [
            table.column("id").cast(job.id_type),
            tables.take(ids, at).column("id"),
            pa.array(scores, from_pandas=True),
            centroids,
            *(table.column(name) for name in (SOURCE, *metadata)),
        ],
        names=[*RESULT_COLUMNS, SOURCE, *metadata],
    )
    if job.has_generations:
        files = pa.concat_tables([part.select([GENERATION, "source_file"]) for part in (table, matches)])
        of_matches = generations.sources(job, tables.take(files, at), ~np.isnan(scores))
        result = result.add_column(len(RESULT_COLUMNS), MAX_SOURCE, of_matches)
    facts = PairwiseFacts(
        unit=wanted,
        starts_cluster=True,
        pairs=pairs,
        largest_cluster=int(pc.max(pc.value_counts(centroids).field("counts")).as_py()),
        repeated_ids=repeated.count,
        examples=tuple(map(str, repeated.examples)),
    )
    return result, facts


def _best_of_each(job: Job, references: Sequence[Segment]) -> pa.Table:
    """Returns the best of the matches of each row, reading some of them at a time."""
    row = [("__file", "ascending"), ("__row", "ascending")]
    best_first = [("__identical", "descending"), ("cosine_sim_score", "descending")]
    result = job.match_schema.empty_table()
    for part in neighbours(references, lambda segment: segment.num_rows, job.blocks.max_visitors):
        with stored.discarding(job.pairwise):
            batches = segments.read(job.matches, part, job.match_schema)
        found = pa.concat_tables([result, pa.Table.from_batches(batches, job.match_schema)])
        found = tables.take(found, job.ranking.order(found, within=[*row, *best_first, *job.by_generation]))
        result = tables.take(found, np.unique(generations.source_keys(found, "__file", "__row"), return_index=True)[1])
    return result


def _columns(job: Job) -> list[str]:
    """Returns the columns of segments that comparing needs, besides the vectors."""
    return list(dict.fromkeys(["centroid", *job.ranking.columns]))
