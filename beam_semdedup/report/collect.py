"""One pass over all scores, in bounded memory: how many rows each eps finds, of which source, and some pairs.

The pairs of a band are those whose ids have the smallest hashes in it: a random sample, the same for the same data.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.compute.ranking import hash_ids
from beam_semdedup.errors import InputError
from beam_semdedup.report.results import Results
from beam_semdedup.report.scale import BANDS, STEPS, Scale
from beam_semdedup.report.values import LONGEST_NAME, NULL, texts
from beam_semdedup.stages.duplicates import read_scored
from beam_semdedup.storage.columns import INPUT, MAX_SOURCE, RESULT_COLUMNS, SOURCE
from beam_semdedup.storage.tables import opened
from beam_semdedup.storage.threads import read_ahead
from beam_semdedup.text import printable

PER_BAND, PER_STEP, AT_EPS = 64, 3, 20
"""Pairs of each band that are drawn for labels, of each step, and on either side of the run's eps."""
MOST_SOURCES = 20_000
ID_HASH, PAIR_HASH, REFERENCE_HASH = 0, 1, 2
"""Seeds: of the hash that stands for an id, of the one that draws pairs, and of that of a file of references."""

_U64: TypeAlias = "npt.NDArray[np.uint64]"


@dataclass
class Sample:
    """The rows with the smallest priorities in each stratum, at most `most` of each."""

    most: int
    rows: pa.Table | None = None
    strata: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    priorities: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    _bounds: dict[int, float] = field(default_factory=dict)

    def add(self, rows: pa.Table, strata: npt.NDArray[np.int64], priorities: npt.NDArray[np.float64]) -> None:
        """Takes rows (n,) in; a negative stratum is none."""
        bounds = np.full(int(strata.max(initial=-1)) + 1, np.inf)
        for stratum, bound in self._bounds.items():
            if stratum < len(bounds):
                bounds[stratum] = bound
        taken = np.flatnonzero(strata >= 0)
        taken = taken[priorities[taken] < bounds[strata[taken]]]
        if not len(taken):
            return
        rows = rows.take(pa.array(taken))
        self._keep(
            rows if self.rows is None else pa.concat_tables([self.rows, rows]),
            np.concatenate([self.strata, strata[taken]]),
            np.concatenate([self.priorities, priorities[taken]]),
        )

    def _keep(self, rows: pa.Table, strata: npt.NDArray[np.int64], priorities: npt.NDArray[np.float64]) -> None:
        order = np.lexsort((priorities, strata))
        strata = strata[order]
        starts = np.flatnonzero(np.diff(strata, prepend=-1))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        kept = rank < self.most
        self.rows, self.strata = rows.take(pa.array(order[kept])), strata[kept]
        self.priorities = priorities[order][kept]
        full = rank[kept] == self.most - 1
        self._bounds = dict(zip(self.strata[full].tolist(), self.priorities[full].tolist(), strict=True))


@dataclass
class Removed:
    """The rows that are removed at the run's eps, if there is room: hashes of `id` and `max_id`, score, cluster."""

    most: int
    count: int = 0
    parts: list[tuple[_U64, _U64, npt.NDArray[np.float64], npt.NDArray[np.int32]]] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether all of them are there."""
        return self.count <= self.most

    def add(self, ids: _U64, max_ids: _U64, scores: npt.NDArray[np.float64], centroids: npt.NDArray[np.int32]) -> None:
        """Takes rows in; all go once they are too many."""
        self.count += len(ids)
        self.parts.append((ids, max_ids, scores, centroids))
        if not self.is_whole:
            self.parts.clear()


@dataclass
class Collected:
    """What a pass over all scores found.

    Attributes:
        scale: the thresholds.
        eps: the one that groups are of.
        found: (n,) the rows that are duplicates at each threshold of the scale.
        unmatched: rows that are duplicates at no threshold.
        bands, steps, near: pairs to label, pairs to show, and those next to `eps`, with their band or step.
        sources: of each source the rows, and how many of them are duplicates at each of the scale's `source_places`.
        left_out: whether there are more sources than are counted.
        clusters: (k, 2) the rows of each cluster, and its duplicates at `eps`.
    """

    scale: Scale
    eps: float
    found: npt.NDArray[np.int64]
    unmatched: int
    bands: Sample
    steps: Sample
    near: Sample
    sources: dict[str, npt.NDArray[np.int64]]
    left_out: bool
    clusters: npt.NDArray[np.int64]
    removed: Removed

    def found_at(self, eps: float) -> int:
        """Returns how many rows are duplicates at a threshold of the scale."""
        return int(self.found[self.scale.place(eps)])

    def hardest_hit(self) -> tuple[str, int, int] | None:
        """Returns the source that loses the largest share of its rows at `eps`, what it loses and its rows."""
        at = 1 + int(np.searchsorted(self.scale.source_places, self.scale.place(self.eps)))
        lost = [(int(counts[at]), int(counts[0]), name) for name, counts in self.sources.items()]
        most = max(lost, key=lambda one: (one[0] / one[1], one[0], one[2]), default=None)
        return most and (most[2], most[0], most[1])


def collect(results: Results, eps: float, group_field: str | None, memory: int) -> Collected:
    """Reads all scores of a run once.

    Args:
        eps: the threshold that groups are of, and that sources and pairs are exact at.
        group_field: the column that says the source of a row; None: the file that it is from.
        memory: for the rows that are removed, in bytes.

    Raises:
        InputError: the column cannot name a source.
        DamagedFile: a file cannot be read.
    """
    scale = Scale.around(eps, results.configuration.scores_end)
    bins = np.zeros(len(scale.values) + 1, dtype=np.int64)
    samples = Sample(PER_BAND), Sample(PER_STEP), Sample(AT_EPS)
    sources, clusters = dict[str, npt.NDArray[np.int64]](), np.zeros((0, 2), dtype=np.int64)
    removed, left_out = Removed(memory // 64), False
    named = _source_names(results, group_field)
    for part in read_ahead(lambda name: _read(results, name, scale, eps, named), results.names):
        bins += part.bins
        for sample, found in zip(samples, part.samples, strict=True):
            if found.rows is not None:
                sample.add(found.rows, found.strata, found.priorities)
        removed.add(*part.removed)
        more = int(part.centroids.max(initial=-1)) + 1 - len(clusters)
        clusters = np.pad(clusters, ((0, max(0, more)), (0, 0)))
        clusters[part.centroids] += part.clusters
        for (source, place), count in part.sources.items():
            if source not in sources:
                if len(sources) == MOST_SOURCES:
                    left_out = True
                    continue
                sources[source] = np.zeros(len(scale.source_places) + 1, dtype=np.int64)
            sources[source][place] += count
    totals = {source: np.append(counts.sum(), counts[:-1].cumsum()) for source, counts in sources.items()}
    found_rows = np.cumsum(bins[:-1])
    return Collected(scale, eps, found_rows, int(bins[-1]), *samples, totals, left_out, clusters, removed)


@dataclass(frozen=True)
class _Part:
    """What a file adds."""

    bins: npt.NDArray[np.int64]
    samples: tuple[Sample, Sample, Sample]
    removed: tuple[_U64, _U64, npt.NDArray[np.float64], npt.NDArray[np.int32]]
    centroids: npt.NDArray[np.int64]
    clusters: npt.NDArray[np.int64]
    sources: Counter[tuple[str, int]]


_Names: TypeAlias = Callable[[pa.Array], list[str]]


def _read(results: Results, name: str, scale: Scale, eps: float, named: tuple[str, _Names]) -> _Part:
    """Reads a file of scores, a row group at a time."""
    column, names = named
    bins = np.zeros(len(scale.values) + 1, dtype=np.int64)
    samples = Sample(PER_BAND), Sample(PER_STEP), Sample(AT_EPS)
    removed, sources, all_centroids, all_similar = [], Counter[tuple[str, int]](), [], []
    matched = [*RESULT_COLUMNS, MAX_SOURCE] if results.has_references else list(RESULT_COLUMNS)
    bands, steps = scale.edges(BANDS), scale.edges(STEPS)
    for table, scores in read_scored(
        results.pairwise, name, results.configuration.has_visits, list(dict.fromkeys([*matched, column]))
    ):
        places = scale.places(scores)
        bins += np.bincount(places, minlength=len(bins))
        similar = scores >= 1 - eps
        centroids = table.column("centroid").to_numpy()
        pairs = table.select(matched)
        chances = hash_ids(table.column("id"), PAIR_HASH) / 2.0**64
        for sample, edges in ((samples[0], bands), (samples[1], steps)):
            parts = scale.parts_of(places, edges)
            sample.add(pairs, np.where(parts < len(edges) - 1, parts, -1), chances)
        distance = np.where(np.isfinite(scores), np.abs(scores - (1 - eps)), np.inf)
        samples[2].add(pairs, np.where(np.isfinite(scores), similar.astype(np.int64), -1), distance)
        mine = table.filter(pa.array(similar))
        removed.append(
            (
                hash_ids(mine.column("id"), ID_HASH),
                hash_matches(mine),
                scores[similar],
                centroids[similar],
            )
        )
        all_centroids.append(centroids)
        all_similar.append(similar)
        sources.update(_by_source(table.column(column), np.searchsorted(scale.source_places, places), names))
    found, where = np.unique(np.concatenate(all_centroids), return_inverse=True)
    counts = np.bincount(where), np.bincount(where, weights=np.concatenate(all_similar)).astype(np.int64)
    joined = [np.concatenate(arrays) for arrays in zip(*removed, strict=True)]
    return _Part(bins, samples, tuple(joined), found, np.stack(counts, axis=1), sources)  # type: ignore[arg-type]


def hash_matches(rows: pa.Table) -> _U64:
    """Returns what stands for the row that each of some rows resembles; for one of another file, what no row has."""
    hashes = hash_ids(rows.column("max_id"), ID_HASH)
    if MAX_SOURCE in rows.column_names:
        sources = rows.column(MAX_SOURCE).cast(pa.large_string())
        others = pc.fill_null(pc.not_equal(sources, INPUT), False).to_numpy()
        hashes = np.where(others, hashes ^ hash_ids(pc.fill_null(sources, ""), REFERENCE_HASH), hashes)
    return hashes


def _by_source(column: pa.ChunkedArray, parts: npt.NDArray[np.int64], names: _Names) -> Counter[tuple[str, int]]:
    """Counts the rows of each source in each part of the scale."""
    values = column.unique()
    codes = pc.index_in(column, value_set=values).to_numpy()
    found, counts = np.unique(np.stack([codes, parts]), axis=1, return_counts=True)
    told, result = names(values), Counter[tuple[str, int]]()
    for code, part, count in zip(*found.tolist(), counts.tolist(), strict=True):
        result[told[code], part] += count
    return result


def _source_names(results: Results, group_field: str | None) -> tuple[str, _Names]:
    """Returns the column that says where rows are from, and what gives its values names."""
    if group_field is None:
        files = relative(results.files)

        def name(number: int) -> str:
            return printable(files[number] if 0 <= number < len(files) else f"file {number}")

        return SOURCE, lambda values: [name(number) for number in values.to_pylist()]
    carried = results.configuration.metadata_fields
    if group_field not in carried:
        raise InputError(
            f"group_field={group_field}: not one of the run's metadata_fields ({', '.join(carried) or 'it has none'})"
        )
    if results.names:
        with results.pairwise.file(results.names[0]).open() as source:
            type_ = opened(source).schema_arrow.field(group_field).type
        if pa.types.is_nested(type_):
            raise InputError(f"group_field={group_field}: a column of {type_} names no source; choose one of texts")
    return group_field, lambda values: [
        NULL if text is None else text or "(empty)" for text in texts(values, LONGEST_NAME)
    ]


def relative(urls: Sequence[str]) -> list[str]:
    """Returns URLs without the directories that all of them have in common."""
    parts = [url.split("/") for url in urls]
    common = len(parts[0]) - 1 if len(parts) == 1 else len(posixpath.commonprefix(parts)) if parts else 0
    return ["/".join(part[common:]) or url for part, url in zip(parts, urls, strict=True)]
