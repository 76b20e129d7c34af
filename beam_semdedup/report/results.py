"""Where the results of a finished run lie, and what its summary says of it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from beam_semdedup.config.parameters import ReportParameters
from beam_semdedup.errors import InputError
from beam_semdedup.plan.stored import AssignManifest, KMeansPlan, PairwiseManifest
from beam_semdedup.storage import layout
from beam_semdedup.storage.columns import MAX_SOURCE
from beam_semdedup.storage.damage import as_damage
from beam_semdedup.storage.folder import Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.tables import opened


@dataclass(frozen=True)
class RunConfiguration(Record):
    """What a report must know of a run's parameters."""

    eps: float | None
    n_probes: int | str
    reach: float | None
    metadata_fields: tuple[str, ...]
    precision: str
    group_field: str | None = None
    image_field: str | None = None

    @property
    def has_visits(self) -> bool:
        """Whether rows were compared in other clusters than their own."""
        return self.n_probes != 1

    @property
    def scores_end(self) -> float | None:
        """The largest eps that the scores serve; None where they serve every one."""
        if not self.has_visits:
            return None
        return self.eps if self.reach is None else self.reach


@dataclass(frozen=True)
class FinishedRun(Record):
    """What a report must know of a run, from its summary; what later versions add there may be missing."""

    rows_read: int
    rows_kept: int | None
    num_duplicates: int | None
    rows_rejected: int
    rejected: dict[str, int]
    n_clusters: int
    largest_cluster: int
    dimension: int
    runner: str
    total_time: float
    stages: dict[str, Any]
    repeated_ids: dict[str, Any]
    paths: dict[str, str]
    versions: dict[str, str]
    configuration: dict[str, Any]
    recall: dict[str, Any] | None = None
    references: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Results:
    """The results of a run in its cache.

    Attributes:
        kmeans, pairwise: the folders of the stages.
        files: the URLs of the input files; none where the plan that names them is gone.
    """

    configuration: RunConfiguration
    kmeans: Folder
    pairwise: Folder
    manifest: PairwiseManifest
    assigned: AssignManifest | None
    files: tuple[str, ...]

    @classmethod
    def of(cls, configuration: dict[str, Any], kmeans: Folder, pairwise: Folder) -> Results | None:
        """Returns the results of a run with these parameters in these folders; None where they are not finished."""
        manifest = PairwiseManifest.find(pairwise)
        if manifest is None:
            return None
        plan = KMeansPlan.read(kmeans.file(layout.PLAN))
        known = RunConfiguration.from_json(json.dumps(configuration))
        return cls(known, kmeans, pairwise, manifest, AssignManifest.find(kmeans), plan.files if plan else ())

    @functools.cached_property
    def has_references(self) -> bool:
        """Whether rows were compared with those of other files too, so that it is said of which the similar one is."""
        if not self.names:
            return False
        file = self.pairwise.file(self.names[0])
        with as_damage(file), file.open() as source:
            return MAX_SOURCE in opened(source).schema_arrow.names

    @property
    def earlier(self) -> Iterator[Folder]:
        """The generations that the corpus had before, the last first; none without a corpus."""
        place, _, number = self.kmeans.url.rpartition("/")
        if place.endswith(f"/{layout.GENERATIONS}"):
            for earlier in reversed(range(int(number))):
                yield Folder(f"{place}/{earlier:06d}", self.kmeans.options)

    @property
    def names(self) -> list[str]:
        """The names of the files with the scores."""
        return [unit.name for unit in self.manifest.units]

    @property
    def num_rows(self) -> int:
        """The rows that have a score."""
        return self.manifest.counts.num_rows


def find_run(p: ReportParameters) -> tuple[FinishedRun, Results]:
    """Returns the run that ended in `p.output_path`, and its results.

    They are looked for in `p.cache_path`, in `output_path`, and where the run says that it left them.

    Raises:
        InputError: no finished run is there, or its cache is gone.
    """
    output = Folder.at(p.output_path, p.write_options)
    run = FinishedRun.read(output.file(layout.SUMMARY))
    if run is None:
        raise InputError(f"output_path={p.output_path}: no summary.json of a finished run there; run semdedup first")
    keys = [run.paths.get(name, "").rpartition("/")[2] for name in (layout.KMEANS, layout.PAIRWISE)]
    if not all(keys):
        raise InputError(f"output_path={p.output_path}: its summary.json names no results; run semdedup again")
    said = [run.paths[layout.PAIRWISE].rpartition(f"/{layout.PAIRWISE}/")[0]]
    places = [p.cache_path] if p.cache_path else [p.output_path, *filter(None, said)]
    for place in places:
        cache = Folder.at(place, p.cache_options)
        kmeans = cache / layout.KMEANS / keys[0]
        if run.configuration.get("corpus_path") is not None:  # it holds the assigned rows
            kmeans = Folder.at(run.paths[layout.KMEANS], p.write_options)
        found = Results.of(run.configuration, kmeans, cache / layout.PAIRWISE / keys[1])
        if found:
            return run, found
    raise InputError(
        f"output_path={p.output_path}: the results of that run are in none of {', '.join(places)}: give cache_path, or "
        "run semdedup again"
    )
