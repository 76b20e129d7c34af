from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.removal.id_list import IdList
from beam_semdedup.removal.plan import make_plan
from beam_semdedup.removal.unit import remove_from_files
from beam_semdedup.storage.folder import File


class Found:
    """A reader that finds these entries, whatever it is asked for."""

    def __init__(self, entries: np.ndarray) -> None:
        self.entries = entries

    def find(self, ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(ids), dtype=bool), self.entries


def test_what_was_found_in_a_long_list_is_noted_in_few_bytes(tmp_path: Path) -> None:
    for name in ("list", "in"):
        pq.write_table(pa.table({"id": [1, 2]}), tmp_path / f"{name}.parquet")
    paths = {"input_path": "in.parquet", "duplicates_path": "list.parquet", "output_path": "out"}
    p = resolve({name: str(tmp_path / path) for name, path in paths.items()}, RemovalParameters)
    job, (unit,) = make_plan(p, list_files(p), IdList.open([File(f"{tmp_path}/list.parquet")], 1 << 30), 1 << 30)
    sizes = []
    for entries in ([5, 10**8], range(10**6)):
        remove_from_files(job, unit, Found(np.array(entries)))
        (note,) = Path(job.stage.url).glob("*.parquet")
        sizes.append(note.stat().st_size)
        note.unlink()
    assert sizes[0] < 1500
    assert sizes[1] < 10**5
