from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from beam_semdedup.report.values import texts

HOSTILE = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("values", "longest", "expected"),
    [
        (pa.array(["a", None, ""]), 50, ["a", None, ""]),
        (pa.array([HOSTILE, "\u202egnp", "a\x00\x1b[1m"]), 50, [HOSTILE, "\\u202egnp", "a\\x00\\x1b[1m"]),
        (pa.array(["é" * 30]), 10, ["é" * 10 + "… (60 bytes)"]),
        (pa.array(["😀" * 100_000]), 10, ["😀" * 10 + "… (400,000 bytes)"]),
        (
            pa.array([b"text", b"\xff\x00\x01", b"\xff" * 100]),
            10,
            ["text", "0xff0001", "0x" + "f" * 8 + "… (100 bytes)"],
        ),
        (pa.array([b"0123456789abcdef"], pa.binary(16)), 10, ["0123456789… (16 bytes)"]),
        (pa.array([1.5, None]), 50, ["1.5", None]),
        (pa.array([[1, 2], None]), 50, ["[1, 2]", None]),
        (pa.array([{"a": "x"}]), 50, ["{'a': 'x'}"]),
        (pa.array([date(2024, 1, 2)]), 50, ["2024-01-02"]),
        (pa.array(["a", "a", None]).dictionary_encode(), 50, ["a", "a", None]),
    ],
)
def test_values_are_texts_that_nothing_acts_on(values: pa.Array, longest: int, expected: list[Any]) -> None:
    assert texts(values, longest) == expected


def test_a_text_that_is_no_utf_8_is_shown_as_far_as_it_is_one() -> None:
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb"))
    assert texts(broken, 10) == ["a�b"]
