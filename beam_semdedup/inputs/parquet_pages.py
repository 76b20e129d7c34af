"""What is in a parquet file, held against what its footer says of it: Arrow itself takes much damage for data."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.errors import InputError
from beam_semdedup.storage.damage import is_damage
from beam_semdedup.storage.folder import File


class NotOfOneSize(ValueError):
    """A list is null where Arrow expects lists of a fixed size, which is no damage."""


def column_in_group(name: str, group: int) -> str:
    """Returns what a message calls a column in a row group."""
    return f"column {name!r} in row group {group}"


def read_batches(
    file: File,
    parquet: pq.ParquetFile,
    rows: int,
    groups: Sequence[int],
    columns: Sequence[str] | None = None,
    called: Callable[[str, int], str] = column_in_group,
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of some row groups in batches of at most `rows`, once they are as many as the footer says.

    So are the values of each column, or in a list its levels: where one is missing, all later lists have the values of
    others.

    Args:
        file: what `parquet` is opened from, by `opened`.
        columns: their names; None: all.
        called: what a message calls a column in a row group.

    Raises:
        InputError: a page is damaged; names the column and the row group.
        NotOfOneSize: a list of a fixed size is null, which Arrow does not read.
    """
    try:
        yield from _counted(parquet, rows, groups, columns)
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        if "lists to be of size" in str(error):
            raise NotOfOneSize(str(error)) from error
        raise _named(file, parquet, rows, groups, columns, called, error) from error


def leaf_columns(metadata: pq.FileMetaData) -> dict[str, list[int]]:
    """Returns for each name the columns of the footer that are read when it is asked for.

    As Arrow understands it: `a.b` may be a column of that name as well as the field `b` of a column `a`.
    """
    leaves: dict[str, list[int]] = {}
    for index in range(metadata.num_columns):
        for name in itertools.accumulate(metadata.schema.column(index).path.split("."), "{}.{}".format):
            leaves.setdefault(name, []).append(index)
    return leaves


def _counted(
    parquet: pq.ParquetFile, rows: int, groups: Sequence[int], columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    metadata = parquet.metadata
    leaves = leaf_columns(metadata)
    waiting = (group for group in groups if metadata.row_group(group).num_rows)
    group, left, counts = -1, 0, Counter[int]()
    for batch in parquet.iter_batches(rows, row_groups=groups, columns=columns):
        start = 0
        while start < batch.num_rows:
            if not left:
                group, counts = next(waiting), Counter[int]()
                left = metadata.row_group(group).num_rows
            part = batch.slice(start, left)
            start, left = start + part.num_rows, left - part.num_rows
            for name, column in zip(part.schema.names, part.columns, strict=True):
                levels = list(_levels(column))
                if len(levels) == len(leaves[name]):  # else `a.b` is a column beside a column `a`
                    counts.update(dict(zip(leaves[name], levels, strict=True)))
            if not left:
                _check_counts(metadata, group, counts)
        yield batch
    if left or any(True for _ in waiting):
        raise pa.ArrowInvalid("fewer rows than its footer says")


def _check_counts(metadata: pq.FileMetaData, group: int, counts: Counter[int]) -> None:
    """Raises pa.ArrowInvalid where a row group has other numbers of values than its footer says."""
    for leaf, count in counts.items():
        column = metadata.row_group(group).column(leaf)
        if count != column.num_values:
            raise pa.ArrowInvalid(f"{count:,} values in the pages, {column.num_values:,} in the footer")


def _levels(array: pa.Array) -> Iterator[int]:
    """Yields how many values or nulls parquet stores for an array in each of its columns; an empty list is one null."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_map(array.type):
        array = array.view(pa.list_(pa.struct([array.type.key_field, array.type.item_field])))
    if pa.types.is_struct(array.type):
        for child in array.flatten():
            yield from _levels(child)
    elif pa.types.is_fixed_size_list(array.type):
        for count in _levels(array.flatten()):
            yield array.null_count + count
    elif pa.types.is_nested(array.type):
        filled = np.diff(array.offsets.to_numpy()) > 0
        if array.null_count:
            filled &= array.is_valid().to_numpy(zero_copy_only=False)
        for count in _levels(array.flatten()):
            yield len(array) - int(np.count_nonzero(filled)) + count
    else:
        yield len(array)


def _named(
    file: File,
    parquet: pq.ParquetFile,
    rows: int,
    groups: Sequence[int],
    columns: Sequence[str] | None,
    called: Callable[[str, int], str],
    error: Exception,
) -> InputError:
    """Returns what to say of an error: which column of which row group it is in, found by reading each alone."""
    where = f"row group {groups[0]}" if len(groups) == 1 else f"row groups {groups[0]} to {groups[-1]}"
    for group, name in itertools.product(groups, parquet.schema_arrow.names if columns is None else columns):
        try:
            for _ in _counted(parquet, rows, [group], [name]):
                pass
        except (pa.ArrowException, OSError) as found:
            where, error = called(name, group), found
            break
    said = str(error).splitlines() or [type(error).__name__]
    return InputError(f"{file}: {where} cannot be read: {said[0]}; the file is damaged: write it again")
