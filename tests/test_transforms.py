import dataclasses
import typing

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam import coders
from apache_beam.coders.coders import PaneInfoCoder
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_semdedup.coders import ReferenceCoder
from beam_semdedup.config.parameters import Parameters
from beam_semdedup.fit.model import FittedKMeans
from beam_semdedup.inputs.units import AssignUnit
from beam_semdedup.plan.locate import locate
from beam_semdedup.plan.planning import make_plan
from beam_semdedup.runners import base as runners
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.stages.duplicates import DuplicatesFile
from beam_semdedup.stages.index import IndexUnit
from beam_semdedup.stages.matches import MatchUnit
from beam_semdedup.stages.pairwise import PairwiseResult, PairwiseUnit
from beam_semdedup.stages.recall import RecallUnit
from beam_semdedup.stages.sample import SampleFile
from beam_semdedup.storage.segments import Segment, SegmentFile
from beam_semdedup.transforms import ELEMENTS, SemanticDedup, Together

INTEGERS = st.integers(-(2**63), 2**63 - 1)
SECONDS = st.floats(1.0, 2.0**40)


def elements(kind):
    """Any instance of an element type, of a tuple of them, or of a plain type."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{f.name: elements(hints[f.name]) for f in dataclasses.fields(kind)})
    if typing.get_origin(kind) is tuple:
        return st.lists(elements(typing.get_args(kind)[0]), max_size=3).map(tuple)
    return {int: INTEGERS, float: SECONDS, bool: st.booleans(), str: st.text(max_size=8)}[kind]


@pytest.mark.parametrize("kind", ELEMENTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=20)
def test_an_element_comes_back_from_its_coder_as_it_was(kind, data):
    element, other = data.draw(elements(kind)), data.draw(elements(kind))
    coder = coders.registry.get_coder(kind)
    assert coder == ReferenceCoder(kind)
    decoded = coder.decode(coder.encode(element))
    assert decoded == element
    assert hash(decoded) == hash(element)
    assert type(decoded) is kind
    assert (coder.encode(element) == coder.encode(other)) == (element == other)


@pytest.mark.parametrize("kind", ELEMENTS, ids=lambda kind: kind.__name__)
def test_every_element_type_can_be_a_key(kind):
    coder = coders.registry.get_coder(kind)
    assert coder.is_deterministic()
    assert coder.to_type_hint() is kind
    assert coder.as_deterministic_coder("a step") is coder


def test_coders_of_different_types_differ():
    assert len({ReferenceCoder(kind) for kind in ELEMENTS}) == len(ELEMENTS)
    assert ReferenceCoder(Segment) != ReferenceCoder(FittedKMeans)


# The pipeline


RECALL = {SampleFile, RecallUnit}
INDEX = {SegmentFile, IndexUnit, Segment}
EDGES = {
    "nothing": set(ELEMENTS) - {MatchUnit},
    "assigned rows": {FittedKMeans, PairwiseUnit, PairwiseResult, DuplicatesFile} | INDEX | RECALL,
    "similarities": {PairwiseResult, DuplicatesFile},
    "nothing, n_probes=exact": set(ELEMENTS) - {PairwiseUnit} - RECALL,
    "assigned rows, n_probes=exact": {FittedKMeans, MatchUnit, PairwiseResult, DuplicatesFile} | INDEX,
}
"""What the cache holds, and the element types that cross edges then."""

STEPS = {
    "nothing": ["Fit", "List input", "Spread input", "Assign", "Compare", "Estimate recall", "Identify duplicates"],
    "assigned rows": [
        "Find centroids",
        "List assigned rows",
        "Find assigned rows",
        "Compare",
        "Estimate recall",
        "Identify duplicates",
    ],
    "similarities": ["Find comparisons", "Identify duplicates"],
}
STEPS |= {
    f"{cached}, n_probes=exact": [step for step in STEPS[cached] if step != "Estimate recall"]
    for cached in ("nothing", "assigned rows")
}


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    """A run on 60 rows in two files."""
    root = tmp_path_factory.mktemp("transforms")
    (root / "input").mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        vectors = pa.array(rng.normal(size=(30, 4)).tolist(), pa.list_(pa.float32()))
        table = pa.table({"id": np.arange(30) + 30 * number, "embeddings": vectors})
        pq.write_table(table, root / "input" / f"{number}.parquet", row_group_size=10)
    return Parameters(
        input_path=[str(root / "input")],
        output_path=str(root / "output"),
        n_clusters=4,
        eps=0.1,
        comparison_rows=10,
        assign_unit_bytes=160,
        max_cluster_rows=7,
    )


@pytest.fixture(scope="module")
def plans(parameters):
    """A plan for each of `EDGES`, after a run in which an element that is pickled is an error."""
    fresh = make_plan(locate(parameters))
    with pytest.MonkeyPatch.context() as patch:
        for kind in set(ELEMENTS) - {AssignUnit}:  # the plan's units are part of the pipeline's definition
            patch.setattr(kind, "__reduce_ex__", refuse_to_be_pickled, raising=False)
        runners.run(lambda pipeline: pipeline | SemanticDedup(fresh), make_runner(parameters))
    half_finished = make_plan(locate(dataclasses.replace(parameters, which_to_keep="easy")))
    finished = make_plan(locate(parameters))
    exact = {"cache_path": f"{parameters.output_path}-exact", "n_probes": "exact"}
    visiting = make_plan(locate(dataclasses.replace(parameters, **exact)))
    with pytest.MonkeyPatch.context() as patch:
        for kind in set(ELEMENTS) - {AssignUnit}:
            patch.setattr(kind, "__reduce_ex__", refuse_to_be_pickled, raising=False)
        runners.run(lambda pipeline: pipeline | SemanticDedup(visiting), make_runner(parameters))
    half_visiting = make_plan(locate(dataclasses.replace(parameters, **{**exact, "which_to_keep": "easy"})))
    return dict(zip(EDGES, (fresh, half_finished, finished, visiting, half_visiting), strict=True))


@pytest.fixture(scope="module")
def graphs(plans):
    """The pipeline's proto and its coders by id, for each of `EDGES`."""
    return {cached: graph(made) for cached, made in plans.items()}


def refuse_to_be_pickled(element, protocol):
    raise AssertionError(f"{element} is pickled")


def graph(made):
    """The pipeline of a plan, whose result something reads: its proto and its coders by id."""
    pipeline = beam.Pipeline()
    _ = pipeline | SemanticDedup(made) | "Read result" >> beam.Map(lambda _: None)
    proto, context = pipeline.to_runner_api(return_context=True)
    return proto.components, context.coders.get_by_id


def edge_coders(components, coder):
    """The coders of what the transforms of a pipeline read from each other, without the containers' own."""
    read = {name for transform in components.transforms.values() for name in transform.inputs.values()}
    return {
        components.pcollections[name].unique_name: list(leaves(coder(components.pcollections[name].coder_id)))
        for name in read
    }


def leaves(coder):
    inner = coder._get_component_coders()
    if inner and isinstance(inner[-1], PaneInfoCoder):
        inner = inner[:1]  # Beam's Reshuffle: the element, its timestamp and its pane
    if not inner:
        yield coder
    for component in inner:
        yield from leaves(component)


PLAIN = (coders.VarIntCoder, coders.BytesCoder, coders.StrUtf8Coder)


def test_a_run_in_which_no_element_can_be_pickled_finishes(plans):
    assert [(bool(made.assign_manifest), bool(made.pairwise_manifest)) for made in plans.values()] == [
        (False, False),
        (True, False),
        (True, True),
        (False, False),
        (True, False),
    ]
    assert (
        plans["similarities"].assign_manifest.counts.num_rows
        == plans["similarities"].pairwise_manifest.counts.num_rows
        == 60
    )
    assert plans["similarities"].pairwise_manifest.counts.units_done > plans["similarities"].job.sizes.num_keys > 1


@pytest.mark.parametrize("cached", EDGES)
def test_what_crosses_an_edge_is_a_reference_or_plain_and_never_pickled(graphs, cached):
    found = edge_coders(*graphs[cached])
    for name, inner in found.items():
        assert all(isinstance(coder, (ReferenceCoder, *PLAIN)) for coder in inner), f"{name}: {inner}"
    kinds = {coder.to_type_hint() for inner in found.values() for coder in inner if isinstance(coder, ReferenceCoder)}
    assert kinds == EDGES[cached]


def test_elements_whose_coders_are_not_registered_would_be_noticed(plans, monkeypatch):
    for kind in ELEMENTS:
        monkeypatch.delitem(coders.registry._coders, kind)
    found = edge_coders(*graph(plans["nothing"]))
    pickled = {name for name, inner in found.items() if any(not isinstance(coder, PLAIN) for coder in inner)}
    assert len(pickled) > len(ELEMENTS)
    assert not any(isinstance(coder, ReferenceCoder) for inner in found.values() for coder in inner)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_elements_come_together_even_where_there_are_none(number, parameters):
    found = [DuplicatesFile(n, n, f"{n}") for n in range(number)]

    def check(elements):
        assert sorted(elements, key=lambda file: file.path) == found

    def build(pipeline):
        others = [pipeline | f"Other {n}" >> beam.Create(range(n)) for n in (1, 2)]
        files = pipeline | "Files" >> beam.Create(found).with_output_types(DuplicatesFile)
        together = files | Together(*others)
        _ = together | "Check" >> beam.Map(check)
        assert_that(together | beam.combiners.Count.Globally(), equal_to([1]))

    runners.run(build, make_runner(parameters))


@pytest.mark.parametrize("cached", STEPS)
def test_only_the_steps_that_the_cache_does_not_spare_are_in_the_pipeline(graphs, cached):
    components, _ = graphs[cached]
    (whole,) = (t for t in components.transforms.values() if t.unique_name == "SemanticDedup")
    steps = [components.transforms[name].unique_name.removeprefix("SemanticDedup/") for name in whole.subtransforms]
    assert steps == STEPS[cached]


def test_without_eps_the_pipeline_ends_with_the_similarities(plans):
    made = plans["nothing"]
    job = dataclasses.replace(made.job, parameters=dataclasses.replace(made.job.parameters, eps=None))
    result = beam.Pipeline() | SemanticDedup(dataclasses.replace(made, job=job))
    assert result.element_type is PairwiseResult
    assert (beam.Pipeline() | SemanticDedup(made)).element_type is DuplicatesFile
