"""Rows in memory, deduplicated by a run over a file of them, and given back as what they were."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beam_semdedup.compute.ranking import RankingStrategy
from beam_semdedup.config.parameters import ReportParameters
from beam_semdedup.errors import InputError, as_input_error
from beam_semdedup.report.job import read_report, write_report
from beam_semdedup.storage.columns import RESULT_COLUMNS
from beam_semdedup.text import counted
from beam_semdedup.workflow.run import SemanticDeduplicationWorkflow
from beam_semdedup.workflow.summary import Summary

_ROW, _ID, _VECTORS, _TEXT = "row_number", "id", "embeddings", "text"
_BATCH_ROWS = 16_384
_OURS = ("input_path", "input_filetype", "input_file_extensions", "id_field", "ids_path", "embedding_field", "remove")
_D = TypeVar("_D")


@dataclass(frozen=True)
class Deduplicated(Generic[_D]):
    """What a run found among rows in memory.

    Attributes:
        kept: the rows without the duplicates, as what they were: an array, list, table, data frame or dataset. Rows
            that cannot be used, because their text is null, or their vector null or not finite, are among them;
            `summary.rejected` counts those.
        kept_rows: (m,) int64, their numbers, ascending.
        duplicates: `id`, `max_id` (the row that each resembles), `cosine_sim_score`, `centroid` and the
            metadata_fields, by id; a table of the kind that was given, or one of pyarrow for an array or a list.
        summary: counts and times, as of any run.
    """

    kept: _D
    kept_rows: npt.NDArray[np.int64]
    duplicates: Any
    summary: Summary
    _place: tempfile.TemporaryDirectory[str] | None = field(repr=False)

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the report of the run, one page of HTML to choose `eps` by, and returns its place.

        Args:
            path: where to; None: beside the results, which go with this object unless the run had an `output_path`.
        """
        parameters = ReportParameters(output_path=self.summary.paths["output"], verbose=False)
        file, _ = write_report(parameters, *read_report(parameters))
        return Path(file.url) if path is None else Path(shutil.copy(file.url, path))


def deduplicate(
    rows: Any = None,
    *,
    embeddings: Any = None,
    model: str | None = None,
    text_field: str | None = None,
    ids: Any = None,
    eps: float,
    **parameters: Any,
) -> Deduplicated[Any]:
    """Finds the rows that mean the same, and returns the others.

    Three lines do: `found = deduplicate(texts, model="all-MiniLM-L6-v2/", eps=0.05)`, `found.kept`, `found.report()`;
    or `found = deduplicate(embeddings=vectors, eps=0.05)`, `vectors[found.kept_rows]`, `found.report()`.

    Args:
        rows: a pandas or polars DataFrame, a pyarrow Table or a Hugging Face Dataset; or texts alone: a list, an array,
            or a Series of pandas or polars; None: there are vectors alone.
        embeddings: the name of the column with the vectors, or the vectors of the rows, (n, d) floats or integers;
            None: the column `embeddings`, unless there is a model.
        model: what embeds texts in place of embeddings, as for the command.
        text_field: the name of the column with the texts; None: `text`.
        ids: the name of the column with the ids, or the ids of the rows; None: their numbers, from 0.
        eps: how far from identical a duplicate may be, as for the command.
        **parameters: those of `SemanticDeduplicationWorkflow`, with the same meaning and defaults, but for those that
            say what is read. Without an `output_path` the results are in a temporary directory. `verbose` is false.

    Raises:
        InputError: a column is missing, there are more or fewer vectors or ids than rows, texts that are none, or a
            parameter is wrong.
        RunError: the run failed.
    """
    for name in parameters:
        if name in _OURS:
            raise InputError(f"{name} has no meaning for rows in memory: rows, embeddings and ids say what is read")
    kind, source = _source(rows, embeddings, model, text_field)
    fields = list(parameters.pop("metadata_fields", None) or [])
    table = _table(kind, *source, ids, [*fields, *_ranking_columns(parameters.get("ranking_strategy"))])
    place = None if parameters.get("output_path") else tempfile.TemporaryDirectory(prefix="semdedup-")
    with tempfile.TemporaryDirectory(prefix="semdedup-rows-") as scratch:
        file = Path(scratch, "rows.arrow")
        with file.open("wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=_BATCH_ROWS)
        given = {"output_path": place and str(Path(place.name, "out")), "verbose": False, **parameters}
        summary = SemanticDeduplicationWorkflow(
            input_path=str(file),
            input_filetype="arrow",
            eps=eps,
            model=model,
            text_field=model and source[0],
            metadata_fields=[name for name in table.column_names if name in (*fields, _ROW)],
            **given,
        ).run()
    found = pq.read_table(summary.paths["duplicates"]).replace_schema_metadata(None)
    gone = found.column(_ID if ids is None else _ROW).to_numpy()
    kept = np.delete(np.arange(table.num_rows), gone)
    duplicates = found.select([*RESULT_COLUMNS, *fields]).sort_by(_ID)
    return Deduplicated(kind.take(kept), kept, kind.table(duplicates), summary, place)


class _Rows:
    """Rows of some library. This is the class of those that are an array, of vectors or texts."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self, names: Iterable[str]) -> pa.Table:
        """Returns columns of the rows; KeyError for one that is not among `names()`."""
        raise KeyError(*names)

    def names(self) -> list[str]:
        """Returns the names of all columns."""
        return []

    def take(self, numbers: npt.NDArray[np.int64]) -> Any:
        """Returns the rows with these numbers, as what they were."""
        return self.rows[numbers]

    def table(self, table: pa.Table) -> Any:
        """Returns a table as one of the library."""
        return table


class _List(_Rows):
    def take(self, numbers: npt.NDArray[np.int64]) -> Any:
        return type(self.rows)(self.rows[number] for number in numbers)


class _Series(_Rows):
    def take(self, numbers: npt.NDArray[np.int64]) -> Any:
        return self.rows.iloc[numbers]


class _ArrowArray(_Rows):
    def take(self, numbers: npt.NDArray[np.int64]) -> Any:
        return self.rows.take(pa.array(numbers))


class _Arrow(_ArrowArray):
    def columns(self, names: Iterable[str]) -> pa.Table:
        return self.rows.select(list(names))

    def names(self) -> list[str]:
        return list(self.rows.column_names)


class _Pandas(_Series):
    def columns(self, names: Iterable[str]) -> pa.Table:
        return pa.Table.from_pandas(self.rows[list(names)], preserve_index=False).replace_schema_metadata(None)

    def names(self) -> list[str]:
        return list(self.rows.columns)

    def table(self, table: pa.Table) -> Any:
        return table.to_pandas()


class _Polars(_Rows):
    def columns(self, names: Iterable[str]) -> pa.Table:
        return self.rows.select(list(names)).to_arrow()

    def names(self) -> list[str]:
        return list(self.rows.columns)

    def table(self, table: pa.Table) -> Any:
        return type(self.rows)(table)


class _Dataset(_Rows):
    def columns(self, names: Iterable[str]) -> pa.Table:
        return self.rows.select_columns(list(names)).with_format("arrow")[:].replace_schema_metadata(None)

    def names(self) -> list[str]:
        return list(self.rows.column_names)

    def take(self, numbers: npt.NDArray[np.int64]) -> Any:
        return self.rows.select(numbers)

    def table(self, table: pa.Table) -> Any:
        return type(self.rows)(table)


_KINDS = {
    ("pandas", "DataFrame"): _Pandas,
    ("polars", "DataFrame"): _Polars,
    ("pyarrow", "Table"): _Arrow,
    ("datasets", "Dataset"): _Dataset,
}
_TEXTS: dict[tuple[str, str], Callable[[Any], _Rows]] = {
    ("builtins", "list"): _List,
    ("builtins", "tuple"): _List,
    ("numpy", "ndarray"): _Rows,
    ("pandas", "Series"): _Series,
    ("polars", "Series"): _Rows,
    ("pyarrow", "Array"): _ArrowArray,
    ("pyarrow", "ChunkedArray"): _ArrowArray,
    ("datasets", "Column"): lambda column: _List(list(column)),
}
"""By the library and the name of the class, so that none has to be installed: of rows with columns, and of texts."""


def _source(rows: Any, embeddings: Any, model: str | None, text_field: str | None) -> tuple[_Rows, tuple[str, Any]]:
    """Returns the rows, and what is compared of them: what it is called, and its name among them or its values."""
    if model is not None and embeddings is not None:
        raise InputError("embeddings and model are given: give the vectors, or what computes them")
    if model is None and text_field is not None:
        raise InputError(f"text_field={text_field} needs model=…, which embeds the texts")
    if rows is None and model is not None:
        raise InputError(f"model={model}: there are no rows with texts")
    if rows is None:
        if embeddings is None or isinstance(embeddings, str):
            raise InputError("embeddings is required where there are no rows: the vectors, (n, d) floats or integers")
        _matrix(embeddings)
        return _Rows(embeddings if hasattr(embeddings, "shape") else np.asarray(embeddings)), (_VECTORS, embeddings)
    name, given = (_VECTORS, embeddings) if model is None else (text_field or _TEXT, None)
    for base in type(rows).__mro__:
        key = (base.__module__.partition(".")[0], base.__name__)
        if key in _KINDS:
            return _KINDS[key](rows), (name, name if given is None else given)
        if key in _TEXTS and (model or given is not None):
            kind = _TEXTS[key](rows)
            return kind, (name, kind.rows if given is None else given)
    known = ", ".join(f"{library}.{name}" for library, name in _KINDS)
    raise InputError(
        f"rows is {type(rows).__name__}, expected one of {known}; give vectors as embeddings=…, and texts with model=…"
    )


def _table(kind: _Rows, source_name: str, given: Any, ids: Any, carried: list[str]) -> pa.Table:
    """Returns the columns that the run reads.

    Args:
        source_name: what is compared is called; `given` is its name among the rows, or its values.
    """
    named = [name for name in (given, ids) if isinstance(name, str)]
    wanted = dict.fromkeys([*named, *carried])
    if not len(kind):
        raise InputError("there are no rows")
    missing = [name for name in wanted if name not in kind.names()]
    if missing:
        alone = "vectors" if source_name == _VECTORS else "texts"
        has = f"it has: {', '.join(map(str, kind.names()))}" if kind.names() else f"there are {alone} alone"
        raise InputError(f"rows: no column {missing[0]!r}; {has}")
    source = kind.columns(wanted) if wanted else None
    numbers = pa.array(np.arange(len(kind)))
    columns = {
        _ID: numbers if ids is None else _column(source, ids, "ids", len(kind)),
        source_name: _column(source, given, source_name, len(kind)),
    }
    if len(columns) < 2:
        raise InputError(f"{source_name!r} is a column of the results; rename it in rows")
    if ids is not None:
        columns[_ROW] = numbers
    for name in dict.fromkeys(carried):
        if name == source_name != _VECTORS:  # the texts, which are carried too
            continue
        if name in columns:
            raise InputError(f"{name!r} is a column of the results; rename it in rows")
        columns[name] = _column(source, name, name, len(kind))
    return pa.table(columns)


def _column(source: pa.Table | None, given: Any, name: str, count: int) -> pa.Array | pa.ChunkedArray:
    """Returns the column of that name, or what is given in its place: vectors or ids."""
    if isinstance(given, str):
        assert source is not None
        return source.column(given)
    if name == _VECTORS:
        matrix = _matrix(given)
        column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
    elif isinstance(given, (pa.Array, pa.ChunkedArray)):
        column = given
    else:
        with as_input_error(f"{name}: not values of one type"):
            column = pa.array(given)
    if len(column) != count:
        raise InputError(f"{name}: {len(column):,} for {counted(count, 'row')}; give one for each")
    return column


def _matrix(given: Any) -> npt.NDArray[Any]:
    """Returns vectors as an array; InputError where they are none."""
    matrix = np.ascontiguousarray(given)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu" or not matrix.shape[1]:
        raise InputError(
            f"embeddings: an array of shape {matrix.shape} and type {matrix.dtype}, expected (n, d) floats or integers"
        )
    if matrix.dtype.itemsize > 8:
        matrix = matrix.astype(np.float64)
    return matrix.astype(matrix.dtype.newbyteorder("="), copy=False)


def _ranking_columns(given: Any) -> list[str]:
    """Returns the columns of the rows that a ranking_strategy sorts by."""
    if given is None:
        return []
    strategy = given if isinstance(given, RankingStrategy) else RankingStrategy.from_value(given, 0)
    return [name for name in strategy.input_columns if name != _ID]
