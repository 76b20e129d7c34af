from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.inputs import thrift
from beam_semdedup.inputs.thrift import BINARY, BYTE, DOUBLE, I16, I32, I64, LIST, SET, STRUCT, TRUE, List, Struct

PLAIN = {
    TRUE: st.booleans(),
    BYTE: st.integers(0, 255),
    I16: st.integers(-(2**15), 2**15 - 1),
    I32: st.integers(-(2**31), 2**31 - 1),
    I64: st.integers(-(2**63), 2**63 - 1),
    DOUBLE: st.binary(min_size=8, max_size=8),
    BINARY: st.binary(max_size=200),
}


def values(structs: st.SearchStrategy[Struct]) -> dict[int, st.SearchStrategy[Any]]:
    kinds = {**PLAIN, TRUE: st.sampled_from([1, 2]), STRUCT: structs}
    lists = st.one_of([st.lists(kind, max_size=20).map(lambda v, t=t: List(t, v)) for t, kind in kinds.items()])
    return {**PLAIN, STRUCT: structs, LIST: lists, SET: lists}


@st.composite
def structs(draw: st.DrawFn, depth: int = 2) -> Struct:
    made = Struct()
    kinds = values(structs(depth - 1)) if depth else PLAIN
    for field in draw(st.lists(st.integers(1, 300), unique=True, max_size=6)):
        type_ = draw(st.sampled_from(list(kinds)))
        made.put(field, type_, draw(kinds[type_]))
    return made


@given(structs())
def test_a_struct_is_read_as_it_was_written(struct):
    data = thrift.write(struct)
    again, end = thrift.read(b"before" + data + b"after", 6)
    assert end == 6 + len(data)
    assert again == struct
    assert thrift.write(again) == data


@given(structs(), st.data())
def test_half_a_struct_is_an_error(struct, data):
    whole = thrift.write(struct)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match="Thrift"):
        thrift.read(whole[:cut])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x1c" * 100_000, "nested more than 64 deep"),
        (b"\x19\xf3\xff\xff\xff\xff\x0f\x00", "claims 4294967295 elements"),
        (b"\x19" * 100_000, "more than there can be"),
        (b"\x1f\x00", "type 15 is not known"),
    ],
)
def test_what_no_writer_wrote_is_an_error(data, said):
    with pytest.raises(ValueError, match=said):
        thrift.read(data)
