from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_semdedup.stages.repeated import Repeated, repeated_in_files
from beam_semdedup.storage.folder import File

FILES = st.lists(st.lists(st.integers(-20, 40), max_size=30), max_size=5)


def written(directory: Path, *columns: pa.Array) -> list[File]:
    paths = [f"{directory}/{number}.parquet" for number in range(len(columns))]
    for path, column in zip(paths, columns, strict=True):
        pq.write_table(pa.table({"other": column, "value": column}), path, row_group_size=7)
    return list(map(File, paths))


@given(files=FILES, text=st.booleans(), memory=st.sampled_from([100, 1000, 1 << 30]))
@example(files=[[7, 8, 7], [], [9, 8]], text=True, memory=1)
@settings(max_examples=60)
def test_values_are_counted_over_all_files_whatever_memory_there_is(tmp_path_factory, files, text, memory):
    def column(values: list[int]) -> pa.Array:
        return pa.array([f"{v:03d}" for v in values] if text else values, pa.string() if text else pa.int64())

    counts = Counter(value for values in files for value in column(values).to_pylist())
    again = {value for value, times in counts.items() if times > 1}
    num_rows = sum(map(len, files))
    found = repeated_in_files(written(tmp_path_factory.mktemp("files"), *map(column, files)), "value", num_rows, memory)
    assert (found.distinct, found.count) == (len(counts), len(again))
    assert len(found.examples) == min(len(again), 5)
    assert set(found.examples) <= again


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        (pa.int32(), [-1, 5, 7]),
        (pa.uint64(), [1, 5, 2**64 - 1]),
        (pa.large_string(), ["é", "", "b"]),
        (pa.binary(), [b"\xff\x00", b"", b"b"]),
        (pa.binary(2), [b"ab", b"\xff\x00", b"cd"]),
    ],
)
def test_values_of_every_type_of_id_are_counted(tmp_path: Path, type_: pa.DataType, values: list[Any]) -> None:
    columns = [pa.array(some, type_) for some in (values, values[:1], [values[0], values[2]])]
    found = repeated_in_files(written(tmp_path, *columns), "value", 6, 1 << 30)
    assert (found.distinct, found.count, set(found.examples)) == (3, 2, {values[0], values[2]})


def test_nothing_repeats_in_nothing() -> None:
    assert repeated_in_files([], "value", 0, 1) == Repeated(0, 0, ())


def test_integers_are_told_apart_by_all_of_their_bits(tmp_path: Path) -> None:
    values = [0, 1, -1, 2**32, 2**63 - 1, -(2**63), *(2**bit for bit in range(33, 62))]
    assert repeated_in_files(written(tmp_path, pa.array(values)), "value", 40, 1 << 30).count == 0
