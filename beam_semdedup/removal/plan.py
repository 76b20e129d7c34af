"""What a removal will do: where each file goes, whether everything fits together, and what it may clear before.

A removal is a stage like those of a run. Its folder is `_removal/` in the output, which holds its plan and, for each
written file, a note of what was found in it. Its manifest is `_removal.json` in the output; once that is written the
folder goes.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.errors import InputError
from beam_semdedup.inputs import dataset, embeddings
from beam_semdedup.inputs.base import Copier
from beam_semdedup.inputs.ids import Places, StoredIds
from beam_semdedup.inputs.listing import list_ids, relative_names
from beam_semdedup.inputs.registry import copier, format_named, versioned
from beam_semdedup.neighbours import neighbours
from beam_semdedup.plan.stored import Manifest
from beam_semdedup.removal.id_list import IdList
from beam_semdedup.storage import layout
from beam_semdedup.storage.folder import File, FileInfo, Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.threads import in_io_threads

_LOG = logging.getLogger(__name__)
_STAGE, _STAGE_IN_PLACE = "_removal", "_removal_in_place"
_FORMAT = 7
_UNIT_BYTES = 8 << 20  # of files that are a unit together


@dataclass(frozen=True)
class RemovalPlan(Record):
    """What a removal is going to write: the names of the files, and the `key` of all that they depend on.

    The manifest can be read as a plan without a key, also that of an earlier version. `request` is the key of what was
    asked for, whatever the dataset is now; `manifests` are the names of those of versioned datasets.
    """

    files: tuple[str, ...]
    key: str = ""
    request: str = ""
    manifests: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemovalManifest(Manifest):
    """The manifest of a removal: the names of its files, and what was found in them.

    Attributes:
        ids_removed: entries of the list that were found.
        repeated_ids: entries that stand on several rows; `repeated_entries` are the numbers of some in the list.
        manifests: the names of those of versioned datasets, which are among the files.
    """

    file_name: ClassVar[str] = "_removal.json"

    files: tuple[str, ...]
    rows_removed: int
    ids_removed: int
    repeated_ids: int
    repeated_entries: tuple[int, ...]
    manifests: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemovalUnit:
    """Files of the dataset, by their URLs, and what is written of each, by the names in the output; many small ones.

    `size` is that of all of them, in bytes; `ids` are the URLs of the files with their ids, where these are apart;
    `versions` are those of the files.
    """

    sources: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]
    size: int
    ids: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What tells it from the other units of a removal."""
        return layout.fingerprint([self.sources, self.targets])

    @property
    def written(self) -> tuple[str, ...]:
        """All names."""
        return tuple(itertools.chain.from_iterable(self.targets))


@dataclass(frozen=True)
class RemovalJob:
    """What a worker must know of a removal.

    Attributes:
        key: of all that the written files depend on.
        memory: of a worker, in bytes.
        companions: what is written besides: the URLs of the sources, and the names in the output.
        manifests: those of new versioned datasets: the URLs of the datasets, and the names in the output.
        in_place: whether rows are deleted in a new version of the dataset, which the output is.
        request: the key of what is asked for, whatever the dataset is.
    """

    parameters: RemovalParameters
    ids: IdList
    output: Folder
    key: str
    memory: int
    companions: tuple[tuple[str, str], ...] = ()
    manifests: tuple[tuple[str, str], ...] = ()
    in_place: bool = False
    request: str = ""

    @property
    def besides(self) -> tuple[str, ...]:
        """The names of what is written when all units are."""
        return tuple(name for _, name in [*self.companions, *self.manifests])

    @property
    def dataset(self) -> Folder:
        """The output where it is the dataset, as that is read."""
        return Folder(self.output.url, self.parameters.read_options)

    @property
    def stage(self) -> Folder:
        """The folder of the plan and the notes."""
        return self.output / (_STAGE_IN_PLACE if self.in_place else _STAGE)

    @property
    def results(self) -> Folder:
        """The folder of the removal's manifest."""
        return self.stage if self.in_place else self.output

    def note(self, unit: str) -> File:
        """Returns the file that says what was found in the unit of that name, and that it is finished."""
        return self.stage.file(f"{layout.fingerprint([self.key, unit])}.parquet")


def make_plan(
    p: RemovalParameters, files: Sequence[FileInfo], ids: IdList, memory: int
) -> tuple[RemovalJob, list[RemovalUnit]]:
    """Checks that list and output fit the files of the dataset; writes nothing.

    Raises:
        InputError: a file without usable ids, two that would have the same name, or an output that would mix with them.
    """
    output = Folder.at(p.output_path, p.write_options)
    in_place = _is_in_place(p, files, output)
    targets = {file.url: file for file in files} if in_place else _targets(p, files, output)
    kind = copier(str(p.input_filetype))
    copies = {name: () if in_place else kind.copies(name, p.write_arrays) for name in targets}
    companions, manifests = ((), ()) if in_place else (_companions(kind, targets), _manifests(p, targets))
    written = Counter([*itertools.chain.from_iterable(copies.values()), *(name for _, name in companions + manifests)])
    if twice := [name for name, count in written.items() if count > 1]:
        raise InputError(f"input_path: two files would both be written to {output.file(twice[0])}: rename one")
    if p.mode == "mark":
        _check_names_free(p, files)
    listed = list_ids(p, files)
    if listed is None:
        _check_id_column(p, files, ids)
    else:
        _check_ids_apart(p, listed, ids)
    apart = {file.url: found for file, found in zip(files, listed or (), strict=bool(listed))}
    request = {
        "format": _FORMAT,
        "list": [[f.url, f.size, f.version] for f in ids.files],
        "id_field": p.id_field,
        "input_filetype": p.input_filetype,
        "write_arrays": p.write_arrays,
        **({"mark_fields": p.mark_fields} if p.mode == "mark" else {}),
    }
    facts = {
        **request,
        "input": [[target, f.url, f.size, f.version] for target, f in targets.items()],
        "ids": [[f.url, f.size, f.version] for f in apart.values()],
    }
    units = [
        RemovalUnit(
            tuple(targets[name].url for name in names),
            tuple(copies[name] for name in names),
            sum(targets[name].size for name in names),
            tuple(apart[targets[name].url].url for name in names if apart),
            tuple(targets[name].version for name in names),
        )
        for names in neighbours(targets, lambda name: targets[name].size, _UNIT_BYTES)
    ]
    key, asked = layout.fingerprint(facts), layout.fingerprint(request)
    return RemovalJob(p, ids, output, key, memory, companions, manifests, in_place, asked), units


def prepare(job: RemovalJob, units: Sequence[RemovalUnit]) -> None:
    """Clears what an earlier removal wrote, and stores the plan of this one.

    What an unfinished removal of the same files wrote stays: this one goes on from it.

    Raises:
        InputError: a file would be replaced that is not from an earlier removal.
    """
    output, owned = job.output, [] if job.in_place else owned_files(job.output)
    targets = sorted([*(target for unit in units for target in unit.written), *job.besides])
    plan = RemovalPlan(tuple(targets), job.key, job.request, tuple(name for _, name in job.manifests))
    if RemovalPlan.read(job.stage.file(layout.PLAN)) == plan:
        _LOG.info("Going on with the removal that was not finished in %s", output)
    else:
        job.stage.delete(layout.finished_units(job.stage))
        if job.parameters.clear_output and not job.in_place:
            output.delete(owned)
            owned = []
    folders = {posixpath.dirname(target) for target in targets}
    present = {
        posixpath.join(folder, name) for folder in folders for name in (output / folder if folder else output).names()
    }
    for target in sorted(present.intersection(targets).difference(owned)):
        taken = output.file(target)
        raise InputError(f"{taken} exists and is not from an earlier removal; choose another output_path")
    _check_versions(output, plan)
    plan.write(job.stage.file(layout.PLAN))
    job.results.delete([RemovalManifest.file_name])


def committed(job: RemovalJob) -> RemovalManifest | None:
    """Returns the manifest of the same removal where an attempt was killed after it had deleted the rows in place."""
    plan = RemovalPlan.read(job.stage.file(layout.PLAN)) if job.in_place else None
    kind = versioned(str(job.parameters.input_filetype))
    if plan is None or kind is None or plan.request != job.request or not kind.is_committed(job.dataset, plan.key):
        return None
    return RemovalManifest.find(job.results)


def owned_files(output: Folder) -> list[str]:
    """Returns the names of the files in `output` that an earlier removal wrote, those that say so last.

    Raises:
        InputError: a dataset there has versions that others made of what the removal wrote.
    """
    stage = output / _STAGE
    stored = [stage.file(layout.PLAN), output.file(RemovalManifest.file_name)]
    plans = [plan for file in stored if (plan := RemovalPlan.read(file))]
    if not plans:
        return []
    for plan in plans:
        _check_versions(output, plan)
    own: list[File] = [*stage.find(), *stored]
    return [*(name for plan in plans for name in plan.files), *map(output.name_of, own)]


def clear(output: Folder) -> None:
    """Deletes what an earlier removal wrote in `output`."""
    output.delete(owned_files(output))
    (output / _STAGE).delete_tree()


def abandon(job: RemovalJob) -> None:
    """Deletes what a removal wrote; of one in place what it would have committed, or has."""
    if job.in_place:
        job.stage.delete_tree()
    else:
        clear(job.output)


def _check_versions(output: Folder, plan: RemovalPlan) -> None:
    """Raises InputError where a dataset has other manifests than those that a plan writes."""
    for name in plan.manifests:
        place, own = posixpath.split(name)
        ending = posixpath.splitext(own)[1]
        if others := [other for other in (output / place).names() if other.endswith(ending) and other != own]:
            raise InputError(
                f"{output / place}: {min(others)} is a version of the dataset that no removal wrote, and its "
                "rows would be lost; choose another output_path, or delete the dataset"
            )


def _is_in_place(p: RemovalParameters, files: Sequence[FileInfo], output: Folder) -> bool:
    """Says whether the output is the dataset itself, in a new version of which the rows are deleted.

    Raises:
        InputError: it is one of several datasets.
    """
    kind = versioned(str(p.input_filetype))
    if kind is None:
        return False
    datasets = {kind.dataset_of(file).realpath().url for file in files}
    if output.realpath().url not in datasets:
        return False
    if len(datasets) > 1:
        raise InputError(
            f"output_path={p.output_path} is one of {len(datasets):,} datasets in input_path: give it alone as "
            "input_path to delete rows in a new version of it, or another output_path for new datasets"
        )
    return True


def _manifests(p: RemovalParameters, targets: Mapping[str, FileInfo]) -> tuple[tuple[str, str], ...]:
    """Returns the URLs of the versioned datasets that files are of, and the names of the manifests of new ones."""
    kind = versioned(str(p.input_filetype))
    if kind is None:
        return ()
    found = {}
    for target, file in targets.items():
        dataset = kind.dataset_of(file)
        home = target.removesuffix(dataset.name_of(file)).rstrip("/")
        found[dataset.url] = posixpath.join(home, kind.first_manifest)
    return tuple(found.items())


def _targets(p: RemovalParameters, files: Sequence[FileInfo], output: Folder) -> dict[str, FileInfo]:
    """Returns the files by the names that they get in `output`, which they have in their input_path."""
    roots = [Folder.at(path, p.read_options) for path in p.input_path]
    place = output.realpath()
    targets: dict[str, FileInfo] = {}
    for file, target in zip(files, relative_names(p, files), strict=True):
        if target in targets:
            raise InputError(
                f"input_path: {targets[target]} and {file} would both be written to {output.file(target)}: give a "
                "directory that holds both as input_path, or remove from one after the other with an output_path each"
            )
        if file.realpath().is_inside(place):
            raise InputError(f"output_path={p.output_path} holds the input file {file}; choose another")
        targets[target] = file
    for root in roots:
        if place.is_inside(root.realpath()):
            raise InputError(f"output_path={p.output_path} lies inside input_path={root}; choose another")
    return targets


def _companions(kind: Copier, targets: Mapping[str, FileInfo]) -> tuple[tuple[str, str], ...]:
    """Returns the URLs of what belongs to the files, and the names beside theirs that it gets."""
    folders = {file.parent.url: posixpath.dirname(target) for target, file in targets.items()}
    above = {posixpath.dirname(url): posixpath.dirname(target) for url, target in folders.items() if target}
    places = above | folders
    found = [file for file in kind.companions(list(targets.values())) if file.parent.url in places]
    return tuple((file.url, posixpath.join(places[file.parent.url], file.name)) for file in found)


def _check_ids_apart(p: RemovalParameters, apart: Sequence[FileInfo], ids: IdList) -> None:
    """Raises InputError where ids that are apart from the dataset, or places, are of another kind than the list's."""
    types = {file.url: StoredIds.open(file, p.id_column).type_ for file in apart} or {"id_field=null": Places.type_}
    for where, type_ in types.items():
        if ids.num_ids and pa.types.is_integer(type_) != pa.types.is_integer(ids.id_type):
            raise InputError(f"{where}: the ids are {type_}, those in the list of duplicates {ids.id_type}")


def _check_names_free(p: RemovalParameters, files: Sequence[FileInfo]) -> None:
    """Raises InputError where a file has a column already that marking would add."""
    if len(set(p.mark_fields)) < len(p.mark_fields):
        raise InputError(f"mark_fields={p.mark_fields}: three different names are needed")
    kind = format_named(str(p.input_filetype))

    def check(info: FileInfo) -> None:
        if taken := [name for name in p.mark_fields if name in kind.inspect(info).schema.names]:
            raise InputError(f"{info.url}: it has a column {taken[0]!r} already; give other names as mark_fields")

    in_io_threads(check, files)


def _check_id_column(p: RemovalParameters, files: Sequence[FileInfo], ids: IdList) -> None:
    """Raises InputError where a file has no ids, or ids of another kind than the list's."""
    kind = format_named(str(p.input_filetype))

    def check_type(info: FileInfo, schema: pa.Schema) -> None:
        dataset.check_column(info.url, schema, p.id_column, f"id_field={p.id_field!r}")
        type_ = embeddings.plain_type(schema.field(p.id_column).type)
        differs = ids.num_ids and pa.types.is_integer(type_) != pa.types.is_integer(ids.id_type)
        if type_ != pa.null() and (differs or not embeddings.is_id_type(type_)):
            raise InputError(
                f"{info.url}: the ids in {p.id_field!r} are {type_}, those in the list of duplicates {ids.id_type}"
                + dataset.hint_on_ids(type_)
            )

    def check(info: FileInfo) -> None:
        # The start of a file is enough to say that it fits, but not that it does not.
        with contextlib.suppress(InputError):
            check_type(info, kind.head(info))
            return
        facts = kind.inspect(info)
        dataset.check_any_column(kind, facts)
        if facts.num_rows:
            check_type(info, facts.schema)

    in_io_threads(check, files)
