"""The last stage: the rows of some pairwise units whose score makes them duplicates, in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.compute.threads import in_threads
from beam_semdedup.errors import naming_unit
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import PairwiseResult
from beam_semdedup.stages.pairwise import PairwiseFacts
from beam_semdedup.storage import layout, tables
from beam_semdedup.storage.columns import MAX_SOURCE, SOURCE
from beam_semdedup.storage.damage import DamagedFile, as_damage
from beam_semdedup.storage.folder import Folder
from beam_semdedup.storage.records import Record


@dataclass(frozen=True)
class DuplicatesFacts(Record):
    """What a file of duplicates says of itself: its rows, and how many rows of its clusters are none."""

    duplicates: int
    kept: int


@dataclass(frozen=True)
class DuplicatesFile(DuplicatesFacts):
    """A finished file of duplicates, whose URL is `path`."""

    path: str


def number_of_file(job: Job, unit: PairwiseResult) -> int:
    """Returns the number of the file that the duplicates among a unit's rows go into."""
    return unit.key // job.keys_per_file


def identify_duplicates(job: Job, units: Sequence[PairwiseResult]) -> None:
    """Writes all files of duplicates in this process, one after the other."""
    by_file: dict[int, list[PairwiseResult]] = {}
    for unit in units:
        by_file.setdefault(number_of_file(job, unit), []).append(unit)
    for number, parts in by_file.items():
        select_duplicates(job, number, parts)


def select_duplicates(job: Job, number: int, units: Sequence[PairwiseResult]) -> DuplicatesFile:
    """Writes the rows of some pairwise units whose score reaches 1 - eps, sorted by id."""
    p = job.parameters
    file = job.duplicates.file(layout.part_name(job.output_fingerprint, f"{number:05d}"))
    with naming_unit(f"duplicates file {number}"):
        in_order = sorted(units, key=lambda unit: unit.name)
        kept, found = zip(*in_threads(lambda unit: _split(job, unit), in_order), strict=True)
        table = pa.concat_tables(found)
        by_id = [("id", "ascending", "at_end"), ("centroid", "ascending", "at_end")]
        table = tables.take(table, pc.sort_indices(table, sort_keys=by_id).to_numpy())
        groups = p.duplicates_num_row_groups_hint
        size = max(1, -(-table.num_rows // groups)) if groups else 65_536
        facts = DuplicatesFacts(table.num_rows, sum(kept))
        tables.write(file, table, facts, p.write_compression, size)
    return DuplicatesFile(facts.duplicates, facts.kept, file.url)


def read_scored(
    folder: Folder, name: str, has_visits: bool, columns: Sequence[str] | None = None
) -> Iterator[tuple[pa.Table, npt.NDArray[np.float64]]]:
    """Yields the rows of a pairwise unit's file, a row group at a time, with the scores (n,) that `eps` is held to.

    A row is a duplicate if its score is at least 1 - eps. That of a row without a match is below all others, and so is,
    where rows are compared in their own clusters alone, that of the first-ranked one.

    Args:
        folder: of the stage.
        name: of the file.
        has_visits: whether rows are compared in other clusters too.
        columns: those of the tables, `centroid` and `cosine_sim_score` among them; None: all but the source.

    Raises:
        DamagedFile: it cannot be read, or is gone.
    """
    file = folder.file(name)
    facts = tables.read_facts(file, PairwiseFacts)
    if facts is None:
        raise DamagedFile(file, "what it says of itself cannot be read")
    with as_damage(file), file.open() as source:
        parquet = tables.opened(source)
        names = parquet.schema_arrow.names
        chosen = columns or [name for name in names if name != SOURCE]
        previous = -1 if facts.starts_cluster else parquet.read_row_group(0, columns=["centroid"])[0][0].as_py()
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns=chosen)
            centroids = table.column("centroid").to_numpy()
            scores = table.column("cosine_sim_score").to_numpy().astype(np.float64)
            scores[np.isnan(scores)] = -np.inf
            if MAX_SOURCE in names:
                with_it = table if MAX_SOURCE in chosen else parquet.read_row_group(group, columns=[MAX_SOURCE])
                scores[with_it.column(MAX_SOURCE).is_null().to_numpy()] = -np.inf
            elif not has_visits:
                scores[np.diff(centroids, prepend=previous) != 0] = -np.inf
            yield table, scores
            previous = centroids[-1]


def _split(job: Job, unit: PairwiseResult) -> tuple[int, pa.Table]:
    """Returns how many rows of a unit are kept, and its duplicates."""
    assert job.parameters.eps is not None
    threshold = 1 - job.parameters.eps
    kept, duplicates = 0, []
    with stored.discarding(job.pairwise):
        for table, scores in read_scored(job.pairwise, unit.name, job.has_visits):
            similar = scores >= threshold
            kept += int((~similar).sum())
            duplicates.append(table.filter(pa.array(similar)))
    return kept, pa.concat_tables(duplicates).replace_schema_metadata(None)
