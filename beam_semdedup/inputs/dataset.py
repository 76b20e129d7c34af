"""The input as a whole: which files, whether they fit together, the units of work, and the sample to fit on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa

from beam_semdedup.compute.threads import in_threads
from beam_semdedup.errors import InputError, as_input_error, naming_unit
from beam_semdedup.inputs import embeddings
from beam_semdedup.inputs.base import FileFacts, Format, InputUnit
from beam_semdedup.inputs.jsonl import Jsonl
from beam_semdedup.inputs.parquet import Parquet
from beam_semdedup.storage.filesystems import Options
from beam_semdedup.storage.folder import File, FileInfo, Folder
from beam_semdedup.text import counted

FORMATS: dict[str, Format] = {"parquet": Parquet(), "jsonl": Jsonl()}
_THREADS = 16
_FLOATING_IDS = "; write integers beyond int64, which are read as floats, and numbers with fractions as strings"
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class InputFacts:
    """What the plan knows of the input: the files in order, the columns that are read, and d."""

    files: tuple[FileFacts, ...]
    schema: pa.Schema
    dimension: int

    def row_bytes(self, columns: Sequence[str]) -> int:
        """About how many bytes a row has in these columns."""
        return sum(f.column_bytes.get(name, 0) for f in self.files for name in columns) // max(1, self.num_rows)

    @property
    def num_rows(self) -> int:
        """All rows, the ones that will be rejected included."""
        return sum(f.num_rows for f in self.files)


@dataclass(frozen=True)
class VectorColumn:
    """The column of vectors in files of `filetype`, and how it is read; see `embeddings.to_matrix`."""

    filetype: str
    field: pa.Field
    dimension: int
    normalize: bool
    options: Options

    def read(self, unit: InputUnit, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """The usable vectors of a unit, or of its rows with these numbers in the file; batches of (m, d) float32."""
        for batch in FORMATS[self.filetype].read(File(unit.path, self.options), unit, pa.schema([self.field])):
            vectors = batch.table.column(0)
            if rows is not None and len(rows) < unit.num_rows:
                vectors = vectors.filter(pa.array(np.isin(batch.positions, rows, assume_unique=True)))
            yield embeddings.to_matrix(vectors, self.dimension, self.normalize)[0]


def list_files(
    paths: Sequence[str], filetype: str, extensions: Sequence[str] | None, options: Options
) -> list[FileInfo]:
    """The input files, each once, sorted by URL.

    A path that names a file is taken whatever its extension; directories and globs are filtered by it.

    Raises:
        InputError: a path does not exist, or no file is left.
    """
    wanted = tuple(extensions or FORMATS[filetype].extensions)
    found: dict[str, FileInfo] = {}
    for path in paths:
        place = Folder.at(path, options)
        roots = place.matching() if place.is_pattern() else [place]
        files = [file for root in roots for file in root.find()]
        if not files:
            raise InputError(f"input_path: no files at {path}")
        matching = [f for f in files if f.url.endswith(wanted) or (f.url == place.url and not extensions)]
        if not matching:
            others = ", ".join(sorted({_extension(f.url) for f in files})[:5])
            raise InputError(
                f"input_path: no {' or '.join(wanted)} files at {path}; it has {len(files)} with {others}: "
                "set input_filetype or input_file_extensions"
            )
        found.update((f.url, f) for f in matching)
    return [found[url] for url in sorted(found)]


def inspect(
    files: Sequence[FileInfo],
    filetype: str,
    id_field: str,
    embedding_field: str,
    carried: Sequence[str],
    embedding_dim: int | None,
) -> InputFacts:
    """Opens every file and checks that they fit together.

    Args:
        carried: the columns besides id and embedding that must be there.
        embedding_dim: d, where the user gave it.

    Raises:
        InputError: an unreadable file, a missing or wrongly typed column, different types or dimensions.
    """
    kind = FORMATS[filetype]
    facts = in_io_threads(kind.inspect, files)
    used = [f for f in facts if f.num_rows]
    if not used:
        raise InputError(f"input_path: {counted(len(files), 'file')} without a single row")
    schema = _common_schema(kind, used, id_field, embedding_field, carried)
    dimensions = in_io_threads(lambda f: _dimension(kind, f, embedding_field, embedding_dim), used)
    known = [(d, f) for d, f in zip(dimensions, used, strict=True) if d is not None]
    if not known:
        raise InputError(
            f"{embedding_field!r} has no vector in any of {counted(len(used), 'file')}, {used[0].info.url} first"
        )
    dimension, first = known[0]
    for other, file in known:
        if other != dimension:
            raise InputError(
                f"{embedding_field!r} has dimension {dimension} in {first.info.url} and {other} in "
                f"{file.info.url}: deduplicate them in separate runs"
            )
    return InputFacts(tuple(facts), schema, dimension)


def check_column(url: str, schema: pa.Schema, name: str, shown: str) -> None:
    """That a file has one column of that name, `shown` in a message; InputError otherwise."""
    count = schema.names.count(name)
    if not count:
        raise InputError(f"{url}: no column {shown}; it has: {', '.join(schema.names)}")
    if count > 1:
        raise InputError(f"{url}: column {shown} stands there {count} times; rename all but one")


def check_any_column(kind: Format, facts: FileFacts) -> None:
    """That a file with rows has columns too; InputError otherwise."""
    if facts.num_rows and not facts.schema.names:
        raise InputError(f"{facts.info.url}: {kind.without_columns}")


def in_io_threads(function: Callable[[_T], _R], files: Iterable[_T]) -> list[_R]:
    """The function's results for the files, in their order; storage is waited for in many threads at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, files))


def units(files: Sequence[FileFacts], rows_per_unit: int) -> list[InputUnit]:
    """Pieces of about `rows_per_unit` rows: consecutive parts of a file together, larger ones cut."""
    result: list[InputUnit] = []
    for number, file in enumerate(files):
        pending: list[InputUnit] = []
        for part in file.parts:
            if pending and sum(p.num_rows for p in pending) + part.num_rows > rows_per_unit:
                result.append(_together(pending, number))
                pending = []
            pending.append(part)
            if part.num_rows > rows_per_unit:
                result.extend(_cut(_together(pending, number), rows_per_unit))
                pending = []
        if pending:
            result.append(_together(pending, number))
    return result


def choose(
    pieces: Sequence[InputUnit], size: int, seed: int, part: int = 0, parts: int = 1
) -> list[tuple[InputUnit, np.ndarray]]:
    """The rows of a random sample without replacement: the pieces with some, and their row numbers in the file.

    Which rows they are depends on the rows' numbers and `seed` alone, not on how the input is cut into `pieces`. With
    `parts`, the input is cut into that many consecutive shares, and only the rows in share `part` are given.
    """
    bounds = np.concatenate([[0], np.cumsum([piece.num_rows for piece in pieces], dtype=np.int64)])
    total = int(bounds[-1])
    chosen = None
    if size < total:
        chosen = np.random.default_rng(seed).choice(total, size, replace=False, shuffle=False)
        chosen.sort()
    wanted = []
    lows, highs = np.clip([bounds[:-1], bounds[1:]], total * part // parts, total * (part + 1) // parts)
    for piece, first, low, high in zip(pieces, bounds[:-1], lows, highs, strict=True):
        rows = np.arange(low, high) if chosen is None else chosen[slice(*np.searchsorted(chosen, [low, high]))]
        if len(rows):
            wanted.append((piece, rows - first + piece.first_row))
    return wanted


def sample(
    pieces: Sequence[InputUnit], column: VectorColumn, size: int, seed: int, part: int = 0, parts: int = 1
) -> np.ndarray:
    """The vectors of the rows that `choose` gives, in the order of the files; (m, d) float32, m <= size.

    Rows that cannot be used are left out.
    """
    wanted = choose(pieces, size, seed, part, parts)
    places = np.concatenate([[0], np.cumsum([len(rows) for _, rows in wanted], dtype=np.int64)])
    result = np.empty((places[-1], column.dimension), dtype=np.float32)

    def read(number: int) -> tuple[int, int]:
        piece, rows = wanted[number]
        start = filled = places[number]
        with naming_unit(piece):
            for vectors in column.read(piece, rows):
                result[filled : filled + len(vectors)] = vectors
                filled += len(vectors)
        return start, filled

    filled = 0
    for start, stop in in_threads(read, range(len(wanted))):
        if start > filled:  # rows before them could not be used
            result[filled : filled + stop - start] = result[start:stop]
        filled += stop - start
    pa.default_memory_pool().release_unused()
    return result[:filled]


def _extension(url: str) -> str:
    """How the name of a file ends, for a message."""
    name = url.rsplit("/", 1)[-1]
    return name[name.index(".", 1) :] if "." in name[1:] else "no extension"


def _dimension(kind: Format, facts: FileFacts, embedding_field: str, given: int | None) -> int | None:
    with as_input_error(f"{facts.info.url}: {embedding_field!r} cannot be read"):
        found = kind.dimension(facts, embedding_field)
    if given is not None and found not in (given, None):
        raise InputError(f"{facts.info.url}: {embedding_field!r} has dimension {found}, embedding_dim={given}")
    return given or found


def _common_schema(
    kind: Format, files: Sequence[FileFacts], id_field: str, embedding_field: str, carried: Sequence[str]
) -> pa.Schema:
    """The id, embedding and carried columns with the types that all files share."""
    columns: dict[str, tuple[pa.DataType, FileFacts]] = {}
    for file in files:
        check_any_column(kind, file)
        for name in dict.fromkeys([id_field, embedding_field, *carried]):
            check_column(file.info.url, file.schema, name, repr(name))
            if name in file.conflicts and name != embedding_field:
                raise InputError(f"{file.info.url}: column {name!r} is {file.conflicts[name]}: write it with one type")
            type_ = file.schema.field(name).type
            if name == embedding_field:
                type_ = kind.vector_type(type_)
            if name == id_field and not embeddings.is_id_type(type_) and type_ != pa.null():
                raise InputError(
                    f"{file.info.url}: id column {name!r} is {type_}, expected integer, string or binary"
                    + (_FLOATING_IDS if pa.types.is_floating(type_) else "")
                )
            if name == embedding_field and not embeddings.is_embedding_type(type_):
                raise InputError(
                    f"{file.info.url}: embedding column {name!r} is {type_}, expected a list of floats or integers"
                )
            seen, first = columns.get(name, (type_, file))
            # Every list of numbers becomes a float32 matrix.
            joined = seen if name == embedding_field else _joined(kind, seen, type_)
            if joined is None:
                raise InputError(
                    f"column {name!r} is {seen} in {first.info.url} and {type_} in {file.info.url}: "
                    "write them with one type"
                )
            columns[name] = (joined, first)
    return pa.schema([(name, pa.string() if t == pa.null() else t) for name, (t, _) in columns.items()])


def _joined(kind: Format, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type of a column that has these in two files; one of nulls alone fits with any."""
    if a == b or b == pa.null():
        return a
    return b if a == pa.null() else kind.joined_type(a, b)


def _together(parts: Sequence[InputUnit], file: int) -> InputUnit:
    """One unit over consecutive parts of a file."""
    return replace(
        parts[0],
        file=file,
        num_rows=sum(p.num_rows for p in parts),
        row_groups=tuple(g for p in parts for g in p.row_groups),
        length=-1 if parts[0].length < 0 else parts[-1].offset + parts[-1].length - parts[0].offset,
    )


def _cut(unit: InputUnit, rows_per_unit: int) -> list[InputUnit]:
    """`unit` in even pieces of at most `rows_per_unit` rows, unless its rows can only be read together."""
    if unit.length > 0:
        return [unit]
    pieces = -(-unit.num_rows // rows_per_unit)
    bounds = [unit.first_row + unit.num_rows * i // pieces for i in range(pieces + 1)]
    return [
        replace(unit, first_row=low, num_rows=high - low) for low, high in zip(bounds[:-1], bounds[1:], strict=True)
    ]
