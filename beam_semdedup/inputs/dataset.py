"""The input as a whole: whether its files fit together, and what they hold."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.inputs import embeddings, ids, partitions, vectors
from beam_semdedup.inputs.base import FileFacts, Format
from beam_semdedup.storage.folder import FileInfo
from beam_semdedup.storage.threads import in_io_threads
from beam_semdedup.text import counted

_NAMES = 20
_FLOATING_IDS = (
    "; integers become floats in pandas where one is missing: write them as Int64, or without that row; write integers "
    "beyond int64, which jsonl has as floats, and numbers with fractions as strings"
)
HINT_WITHOUT_IDS = "; where the rows have no ids, give id_field=null, or a file of ids as ids_path"
"""What a message about a column of ids that is not there ends with, where there is none that could be it."""


@dataclass(frozen=True)
class Columns:
    """The columns of the input that are read.

    Attributes:
        id, embedding: their names; None where there are no embeddings.
        carried: the names of those besides.
        ids: the files that hold the ids in place of the input files, one for each; None: the input files hold them;
            none: the ids are the places of the rows.
        dimension: d, where the user gave it; of vectors that are computed it has to be known.
        texts: the column of texts that the vectors are computed of; None: the files hold the vectors.
    """

    id: str
    embedding: str | None
    carried: Sequence[str] = ()
    dimension: int | None = None
    ids: Sequence[FileInfo] | None = None
    texts: str | None = None


@dataclass(frozen=True)
class InputFacts:
    """What the plan knows of the input: the files in order, the columns that are read, and d."""

    format: Format
    files: tuple[FileFacts, ...]
    schema: pa.Schema
    dimension: int

    def row_bytes(self, columns: Sequence[str]) -> int:
        """Returns about how many bytes a row has in these columns."""
        sizes = in_io_threads(lambda file: self.format.num_bytes(file, columns), self.files)
        return sum(sizes) // max(1, self.num_rows)

    @property
    def num_rows(self) -> int:
        """All rows, the ones that will be rejected included."""
        return sum(f.num_rows for f in self.files)


def inspect(files: Sequence[FileInfo], kind: Format, columns: Columns, name: str = "input_path") -> InputFacts:
    """Opens every file and checks that they fit together.

    Args:
        name: of the parameter that says where they are, for messages.

    Raises:
        InputError: an unreadable file, a missing or wrongly typed column, different types or dimensions.
    """
    facts = in_io_threads(kind.inspect, files)
    used = [f for f in facts if f.num_rows]
    if not used:
        raise InputError(f"{name}: {counted(len(files), 'file')} without a single row")
    schema = _common_schema(kind, used, columns)
    if columns.texts is not None:
        schema = _with_computed(schema, columns)
    if columns.ids is not None:
        schema = pa.schema([ids.column(columns.id, facts, columns.ids), *schema])
    dimension = columns.dimension or 0
    if columns.embedding is not None and columns.texts is None:
        dimension = _common_dimension(kind, used, columns.embedding, columns.dimension)
    return InputFacts(kind, tuple(facts), schema, dimension)


def check_column(url: str, schema: pa.Schema, name: str, shown: str, hint: str = "") -> None:
    """Checks that a file has one column of that name, `shown` in a message; InputError otherwise, with a `hint`."""
    count = schema.names.count(name)
    if not count:
        raise InputError(f"{url}: no column {shown}; it has: {_some_of(schema.names, name)}{hint}")
    if count > 1:
        raise InputError(f"{url}: column {shown} stands there {count} times; rename all but one")


def _some_of(names: Sequence[str], wanted: str) -> str:
    """Lists the names of columns for a message; of many only some, those that are most like the wanted one first."""
    if len(names) <= _NAMES:
        return ", ".join(names)
    near = difflib.get_close_matches(wanted, names, n=3)
    shown = [*near, *(name for name in names if name not in near)][:_NAMES]
    return f"{', '.join(shown)} and {counted(len(names) - _NAMES, 'other')}"


def check_any_column(kind: Format, facts: FileFacts) -> None:
    """Checks that a file with rows has columns too; InputError otherwise."""
    if facts.num_rows and not facts.schema.names:
        raise InputError(f"{facts.info.url}: {kind.without_columns}")


def _common_dimension(kind: Format, files: Sequence[FileFacts], name: str, given: int | None) -> int:
    """Returns d, which all files share that have vectors."""
    dimensions = in_io_threads(lambda file: _dimension(kind, file, name, given), files)
    known = [(d, file.info) for d, file in zip(dimensions, files, strict=True) if d is not None]
    if not known:
        raise InputError(f"{name!r} has no vector in any of {counted(len(files), 'file')}, {files[0].info} first")
    dimension, first = known[0]
    for other, file in known:
        if other != dimension:
            raise InputError(
                f"{name!r} has dimension {dimension} in {first} and {other} in {file}: "
                "deduplicate them in separate runs"
            )
    return dimension


def _dimension(kind: Format, facts: FileFacts, name: str, given: int | None) -> int | None:
    """Returns the dimension of a file's vectors, which must be the one that was given; None if it has no vector."""
    with as_input_error(f"{facts.info}: {name!r} cannot be read"):
        found = kind.dimension(facts, name)
    if given is not None and found not in (given, None):
        raise InputError(f"{facts.info}: {name!r} has dimension {found}, embedding_dim={given}")
    return given or found


def _common_schema(kind: Format, files: Sequence[FileFacts], columns: Columns) -> pa.Schema:
    """Returns the columns with the types that all files share; those that no file has may be in their directories."""
    if columns.texts is not None:
        columns = replace(columns, embedding=None, carried=[*dict.fromkeys([columns.texts, *columns.carried])])
    found: dict[str, tuple[pa.DataType, FileInfo]] = {}
    stored = {name for file in files for name in file.schema.names}
    outside = [partitions.column(name, [f.info.url for f in files]) for name in columns.carried if name not in stored]
    partitioned = {field.name: field for field in outside if field is not None}
    held = [columns.id] if columns.ids is None else []
    wanted = dict.fromkeys([*held, *filter(None, [columns.embedding]), *columns.carried])
    names = [name for name in wanted if name not in partitioned]

    def types_of(file: FileFacts) -> list[pa.DataType]:
        check_any_column(kind, file)
        return [_column_type(kind, file, name, columns) for name in names]

    for file, types in zip(files, in_io_threads(types_of, files), strict=True):
        for name, type_ in zip(names, types, strict=True):
            seen, first = found.get(name, (type_, file.info))
            # Every list of numbers becomes a float32 matrix.
            joined = seen if name == columns.embedding else _joined(kind, seen, type_)
            if joined is None:
                raise InputError(
                    f"column {name!r} is {seen} in {first} and {type_} in {file.info}: write them with one type"
                )
            found[name] = (joined, first)
    read = pa.schema([(name, pa.string() if t == pa.null() else t) for name, (t, _) in found.items()])
    return pa.schema([*read, *partitioned.values()])


def _with_computed(schema: pa.Schema, columns: Columns) -> pa.Schema:
    """Returns the columns with that of vectors in place of that of texts; InputError where these are none."""
    type_ = schema.field(columns.texts).type
    if not (pa.types.is_string(type_) or pa.types.is_large_string(type_)):
        raise InputError(f"text_field={columns.texts!r} is {type_}, expected text")
    kept = [field for field in schema if field.name == columns.id or field.name in columns.carried]
    computed = [] if columns.embedding is None else [pa.field(columns.embedding, vectors.TYPE, metadata=vectors.MARK)]
    return pa.schema([*kept, *computed])


def hint_on_ids(type_: pa.DataType) -> str:
    """Returns what a message about ids of a wrong type ends with: what to do where they became floats."""
    return _FLOATING_IDS if pa.types.is_floating(type_) else ""


def _column_type(kind: Format, file: FileFacts, name: str, columns: Columns) -> pa.DataType:
    """Returns the type that a file's column is read as; InputError where that is none for the column's purpose."""
    hint = HINT_WITHOUT_IDS if name == columns.id and len(file.schema) == 1 else ""
    check_column(file.info.url, file.schema, name, repr(name), hint)
    if name in file.conflicts and name != columns.embedding:
        raise InputError(f"{file.info}: column {name!r} is {file.conflicts[name]}: write it with one type")
    type_ = kind.column_type(file, name)
    type_ = kind.vector_type(type_) if name == columns.embedding else embeddings.carried_type(type_)
    if name == columns.id and not embeddings.is_id_type(type_) and type_ != pa.null():
        raise InputError(
            f"{file.info}: id column {name!r} is {type_}, expected integer, string or binary" + hint_on_ids(type_)
        )
    if name == columns.embedding and not embeddings.is_embedding_type(type_):
        raise InputError(f"{file.info}: embedding column {name!r} is {type_}, expected a list of floats or integers")
    return type_


def _joined(kind: Format, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Returns the type of a column that has these in two files; one of nulls alone fits with any."""
    if a == b or b == pa.null():
        return a
    return b if a == pa.null() else kind.joined_type(a, b)
