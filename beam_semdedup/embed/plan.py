"""What an embedding of texts will do: its units, the files that these become, and what it may clear before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow as pa

from beam_semdedup.config.parameters import EmbedParameters, Parameters
from beam_semdedup.embed.images import VisionFiles, is_image_type
from beam_semdedup.embed.models import Model, TextModel, find_text_model
from beam_semdedup.errors import InputError
from beam_semdedup.inputs import dataset
from beam_semdedup.inputs.base import Format
from beam_semdedup.inputs.dataset import Columns
from beam_semdedup.inputs.listing import list_ids
from beam_semdedup.inputs.registry import format_named
from beam_semdedup.inputs.units import AssignUnit, units
from beam_semdedup.inputs.vectors import VectorFiles
from beam_semdedup.plan.job import vector_files
from beam_semdedup.plan.stored import Manifest
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import File, FileInfo, Folder
from beam_semdedup.storage.records import Record

_FORMAT = 1
_OWN = re.compile(r"embeddings-[0-9a-f]{16}-\d{6}-\d{12}\.parquet")


@dataclass(frozen=True)
class EmbeddedUnit(Record):
    """A finished unit, whose rows are in the file `name`.

    Attributes:
        nulls: rows without a text or an image, which have no embedding.
        broken: rows whose image cannot be read, which have none either, and of some of them which, and why.
        malformed: rows that cannot be read, and are not written.
    """

    name: str
    num_rows: int
    nulls: int
    malformed: int
    reused: bool = False
    broken: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class EmbeddingManifest(Manifest):
    """What is written last: the files, and what is in them together."""

    file_name: ClassVar[str] = "_embedding.json"

    key: str
    files: tuple[str, ...]
    nulls: int
    malformed: int
    broken: int = 0
    examples: tuple[str, ...] = ()


class _Reading:
    """What jobs have that read texts or images."""

    parameters: EmbedParameters | Parameters

    @property
    def input_format(self) -> Format:
        """The format of the texts."""
        return format_named(str(self.parameters.input_filetype))

    def input_file(self, url: str) -> File:
        """Returns one of the input files."""
        return File(url, self.parameters.read_options)


@dataclass(frozen=True)
class EmbedJob(_Reading):
    """What a worker must know.

    Attributes:
        schema: the id, the text or the image, and the metadata_fields.
        key: of all that the written files depend on.
    """

    parameters: EmbedParameters
    model: Model
    schema: pa.Schema
    output: Folder
    key: str

    def images(self, url: str) -> Folder:
        """Returns the folder that the paths of images in an input file are of."""
        p = self.parameters
        return self.input_file(url).parent if p.images_path is None else Folder.at(p.images_path, p.read_options)

    def name(self, unit: AssignUnit) -> str:
        """Returns the name of a unit's file in the output."""
        first = unit.parts[0]
        return f"embeddings-{self.key}-{first.file:06d}-{first.first_row:012d}.parquet"


@dataclass(frozen=True)
class InputJob(_Reading):
    """What a worker must know to embed the texts of a run, or of its `against`.

    Attributes:
        files: where the vectors go.
    """

    model: TextModel
    parameters: Parameters
    files: VectorFiles

    @classmethod
    def of(cls, model: TextModel, p: Parameters, key: str) -> InputJob:
        """Returns the job by the parameters that the texts are read by; `key` is that of the model."""
        return cls(model, p, vector_files(p, key))


def make_plan(p: EmbedParameters, files: Sequence[FileInfo]) -> tuple[EmbedJob, list[AssignUnit]]:
    """Checks that the texts, the model and the output fit together; writes nothing.

    Raises:
        InputError: they do not.
    """
    model: Model = find_text_model(p) if p.image_field is None else VisionFiles.find(p.model)
    taken = [p.id_column, *p.metadata_fields]
    if p.embedding_field in taken or len(set(taken)) < len(taken):
        raise InputError(f"two columns of the output would have one name: {', '.join([*taken, p.embedding_field])}")
    output = Folder.at(p.output_path, p.write_options)
    _check_apart(p, files, output)
    ids = list_ids(p, files)
    columns = Columns(p.id_column, None, [p.source_field, *p.metadata_fields], ids=ids)
    if p.image_field is None:
        columns = replace(columns, texts=p.text_field)
    found = dataset.inspect(files, format_named(str(p.input_filetype)), columns)
    if p.image_field is not None:
        type_ = found.schema.field(p.image_field).type
        if not is_image_type(type_):
            raise InputError(f"image_field={p.image_field!r} is {type_}, expected bytes, paths, or a struct of both")
    facts = {
        "format": _FORMAT,
        "files": [[f.url, f.size, f.version] for f in (*files, *(ids or ()))],
        "columns": [p.input_filetype, p.id_field, p.source_field, *p.metadata_fields],
        "written": [p.embedding_field, p.dtype, p.file_rows],
        "model": model.version,
        **({"images": p.images_path} if p.image_field else {}),
    }
    job = EmbedJob(p, model, found.schema, output, layout.fingerprint(facts))
    planned = units(found, p.file_rows)
    if ids:
        parts = [[replace(part, ids=ids[part.file].url) for part in unit.parts] for unit in planned]
        planned = [AssignUnit(tuple(found)) for found in parts]
    return job, planned


def prepare(job: EmbedJob, planned: Sequence[AssignUnit]) -> None:
    """Clears what an earlier embedding of other texts, or by another model, wrote.

    Raises:
        InputError: there is such, and clear_output=false.
    """
    own = {job.name(unit) for unit in planned}
    others = sorted(name for name in job.output.names() if _OWN.fullmatch(name) and name not in own)
    if others and not job.parameters.clear_output:
        raise InputError(
            f"output_path={job.output}: {others[0]} is of other texts or another model; give another output_path or "
            "clear_output=true"
        )
    job.output.delete([EmbeddingManifest.file_name, *others])


def _check_apart(p: EmbedParameters, files: Sequence[FileInfo], output: Folder) -> None:
    """Raises InputError where the results would become input of a later run."""
    place = output.realpath()
    for path in p.input_path:
        if place.is_inside(Folder.at(path, p.read_options).fixed_part().realpath()):
            raise InputError(f"output_path={p.output_path} lies inside input_path={path}; choose another")
    for file in files:
        if file.realpath().is_inside(place):
            raise InputError(f"output_path={p.output_path} holds the input file {file}; choose another")
