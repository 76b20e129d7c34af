"""Segment files: the rows of one assign unit, sorted by centroid, one Arrow record batch per key.

What else one unit writes and others read by key lies in such files too: which rows of an assign unit visit the key's
clusters, what matches were found of the key's rows, and where all of that lies. Only a key with more than 2 GiB of text
has several batches, since one holds no more. A `Segment` addresses one by its byte range, so that a reader needs one
ranged read and no footer. The footer's metadata holds the index of the file (its `Segment`s) and the facts that say
which unit, of which centroids, the file is; a file that carries them under its final name is finished.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from typing_extensions import Buffer

from beam_semdedup.compute.arrays import to_device
from beam_semdedup.compute.threads import in_threads
from beam_semdedup.compute.types import Array, Library
from beam_semdedup.storage import tables
from beam_semdedup.storage.columns import SEGMENT_COLUMNS
from beam_semdedup.storage.damage import DamagedFile, as_damage
from beam_semdedup.storage.folder import File, Folder
from beam_semdedup.storage.records import Record

_LOG = logging.getLogger(__name__)
ROWS, VISITS, MATCHES, INDEX = range(4)
_MAGIC_BYTES = 8
_FACTS, _INDEX, _CHECKSUM = "facts", "index", "checksum"
ENTRY = np.dtype([(name, "<u8") for name in ("offset", "length", "key", "num_rows", "checksum")])
"""What the index of a file says of each of its segments."""
_R = TypeVar("_R", bound=Record)


@dataclass(frozen=True)
class Segment:
    """One record batch in the file `file`: what concerns one key.

    Its `kind` is `ROWS`, the rows of the key, `VISITS`, rows that are compared with them, `MATCHES` of them, or
    `INDEX`, where these lie, a row for each. `checksum` is the xxHash (XXH3, 64 bits) of its bytes. `generation` says
    which rows of a run it is of, and so where its file lies.
    """

    file: str
    offset: int
    length: int
    key: int
    num_rows: int
    checksum: int
    kind: int = ROWS
    generation: int = 0


def segment_schema(id_type: pa.DataType, dimension: int, carried: Sequence[pa.Field]) -> pa.Schema:
    """Returns the columns of a segment file; `source_file` and `source_row` end every order."""
    vector, distance = pa.list_(pa.float32(), dimension), pa.float32()
    types = (id_type, vector, pa.int32(), distance, distance, pa.int32(), pa.int64())
    return pa.schema([*zip(SEGMENT_COLUMNS, types, strict=True), *carried])


@functools.cache
def num_bytes(dimension: int) -> tuple[int, int]:
    """Returns the bytes of a segment by itself, and of each row in it, with integer ids and no carried columns."""
    schema = segment_schema(pa.int64(), dimension, [])
    zeros = [
        pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(dimension, np.float32)), type=type_)
        if pa.types.is_fixed_size_list(type_)
        else pa.array([0], type_)
        for type_ in schema.types
    ]
    row = sum(column.nbytes for column in zeros)
    return pa.ipc.get_record_batch_size(pa.record_batch(zeros, schema=schema)) - row, row


@dataclass(frozen=True)
class SegmentFile:
    """A whole file of segments: how many it has, with how many rows; `checksum` is that of its index.

    `kind` and `generation` are those of its segments.
    """

    name: str
    num_segments: int
    num_rows: int
    checksum: int
    kind: int = ROWS
    generation: int = 0


@dataclass(frozen=True, eq=False)
class Index:
    """Where the segments of a file are: `entries` (n,) has their offsets, lengths, keys, rows and checksums."""

    file: SegmentFile
    entries: npt.NDArray[np.void]

    @classmethod
    def of(cls, name: str, entries: npt.NDArray[np.void], kind: int, generation: int) -> Index:
        """Returns the index of a file with these entries."""
        num_rows, checksum = int(entries["num_rows"].sum()), _checksum(entries.tobytes())
        return cls(SegmentFile(name, len(entries), num_rows, checksum, kind, generation), entries)

    @functools.cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, in the order of the file."""
        file = self.file
        return tuple(
            Segment(file.name, offset, length, key, num_rows, checksum, file.kind, file.generation)
            for offset, length, key, num_rows, checksum in self.entries.tolist()
        )


def write(
    folder: Folder,
    name: str,
    table: pa.Table,
    centroids_per_key: int,
    facts: Record,
    kind: int = ROWS,
    generation: int = 0,
) -> Index:
    """Writes the file of one unit and returns its index.

    Args:
        table: rows in any order, with a `centroid`, and perhaps an `embedding`.
        centroids_per_key: a row's key is `centroid // centroids_per_key`.
        facts: what identifies the unit, for `read_index`.
        kind, generation: of the segments.
    """
    keys = table.column("centroid").to_numpy() // centroids_per_key
    order = np.argsort(keys, kind="stable")
    present, starts = np.unique(keys[order], return_index=True)
    bounds = np.append(starts, len(keys))
    place = table.schema.get_field_index("embedding")
    chunks = table.to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
    vectors = None if place < 0 else RankedRows(chunks, order)[:]
    others = tables.combined(table if place < 0 else table.remove_column(place))

    def take(part: tuple[int, int, int]) -> list[tuple[int, pa.RecordBatch]]:
        key, low, high = part
        rows = tables.take(others, order[low:high])
        if vectors is not None:
            rows = rows.add_column(place, table.field(place), to_column(vectors[low:high]))
        return [(key, batch) for batch in rows.to_batches()]

    parts = in_threads(take, zip(present.tolist(), bounds[:-1], bounds[1:], strict=True))
    batches = [batch for part in parts for batch in part]
    return write_batches(folder, name, table.schema, batches, facts, kind, generation)


def write_batches(
    folder: Folder,
    name: str,
    schema: pa.Schema,
    batches: Sequence[tuple[int, pa.RecordBatch]],
    facts: Record,
    kind: int,
    generation: int,
) -> Index:
    """Writes the file of one unit, a record batch for each key, and returns its index.

    Args:
        batches: with the key of each.
        facts, kind, generation: as for `write`.
    """
    checksums = in_threads(lambda batch: _checksum(batch[1].serialize()), batches)
    offset = _MAGIC_BYTES + schema.serialize().size
    entries = np.empty(len(batches), dtype=ENTRY)
    for place, ((key, batch), checksum) in enumerate(zip(batches, checksums, strict=True)):
        length = pa.ipc.get_record_batch_size(batch)
        entries[place] = offset, length, key, batch.num_rows, checksum
        offset += length
    metadata = {_FACTS: facts.to_json(), _INDEX: entries.tobytes()}
    metadata[_CHECKSUM] = str(_checksum(metadata[_FACTS] + metadata[_INDEX])).encode()
    with (
        folder.file(name).atomic_write() as scratch,
        pa.OSFile(str(scratch), "wb") as sink,
        pa.ipc.new_file(sink, schema, metadata=metadata) as writer,
    ):
        for stop, (_, batch) in zip((entries["offset"] + entries["length"]).tolist(), batches, strict=True):
            writer.write_batch(batch)
            if sink.tell() != stop:
                raise RuntimeError(
                    f"{folder.file(name)}: Arrow laid a record batch out differently from its stated size"
                )
    return Index.of(name, entries, kind, generation)


def read_index(file: File, facts: type[_R], kind: int = ROWS, generation: int = 0) -> tuple[_R, Index] | None:
    """Returns the facts and the index of a finished unit's file; None where there is none that can be read."""
    try:
        with as_damage(file):
            with file.open() as source:
                metadata = pa.ipc.open_file(source).metadata
            said, index, checksum = (metadata[name.encode()] for name in (_FACTS, _INDEX, _CHECKSUM))
            if int(checksum) != _checksum(said + index):
                raise ValueError("its index has another checksum than was written")
            return facts.from_json(said), Index.of(file.name, np.frombuffer(index, dtype=ENTRY), kind, generation)
    except DamagedFile as error:
        if file.exists():
            _LOG.warning("%s", error)
        return None


def read_schema(file: File) -> pa.Schema:
    """Returns the columns of a file of segments; DamagedFile where they cannot be read."""
    with as_damage(file), file.open() as source:
        return pa.ipc.open_file(source).schema


def read(folder: Folder, segments: Sequence[Segment], schema: pa.Schema) -> list[pa.RecordBatch]:
    """Returns the record batches that the segments refer to, in their order, without a copy where that can be.

    Raises:
        DamagedFile: one of them has another checksum than was written, or its file is gone.
    """

    return _read(folder, segments, schema)[1]


def vector_offsets(
    folder: Folder, references: Sequence[Segment], schema: pa.Schema
) -> tuple[list[pa.RecordBatch], npt.NDArray[np.int64]]:
    """Returns what `read` does, and where in its file the vector of each row of the batches begins, in bytes (n,)."""
    buffers, batches = _read(folder, references, schema)
    offsets = [np.empty(0, dtype=np.int64)]
    for segment, buffer, batch in zip(references, buffers, batches, strict=True):
        vectors = _matrix(batch.column("embedding"))
        first = segment.offset + vectors.ctypes.data - buffer.address
        offsets.append(first + vectors.strides[0] * np.arange(len(vectors)))
    return batches, np.concatenate(offsets)


def read_vectors(
    folder: Folder, names: Sequence[str], offsets: npt.NDArray[np.int64], dimension: int
) -> npt.NDArray[np.float32]:
    """Returns the vectors (n, dimension) that begin at these bytes, multiples of 4, of files in a folder."""
    result = np.empty((len(names), dimension), dtype=np.float32)
    if not folder.is_local:
        found = folder.read_ranges(names, offsets.tolist(), [4 * dimension] * len(names))
        for row, buffer in zip(result, found, strict=True):
            row[:] = np.frombuffer(buffer, dtype=np.float32)
        return result
    files, which = np.unique(np.asarray(names), return_inverse=True)
    order = np.lexsort((offsets, which))
    bounds = np.append(np.searchsorted(which[order], np.arange(len(files))), len(order))
    for name, low, high in zip(files.tolist(), bounds[:-1], bounds[1:], strict=True):
        file = folder.file(name)
        with Path(file.url).open("rb", buffering=0) as opened:  # of a map the pages would be found anew each time
            for at in order[low:high].tolist():
                opened.seek(int(offsets[at]))
                if opened.readinto(result[at]) != result[at].nbytes:
                    raise DamagedFile(file, "it is shorter than it was")
    return result


class RankedRows:
    """The vectors of several record batches as one (n, d) float32 matrix in a given order, gathered when indexed.

    Args:
        batches: with an `embedding` column each.
        order: (n,) position of each ranked row in the batches laid end to end.
        xp: the module of the arrays that indexing gives; with CuPy they are copied to the GPU.
    """

    def __init__(self, batches: Sequence[pa.RecordBatch], order: npt.NDArray[np.int64], xp: Library = np) -> None:
        self._xp = xp
        self._vectors = [_matrix(batch.column("embedding")) for batch in batches]
        self._starts = np.concatenate([[0], np.cumsum([len(v) for v in self._vectors])])
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        return len(self._order) * int(self._vectors[0].shape[1]) * self._vectors[0].itemsize

    def window(self, start: int, stop: int) -> RankedRows:
        """Returns the rows ranked `[start, stop)`, sharing the vectors."""
        result = copy.copy(self)
        result._order = self._order[start:stop]
        return result

    def __getitem__(self, ranks: slice | npt.NDArray[np.int64]) -> Array:
        wanted = self._order[ranks]
        result = np.empty((len(wanted), self._vectors[0].shape[1]), dtype=np.float32)
        by_place = np.argsort(wanted)
        cuts = np.searchsorted(wanted[by_place], self._starts)

        def gather(part: tuple[npt.NDArray[np.float32], int, int, int]) -> None:
            vectors, start, low, high = part
            places = by_place[low:high]
            result[places] = vectors[wanted[places] - start]

        parts = zip(self._vectors, self._starts[:-1], cuts[:-1], cuts[1:], strict=True)
        in_threads(gather, [part for part in parts if part[2] < part[3]])
        return to_device(result, self._xp)


def to_column(matrix: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    """Returns the rows (n, d) float32 as a column of vectors, without a copy."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def _read(
    folder: Folder, segments: Sequence[Segment], schema: pa.Schema
) -> tuple[list[pa.Buffer], list[pa.RecordBatch]]:
    """Returns the bytes that the segments refer to, and the record batches in them."""

    def read_batch(part: tuple[Segment, pa.Buffer]) -> pa.RecordBatch:
        segment, buffer = part
        with as_damage(folder.file(segment.file)):
            if _checksum(buffer) != segment.checksum:
                raise ValueError(f"the record batch at byte {segment.offset} has another checksum than was written")
            return pa.ipc.read_record_batch(buffer, schema)

    buffers = _ranges(folder, segments)
    parts = zip(segments, buffers, strict=True)
    return buffers, list(map(read_batch, parts)) if len(segments) == 1 else in_threads(read_batch, parts)


def _ranges(folder: Folder, segments: Sequence[Segment]) -> list[pa.Buffer]:
    """Returns the bytes of segments; DamagedFile where a file is gone or too short."""
    try:
        names, starts = [s.file for s in segments], [s.offset for s in segments]
        return folder.read_ranges(names, starts, [s.length for s in segments])
    except Exception:
        if len(segments) == 1:
            with as_damage(folder.file(segments[0].file)):
                raise
        for segment in segments:  # which of them is it?
            _ranges(folder, [segment])
        raise


def _checksum(data: Buffer) -> int:
    return int(xxhash.xxh3_64_intdigest(data))


def _matrix(column: pa.FixedSizeListArray) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = pc.list_flatten(column).to_numpy(zero_copy_only=True)
    return values.reshape(len(column), column.type.list_size)
