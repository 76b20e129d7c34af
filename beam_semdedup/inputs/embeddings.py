"""Arrow columns of vectors to float32 matrices, and which rows cannot be used."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_semdedup.compute.arrays import row_dot

REASONS = (
    "",
    "id is null",
    "id is not UTF-8",
    "embedding is null",
    "embedding has the wrong length",
    "embedding has NaN or infinite values",
    "embedding has zero norm",
    "malformed line",
)
"""Why a row is rejected; the position is the code, 0 means that it is not."""

_FLOAT32 = np.finfo(np.float32)
NULL_ID, INVALID_ID, NULL_EMBEDDING, WRONG_LENGTH, NOT_FINITE, ZERO_NORM, MALFORMED = range(1, len(REASONS))


def is_id_type(type_: pa.DataType) -> bool:
    """Says whether a column of this type can identify rows."""
    return bool(
        pa.types.is_integer(type_)
        or pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
    )


def id_reasons(ids: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Returns for every id why it identifies no row, an index into `REASONS`, zero where it does; (n,)."""
    reasons = np.where(ids.is_valid().to_numpy(), 0, NULL_ID).astype(np.uint8)
    try:
        ids.validate(full=True)
    except pa.ArrowInvalid:
        reasons[[not _is_utf8(value) for value in ids.cast(pa.large_binary()).to_pylist()]] = INVALID_ID
    return reasons


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False


def is_embedding_type(type_: pa.DataType) -> bool:
    """Says whether a column of this type holds vectors: a list of floats or integers, of whichever list type."""
    is_list = pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    return bool(is_list and (pa.types.is_floating(type_.value_type) or pa.types.is_integer(type_.value_type)))


def plain_type(type_: pa.DataType) -> pa.DataType:
    """Returns the type of a column once it is `decoded`.

    It is that of the values of a dictionary, or of what an extension type is stored as, else the `carried_type`; lists
    of a fixed size may be vectors, and stay. A tensor of more than one dimension is no vector, and stays what it is.
    """
    if pa.types.is_dictionary(type_):
        return plain_type(type_.value_type)
    if isinstance(type_, pa.BaseExtensionType):
        is_matrix = isinstance(type_, pa.FixedShapeTensorType) and len(type_.shape) != 1
        return type_ if is_matrix else plain_type(type_.storage_type)
    return type_ if pa.types.is_fixed_size_list(type_) else carried_type(type_)


def carried_type(type_: pa.DataType) -> pa.DataType:
    """Returns the type that a column is carried as: the usual one, however deep, for what Arrow does not know well.

    It has few functions for views, and reads no lists of a fixed size from parquet if one is null.
    """
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(carried_type(field.type)) for field in type_])
    if pa.types.is_map(type_):
        key, item = (field.with_type(carried_type(field.type)) for field in (type_.key_field, type_.item_field))
        return pa.map_(key, item, type_.keys_sorted)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        inner = type_.value_field.with_type(carried_type(type_.value_type))
        return pa.large_list(inner) if pa.types.is_large_list(type_) else pa.list_(inner)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(type_, type_)


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns a column as values of its `plain_type`."""
    plain = plain_type(column.type)
    return column if plain == column.type else column.cast(plain)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Returns a schema with the types of decoded columns."""
    return pa.schema([f.with_type(plain_type(f.type)) for f in schema])


def with_types(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns the columns of `schema` as its types; vectors stay as they are, since any list of numbers will do."""
    columns = []
    for field in schema:
        column = decoded(table.column(field.name))
        if not is_embedding_type(column.type) or field.type == carried_type(column.type):
            column = column.cast(field.type)
        columns.append(column)
    return pa.table(columns, names=schema.names)


def lengths(column: pa.Array) -> Counter[int]:
    """Returns how many usable-looking vectors (not null) of each length `column` has."""
    counts = pc.value_counts(pc.list_value_length(column.drop_null()))
    return Counter(dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def commonest_length(counts: Counter[int]) -> int | None:
    """Returns the commonest length of vectors, of equally common ones the shortest; None where none is above 0."""
    return min((length for length in counts if length), key=lambda length: (-counts[length], length), default=None)


def _scaled(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Returns vectors, (n, d) of any numbers, as float32, each times the power of 2 that its values are at most 1 with.

    Zeros, infinities and NaN stay such.
    """
    wide = vectors.astype(np.float64)
    _, exponents = np.frexp(np.abs(wide).max(axis=1, initial=0))
    with np.errstate(over="ignore"):  # beside NaN
        result: npt.NDArray[np.float32] = np.ldexp(wide, -exponents[:, None]).astype(np.float32)
    return result


def to_matrix(
    column: pa.Array, dimension: int, normalize: bool = True
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Returns the usable vectors of a column, and for every row why it is not usable.

    Args:
        column: n vectors, as list, large_list or fixed_size_list of floats or integers.
        dimension: d, the length that a vector must have.
        normalize: divide each vector by its L2 norm, in float32; one whose norm float32 does not hold is scaled before.

    Returns:
        rows (m, d) float32, m <= n, in the order of the column; and reasons (n,) uint8, indices into
        `REASONS`, zero for the m rows that are in the matrix.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    reasons = np.zeros(len(column), dtype=np.uint8)
    length = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    reasons[length != dimension] = WRONG_LENGTH
    reasons[~valid] = NULL_EMBEDDING
    usable = reasons == 0
    if not usable.all():
        column = column.filter(pa.array(usable))
    # A null element becomes NaN here.
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
    with np.errstate(over="ignore"):
        matrix = values.astype(np.float32)
        norms = np.sqrt(row_dot(matrix, matrix)).astype(np.float32)
    if normalize:
        extreme = np.flatnonzero(~((norms >= _FLOAT32.tiny) & (norms <= _FLOAT32.max)))
        if len(extreme):
            matrix[extreme] = _scaled(values[extreme])
            norms[extreme] = np.sqrt(row_dot(matrix[extreme], matrix[extreme])).astype(np.float32)
    del values, column
    bad = np.where(np.isfinite(norms), np.where(norms > 0, 0, ZERO_NORM), NOT_FINITE).astype(np.uint8)
    reasons[usable] = bad
    if bad.any():
        matrix, norms = matrix[bad == 0], norms[bad == 0]
    if normalize:
        matrix /= norms[:, None]
    matrix += np.float32(0)  # -0.0 becomes 0.0: equal vectors have equal bits
    return matrix, reasons
