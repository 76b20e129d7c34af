"""Arrays of NumPy as input: the rows of (n, d) numbers, or (n,) ids, read from where they are in the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.inputs.base import (
    Copied,
    Copier,
    FileFacts,
    Format,
    InputUnit,
    IsListed,
    Piece,
    RowBatch,
    joined_type,
    listed_rows,
)
from beam_semdedup.storage.folder import File, FileInfo

_MAGIC = b"\x93NUMPY"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_PART_ROWS = 65_536
EMBEDDINGS, IDS = "embeddings", "id"
"""What the column of an array is called: of two dimensions, and of one."""


@dataclass(frozen=True)
class _Array:
    """An array in a `file`.

    Attributes:
        dtype: as it is stored.
        offset: the byte where the values begin.
        by_columns: whether they are in Fortran's order.
    """

    file: File
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    by_columns: bool

    @classmethod
    def open(cls, file: File, source: pa.NativeFile) -> _Array:
        """Reads the header; InputError where the file is none of numbers or texts, or is not whole."""
        with as_input_error(f"{file}: not a readable npy file"):
            version = np.lib.format.read_magic(source)
            if version not in _HEADERS:  # 3.0: the fields of a structure have names that are not Latin
                raise InputError(f"{file}: an npy file of version {version[0]}.{version[1]}, expected 1.0 or 2.0")
            shape, by_columns, dtype = _HEADERS[version](source)
            offset, size = source.tell(), source.size()
        if dtype.hasobject:
            raise InputError(f"{file}: an array of Python objects, which is a pickle and could run code: not read")
        if any(length < 0 for length in shape):
            raise InputError(f"{file}: an array of shape {shape}: the header is damaged")
        if (found := size - offset) != (expected := math.prod(shape) * dtype.itemsize):
            what = "truncated, or damaged" if found < expected else "damaged, or no npy file alone"
            raise InputError(f"{file}: {found:,} bytes of values, and its header says {expected:,}: it is {what}")
        return cls(file, shape, dtype, offset, by_columns and len(shape) > 1)

    @property
    def width(self) -> int:
        """The values of a row."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return self.width * self.dtype.itemsize

    def read(self, source: pa.NativeFile, first: int, last: int) -> npt.NDArray[Any]:
        """Returns the rows [first, last), with the array's dtype."""
        if not self.by_columns:
            values = self._values(source, first * self.width, (last - first) * self.width)
            return values.reshape(last - first, *self.shape[1:])
        columns = [self._values(source, column * self.shape[0] + first, last - first) for column in range(self.width)]
        return np.stack(columns, axis=1)

    def column(self, source: pa.NativeFile, number: int, first: int, last: int) -> npt.NDArray[Any]:
        """Returns the rows [first, last) of a column of an array in Fortran's order."""
        return self._values(source, number * self.shape[0] + first, last - first)

    def _values(self, source: pa.NativeFile, first: int, count: int) -> npt.NDArray[Any]:
        size = count * self.dtype.itemsize
        source.seek(self.offset + first * self.dtype.itemsize)
        data = source.read_buffer(size)
        if data.size != size:
            raise InputError(f"{self.file}: shorter than it was: the file changed during the run")
        return np.frombuffer(data, self.dtype, count)


@dataclass(frozen=True)
class Npy(Format, Copier):
    """Arrays of shape (n, d), planned by their headers; also the ids (n,) of the rows of such. A piece says nothing.

    Attributes:
        batch_bytes: about how many bytes are read at a time.
    """

    batch_bytes: int = 4 << 20

    extensions = (".npy",)

    def begins_so(self, start: bytes) -> bool:
        """See `Format.begins_so`."""
        return start.startswith(_MAGIC)

    def inspect(self, file: FileInfo) -> FileFacts:
        """See `Format.inspect`; reads the header."""
        with file.open() as source:
            array = _Array.open(file, source)
        name, type_ = _column(array)
        rows = array.shape[0]
        parts = tuple(
            InputUnit(file.url, 0, first, min(_PART_ROWS, rows - first), ()) for first in range(0, rows, _PART_ROWS)
        )
        return FileFacts(file, pa.schema([(name, type_)]), rows, parts, {name: rows * array.row_bytes})

    def dimension(self, facts: FileFacts, embedding_field: str) -> int | None:
        """See `Format.dimension`; from the header."""
        return int(facts.schema.field(embedding_field).type.list_size)

    def join(self, pieces: Sequence[Piece]) -> Piece:
        """See `Format.join`."""
        return pieces[0]

    def where(self, piece: Piece) -> str:
        """See `Format.where`."""
        return "array"

    def joined_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        """See `Format.joined_type`; vectors are read as they are."""
        return joined_type(a, b)

    def read(self, file: File, unit: InputUnit, schema: pa.Schema) -> Iterator[RowBatch]:
        """See `Format.read`."""
        no_lines = np.empty(0, dtype=np.int64)
        with file.map() as source:
            array = _Array.open(file, source)
            stop = unit.first_row + unit.num_rows
            if stop > array.shape[0]:
                raise RuntimeError("fewer rows than planned: the file changed during the run; run again")
            (field,) = schema
            for first, last in self._batches(array, unit.first_row, stop):
                positions = np.arange(first, last)
                with as_input_error(f"{file}: rows {first} to {last - 1} are damaged"):
                    column = _as_column(array.read(source, first, last))
                if len(array.shape) == 1:
                    column = column.cast(field.type)
                yield RowBatch(pa.table([column], names=schema.names), positions, positions, no_lines)

    def copies(self, name: str, arrays: bool) -> tuple[str, ...]:
        """See `Copier.copies`; the numbers of the kept rows, and the array where arrays are asked for."""
        kept = f"{name.removesuffix('.npy')}.kept.npy"
        return (kept, name) if arrays else (kept,)

    def copy_without(
        self,
        source: File,
        targets: Sequence[Path],
        id_column: pa.Field | None,
        is_listed: IsListed,
        batch_bytes: int,
    ) -> Copied:
        """See `Copier.copy_without`; the numbers of the kept rows are (m,) int64, the rows as they are stored."""
        with source.map() as stream:
            array = _Array.open(source, stream)
            rows = array.shape[0]
            if id_column is None:
                listed = listed_rows(is_listed, 0, rows)
            else:
                ids = self.read(source, InputUnit(source.url, 0, 0, rows, ()), pa.schema([id_column]))
                listed = np.concatenate([np.empty(0, bool), *(is_listed(batch.table.column(0)) for batch in ids)])
            kept = np.flatnonzero(~listed)
            with targets[0].open("wb") as sink:
                np.save(sink, kept.astype(np.int64))
            if targets[1:]:
                with targets[1].open("wb") as sink:
                    self._copy(array, stream, sink, ~listed)
        return Copied(rows, rows - len(kept))

    def _copy(self, array: _Array, source: pa.NativeFile, sink: IO[bytes], kept: npt.NDArray[np.bool_]) -> None:
        """Writes some of an array's rows."""
        header = {
            "descr": np.lib.format.dtype_to_descr(array.dtype),
            "fortran_order": array.by_columns,
            "shape": (int(kept.sum()), *array.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(sink, header)
        rows = array.shape[0]
        if array.by_columns:
            step = max(1, self.batch_bytes // array.dtype.itemsize)
            for column in range(array.width):
                for first in range(0, rows, step):
                    last = min(first + step, rows)
                    sink.write(array.column(source, column, first, last)[kept[first:last]].tobytes())
            return
        for first, last in self._batches(array, 0, rows):
            sink.write(array.read(source, first, last)[kept[first:last]].tobytes())

    def _batches(self, array: _Array, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yields the bounds of batches of rows; of columns that are far from each other more are read at a time."""
        size = self.batch_bytes * (8 if array.by_columns else 1)
        step = max(1, size // max(1, array.row_bytes))
        for start in range(first, stop, step):
            yield start, min(start + step, stop)


def _column(array: _Array) -> tuple[str, pa.DataType]:
    """Returns the name and the type of the one column that an array is; InputError where it is none."""
    kind, shape = array.dtype.kind, array.shape
    if len(shape) == 2 and kind in "fiu" and shape[1]:
        return EMBEDDINGS, pa.list_(_value_type(array.dtype), shape[1])
    if len(shape) == 1 and kind in "iuUS" and array.dtype.itemsize:
        return IDS, {"U": pa.string(), "S": pa.binary()}.get(kind) or _value_type(array.dtype)
    raise InputError(
        f"{array.file}: an array of shape {shape} and type {array.dtype}, expected (n, d) floats or integers, or as "
        "ids (n,) integers or texts"
    )


def _value_type(dtype: np.dtype[Any]) -> pa.DataType:
    if dtype.itemsize > 8:  # the long floats of some processors, which Arrow does not know
        return pa.float64()
    return pa.from_numpy_dtype(dtype.newbyteorder("="))


def _as_column(values: npt.NDArray[Any]) -> pa.Array:
    """Returns rows of an array as a column."""
    if values.dtype.kind in "fiu":
        dtype = np.dtype(np.float64) if values.dtype.itemsize > 8 else values.dtype.newbyteorder("=")
        flat = pa.array(values.astype(dtype, copy=False).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if values.ndim == 2 else flat
    return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False))
