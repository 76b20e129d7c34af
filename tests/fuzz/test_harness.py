"""The fuzzer's own parts: a reader that agrees with Arrow, and a pool that finds whatever a case does."""

from __future__ import annotations

import io
import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz import parquet_reader, pool
from fuzz.damage import EXTREMES, varint
from fuzz.parquet_reader import Damaged, Thrift


def _table() -> pa.Table:
    rng = np.random.default_rng(0)
    odd = {3: None, 5: [], 7: [1.0, None, 2.0]}
    vectors = [odd.get(i, rng.normal(size=3).astype("f4").tolist()) for i in range(40)]
    return pa.table(
        {
            "id": pa.array([None if i == 4 else i for i in range(40)]),
            "embeddings": pa.array(vectors, pa.list_(pa.float32())),
            "text": [f"text {i % 5}" for i in range(40)],
            "double": rng.normal(size=40),
            "bool": [bool(i % 3) for i in range(40)],
            "unsigned": pa.array(range(2**32 - 40, 2**32), pa.uint32()),
            "bytes": [b"\xff" * (i % 3) for i in range(40)],
        }
    )


def _written(**options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(_table(), sink, row_group_size=16, data_page_size=64, write_batch_size=8, **options)
    return sink.getvalue()


@pytest.mark.parametrize("codec", ["NONE", "snappy", "zstd", "gzip", "lz4", "brotli"])
def test_the_reader_reads_what_arrow_writes(codec: str) -> None:
    for version, dictionary, checksum in itertools.product(["1.0", "2.0"], [True, False], [True, False]):
        data = _written(
            compression=codec, data_page_version=version, use_dictionary=dictionary, write_page_checksum=checksum
        )
        found = parquet_reader.read(data)
        assert found.columns == _table().to_pydict()
        assert found.groups == [16, 16, 8]


def test_the_reader_finds_damage_anywhere_but_in_values_and_what_is_not_read() -> None:
    whole = _written(compression="NONE", use_dictionary=False, write_statistics=False)
    for region in parquet_reader.read(whole).regions:
        if region.kind in ("repetition", "magic"):
            with pytest.raises(Damaged):
                parquet_reader.read(whole[: region.start] + b"\xff" * 2 + whole[region.start + 2 :])


@pytest.mark.parametrize("number", EXTREMES)
def test_numbers_are_written_as_they_are_read(number: int) -> None:
    data = varint(number)
    assert Thrift(data, 0, len(data))._zigzag() == number


def _case(number: int) -> str:
    if number == 1:
        raise pool.Fault("a wrong result")
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 3:
        time.sleep(60)
    if number == 4:
        raise ZeroDivisionError
    if number == 5:
        bytearray(2 * pool.MEMORY)
    return "right"


def test_a_fault_a_signal_a_hang_an_error_and_too_much_memory_are_found_and_the_other_cases_run(tmp_path: Path) -> None:
    found = {verdict.number: verdict for verdict in pool.run(_case, range(8), 2, 1, tmp_path)}
    assert sorted(found) == list(range(8))
    assert {n for n, verdict in found.items() if verdict.ended == "right"} == {0, 6, 7}
    said = ("a wrong result", "signal SIGKILL", "no end within 1 s", "ZeroDivisionError", "MemoryError")
    for number, what in enumerate(said, 1):
        assert what in found[number].fault
