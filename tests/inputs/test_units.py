from __future__ import annotations

import gzip
import json
import uuid

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from reading import facts, input_of, made_up, numbers, parts_of, read

from beam_semdedup.inputs.jsonl import Jsonl
from beam_semdedup.inputs.units import units


class TestUnits:
    @given(part_rows=st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=4), rows_per_unit=st.integers(1, 40))
    def test_they_cover_every_row_once_in_order_and_read_no_row_group_in_vain(self, part_rows, rows_per_unit):
        found = units(made_up(part_rows), rows_per_unit)
        parts = [part for unit in found for part in unit.parts]
        covered = [(p.file, row) for p in parts for row in range(p.first_row, p.first_row + p.num_rows)]
        assert covered == [(file, row) for file, rows in enumerate(part_rows) for row in range(sum(rows))]
        for unit in found:
            assert 0 < unit.num_rows == sum(part.num_rows for part in unit.parts) <= rows_per_unit
            assert len({part.file for part in unit.parts}) == len(unit.parts)
        for part in parts:
            assert part.path == f"f{part.file}"
            bounds = np.concatenate([[0], np.cumsum(part_rows[part.file])])
            rows = set(range(part.first_row, part.first_row + part.num_rows))
            meets = {g for g in range(len(bounds) - 1) if rows & set(range(bounds[g], bounds[g + 1]))}
            assert set(part.piece) == meets

    @given(part_rows=st.lists(st.lists(st.integers(1, 10), max_size=6), max_size=3), rows_per_unit=st.integers(1, 40))
    def test_two_neighbours_that_are_not_cut_would_not_fit_into_one(self, part_rows, rows_per_unit):
        found = units(made_up(part_rows), rows_per_unit)
        for before, after in zip(found[:-1], found[1:], strict=True):
            whole = sum(sum(part_rows[part.file][g] for g in part.piece) for part in before.parts)
            if before.num_rows == whole:
                first = after.parts[0]
                assert before.num_rows + part_rows[first.file][first.piece[0]] > rows_per_unit

    def test_small_files_are_one(self):
        found = units(made_up([[2], [3], [], [4, 1], [7, 7], [1]]), 12)
        assert [[(part.path, part.num_rows) for part in unit.parts] for unit in found] == [
            [("f0", 2), ("f1", 3), ("f3", 5)],
            [("f4", 7)],
            [("f4", 7), ("f5", 1)],
        ]

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
        found = parts_of(input_of(kind, facts(path, kind)), rows_per_unit)
        table, rows = read(found, kind)
        path.unlink()
        assert table.column("id").to_pylist() == list(range(lines))
        assert numbers(rows) == [i * (blanks + 1) + 1 for i in range(lines)]
        assert sum(unit.num_rows for unit in found) == lines
