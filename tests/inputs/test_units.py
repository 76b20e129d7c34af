from __future__ import annotations

import gzip
import json
import uuid

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from reading import facts, input_of, made_up, numbers, read

from beam_semdedup.inputs.jsonl import Jsonl
from beam_semdedup.inputs.units import units


class TestUnits:
    @given(part_rows=st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=4), rows_per_unit=st.integers(1, 40))
    def test_they_cover_every_row_once_in_order_and_read_no_row_group_in_vain(self, part_rows, rows_per_unit):
        found = units(made_up(part_rows), rows_per_unit)
        covered = [(u.file, row) for u in found for row in range(u.first_row, u.first_row + u.num_rows)]
        assert covered == [(file, row) for file, rows in enumerate(part_rows) for row in range(sum(rows))]
        for unit in found:
            assert unit.path == f"f{unit.file}"
            assert 0 < unit.num_rows <= rows_per_unit
            bounds = np.concatenate([[0], np.cumsum(part_rows[unit.file])])
            rows = set(range(unit.first_row, unit.first_row + unit.num_rows))
            meets = {g for g in range(len(bounds) - 1) if rows & set(range(bounds[g], bounds[g + 1]))}
            assert set(unit.piece) == meets

    @given(part_rows=st.lists(st.lists(st.integers(1, 10), max_size=6), max_size=3), rows_per_unit=st.integers(1, 40))
    def test_two_neighbours_of_a_file_that_are_not_cut_would_not_fit_into_one(self, part_rows, rows_per_unit):
        found = units(made_up(part_rows), rows_per_unit)
        for before, after in zip(found[:-1], found[1:], strict=True):
            sizes = part_rows[after.file]
            whole = before.num_rows == sum(part_rows[before.file][g] for g in before.piece)
            if before.file == after.file and whole:
                assert before.num_rows + sizes[after.piece[0]] > rows_per_unit

    @given(
        lines=st.integers(0, 30),
        blanks=st.integers(0, 3),
        block_bytes=st.integers(1, 300),
        rows_per_unit=st.integers(1, 40),
        compressed=st.booleans(),
    )
    def test_those_of_jsonl_are_read_back_whole_for_any_size(
        self, tmp_path_factory, lines, blanks, block_bytes, rows_per_unit, compressed
    ):
        text = "".join(json.dumps({"id": i, "embeddings": [i]}) + "\n" + "\n" * blanks for i in range(lines)).encode()
        path = tmp_path_factory.getbasetemp() / f"{uuid.uuid4().hex}.jsonl{'.gz' if compressed else ''}"
        path.write_bytes(gzip.compress(text) if compressed else text)
        kind = Jsonl(block_bytes)
        found = units(input_of(kind, facts(path, kind)), rows_per_unit)
        table, rows = read(found, kind)
        path.unlink()
        assert table.column("id").to_pylist() == list(range(lines))
        assert numbers(rows) == [i * (blanks + 1) + 1 for i in range(lines)]
        assert sum(unit.num_rows for unit in found) == lines
