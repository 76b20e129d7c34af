"""The plans and manifests of the stages, as they are stored beside the stages' results."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
import pyarrow as pa

from beam_semdedup.errors import UnitError
from beam_semdedup.inputs.base import InputUnit, Piece
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.plan.sizes import Blocks, Sizes
from beam_semdedup.storage import layout
from beam_semdedup.storage.damage import DamagedFile
from beam_semdedup.storage.folder import File, Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.text import without_secrets

_NAME = re.compile("[0-9a-f]{16}")


def encoded(schema: pa.Schema) -> str:
    """Returns a schema as text: as Arrow serialises it, in base64."""
    return base64.b64encode(schema.serialize()).decode()


def decoded(text: str) -> pa.Schema:
    """Returns the schema that `encoded` was given; ArrowException, OSError or ValueError where it is none."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text)))


@dataclass(frozen=True)
class KMeansPlan(Record):
    """The plan in `kmeans_results/<key>/`.

    Attributes:
        sizes: how the stage is cut.
        schema: the id, the embedding and the carried columns, as Arrow serialises them, in base64.
        files: the URLs of the input files, without what gives access; a run finds the files itself.
        units: the parts of each `AssignUnit`, without their paths.
        vectors: what the files with the vectors of each input file are called, where the input holds none.
    """

    sizes: Sizes
    schema: str
    files: tuple[str, ...]
    units: tuple[tuple[tuple[int, int, int, Piece], ...], ...]
    vectors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError where a stored plan has no readable schema, or units of files that it has not."""
        try:
            self.input_schema()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"its schema cannot be read: {error}") from error
        if not all(parts and all(0 <= part[0] < len(self.files) for part in parts) for parts in self.units):
            raise ValueError("it has units of unknown files")
        if len(self.vectors) not in (0, len(self.files)) or not all(map(_NAME.fullmatch, self.vectors)):
            raise ValueError("it has other names of vectors than files")

    @classmethod
    def of(
        cls,
        sizes: Sizes,
        schema: pa.Schema,
        files: Sequence[str],
        units: Sequence[AssignUnit],
        vectors: Sequence[str] = (),
    ) -> Self:
        """Makes the plan."""
        parts = tuple(tuple((p.file, p.first_row, p.num_rows, tuple(p.piece)) for p in u.parts) for u in units)
        return cls(sizes, encoded(schema), tuple(without_secrets(files)), parts, tuple(vectors))

    def input_schema(self) -> pa.Schema:
        """Returns the columns that are read."""
        return decoded(self.schema)

    def is_of(self, urls: Sequence[str]) -> bool:
        """Says whether the plan is one of these input files."""
        return list(self.files) == without_secrets(urls)

    def assign_units(self, urls: Sequence[str], ids: Sequence[str] = ()) -> tuple[AssignUnit, ...]:
        """Returns the units of the assign stage.

        Args:
            urls: of the input files, as they were found: what is stored might name others.
            ids: of the files with their ids, where there are such and they are needed.
        """

        def unit(part: tuple[int, int, int, Piece]) -> InputUnit:
            names = (ids[part[0]] if ids else "", self.vectors[part[0]] if self.vectors else "")
            return InputUnit(urls[part[0]], *part, *names)

        return tuple(AssignUnit(tuple(map(unit, parts))) for parts in self.units)


@dataclass(frozen=True)
class PairwisePlan(Record):
    """The plan in `pairwise_results/<key>/`: how the stage is cut."""

    blocks: Blocks


@dataclass(frozen=True)
class UnitId(Record):
    """What a finished unit's file is of: the unit's name, which says its content, the centroids' hash, and its rows."""

    name: str
    centroids: str
    num_rows: int


@dataclass(frozen=True)
class SampleFacts(Record):
    """What a file of sampled rows says of itself: the unit, or all units, that they are of."""

    unit: UnitId


class _Unit(Protocol):
    @property
    def num_rows(self) -> int: ...
    @property
    def reused(self) -> bool: ...


@dataclass(frozen=True)
class Counts:
    """What the units of a finished stage add up to, and what of it the attempt that finished it computed."""

    num_rows: int
    units_done: int
    units_reused: int
    rows_done: int

    @classmethod
    def of(cls, units: Sequence[_Unit]) -> Self:
        """Counts finished units, whichever attempt finished them."""
        fresh = [unit.num_rows for unit in units if not unit.reused]
        return cls(sum(unit.num_rows for unit in units), len(fresh), len(units) - len(fresh), sum(fresh))


@dataclass(frozen=True)
class Manifest(Record):
    """What finishes a stage: it is written last, and later runs trust it alone.

    Attributes:
        counts: of its units.
        finished: seconds since the epoch.
    """

    file_name: ClassVar[str] = layout.MANIFEST

    counts: Counts
    finished: float

    @classmethod
    def find(cls, folder: Folder) -> Self | None:
        """Returns the manifest of the stage in a folder; None where the stage is not finished."""
        return cls.read(folder.file(cls.file_name))

    def store(self, folder: Folder) -> None:
        """Finishes the stage in a folder."""
        self.write(folder.file(self.file_name))


@dataclass(frozen=True)
class AssignManifest(Manifest):
    """The manifest of the assign stage: its segment files, and how many rows were rejected.

    `centroids` is the hash of those that the rows are assigned to, of which each key has `centroids_per_key`; `began`
    is when the attempt that finished the stage began its first unit, in seconds since the epoch.
    """

    began: float
    centroids: str
    centroids_per_key: int
    files: tuple[str, ...]
    rejected: int


@dataclass(frozen=True)
class PairwiseResult:
    """A finished unit of the pairwise stage: `num_rows` rows in the file `name`, from that many `pairs` of rows.

    `began` is when the attempt that tells of it began it, in seconds since the epoch.
    """

    name: str
    key: int
    num_rows: int
    pairs: int
    largest_cluster: int
    repeated_ids: int
    examples: tuple[str, ...]
    reused: bool
    began: float


@dataclass(frozen=True)
class PairwiseManifest(Manifest):
    """The manifest of the pairwise stage: its units, what they have in common, and the pairs that were computed.

    `centroids` is the hash of those that the segments are of; `began` is as for the assign stage.
    """

    began: float
    centroids: str
    units: tuple[PairwiseResult, ...]
    largest_cluster: int
    repeated_ids: int
    examples: tuple[str, ...]
    pairs_done: int


@dataclass(frozen=True)
class RecallManifest(Manifest):
    """The manifest of the stage that estimates the recall: the scores of the sampled rows.

    Attributes:
        began, centroids, pairs_done: as for the pairwise stage.
        reach: how far apart, as `eps` is, two rows may be that are found.
        found: those that the run found; null for none.
        best: those of the best earlier rows of the dataset, within the reach; null for none.
    """

    began: float
    centroids: str
    pairs_done: int
    reach: float
    found: tuple[float | None, ...]
    best: tuple[float | None, ...]

    def missed(self, eps: float) -> tuple[int, int]:
        """Returns how many of the sampled rows are kept at an eps, and how many of these are duplicates."""
        found, best = (np.array(scores, dtype=np.float64) >= 1 - eps for scores in (self.found, self.best))
        return int((~found).sum()), int((best & ~found).sum())


@contextmanager
def discarding(stage: Folder, *others: File, remedy: str = "the same command computes it again") -> Iterator[None]:
    """Removes a file that turns out to be damaged or gone, so that it is computed again, and says so.

    Args:
        stage: the stage that it belongs to, which is unfinished then.
        others: files that would keep it from being computed again.
        remedy: what computes it again, for the message.

    Raises:
        UnitError: there is one.
    """
    try:
        yield
    except DamagedFile as error:
        for file in (error.file, *others):
            file.delete()
        stage.delete([layout.MANIFEST])
        raise UnitError(f"{error}; {remedy}") from error


def forget(stages: Sequence[Folder]) -> None:
    """Removes stages with all that they hold; the manifests first, so that the stages are unfinished then."""
    for stage in stages:
        stage.delete([layout.MANIFEST])
        stage.delete_tree()
