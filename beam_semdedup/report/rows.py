"""The rows that a report shows, found again by the hashes of their ids: what is written of them, and their vectors."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.compute.ranking import hash_ids
from beam_semdedup.plan.stored import AssignManifest, KMeansPlan
from beam_semdedup.report.collect import ID_HASH, REFERENCE_HASH
from beam_semdedup.report.results import Results
from beam_semdedup.report.values import texts
from beam_semdedup.stages.assign import files_of, index_of
from beam_semdedup.storage import layout, segments
from beam_semdedup.storage.damage import DamagedFile, as_damage
from beam_semdedup.storage.folder import Folder
from beam_semdedup.storage.segments import Segment
from beam_semdedup.storage.tables import opened
from beam_semdedup.storage.threads import read_ahead

Hashes: TypeAlias = "npt.NDArray[np.uint64]"
_MOST_BYTES = {True: 2 << 30, False: 256 << 20}
"""Of segments that are read, where they are local or not."""


@dataclass(frozen=True)
class Row:
    """A row as it is shown: its id and the values of the metadata fields, as texts."""

    id: str
    centroid: int
    values: tuple[str | None, ...]


def find_rows(results: Results, wanted: Iterable[int], fields: Sequence[str], longest: int) -> dict[int, Row]:
    """Returns rows by the hashes of their ids, with some metadata fields; of an id that repeats, one.

    Args:
        wanted: the hashes.
        longest: characters of a value.

    Raises:
        DamagedFile: a file cannot be read.
    """
    hashes = np.unique(np.fromiter(wanted, dtype=np.uint64))
    found: dict[int, Row] = {}
    if len(hashes):
        for rows in read_ahead(functools.partial(_find_in_file, results, hashes, fields, longest), results.names):
            for hash_, row in rows:
                found.setdefault(hash_, row)
    return found


def _find_in_file(
    results: Results, wanted: Hashes, fields: Sequence[str], longest: int, name: str
) -> list[tuple[int, Row]]:
    file = results.pairwise.file(name)
    found: list[tuple[int, Row]] = []
    with as_damage(file), file.open() as source:
        parquet = opened(source)
        for group in range(parquet.num_row_groups):
            hashes = hash_ids(parquet.read_row_group(group, columns=["id"]).column("id"), ID_HASH)
            places = np.flatnonzero(_is_in(hashes, wanted))
            if not len(places):
                continue
            rows = parquet.read_row_group(group, columns=["id", "centroid", *fields]).take(pa.array(places))
            found += zip(hashes[places].tolist(), _rows(rows, fields, longest), strict=True)
    return found


def _rows(table: pa.Table, fields: Sequence[str], longest: int) -> Iterator[Row]:
    columns = [texts(table.column(name), longest) for name in fields]
    values = zip(*columns, strict=True) if columns else ((),) * len(table)
    ids, centroids = texts(table.column("id"), longest), table.column("centroid").to_pylist()
    return (Row(id_ or "", centroid, row) for id_, centroid, row in zip(ids, centroids, values, strict=True))


def find_in_corpus(
    results: Results, wanted: Iterable[int], sources: Iterable[str], fields: Sequence[str], longest: int
) -> dict[int, Row]:
    """Returns rows of earlier generations by what `hash_matches` gives of them, as far as they are found.

    Of segment files 2 GiB are read, or 256 MiB of a corpus elsewhere.

    Args:
        sources: the input files that they are of.
    """
    asked, files, found, size = np.unique(np.fromiter(wanted, dtype=np.uint64)), set(sources), dict[int, Row](), 0
    for folder in results.earlier:
        if len(found) == len(asked) or not files:
            break
        plan, manifest = KMeansPlan.read(folder.file(layout.PLAN)), AssignManifest.find(folder)
        if plan is None or manifest is None:
            continue
        numbers = [number for number, url in enumerate(plan.files) if url in files]
        files -= set(plan.files)
        of_files = hash_ids(pa.chunked_array([pa.array(plan.files)]), REFERENCE_HASH)
        for name in manifest.files:
            low, high = files_of(name)
            if not any(low <= number <= high for number in numbers):
                continue
            parts = index_of((folder / layout.SEGMENTS).file(name))[1].segments
            size += sum(part.length for part in parts)
            if size > _MOST_BYTES[results.kmeans.is_local]:
                return found
            for batch in _read(folder / layout.SEGMENTS, parts):
                ids = pa.chunked_array([batch.column("id")])
                hashes = hash_ids(ids, ID_HASH) ^ of_files[batch.column("source_file").to_numpy()]
                places = np.flatnonzero(_is_in(hashes, asked))
                rows = _rows(pa.Table.from_batches([batch.take(pa.array(places))]), fields, longest)
                found |= zip(hashes[places].tolist(), rows, strict=True)
    return found


def similarities(
    results: Results,
    ids: Hashes,
    others: Hashes,
    centroids: npt.NDArray[np.int32],
    other_centroids: npt.NDArray[np.int32],
) -> npt.NDArray[np.float64]:
    """Computes the similarities of n pairs of rows from the vectors in the segment files.

    Where the clusters that they are in have more segments than are read (2 GiB, or 256 MiB of a cache elsewhere), those
    of the first pairs are read, and the pairs in them computed.

    Args:
        ids, others: hashes of the ids of each pair; centroids, other_centroids: where these rows are.

    Returns:
        (n,), NaN where a pair was not computed.

    Raises:
        DamagedFile: a segment cannot be read.
    """
    by_key = _segments_by_key(results)
    assert results.assigned is not None
    width = results.assigned.centroids_per_key
    homes = np.stack([centroids, other_centroids], axis=1) // width
    most, size, keys = _MOST_BYTES[results.kmeans.is_local], 0, dict[int, None]()
    for pair in dict.fromkeys(map(tuple, homes.tolist())):
        more = set(pair) - keys.keys()
        size += sum(segment.length for key in more for segment in by_key.get(key, ()))
        if size > most and keys:
            break
        keys.update(dict.fromkeys(more))
    is_read = np.isin(homes, list(keys)).all(axis=1)
    wanted = np.unique(np.concatenate([ids[is_read], others[is_read]]))
    hashes, vectors = [np.empty(0, dtype=np.uint64)], []
    for key in keys:
        for batch in _read(results.kmeans / layout.SEGMENTS, by_key.get(key, [])):
            mine = hash_ids(pa.chunked_array([batch.column("id")]), ID_HASH)
            places = np.flatnonzero(_is_in(mine, wanted))
            if len(places):
                hashes.append(mine[places])
                vectors.append(segments.RankedRows([batch], places)[:])
    known, first = np.unique(np.concatenate(hashes), return_index=True)
    found = np.full(len(ids), np.nan)
    there = is_read & _is_in(ids, known) & _is_in(others, known)
    if there.any():
        matrix = np.concatenate(vectors)
        a, b = (matrix[first[np.searchsorted(known, side[there])]].astype(np.float64) for side in (ids, others))
        found[there] = np.einsum("ij,ij->i", a, b)
    return found


def sampled_distances(results: Results, most_bytes: int = 64 << 20) -> npt.NDArray[np.float64]:
    """Returns the cosine distances to their centroids of some rows (n,): those of segments spread over all files.

    Raises:
        DamagedFile: a segment cannot be read.
    """
    found = [segment for parts in _segments_by_key(results).values() for segment in parts]
    size, distances = 0, [np.empty(0)]
    for place in np.random.default_rng(0).permutation(len(found)).tolist():
        size += found[place].length
        if size > most_bytes and len(distances) > 1:
            break
        for batch in _read(results.kmeans / layout.SEGMENTS, [found[place]]):
            distances.append(batch.column("cosine_dist_to_cent").to_numpy().astype(np.float64))
    return np.concatenate(distances)


def _read(folder: Folder, parts: Sequence[Segment]) -> list[pa.RecordBatch]:
    """Returns the record batches of segments; DamagedFile where they are not as they were written."""
    if not parts:
        return []
    return segments.read(folder, parts, segments.read_schema(folder.file(parts[0].file)))


def _segments_by_key(results: Results) -> dict[int, list[Segment]]:
    if results.assigned is None:
        raise DamagedFile(results.kmeans.file(layout.MANIFEST), "the assigned rows are not there any more")
    found: dict[int, list[Segment]] = {}
    files = map((results.kmeans / layout.SEGMENTS).file, results.assigned.files)
    for _, index in read_ahead(index_of, files):
        for segment in index.segments:
            found.setdefault(segment.key, []).append(segment)
    return found


def _is_in(hashes: Hashes, wanted: Hashes) -> npt.NDArray[np.bool_]:
    """Says which hashes are among the `wanted` ones, which are sorted."""
    if not len(wanted):
        return np.zeros(len(hashes), dtype=bool)
    return wanted[np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)] == hashes
