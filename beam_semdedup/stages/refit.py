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
from beam_semdedup.stages.assign import AssignFacts, index_of
from beam_semdedup.storage import layout, segments, tables
from beam_semdedup.storage.damage import DamagedFile, as_damage
from beam_semdedup.storage.folder import File


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
        facts, index = index_of(file)
        unit = dataclasses.replace(facts.unit, name=self._stem(name), centroids=self.fitted.content_hash)
        facts = dataclasses.replace(facts, unit=unit)
        done = segments.read_index((target / layout.SEGMENTS).file(new_name), AssignFacts)
        if done is not None and done[0] == facts:
            return new_name
        if facts.rejected:
            rejected = read_rejected(file)
            tables.write((target / layout.REJECTED).file(f"{unit.name}.parquet"), rejected, facts, "zstd")
        schema = segments.read_schema(file)
        table = pa.Table.from_batches(segments.read(file.parent, index.segments, schema), schema)
        if len(table):
            vectors = segments.RankedRows(table.to_batches(), np.arange(len(table)))[:]
            centroids, xp = self.fitted.centroids(self.new.place.options), arrays.library(self.parameters.device)
            columns = ("centroid", "l2_dist_to_cent", "cosine_dist_to_cent")
            assigned = assign_with_distances(vectors, centroids, self.parameters.max_samples_per_batch, xp)
            for column, values in zip(columns, assigned, strict=True):
                table = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
        segments.write(target / layout.SEGMENTS, new_name, table, self.width, facts)
        return new_name


def read_rejected(file: File) -> pa.Table:
    """Returns the rejected rows of the unit that wrote a segment file; DamagedFile where they are damaged or gone."""
    rejected = (file.parent.parent / layout.REJECTED).file(f"{file.name.removesuffix('.arrow')}.parquet")
    with as_damage(rejected):
        return tables.opened(pa.BufferReader(rejected.read_bytes())).read()
