"""Values of a dataset as a page or a terminal can show them: cut, without characters that something would act on."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.text import printable

LONGEST_NAME, LONGEST_TEXT = 120, 1500
NULL = "(null)"


def texts(values: pa.Array | pa.ChunkedArray, longest: int) -> list[str | None]:
    """Returns values of any type as texts of about `longest` characters, which say how much of them is left out.

    Bytes that are no text are told in hexadecimal digits; nulls stay null.
    """
    type_ = values.type
    if pa.types.is_dictionary(type_):
        values, type_ = values.cast(type_.value_type), type_.value_type
    is_text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    if pa.types.is_fixed_size_binary(type_):
        values, type_ = values.cast(pa.binary()), pa.binary()
    if not is_text and not pa.types.is_binary(type_) and not pa.types.is_large_binary(type_):
        return [None if not value.is_valid else _cut(_told(value), longest) for value in values]
    values = values.cast(pa.large_binary())  # some are no UTF-8, whatever their type says
    sizes = pc.binary_length(values).to_pylist()
    heads = pc.binary_slice(values, 0, 4 * longest + 4).to_pylist()  # of a value of 100 kB no more is copied
    return [
        None if head is None else _head(head, size, longest, is_text) for head, size in zip(heads, sizes, strict=True)
    ]


def _head(head: bytes, size: int, longest: int, is_text: bool) -> str:
    whole = len(head) == size
    text = head.decode(errors="replace" if whole else "ignore")  # what is cut may end within a character
    if not is_text and (len(text.encode()) < len(head) - 3 or not head.startswith(text.encode())):
        text = f"0x{head.hex()}"
    shown = printable(text[:longest])
    return shown if whole and len(text) <= longest else f"{shown}… ({size:,} bytes)"


def _cut(text: str, longest: int) -> str:
    shown = printable(text[:longest])
    return shown if len(text) <= longest else f"{shown}… ({len(text):,} characters)"


def _told(scalar: pa.Scalar) -> str:
    try:
        return str(scalar.as_py())
    except (ValueError, OverflowError):  # a date after the year 9999, a text in a list that is none
        return f"({scalar.type})"
