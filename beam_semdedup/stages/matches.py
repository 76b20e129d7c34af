"""A unit of matches: the rows of a key, and those that visit its clusters, each with the best earlier row found there.

And what comes of them: each row's best match wherever it was found.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.compute.identical import first_identical
from beam_semdedup.compute.matches import NO_MATCH, Rows, match
from beam_semdedup.compute.short_vectors import Basis
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.errors import naming_unit
from beam_semdedup.fit.model import FittedKMeans
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
from beam_semdedup.stages.visits import find_basis
from beam_semdedup.storage import segments, tables
from beam_semdedup.storage.columns import MATCH_COLUMNS, RESULT_COLUMNS, SOURCE
from beam_semdedup.storage.layout import comparison_name
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import RankedRows, Segment

_STEP_ROWS = 4096
_ROW_BITS = 40  # of a row's number in its file, in what identifies it


@dataclass(frozen=True)
class _Facts(Record):
    """What a file of matches says of itself.

    `visits` counts the visitors, `pairs` those of rows that were compared; `began` is in seconds since the epoch.
    """

    unit: UnitId
    visits: int
    pairs: int
    began: float


@dataclass(frozen=True)
class MatchUnit(PairwiseUnit):
    """The rows ranked `[low, high)` of a key, to be compared with those of their clusters, and with their visitors."""

    visits: tuple[Segment, ...]


def match_units(job: Job, key: int, parts: Iterable[Segment]) -> list[MatchUnit]:
    """Returns the units that compare the rows of a key, cut as by `pairwise_units`; none where it has no rows."""
    parts = sorted(parts, key=lambda segment: (segment.file, segment.offset))
    visits = tuple(segment for segment in parts if segment.kind == segments.VISITS)
    rows = [segment for segment in parts if segment.kind == segments.ROWS]
    return [MatchUnit(**vars(unit), visits=visits) for unit in pairwise_units(job, key, rows)] if rows else []


def find_matches(job: Job, unit: MatchUnit, fitted: FittedKMeans) -> tuple[Segment, ...]:
    """Writes the matches that a unit finds; returns references to them, by the keys where their rows live."""
    began = time.time()
    name, wanted = _name(job, unit), UnitId(_name(job, unit), fitted.content_hash, unit.high - unit.low)
    num_visits = sum(segment.num_rows for segment in unit.visits)
    with naming_unit(f"matches in {name}"):
        found = segments.read_index(job.matches.file(name), _Facts, segments.MATCHES)
        if found and (found[0].unit, found[0].visits) == (wanted, num_visits):
            return found[1]
        table, pairs = _compare(job, unit)
        facts = _Facts(wanted, num_visits, pairs, began)
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
        compared = [_facts(job, unit) for unit in units]
        reused = facts is not None and facts.unit == wanted
        if facts is None or not reused:
            with stored.discarding(job.pairwise):
                matches = segments.read(job.matches, parts[len(rows) :], job.match_schema)
            pairs = sum(facts.pairs for facts in compared)
            table, facts = _merge(job, rows, pa.Table.from_batches(matches, job.match_schema), wanted, pairs)
            tables.write(file, table, facts, job.parameters.cache_compression)
        return result_of(file.name, key, facts, reused, min(facts.began for facts in compared))


def _name(job: Job, unit: PairwiseUnit) -> str:
    return f"{comparison_name(*centroids_of(job, unit.key), unit.low, unit.high, unit.num_rows)}.arrow"


def _facts(job: Job, unit: PairwiseUnit) -> _Facts:
    found = segments.read_index(job.matches.file(_name(job, unit)), _Facts, segments.MATCHES)
    if found is None:
        raise RuntimeError(f"{job.matches.file(_name(job, unit))} is gone, though the run wrote it; run again")
    return found[0]


def _compare(job: Job, unit: MatchUnit) -> tuple[pa.Table, int]:
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
    centroids, visited = table.column("centroid").to_numpy(), visits.column("centroid").to_numpy()
    by_cluster = np.lexsort((ranks[len(table) :], visited))
    visitor_vectors = _VisitorVectors(job, unit, visits)

    def compare(centroid: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], int]:
        natives = own[slice(*np.searchsorted(centroids[own], [centroid, centroid + 1]))]
        visitors = by_cluster[slice(*np.searchsorted(visited[by_cluster], [centroid, centroid + 1]))]
        low, high = np.searchsorted(natives, [unit.low, unit.high]).tolist()
        mine = Rows(ranks[natives], _short(basis, vectors, natives), lambda at: vectors[natives[at]])
        theirs = Rows(
            ranks[len(table) + visitors],
            visitor_vectors.short(visitors),
            lambda at: visitor_vectors.full(visitors[at]),
        )
        found = match(mine, theirs, low, high, p.matching_reach, p.pairwise_batch_size)
        whose = [best.winners != NO_MATCH for best in found]
        later = np.concatenate([natives[whose[0]], len(table) + visitors[whose[1]]])
        winners = np.concatenate([best.winners[have] for best, have in zip(found, whose, strict=True)])
        scores = np.concatenate([best.scores[have] for best, have in zip(found, whose, strict=True)])
        pairs = (high - low) * (high + low - 1) // 2 + (high - low) * len(visitors)
        return later, by_rank[winners], scores, pairs

    parts = in_threads(compare, np.unique(centroids[unit.low : unit.high]).tolist())
    copies = unit.low + np.flatnonzero(first[unit.low :] != np.arange(unit.low, unit.high))
    later = np.concatenate([copies, *(part[0] for part in parts)])
    winners = np.concatenate([first[copies], *(part[1] for part in parts)])
    scores = np.concatenate([np.ones(len(copies), dtype=np.float32), *(part[2] for part in parts)])
    identical = (np.arange(len(later)) < len(copies)).astype(np.int8)
    homes = np.concatenate([centroids, visits.column("__home").to_numpy()])
    rows = everyone.select(["source_file", "source_row"]).take(pa.array(later))
    columns = [pa.array(homes[later]), rows.column("source_file"), rows.column("source_row"), identical, scores]
    matches = tables.take(everyone, winners)
    for place, (column, values) in enumerate(zip(MATCH_COLUMNS, columns, strict=True)):
        matches = matches.add_column(place, column, values if isinstance(values, pa.ChunkedArray) else pa.array(values))
    return matches.cast(job.match_schema), sum(part[3] for part in parts)


class _VisitorVectors:
    """The vectors of visitors, in the order of their table."""

    def __init__(self, job: Job, unit: MatchUnit, visits: pa.Table) -> None:
        self._folder, self._dimension = job.segments, job.sizes.dimension
        self._short = RankedRows(visits.to_batches(), np.arange(len(visits))) if len(visits) else None
        self._names = np.repeat([segment.file for segment in unit.visits], [s.num_rows for s in unit.visits])
        self._offsets = visits.column("__offset").to_numpy()
        self._width = visits.schema.field("embedding").type.list_size

    def short(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns their short vectors."""
        return np.empty((0, self._width), np.float32) if self._short is None else self._short[positions]

    def full(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Reads the vectors themselves, from the segment files where they live."""
        names = self._names[positions].tolist()
        return segments.read_vectors(self._folder, names, self._offsets[positions], self._dimension)


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
    best_first = [("__identical", "descending"), ("cosine_sim_score", "descending")]
    order = job.ranking.order(matches, within=[("__file", "ascending"), ("__row", "ascending"), *best_first])
    matches = tables.take(matches, order)
    whose, first = np.unique(_sources(matches, "__file", "__row"), return_index=True)
    matches = tables.take(matches, first)
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
            *(table.column(name) for name in (SOURCE, *metadata)),
        ],
        names=[*RESULT_COLUMNS, SOURCE, *metadata],
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


def _sources(table: pa.Table, file: str, row: str) -> npt.NDArray[np.int64]:
    """Returns what identifies the rows (n,): the number of the file, and of the row in it."""
    numbers: npt.NDArray[np.int64] = table.column(file).to_numpy().astype(np.int64) << _ROW_BITS
    return numbers | table.column(row).to_numpy()


def _columns(job: Job) -> list[str]:
    """Returns the columns of segments that comparing needs, besides the vectors."""
    return list(dict.fromkeys(["centroid", *job.ranking.columns]))
