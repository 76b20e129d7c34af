from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import Place

from beam_semdedup.errors import UnitError
from beam_semdedup.inputs import dataset, rows, units, vectors
from beam_semdedup.inputs.base import Format
from beam_semdedup.inputs.dataset import Columns
from beam_semdedup.inputs.jsonl import Jsonl
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.inputs.registry import format_named
from beam_semdedup.inputs.sample import VectorColumn, sample
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.inputs.vectors import VectorFiles
from beam_semdedup.plan.stored import KMeansPlan
from beam_semdedup.storage.folder import File, Folder

TEXTS = pa.field("text", pa.string())


def write(place: Path, kind: str, lengths: list[int], group: int) -> list[list[str | None]]:
    """Files of texts `file/row`, every fifth of which is null; returns these, None also for a malformed line."""
    place.mkdir()
    found = []
    for number, length in enumerate(lengths):
        texts = [None if row % 5 == 4 else f"{number}/{row}" for row in range(length)]
        if kind == "parquet":
            table = pa.table({"id": range(length), "text": pa.array(texts, pa.string())})
            pq.write_table(table, place / f"{number}.parquet", row_group_size=group)
        else:
            lines = [json.dumps({"id": row, "text": text}) for row, text in enumerate(texts)]
            lines = ["no object" if row % 7 == 6 else line for row, line in enumerate(lines)]
            texts = [None if row % 7 == 6 else text for row, text in enumerate(texts)]
            (place / f"{number}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        found.append(texts)
    return found


def value(text: str | None) -> list[float] | None:
    """The vector of a text, which tells it from the others."""
    return None if text is None else [float(part) + 1 for part in text.split("/")]


def computed(kind: Format, of: Any, files: VectorFiles) -> None:
    """Writes the vectors of all units."""
    for unit in units.vector_units(kind, of):
        assert sum(part.num_rows for part in unit.parts) <= vectors.ROWS
        for part in unit.parts:
            assert part.first_row % vectors.ROWS == 0
            texts: list[str | None] = [None] * part.num_rows
            for batch in kind.read(File(part.path), part, pa.schema([TEXTS])):
                for position, text in zip(batch.positions, batch.table.column(0).to_pylist(), strict=True):
                    texts[position - part.first_row] = text
            files.write(part, pa.array(map(value, texts), vectors.TYPE), "zstd")


@given(
    kind=st.sampled_from(["parquet", "jsonl"]),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    group=st.integers(1, 50),
    unit_rows=st.integers(1, 60),
    chunk=st.integers(1, 20),
    carried=st.booleans(),
)
@settings(max_examples=40)
def test_each_row_has_the_vector_of_its_text_however_the_input_is_cut(
    tmp_path_factory, kind, lengths, group, unit_rows, chunk, carried
):
    place = tmp_path_factory.mktemp("vectors")
    texts = write(place / "in", kind, lengths, group)
    format_ = Jsonl(block_bytes=200) if kind == "jsonl" else Parquet(batch_bytes=200)
    columns = Columns("id", "embeddings", ["text"] if carried else [], 2, None if carried else [], "text")
    found = dataset.inspect(list_files(Place([str(place / "in")], kind)), format_, columns)
    assert found.dimension == 2
    assert found.schema.names == (["id", "text", "embeddings"] if carried else ["id", "embeddings"])
    files = VectorFiles(Folder(str(place / "vectors")), TEXTS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vectors, "ROWS", chunk)
        names = [f"{number:016x}" for number in range(len(lengths))]
        cut, urls = units.units(found, unit_rows), [file.info.url for file in found.files]
        plan = KMeansPlan.of(None, found.schema, urls, cut, names)  # type: ignore[arg-type]  # whose sizes nobody asks
        made = plan.assign_units(urls)
        computed(format_, made, files)
        vectors_of: dict[tuple[int, int], list[float] | None] = {}
        for part in (part for unit in made for part in unit.parts):
            for batch in rows.read(format_, File(part.path), part, found.schema, files):
                column = batch.table.column("embeddings").to_pylist()
                vectors_of |= zip([(part.file, row) for row in batch.positions.tolist()], column, strict=True)
        is_line = [[kind == "parquet" or row % 7 != 6 for row in range(length)] for length in lengths]
        assert vectors_of == {
            (file, row): value(text)
            for file, of_file in enumerate(texts)
            for row, text in enumerate(of_file)
            if is_line[file][row]
        }
        parts = [part for unit in made for part in unit.parts]
        column = VectorColumn(format_, found.schema.field("embeddings"), 2, False, {}, files)
        drawn = sample(parts, column, 10**6, 0)
    assert drawn.tolist() == [value(text) for of_file in texts for text in of_file if text is not None]


class TestDamage:
    @pytest.fixture
    def files(self, tmp_path: Path) -> VectorFiles:
        write(tmp_path / "in", "parquet", [10], 10)
        return VectorFiles(Folder(str(tmp_path / "vectors")), TEXTS)

    def read(self, tmp_path: Path, files: VectorFiles) -> list[Any]:
        (file,) = list_files(Place([str(tmp_path / "in")]))
        (part,) = format_named("parquet").inspect(file).parts
        unit = AssignUnit((replace(part, vectors="a" * 16),))
        if not (tmp_path / "vectors").exists():
            computed(format_named("parquet"), [unit], files)
        return [found.to_pylist() for _, found in files.read(unit.parts[0])]

    @pytest.mark.parametrize("damage", ["cut", "few", "bits", "gone"])
    def test_a_damaged_file_is_told_and_taken_away(self, tmp_path, files, damage):
        assert len(self.read(tmp_path, files)[0]) == 10
        (path,) = (tmp_path / "vectors").iterdir()
        data = path.read_bytes()
        if damage == "cut":
            path.write_bytes(data[:-30])
        elif damage == "bits":
            path.write_bytes(data[:60] + bytes(byte ^ 255 for byte in data[60:68]) + data[68:])
        elif damage == "few":
            pq.write_table(pq.read_table(path)[:9], path)
        else:
            path.unlink()
        with pytest.raises(UnitError, match=r"aaaa-00000000\.parquet is damaged or gone: .*computes it again"):
            self.read(tmp_path, files)
        assert not path.exists()
