from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import Folder
from beam_semdedup.storage.layout import fingerprint


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
    output = Folder(str(tmp_path))
    assert layout.parts(output / layout.DUPLICATES) == {f"part-{key}-00001.parquet": key}
    assert layout.parts(output / layout.REJECTED) == {}


def test_a_fingerprint_is_the_same_on_every_machine_for_ever():
    assert fingerprint({"b": [1, None, 0.1], "a": "é"}) == "b65919a66477efeb"


@given(st.dictionaries(st.text(), st.integers() | st.none() | st.text()), st.randoms(use_true_random=False), st.text())
def test_a_fingerprint_does_not_depend_on_the_order_of_names_but_on_everything_else(facts, random, name):
    items = list(facts.items())
    random.shuffle(items)
    assert fingerprint(dict(items)) == fingerprint(facts)
    assert fingerprint({**facts, name: "not what it was"}) != fingerprint(facts)
