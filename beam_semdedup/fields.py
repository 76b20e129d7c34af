"""How parameters and settings are declared: dataclasses of pydantic, whose fields say in a docstring what they mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

CHECKED = ConfigDict(
    extra="forbid",
    coerce_numbers_to_str=True,
    hide_input_in_errors=True,
    use_attribute_docstrings=True,
)
"""Nothing unknown is taken, a text may read as a number, and no message shows what may be a credential."""

WHERE = "Where things are"
COLUMNS = "What is in the files"
KMEANS = "KMeans"
SIMILARITY = "Similarity and duplicates"
REFERENCES = "What the input is compared with besides"
EXECUTION = "Cache, memory and execution"
GROUP = "Groups"
SIZE, MACHINES = "What to plan for", "The machines"
REPORT = "Report"
EMBEDDING = "The model"
HEADINGS = (SIZE, WHERE, COLUMNS, KMEANS, SIMILARITY, REFERENCES, REPORT, EMBEDDING, MACHINES, EXECUTION, GROUP)
"""The parts of `--help`, in their order."""


def _whole(value: Any) -> Any:
    if isinstance(value, (bool, float)):  # which pydantic takes where they stand for an integer
        raise PydanticKnownError("int_type")
    return value


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


LARGEST = 2**63 - 1
"""The largest integer that Arrow and NumPy take."""
Integer: TypeAlias = Annotated[int, BeforeValidator(_whole), Field(ge=-LARGEST, le=LARGEST)]
Positive: TypeAlias = Annotated[Integer, Field(ge=1)]
NotNegative: TypeAlias = Annotated[Integer, Field(ge=0)]
Number: TypeAlias = Annotated[float, BeforeValidator(_no_truth), Field(allow_inf_nan=False)]
PositiveOrAuto: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=LARGEST)] | Literal["auto"]
PositiveOrExact: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=LARGEST)] | Literal["exact"]


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Beside the type of a text: it is one of some names, such as those of a registry, to which more may be added."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str | None) -> str | None:
        if value is not None and value not in self.names:
            raise PydanticKnownError("literal_error", {"expected": " or ".join(map(repr, self.names))})
        return value


@dataclasses.dataclass(frozen=True)
class Code:
    """Beside the type of a setting: its value has code run, so that it is not taken from a stored file."""


CODE = Code()


@dataclasses.dataclass(frozen=True)
class Declared:
    """A field as it is declared.

    Attributes:
        kind: its type, without what checks it.
        default: `dataclasses.MISSING` where it must be given.
        help: what it means, on one line.
        heading: the part of `--help` that it stands in.
        one_of: the names that it is one of, where they are not in its type.
        is_code: whether its value has code run.
    """

    name: str
    kind: Any
    default: Any
    help: str
    heading: str
    one_of: OneOf | None = None
    is_code: bool = False

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values that are allowed, where they are named one by one."""
        if self.one_of is not None:
            return tuple(self.one_of.names)
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def is_text(self) -> bool:
        """Whether any text has a meaning for it."""
        one_of_types = get_args(self.kind) if get_origin(self.kind) in (Union, UnionType) else ()
        return str in (self.kind, *one_of_types) or get_origin(self.kind) is Literal


def declared(schema: type[Any]) -> list[Declared]:
    """Returns the fields of a dataclass, those that must be given first.

    A field that is declared again without a docstring means what it does in the class that this one inherits from.
    """
    found = []
    for f in dataclasses.fields(schema):
        owners = [owner for owner in schema.__mro__ if f.name in vars(owner).get("__annotations__", {})]
        infos = [owner.__pydantic_fields__[f.name] for owner in owners]  # type: ignore[attr-defined]
        help = next((info.description for info in infos if info.description), "")
        headings = [getattr(owners[0], "heading", ""), *(text for text in infos[0].metadata if isinstance(text, str))]
        default = dataclasses.MISSING if infos[0].is_required() else infos[0].get_default(call_default_factory=True)
        one_of = next((item for item in infos[0].metadata if isinstance(item, OneOf)), None)
        described = " ".join(help.split()), headings[-1], one_of, CODE in infos[0].metadata
        found.append(Declared(f.name, infos[0].annotation, default, *described))
    return sorted(found, key=lambda field: field.default is not dataclasses.MISSING)
