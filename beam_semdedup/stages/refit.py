"""A unit of a refit: the rows of a segment file of a corpus with the nearest of other centroids, in another one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from beam_semdedup.compute import arrays
from beam_semdedup.compute.assignment import assign_with_distances
from beam_semdedup.config.parameters import CorpusParameters
from beam_semdedup.errors import UnitError, naming_unit
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.plan.corpus import Corpus
from beam_semdedup.stages.assign import AssignFacts
from beam_semdedup.storage import layout, segments, tables
from beam_semdedup.storage.damage import DamagedFile, as_damage
from beam_semdedup.storage.folder import File, Folder
from beam_semdedup.storage.segments import Segment


@dataclass(frozen=True)
class RefitJob:
    """What a worker must know of a refit.

    Attributes:
        old, new: the corpus as it is, and as it becomes.
        width: the centroids per key of the new one.
    """

    parameters: CorpusParameters
    old: Corpus
    new: Corpus
    fitted: FittedKMeans
    width: int

    def name(self, old: str) -> str:
        """Returns the name of the segment file with the rows of an old one."""
        return f"{self._stem(old)}.arrow"

    def _stem(self, old: str) -> str:
        return f"{old.rpartition('-w')[0]}-w{self.width}"

    def assign_anew(self, generation: int, name: str) -> str:
        """Writes the segment file with the rows of an old one, and its rejected rows before it; returns its name.

        Raises:
            UnitError: the old one is damaged or gone.
        """
        with naming_unit(f"the rows of {name} in generation {generation}"):
            try:
                return self._assign_anew(generation, name)
            except DamagedFile as error:
                raise UnitError(f"{error}; see semdedup-corpus verify") from error

    def _assign_anew(self, generation: int, name: str) -> str:
        source, target = self.old.generation(generation), self.new.generation(generation)
        file, new_name = (source / layout.SEGMENTS).file(name), self.name(name)
        facts = _facts(file)
        unit = dataclasses.replace(facts.unit, name=self._stem(name), centroids=self.fitted.content_hash)
        facts = dataclasses.replace(facts, unit=unit)
        done = segments.read_index((target / layout.SEGMENTS).file(new_name), AssignFacts)
        if done is not None and done[0] == facts:
            return new_name
        if facts.rejected:
            rejected = read_rejected(file, source)
            tables.write((target / layout.REJECTED).file(f"{unit.name}.parquet"), rejected, facts, "zstd")
        table = pa.Table.from_batches(*read_segments(file))
        if len(table):
            vectors = segments.RankedRows(table.to_batches(), np.arange(len(table)))[:]
            centroids, xp = self.fitted.centroids(self.new.place.options), arrays.library(self.parameters.device)
            columns = ("centroid", "l2_dist_to_cent", "cosine_dist_to_cent")
            assigned = assign_with_distances(vectors, centroids, self.parameters.max_samples_per_batch, xp)
            for column, values in zip(columns, assigned, strict=True):
                table = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
        segments.write(target / layout.SEGMENTS, new_name, table, self.width, facts)
        return new_name


def index_of(file: File) -> tuple[pa.Schema, tuple[Segment, ...]]:
    """Returns the columns of a segment file, and where its segments are; DamagedFile where it is damaged or gone."""
    found = segments.read_index(file, AssignFacts)
    if found is None:
        raise DamagedFile(file, "its index cannot be read")
    with as_damage(file), file.open() as source:
        return pa.ipc.open_file(source).schema, found[1].segments


def read_segments(file: File) -> tuple[list[pa.RecordBatch], pa.Schema]:
    """Returns the rows of a segment file, and their columns; DamagedFile where it is damaged or gone."""
    schema, found = index_of(file)
    return segments.read(file.parent, found, schema), schema


def read_rejected(file: File, generation: Folder) -> pa.Table:
    """Returns the rejected rows of the unit that wrote a segment file; DamagedFile where they are damaged or gone."""
    if not _facts(file).rejected:
        return pa.table({})
    rejected = (generation / layout.REJECTED).file(f"{file.name.removesuffix('.arrow')}.parquet")
    with as_damage(rejected):
        return tables.opened(pa.BufferReader(rejected.read_bytes())).read()


def _facts(file: File) -> AssignFacts:
    found = segments.read_index(file, AssignFacts)
    if found is None:
        raise DamagedFile(file, "its index cannot be read")
    return found[0]
