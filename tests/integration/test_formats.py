"""A format of input files that is registered, and nothing else, is one like the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import Ended, dedup, duplicates

from beam_semdedup import InputError, RunError
from beam_semdedup.inputs.base import FileFacts, Format, InputUnit, Piece, RowBatch
from beam_semdedup.inputs.registry import FORMATS
from beam_semdedup.storage.folder import File, FileInfo

SCHEMA = pa.schema([("id", pa.int64()), ("embeddings", pa.list_(pa.float32(), 4))])


class Toy(Format):
    """Files of vectors of 4 values and nothing else; the id of a row is its number."""

    extensions = (".toy",)

    def inspect(self, file: FileInfo) -> FileFacts:
        num_rows = file.size // 16
        return FileFacts(file, SCHEMA, num_rows, (InputUnit(file.url, 0, 0, num_rows, ()),))

    def join(self, pieces: Sequence[Piece]) -> Piece:
        return pieces[0]

    def where(self, piece: Piece) -> str:
        return "toys"

    def read(self, file: File, unit: InputUnit, schema: pa.Schema) -> Iterator[RowBatch]:
        ids = np.arange(unit.first_row, unit.first_row + unit.num_rows)
        values = np.frombuffer(file.read_bytes(), np.float32, 4 * unit.num_rows, 16 * unit.first_row)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), 4)
        table = pa.table([ids, vectors], schema=SCHEMA)
        yield RowBatch(table.select(schema.names), ids, ids, np.empty(0, np.int64))


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hundred rows, of which the second half are copies of the first and number 7 cannot be used."""
    monkeypatch.setitem(FORMATS, "toy", Toy)
    rows = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    rows[7] = 0
    (tmp_path / "in.toy").write_bytes(np.concatenate([rows, rows]).tobytes())
    return tmp_path / "in.toy"


def test_a_format_that_is_registered_needs_no_other_line(
    toys: Path, tmp_path: Path, semdedup: Callable[..., Ended]
) -> None:
    summary = dedup(toys, tmp_path / "out", input_filetype="toy", eps=1e-6, assign_unit_bytes=16 * 30)
    assert (summary.rows_read, summary.num_duplicates, summary.rows_rejected) == (100, 49, 2)
    pairs = {frozenset((row["id"], row["max_id"])) for row in duplicates(summary).to_pylist()}
    assert pairs == {frozenset((n, n + 50)) for n in range(50) if n != 7}
    rejected = pq.read_table(summary.paths["rejected"]).select(["row_group", "row", "id"]).to_pylist()
    assert sorted(rejected, key=lambda row: row["id"]) == [{"row_group": None, "row": n, "id": n} for n in (7, 57)]
    assert len(list(Path(summary.paths["kmeans_results"], "segments").iterdir())) == 4
    given = ["input_filetype=toy", f"input_path={toys}", f"output_path={tmp_path / 'command'}", "n_clusters=5"]
    assert f"Duplicates  {49:>14,}" in semdedup(*given, "eps=1e-6").out
    assert " | lance | toy" in semdedup("--help").out


def test_a_unit_is_named_as_the_format_says(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "read", lambda *_: iter(()))
    given = {"max_iter": 0, "init": np.eye(4, dtype=np.float32), "n_clusters": 4, "embedding_dim": 4}
    with pytest.raises(RunError, match=rf"{toys} \(toys, rows 0 to 99\): RuntimeError: 0 rows instead of"):
        dedup(toys, tmp_path / "out", input_filetype="toy", **given)


def test_a_format_whose_files_cannot_be_copied_is_refused_where_rows_are_to_be_removed(
    toys: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="input_filetype=toy: rows cannot be removed from files of this format"):
        dedup(toys, tmp_path / "out", input_filetype="toy", remove=True)
    assert not (tmp_path / "out").exists()
