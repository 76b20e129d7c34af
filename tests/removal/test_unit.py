from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import UnitError
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.removal.id_list import IdList
from beam_semdedup.removal.plan import RemovalJob, RemovalUnit, make_plan
from beam_semdedup.removal.unit import finish, remove_from_files
from beam_semdedup.storage.folder import File


class Found:
    """A reader that finds these entries, whatever it is asked for."""

    def __init__(self, entries: np.ndarray) -> None:
        self.entries = entries

    def find(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(ids), dtype=bool), self.entries


@pytest.fixture
def planned(tmp_path: Path) -> tuple[RemovalJob, RemovalUnit]:
    """The removal of two rows from one file."""
    for name in ("list", "in"):
        pq.write_table(pa.table({"id": [1, 2]}), tmp_path / f"{name}.parquet")
    paths = {"input_path": "in.parquet", "duplicates_path": "list.parquet", "output_path": "out"}
    places = {name: str(tmp_path / path) for name, path in paths.items()}
    p = resolve({**places, "input_filetype": "parquet"}, RemovalParameters)
    job, (unit,) = make_plan(p, list_files(p), IdList.open([File(f"{tmp_path}/list.parquet")], 1 << 30), 1 << 30)
    return job, unit


def test_what_was_found_in_a_long_list_is_noted_in_few_bytes(planned: tuple[RemovalJob, RemovalUnit]) -> None:
    job, unit = planned
    sizes = []
    for entries in ([5, 10**8], range(10**6)):
        remove_from_files(job, unit, Found(np.array(entries)))
        (note,) = Path(job.stage.url).glob("*.parquet")
        sizes.append(note.stat().st_size)
        note.unlink()
    assert sizes[0] < 1500
    assert sizes[1] < 10**5


def test_a_note_that_cannot_be_read_is_discarded_and_written_again(planned: tuple[RemovalJob, RemovalUnit]) -> None:
    job, unit = planned
    reader = Found(np.arange(1000))
    removed = remove_from_files(job, unit, reader)
    (note,) = Path(job.stage.url).glob("*.parquet")
    content = note.read_bytes()
    note.write_bytes(content[:4] + bytes(40) + content[44:])
    assert remove_from_files(job, unit, reader).reused
    with pytest.raises(UnitError, match=f"{note.name} is damaged or gone: .*; the same command computes it again"):
        finish(job, [removed])
    assert not note.exists()
    assert not remove_from_files(job, unit, reader).reused
    finish(job, [removed])
    assert note.read_bytes() == content
