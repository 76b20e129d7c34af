from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.storage import layout


@given(rows=st.lists(st.integers(1, 50), max_size=6), block=st.integers(1, 60), data=st.data())
def test_a_group_of_centroids_is_compared_when_all_its_blocks_are(rows, block, data):
    names = {
        key: [
            layout.comparison_name(key, key + 1, low, min(low + block, number), number) + ".parquet"
            for low in range(0, number, block)
        ]
        for key, number in enumerate(rows)
    }
    finished = [name for each in names.values() for name in each if data.draw(st.booleans())]
    assert layout.num_compared(finished) == sum(set(each) <= set(finished) for each in names.values())


def test_parts_tell_their_keys(tmp_path):
    key = "0123456789abcdef"
    for name in (layout.part_name(key, "00001"), "part-x-1.parquet", "other.parquet"):
        (tmp_path / layout.DUPLICATES).mkdir(exist_ok=True)
        (tmp_path / layout.DUPLICATES / name).touch()
    assert layout.parts(str(tmp_path), layout.DUPLICATES, {}) == {f"part-{key}-00001.parquet": key}
    assert layout.parts(str(tmp_path), layout.REJECTED, {}) == {}


def test_a_discarded_unit_leaves_the_stage_unfinished(tmp_path):
    unit = tmp_path / "00000000-00000001.parquet"
    unit.touch()
    layout.write_manifest(str(tmp_path), {}, [], {})
    assert layout.read_manifest(str(tmp_path), {})["num_rows"] == 0
    with pytest.raises(RuntimeError, match="damaged or gone; the same command computes it again"):
        raise layout.discard(str(unit), str(tmp_path), {})
    assert layout.read_manifest(str(tmp_path), {}) is None
    assert layout.finished_units(str(tmp_path), {}) == []
