from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import inspect, made_up, parts_of, sampled, write, write_lines

from beam_semdedup.errors import UnitError
from beam_semdedup.inputs.dataset import InputFacts
from beam_semdedup.inputs.jsonl import Jsonl
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.inputs.sample import choose


class TestChoose:
    @staticmethod
    def chosen(part_rows: list[list[int]], rows_per_unit: int, *arguments: int) -> list[tuple[int, int]]:
        """The files and numbers of the rows."""
        found = choose(parts_of(made_up(part_rows), rows_per_unit), *arguments)
        assert all(len(rows) for _, rows in found)
        return [(unit.file, row) for unit, rows in found for row in rows.tolist()]

    @given(
        part_rows=st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=4),
        rows_per_unit=st.integers(1, 40),
        size=st.integers(0, 100),
        parts=st.integers(1, 8),
    )
    def test_its_shares_are_one_sample_however_the_input_is_cut(self, part_rows, rows_per_unit, size, parts):
        whole = self.chosen(part_rows, 10**6, size, 5)
        assert len(set(whole)) == len(whole) == min(size, sum(map(sum, part_rows)))
        assert whole == sorted(whole)
        assert set(whole) <= {(file, row) for file, rows in enumerate(part_rows) for row in range(sum(rows))}
        shares = [self.chosen(part_rows, rows_per_unit, size, 5, part, parts) for part in range(parts)]
        assert [row for share in shares for row in share] == whole
        assert size < sum(map(sum, part_rows)) or max(map(len, shares)) - min(map(len, shares)) <= 1

    def test_every_row_has_the_same_chance(self):
        counts = np.zeros(100)
        for seed in range(200):
            for file, row in self.chosen([[40], [40], [20]], 33, 20, seed):
                counts[40 * file + row] += 1
        # 40 of 200 expected, with a standard deviation of 5.7.
        assert counts.min() > 40 - 5 * 5.7
        assert counts.max() < 40 + 5 * 5.7


class TestSample:
    @pytest.fixture(params=["parquet", "jsonl", "jsonl.gz"])
    def numbered(self, request: pytest.FixtureRequest, tmp_path: Path) -> InputFacts:
        """100 rows in 3 files of a format; the first value of each vector is its number."""
        return self.write_numbered(tmp_path, *request.param.partition(".")[::2])

    @staticmethod
    def write_numbered(tmp_path: Path, filetype: str, suffix: str = "") -> InputFacts:
        for file in range(3):
            numbers = range(file * 40, min(100, file * 40 + 40))
            vectors = [[float(n), 1.0] for n in numbers]
            if filetype == "parquet":
                write(tmp_path / f"{file}.parquet", list(numbers), vectors, rows_per_group=7)
            else:
                lines = "".join(
                    json.dumps({"id": n, "embeddings": v}) + "\n" for n, v in zip(numbers, vectors, strict=True)
                )
                content = lines.encode()
                name = f"{file}.jsonl" + (".gz" if suffix else "")
                (tmp_path / name).write_bytes(gzip.compress(content) if suffix else content)
        return inspect(tmp_path, filetype=filetype)

    def numbers(self, numbered: InputFacts, size: int, **arguments: Any) -> list[float]:
        return sampled(numbered, size, normalize=False, **arguments)[:, 0].tolist()

    @pytest.mark.parametrize("size", [1, 2, 50, 99, 100])
    def test_it_has_the_size_that_was_asked_without_replacement_in_the_order_of_the_files(self, numbered, size):
        found = self.numbers(numbered, size)
        assert len(found) == size
        assert found == sorted(set(found))
        assert set(found) <= set(range(100))

    @pytest.mark.parametrize("size", [100, 101, 10**6])
    def test_asked_for_all_rows_or_more_it_is_all_rows(self, numbered, size):
        assert self.numbers(numbered, size) == list(range(100))

    def test_it_depends_on_the_seed_and_on_nothing_else(self, numbered):
        reference = self.numbers(numbered, 30, seed=5)
        assert self.numbers(numbered, 30, seed=5) == reference
        assert self.numbers(numbered, 30, seed=6) != reference
        for rows_per_unit in (1, 3, 10, 33, 80):
            assert self.numbers(numbered, 30, seed=5, rows_per_unit=rows_per_unit) == reference
        small = Parquet(batch_bytes=100) if isinstance(numbered.format, Parquet) else Jsonl(block_bytes=100)
        assert self.numbers(replace(numbered, format=small), 30, seed=5) == reference

    def test_it_is_the_same_rows_from_parquet_and_jsonl(self, parquet_dataset, jsonl_dataset):
        parquet = sampled(inspect(parquet_dataset.path), 77)
        jsonl = sampled(inspect(jsonl_dataset.path, filetype="jsonl"), 77)
        np.testing.assert_array_equal(parquet, jsonl)

    @pytest.mark.parametrize("normalize", [True, False])
    def test_rows_are_float32_and_of_length_one_if_asked(self, parquet_dataset, normalize):
        rows = sampled(inspect(parquet_dataset.path), 1000, normalize=normalize)
        assert rows.dtype == np.float32
        expected = parquet_dataset.embeddings
        if normalize:
            expected = expected / np.linalg.norm(expected.astype(np.float64), axis=1, keepdims=True)
        np.testing.assert_allclose(rows, expected, rtol=1e-6)

    @pytest.mark.parametrize("size", [3, 7, 100])
    def test_rows_that_cannot_be_used_are_left_out(self, tmp_path, size):
        good = [[1.0, 2.0], [3.0, 4.0], [-5.0, 6.0]]
        bad = [None, [], [1.0], [1.0, 2.0, 3.0], [float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0]]
        path = write(tmp_path / "a.parquet", range(10), [bad[0], good[0], *bad[1:4], good[1], *bad[4:], good[2]])
        found = sampled(inspect(path, embedding_dim=2), size, normalize=False).tolist()
        assert all(row in good for row in found)
        if size >= 10:
            assert found == good

    def test_so_are_malformed_lines(self, tmp_path):
        path = write_lines(
            tmp_path / "a.jsonl", "oh", {"id": 1, "embeddings": [1, 0]}, "{", {"embeddings": [0, 2]}, "null", {"id": 3}
        )
        found = inspect(path, filetype="jsonl")
        assert found.num_rows == 6
        assert sampled(found, 6).tolist() == [[1, 0], [0, 1]]

    def test_a_file_that_changed_since_it_was_planned_is_named(self, tmp_path):
        path = write(tmp_path / "a.parquet", range(50), [[1.0]] * 50)
        found = inspect(path)
        path.write_bytes(b"gone")
        with pytest.raises(UnitError, match=rf"{path} \(row group 0, rows 0 to 49\): "):
            sampled(found, 10)
