from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from beam_semdedup.storage import tables


@pytest.mark.parametrize("limit", [30, 200, 1000, 2**31 - 1])
def test_rows_are_taken_whatever_the_size_of_their_texts(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    rng = np.random.default_rng(0)
    texts = [None if i % 7 == 0 else "ab" * int(n) for i, n in enumerate(rng.integers(0, 40, 30))]
    columns = {"text": pa.array(texts), "bytes": pa.array(texts, pa.binary()), "i": pa.array(range(30))}
    table = pa.concat_tables([pa.table(columns).slice(0, 11), pa.table(columns).slice(11)])
    expected = table.take([*range(29, -1, -2), 3, 3, 3])
    monkeypatch.setattr(tables, "_LARGEST_TEXT", limit)
    found = tables.take(table, np.array([*range(29, -1, -2), 3, 3, 3]))
    assert found.equals(expected)
    assert found.schema == table.schema
    assert (found.column("text").num_chunks == 1) == (limit > 1000)


def test_no_rows_are_taken_too() -> None:
    table = pa.table({"text": pa.array(["a"])})
    assert tables.take(table, np.empty(0, np.int64)).equals(table[:0])
