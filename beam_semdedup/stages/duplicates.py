"""The last stage: the rows of some pairwise units whose score makes them duplicates, in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_semdedup.errors import naming_unit
from beam_semdedup.plan import stored
from beam_semdedup.plan.job import Job
from beam_semdedup.plan.stored import PairwiseResult
from beam_semdedup.stages.pairwise import PairwiseFacts
from beam_semdedup.storage import layout, tables
from beam_semdedup.storage.columns import SOURCE_COLUMN
from beam_semdedup.storage.damage import DamagedFile, as_damage
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
        kept, found = zip(*(_split(job, unit) for unit in sorted(units, key=lambda unit: unit.name)), strict=True)
        table = pa.concat_tables(found)
        by_id = [("id", "ascending", "at_end"), ("centroid", "ascending", "at_end")]
        table = tables.take(table, pc.sort_indices(table, sort_keys=by_id).to_numpy())
        groups = p.duplicates_num_row_groups_hint
        size = max(1, -(-table.num_rows // groups)) if groups else 65_536
        facts = DuplicatesFacts(table.num_rows, sum(kept))
        tables.write(file, table, facts, p.write_compression, size)
    return DuplicatesFile(facts.duplicates, facts.kept, file.url)


def _split(job: Job, unit: PairwiseResult) -> tuple[int, pa.Table]:
    """Returns how many rows of a unit are kept, and its duplicates; a row that none is before is never one."""
    file = job.pairwise.file(unit.name)
    with stored.discarding(job.pairwise):
        facts = tables.read_facts(file, PairwiseFacts)
        if facts is None:
            raise DamagedFile(file, "what it says of itself cannot be read")
        with as_damage(file), file.open() as source:
            return _split_file(job, tables.opened(source), facts.starts_cluster)


def _split_file(job: Job, file: pq.ParquetFile, starts_cluster: bool) -> tuple[int, pa.Table]:
    assert job.parameters.eps is not None
    threshold = 1 - job.parameters.eps
    kept, duplicates = 0, []
    previous = -1 if starts_cluster else file.read_row_group(0, columns=["centroid"])[0][0].as_py()
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        centroids = table.column("centroid").to_numpy()
        first_ranked = np.diff(centroids, prepend=previous) != 0
        scores = table.column("cosine_sim_score").to_numpy().astype(np.float64)  # NaN where a row has no match
        similar = scores >= threshold
        if job.earlier:
            similar &= table.column(SOURCE_COLUMN).is_valid().to_numpy()
        elif not job.has_visits:
            similar &= ~first_ranked
        kept += int((~similar).sum())
        duplicates.append(table.filter(pa.array(similar)))
        previous = centroids[-1]
    return kept, pa.concat_tables(duplicates).replace_schema_metadata(None)
