"""The types of parameters that no library has, and what several parameters of commands have in common."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, with_config
from typing_extensions import TypedDict

from beam_semdedup.errors import InputError
from beam_semdedup.fields import (
    COLUMNS,
    EXECUTION,
    LARGEST,
    SIMILARITY,
    Positive,
)
from beam_semdedup.storage.options import StorageOptions
from beam_semdedup.text import shown


def number_of_bytes(value: Any) -> int:
    """Returns the number of bytes that `1500000`, `512MB` or `4GiB` stand for; ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(value), re.IGNORECASE)
    if not match:
        raise ValueError(f"{shown(value)} is not a size such as 4GiB")
    number, prefix, binary = match.groups()
    power = " kmgt".index(prefix.lower() or " ")
    size = float(number) * (1024 if binary else 1000) ** power
    return LARGEST + 1 if math.isinf(size) else int(size)


def _list_of_paths(value: Any, info: ValidationInfo) -> list[str]:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise InputError(f"{info.field_name} must be a path or a list of paths, found {shown(value)}")
    return paths


@with_config(ConfigDict(extra="forbid"))
class ReadKwargs(TypedDict, total=False):
    """How fsspec reaches what is read."""

    storage_options: Annotated[dict[str, Any], AfterValidator(StorageOptions)]


@with_config(ConfigDict(extra="forbid"))
class WriteKwargs(ReadKwargs, total=False):
    """How fsspec reaches what is written, and what parquet files there are compressed with."""

    compression: Literal["zstd", "snappy", "gzip", "brotli", "lz4", "none"]


Paths: TypeAlias = Annotated[list[str], BeforeValidator(_list_of_paths)]
Size: TypeAlias = Annotated[int, BeforeValidator(number_of_bytes), Field(ge=1, le=LARGEST)]

# What a plan has in common with a run, without the rest of a group.
EmbeddingField: TypeAlias = Annotated[
    str, Field(description="column with the vectors: a list of floats or integers"), COLUMNS
]
MetadataFields: TypeAlias = Annotated[list[str], Field(description="columns carried through to the results"), COLUMNS]
MarkFields: TypeAlias = Annotated[
    list[str],
    Field(
        min_length=3,
        max_length=3,
        description="names of the columns that marking adds: the row that a duplicate resembles, how much, and whether "
        "it is one",
    ),
    SIMILARITY,
]
MARK_FIELDS = ("duplicate_of", "similarity", "duplicate")
WriteArrays: TypeAlias = Annotated[
    bool, Field(description="npy: a removal writes the arrays too, not only the numbers of the rows that are kept")
]
PairwiseBatchSize: TypeAlias = Annotated[
    Positive, Field(description="rows per tile of similarities; on a GPU its cache and memory decide"), SIMILARITY
]
Verbose: TypeAlias = Annotated[bool, Field(description="false: only warnings, errors and the result"), EXECUTION]
