"""A unit of matches: the rows of a key, and those that visit its clusters, each with the best earlier row found there.

And what comes of them: each row's best match wherever it was found.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.compute.identical import first_identical
from beam_semdedup.compute.matches import NO_MATCH, Best, Elsewhere, Rows, match
from beam_semdedup.compute.short_vectors import Basis
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.visits import Clusters, is_place_of
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.neighbours import neighbours
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import PairwiseResult, UnitId
from beam_semdedup.stages.pairwise import (
    PairwiseFacts,
    PairwiseUnit,
    centroids_of,
    gathered,
    pairwise_units,
    repeated_in_clusters,
    result_of,
)
from beam_semdedup.stages.visits import find_basis, segment_file
from beam_semdedup.storage import segments, tables
from beam_semdedup.storage.columns import MATCH_COLUMNS, RESULT_COLUMNS
from beam_semdedup.storage.layout import comparison_name
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import RankedRows, Segment

_STEP_ROWS = 4096
_ROW_BITS = 40  # of a row's number in its file, in what identifies it


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
    """The rows ranked `[low, high)` of a key, to be compared with those that visit their clusters, or some of these.

    The first of the `parts` among which the visitors are dealt out compares the rows with those of their clusters too.
    """

    visits: tuple[Segment, ...]
    part: int
    parts: int


def match_units(job: Job, key: int, parts: Iterable[Segment]) -> list[MatchUnit]:
    """Returns the units that compare the rows of a key; none where it has no rows.

    Rows are cut as by `pairwise_units`, and their visitors where they are more than `max_visitors`.
    """
    parts = sorted(parts, key=lambda segment: (segment.file, segment.offset))
    visits = (segment for segment in parts if segment.kind == segments.VISITS)
    groups = list(neighbours(visits, lambda segment: segment.num_rows, job.blocks.max_visitors)) or [[]]
    rows = [segment for segment in parts if segment.kind == segments.ROWS]
    return [
        MatchUnit(**vars(unit), visits=tuple(group), part=part, parts=len(groups))
        for unit in (pairwise_units(job, key, rows) if rows else [])
        for part, group in enumerate(groups)
    ]


def find_matches(job: Job, unit: MatchUnit, fitted: FittedKMeans) -> tuple[Segment, ...]:
    """Writes the matches that a unit finds; returns references to them, by the keys where their rows live."""
    began = time.time()
    name = _name(job, unit, unit.part)
    wanted = UnitId(name, fitted.content_hash, unit.high - unit.low)
    num_visits = sum(segment.num_rows for segment in unit.visits)
    with naming_unit(f"matches in {name}"):
        found = segments.read_index(job.matches.file(name), _Facts, segments.MATCHES)
        if found and (found[0].unit, found[0].visits, found[0].parts) == (wanted, num_visits, unit.parts):
            return found[1]
        table, pairs = _compare(job, unit, fitted)
        facts = _Facts(wanted, num_visits, pairs, unit.parts, began)
        return segments.write(job.matches, name, table, job.sizes.centroids_per_key, facts, segments.MATCHES)


def merge_matches(job: Job, key: int, parts: Iterable[Segment], fitted: FittedKMeans) -> PairwiseResult:
    """Writes the best match of each row of a key, in rank order; a row without a match has itself and no score."""
    parts = sorted(parts, key=lambda segment: (segment.kind, segment.file, segment.offset))
    rows = [segment for segment in parts if segment.kind == segments.ROWS]
    units = pairwise_units(job, key, rows)
    first, last = centroids_of(job, key)
    name = comparison_name(first, last, 0, units[0].num_rows, units[0].num_rows)
    file, wanted = job.pairwise.file(f"{name}.parquet"), UnitId(name, fitted.content_hash, units[0].num_rows)
    with naming_unit(f"centroids {first} to {last}"):
        facts = tables.read_facts(file, PairwiseFacts)
        compared = [facts for unit in units for facts in _all_facts(job, unit)]
        reused = facts is not None and facts.unit == wanted
        if facts is None or not reused:
            matches = _best_of_each(job, parts[len(rows) :])
            table, facts = _merge(job, rows, matches, wanted, sum(facts.pairs for facts in compared))
            tables.write(file, table, facts, job.parameters.cache_compression)
        return result_of(file.name, key, facts, reused, min(facts.began for facts in compared))


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


def _compare(job: Job, unit: MatchUnit, fitted: FittedKMeans) -> tuple[pa.Table, int]:
    """Returns the matches of the rows of a unit and of its visitors, and the pairs that were compared."""
    found = find_basis(job)
    if found is None:
        raise RuntimeError(f"{job.visits} has no directions any more, though the run wrote them; run again")
    p, (basis, _) = job.parameters, found
    schema = job.visit_schema(basis.width + 1)
    with stored.discarding(job.kmeans):
        batches = segments.read(job.segments, unit.segments, job.segment_schema)
        visits = pa.Table.from_batches(segments.read(job.visits, unit.visits, schema), schema)
    table = pa.Table.from_batches([batch.select(_columns(job)) for batch in batches])
    order = job.ranking.order(table)
    table = tables.take(table, order)
    vectors = gathered(RankedRows(batches, order), job.blocks.max_key_rows, np)
    first = first_identical(vectors, unit.high, p.pairwise_batch_size)
    own = np.flatnonzero(first == np.arange(len(first)))
    everyone = pa.concat_tables([table.select(job.ranking.columns), visits.select(job.ranking.columns)])
    by_rank = job.ranking.order(everyone, within=())
    ranks = np.empty(len(by_rank), dtype=np.int64)
    ranks[by_rank] = np.arange(len(by_rank))
    centroids, homes = table.column("centroid").to_numpy(), visits.column("__home").to_numpy()
    by_cluster, visited = _by_cluster(visits.column("__visited"), ranks[len(table) :])
    visitor_vectors = _VisitorVectors(job, unit, visits)
    clusters = Clusters(fitted.centroids(job.kmeans.options), p.pairwise_batch_size)
    best_natives, best_visitors = Best(len(table)), Best(len(visits))

    def compare(centroid: int) -> int:
        natives = own[slice(*np.searchsorted(centroids[own], [centroid, centroid + 1]))]
        visitors = by_cluster[slice(*np.searchsorted(visited, [centroid, centroid + 1]))]
        low, high = np.searchsorted(natives, [unit.low, unit.high]).tolist()
        mine = Rows(
            ranks[natives], _short(basis, vectors, natives), lambda at: vectors[natives[at]], best_natives, natives
        )
        theirs = Rows(
            ranks[len(table) + visitors],
            visitor_vectors.short[visitors],
            lambda at: visitor_vectors.full(visitors[at]),
            best_visitors,
            visitors,
        )
        elsewhere = None
        if p.n_probes == "exact":
            elsewhere = _elsewhere(clusters, centroid, homes[visitors], mine.gather, len(natives), p.matching_reach)
        match(mine, theirs, low, high, p.matching_reach, p.pairwise_batch_size, unit.part == 0, elsewhere)
        among = (high - low) * (high + low - 1) // 2 if unit.part == 0 else 0
        return among + (high - low) * len(visitors)

    pairs = sum(in_threads(compare, np.unique(centroids[unit.low : unit.high]).tolist()))
    copies = unit.low + np.flatnonzero(first[unit.low :] != np.arange(unit.low, unit.high))
    if unit.part:
        copies = copies[:0]
    scores = np.concatenate([best_natives.scores, best_visitors.scores])
    winners = np.concatenate([best_natives.winners, best_visitors.winners])
    matched = np.flatnonzero(winners != NO_MATCH)
    later = np.concatenate([copies, matched])
    rows = everyone.select(["source_file", "source_row"]).take(pa.array(later))
    columns = [
        pa.array(np.concatenate([centroids, homes])[later]),
        rows.column("source_file"),
        rows.column("source_row"),
        pa.array((np.arange(len(later)) < len(copies)).astype(np.int8)),
        pa.array(np.concatenate([np.ones(len(copies), dtype=np.float32), scores[matched]])),
    ]
    matches = tables.take(everyone, np.concatenate([first[copies], by_rank[winners[matched]]]))
    for place, (column, values) in enumerate(zip(MATCH_COLUMNS, columns, strict=True)):
        matches = matches.add_column(place, column, values)
    return matches.cast(job.match_schema), pairs


def _elsewhere(
    clusters: Clusters, centroid: int, homes: npt.NDArray[np.int32], gather: Any, num_natives: int, reach: float
) -> Elsewhere:
    """Returns what says which pairs of visitors and natives of a cluster are compared where the visitor lives.

    Args:
        homes: (v,) where each visitor lives.
        gather: gives the vectors of the natives.
    """
    others, which = np.unique(homes.astype(np.int64), return_inverse=True)
    there = np.flatnonzero(~is_place_of(centroid, others))

    @functools.cache
    def sure() -> npt.NDArray[np.bool_]:
        result = np.zeros((num_natives, len(others)), dtype=bool)
        for part in slices(0, num_natives, _STEP_ROWS):
            rows = gather(np.arange(part.start, part.stop))
            result[part, there] = clusters.surely_visits(rows, centroid, others[there], reach)
        return result

    return lambda visitors, natives: sure()[natives, which[visitors]].T


def _by_cluster(
    visited: pa.ChunkedArray, ranks: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Returns the visits (v,) by cluster, in rank order within one: which visitor, and the cluster.

    Args:
        visited: (n,) lists of clusters.
        ranks: (n,) of the visitors.
    """
    clusters = pc.list_flatten(visited).to_numpy()
    who = pc.list_parent_indices(visited).to_numpy().astype(np.int64)
    order = np.lexsort((ranks[who], clusters))
    return who[order], clusters[order]


class _VisitorVectors:
    """The vectors of visitors, in the order of their table.

    Attributes:
        short: (v, m + 1) float32 their short vectors.
    """

    def __init__(self, job: Job, unit: MatchUnit, visits: pa.Table) -> None:
        self._folder = job.segments
        width = visits.schema.field("embedding").type.list_size
        everyone = np.arange(len(visits))
        self.short = RankedRows(visits.to_batches(), everyone)[:] if len(visits) else np.empty((0, width), np.float32)
        self._files = np.array([segment_file(segment.file) for segment in unit.visits])
        self._which = np.repeat(np.arange(len(unit.visits)), [segment.num_rows for segment in unit.visits])
        self._offsets = visits.column("__offset").to_numpy()
        self._read = np.zeros(len(visits), dtype=bool)
        self._vectors = np.empty((len(visits), job.sizes.dimension), dtype=np.float32)  # what is not read takes none

    def full(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns the vectors themselves, read once from the segment files where they live."""
        new = positions[~self._read[positions]]
        if len(new):
            names = self._files[self._which[new]].tolist()
            found = segments.read_vectors(self._folder, names, self._offsets[new], self._vectors.shape[1])
            self._vectors[new] = found
            self._read[new] = True
        return self._vectors[positions]


def _short(basis: Basis, vectors: Any, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Returns the short vectors of rows, whose vectors are gathered some at a time."""
    none = np.empty((0, basis.width + 1), dtype=np.float32)
    parts = slices(0, len(positions), _STEP_ROWS)
    return np.concatenate([none, *(basis.shorten(vectors[positions[part]]) for part in parts)])


def _merge(
    job: Job, rows: Sequence[Segment], matches: pa.Table, wanted: UnitId, pairs: int
) -> tuple[pa.Table, PairwiseFacts]:
    """Returns the result rows of a key, and the facts of their file."""
    metadata = job.parameters.metadata_fields
    names = list(dict.fromkeys([*_columns(job), *metadata]))
    with stored.discarding(job.kmeans):
        batches = segments.read(job.segments, rows, job.segment_schema)
    table = pa.Table.from_batches([batch.select(names) for batch in batches])
    repeated = repeated_in_clusters(table)
    table = tables.take(table, job.ranking.order(table))
    whose = _sources(matches, "__file", "__row")
    sources = _sources(table, "source_file", "source_row")
    by_source = np.argsort(sources)
    places = by_source[np.searchsorted(sources, whose, sorter=by_source)]
    if not np.array_equal(sources[places], whose):
        raise RuntimeError("matches of rows that are not in the key; delete the cache and run again")
    # What a row has is at the place of the row itself, or behind all rows at that of its match.
    at = np.arange(len(table))
    at[places] = len(table) + np.arange(len(matches))
    scores = np.full(len(table), np.nan, dtype=np.float32)
    scores[places] = matches.column("cosine_sim_score").to_numpy()
    ids = pa.concat_tables([table.select(["id"]), matches.select(["id"])])
    centroids = table.column("centroid")
    result = pa.table(
        [
            table.column("id"),
            tables.take(ids, at).column("id"),
            pa.array(scores, from_pandas=True),
            centroids,
            *(table.column(name) for name in metadata),
        ],
        names=[*RESULT_COLUMNS, *metadata],
    )
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
    best_first = [("__identical", "descending"), ("cosine_sim_score", "descending")]
    within = [("__file", "ascending"), ("__row", "ascending"), *best_first]
    result = job.match_schema.empty_table()
    for part in neighbours(references, lambda segment: segment.num_rows, job.blocks.max_visitors):
        with stored.discarding(job.pairwise):
            batches = segments.read(job.matches, part, job.match_schema)
        found = pa.concat_tables([result, pa.Table.from_batches(batches, job.match_schema)])
        found = tables.take(found, job.ranking.order(found, within))
        result = tables.take(found, np.unique(_sources(found, "__file", "__row"), return_index=True)[1])
    return result


def _sources(table: pa.Table, file: str, row: str) -> npt.NDArray[np.int64]:
    """Returns what identifies the rows (n,): the number of the file, and of the row in it."""
    numbers: npt.NDArray[np.int64] = table.column(file).to_numpy().astype(np.int64) << _ROW_BITS
    return numbers | table.column(row).to_numpy()


def _columns(job: Job) -> list[str]:
    """Returns the columns of segments that comparing needs, besides the vectors."""
    return list(dict.fromkeys(["centroid", *job.ranking.columns]))
