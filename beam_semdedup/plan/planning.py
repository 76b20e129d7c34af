"""What a run will do, decided before it does anything: units, sizes, and what of it is finished already.

The plan of a stage is stored in its folder, and from its first finished unit on read back by every later attempt,
whatever its memory or number of workers.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import InputError, RunError
from beam_semdedup.fit import model
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.inputs.base import joined_type
from beam_semdedup.inputs.dataset import InputFacts
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.inputs.units import units as units_of
from beam_semdedup.plan import stored
from beam_semdedup.plan.checks import check_dimension
from beam_semdedup.plan.corpus import Common
from beam_semdedup.plan.job import REFERENCES, Job, Places, init_file, ranking_of
from beam_semdedup.plan.locate import Located
from beam_semdedup.plan.probes import choose_clusters
from beam_semdedup.plan.sizes import Sizes, Sizing
from beam_semdedup.plan.stored import (
    AssignManifest,
    KMeansPlan,
    PairwiseManifest,
    PairwisePlan,
    RecallManifest,
    SampleFacts,
)
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.runners.resources import memory_per_worker
from beam_semdedup.storage import layout, segments
from beam_semdedup.storage.folder import FileInfo, Folder
from beam_semdedup.storage.records import Record
from beam_semdedup.text import counted

_LOG = logging.getLogger(__name__)
_R = TypeVar("_R", bound=Record)
_OUTGROWN = 3
"""How many times as many clusters as a corpus has one of its size would have, from where on that is said."""


@dataclass(frozen=True)
class Plan:
    """A run before it starts: the job, its input and units, and what stands in the cache already.

    The manifests are those of the stages that are finished; `is_sampled` says whether rows are drawn, if they are to
    be; `fitted` is the model where it was fitted before the pipeline. `references` is the plan of how the rows of
    `against` are assigned; `earlier` are the generations and names of the segment files that a corpus has, which hold
    `earlier_rows`.
    """

    job: Job
    files: tuple[FileInfo, ...]
    ids: tuple[FileInfo, ...]
    units: tuple[AssignUnit, ...]
    assign_manifest: AssignManifest | None
    pairwise_manifest: PairwiseManifest | None
    memory: int
    num_workers: int
    fitted: FittedKMeans | None = None
    references: Plan | None = None
    earlier: tuple[tuple[int, str], ...] = ()
    earlier_rows: int = 0
    recall_manifest: RecallManifest | None = None
    is_sampled: bool = True

    @property
    def rows(self) -> int:
        """The rows of the input, and all earlier ones."""
        own = self.job.sizes.num_rows + self.earlier_rows
        return own + self.references.job.sizes.num_rows if self.references else own

    @property
    def assigned(self) -> list[tuple[int, str]]:
        """The generations and names of all segment files that finished assign stages wrote."""
        own = [(part.job.generation, part.assign_manifest) for part in (self, self.references) if part]
        return [*((number, name) for number, found in own if found for name in found.files), *self.earlier]

    @property
    def comparisons(self) -> PairwiseManifest | None:
        """The manifest of the pairwise stage where it has nothing to do, not even to draw the sample."""
        return self.pairwise_manifest if self.is_sampled or self.has_recall else None

    @property
    def has_recall(self) -> bool:
        """Whether the recall needs no estimate, or has it."""
        return self.recall_manifest is not None or not self.job.has_recall


def make_plan(located: Located, anew: bool = False) -> Plan:
    """Checks all that can be checked before the run, and stores the stages' plans.

    Args:
        anew: removes what the cache holds for the run, after the checks.

    Raises:
        InputError: the input's files do not fit together or the parameters do not fit them; nothing is stored then.
    """
    try:
        return _make_plan(located, anew)
    except InputError:
        if located.corpus:
            located.corpus.release(located.places.generation)
        raise


def _make_plan(located: Located, anew: bool) -> Plan:
    places, p, theirs = located.places, located.places.parameters, located.references
    runner = make_runner(p)
    workers = runner.num_workers()
    memory = memory_per_worker(runner, workers, p.memory_budget)
    plan_kmeans = functools.cache(lambda: _plan_kmeans(located, memory))
    if theirs is not None and not AssignManifest.find(theirs.places.kmeans):
        _check_alike(located.inspect(), theirs.inspect(), p)
    if anew:
        plan_kmeans()
        forget(places)
        if theirs is not None:
            forget(theirs.places)
    urls = [file.url for file in located.files]
    kmeans_plan = _stored_plan(places.kmeans, places.segments, KMeansPlan, plan_kmeans, lambda plan: plan.is_of(urls))
    sizes = kmeans_plan.sizes
    sizing = Sizing(p, sizes.num_rows, sizes.dimension, sizes.carried_bytes, sizes.n_clusters, memory)
    blocks = _stored_plan(
        places.pairwise, places.pairwise, PairwisePlan, lambda: PairwisePlan(sizing.blocks(sizes.centroids_per_key))
    ).blocks
    if p.max_cluster_rows not in (None, blocks.max_cluster_rows):
        _LOG.warning(
            "max_cluster_rows=%s is not used: units were finished with %s; reuse_cache=false plans anew",
            p.max_cluster_rows,
            blocks.max_cluster_rows,
        )
    assigned = AssignManifest.find(places.kmeans)
    compared = PairwiseManifest.find(places.pairwise)
    if not assigned or (compared and compared.centroids != assigned.centroids):
        compared = None
    if assigned:
        # A run that started at the same time may have stored another plan than the one that finished the stage.
        sizes = dataclasses.replace(sizes, centroids_per_key=assigned.centroids_per_key)
    corpus = located.corpus
    if corpus:
        common = corpus.agree(Common.of(p, located.inspect(), sizes.centroids_per_key))
        corpus.keep_model_of_texts(places.embedding_key)
        corpus.check_model(p, places.embedding_key)  # another run may have been first
        sizes = dataclasses.replace(sizes, centroids_per_key=common.centroids_per_key)
    job = Job(
        **vars(places),
        input_schema=kmeans_plan.input_schema(),
        sizes=sizes,
        blocks=blocks,
        rows_per_file=sizing.rows_per_file,
        recall_reach=recall_reach(places),
    )
    units = kmeans_plan.assign_units(urls, [file.url for file in located.ids])
    plan = Plan(
        job,
        located.files,
        located.ids,
        units,
        assigned,
        compared,
        memory,
        workers,
        recall_manifest=find_recall(job, compared),
        is_sampled=_is_sampled(job, compared),
    )
    if corpus:
        fitted, earlier, rows = corpus.fitted(common), [], 0
        for number in places.generations:
            manifest = corpus.finished(number)
            if manifest is None or fitted is None or manifest.centroids != fitted.content_hash:
                raise RunError(
                    f"generation {number} of the corpus {corpus.place} is gone, or not assigned to its model; see "
                    f"semdedup-corpus verify corpus_path={corpus.place}"
                )
            earlier += [(number, name) for name in manifest.files]
            rows += manifest.counts.num_rows
        plan = dataclasses.replace(plan, fitted=fitted, earlier=tuple(earlier), earlier_rows=rows)
        usual = choose_clusters(p, plan.rows, sizes.dimension, p.n_probes, p.matching_reach)
        if usual > _OUTGROWN * sizes.n_clusters:
            _LOG.warning(
                "The corpus has %s rows in %s: comparing takes longer than with more; semdedup-corpus refit makes %s",
                f"{plan.rows:,}",
                counted(sizes.n_clusters, "cluster"),
                f"{usual:,}",
            )
    if theirs is None:
        return plan
    references = _plan_references(theirs, plan)
    if references.assign_manifest is None:
        compared = None
    job = dataclasses.replace(job, references=references.job)
    return dataclasses.replace(plan, job=job, references=references, pairwise_manifest=compared)


def find_recall(job: Job, compared: PairwiseManifest | None) -> RecallManifest | None:
    """Returns the manifest of a recall that was estimated; None where there is none of these comparisons."""
    found = RecallManifest.read(job.recall_manifest) if compared and job.has_recall else None
    if found is None or compared is None or (found.centroids, found.reach) != (compared.centroids, job.recall_reach):
        return None
    return found


def _is_sampled(job: Job, compared: PairwiseManifest | None) -> bool:
    """Returns whether the rows that the recall needs are drawn, by all units or together, where it is estimated."""
    if not job.has_recall or segments.read_index(job.sample.file(layout.SAMPLE), SampleFacts) is not None:
        return True
    return compared is not None and {layout.sampled_name(unit.name) for unit in compared.units} <= job.sample.names()


def recall_reach(places: Places) -> float:
    """Returns the reach for which the recall was estimated already, if it serves, else that of the parameters."""
    wanted = places.parameters.matching_reach
    return next((reach for reach in layout.recall_reaches(places.sample) if reach >= wanted), wanted)


def _plan_references(located: Located, plan: Plan) -> Plan:
    """Plans how the rows of `against` are assigned to the model of a run."""
    places, sizes = located.places, plan.job.sizes
    centroids = plan.fitted.content_hash if plan.fitted else plan.assign_manifest and plan.assign_manifest.centroids
    urls = [file.url for file in located.files]

    def make() -> KMeansPlan:
        theirs = dataclasses.replace(sizes, num_rows=located.inspect().num_rows, carried_bytes=0, sample_rows=0)
        return _kmeans_plan(located, theirs)

    stored_plan = _stored_plan(places.kmeans, places.segments, KMeansPlan, make, lambda plan: plan.is_of(urls))
    job = Job(
        **vars(places),
        input_schema=stored_plan.input_schema(),
        sizes=dataclasses.replace(stored_plan.sizes, centroids_per_key=sizes.centroids_per_key),
        blocks=plan.job.blocks,
        rows_per_file=plan.job.rows_per_file,
    )
    found = AssignManifest.find(places.kmeans)
    # Where it is not known yet what the centroids will be, finished units say what theirs were.
    same = found and (found.centroids, found.centroids_per_key) == (centroids, sizes.centroids_per_key)
    made = stored_plan.assign_units(urls, [file.url for file in located.ids])
    return Plan(job, located.files, located.ids, made, found if same else None, None, plan.memory, plan.num_workers)


def _check_alike(own: InputFacts, theirs: InputFacts, p: Parameters) -> None:
    """Raises InputError where the rows of `against` cannot be compared with those of the input."""
    check_dimension(own.dimension, "input_path", theirs.dimension, "against")
    q = p.of_references(None)
    types = own.schema.field(p.id_column).type, theirs.schema.field(q.id_column).type
    if joined_type(*types) is None:
        raise InputError(
            f"ids are {types[0]} in input_path ({p.id_column}) and {types[1]} in against ({q.id_column}): max_id "
            "cannot hold both; give another against_id_field, or write them with one type"
        )


def forget(places: Places) -> None:
    """Removes what the cache holds for a run, and its number in a corpus."""
    stored.forget([places.pairwise, places.kmeans])
    if places.corpus and places.generation != REFERENCES:
        (places.corpus / layout.GENERATIONS).file(f"{places.generation:06d}.json").delete()


def _stored_plan(
    stage: Folder,
    finished: Folder,
    kind: type[_R],
    make: Callable[[], _R],
    is_ours: Callable[[_R], bool] = lambda _: True,
) -> _R:
    """Returns the plan that finished units of a stage were made by; a new one, which is stored, where there are none.

    Args:
        finished: where the stage's finished units lie.
        make: makes a plan for the present parameters and memory.
        is_ours: says whether a plan that is found there is one of the present input.
    """
    file = stage.file(layout.PLAN)
    found = kind.read(file)
    if found is not None and not is_ours(found):
        _LOG.warning("%s is planned anew: it names other files than those of input_path", file)
        stored.forget([stage])
        found = None
    if found is not None and layout.finished_units(finished):
        return found
    new = make()
    if found is None:
        file.create_if_absent(new.to_json())
        found = kind.read(file)
        if found is not None:  # perhaps that of a faster attempt
            return found
    if found != new:
        new.write(file)
    return new


def _plan_kmeans(located: Located, memory: int) -> KMeansPlan:
    p, facts = located.places.parameters, located.inspect()
    assert p.n_clusters is not None
    carried_bytes, n_clusters = facts.row_bytes(located.carried), p.n_clusters
    if located.places.without_clusters:
        n_clusters = 1
    fits = not located.places.without_clusters
    if located.corpus:  # whose model, once it is there, stays
        fits = not located.places.model.file(layout.CENTROIDS).exists()
    sizing = Sizing(p, facts.num_rows, facts.dimension, carried_bytes, n_clusters, memory)
    ranking_of(p).check(facts.schema)
    sizes = sizing.sizes(_sample_rows(sizing) if p.max_iter and fits else 0)
    if fits:
        _check_rows(p, sizes)
    return _kmeans_plan(located, sizes)


def _kmeans_plan(located: Located, sizes: Sizes) -> KMeansPlan:
    facts = located.inspect()
    urls = [file.info.url for file in facts.files]
    return KMeansPlan.of(sizes, facts.schema, urls, units_of(facts, sizes.assign_rows), located.vector_names)


def _sample_rows(sizes: Sizing) -> int:
    """Returns how many rows are fitted on."""
    asked, affordable = sizes.asked_sample, sizes.affordable_sample
    if affordable < min(asked, sizes.n_clusters):
        raise InputError(
            f"memory_budget: {sizes.memory:,} bytes hold {affordable:,} rows of {sizes.dimension} values to fit on, "
            f"fewer than n_clusters={sizes.n_clusters}; give more memory or a smaller n_clusters"
        )
    if affordable < asked:
        _LOG.warning(
            "Fitting on %s rows instead of %s: the memory budget (%s bytes) allows no more",
            f"{affordable:,}",
            f"{asked:,}",
            f"{sizes.memory:,}",
        )
    return min(asked, affordable)


def _check_rows(p: Parameters, sizes: Sizes) -> None:
    """Raises InputError where there are too few rows for the clusters, or given centroids do not fit them."""
    if sizes.num_rows < sizes.n_clusters:
        raise InputError(
            f"n_clusters={sizes.n_clusters} is more than the {sizes.num_rows} rows of the input; give fewer or null"
        )
    init = init_file(p)
    if init:
        model.load_init(init, sizes.n_clusters, sizes.dimension)
    if 0 < sizes.sample_rows < sizes.n_clusters:
        raise InputError(
            f"n_clusters={sizes.n_clusters} is more than the {sizes.sample_rows} rows to fit on; give a larger "
            "fit_data_fraction or a smaller n_clusters"
        )
