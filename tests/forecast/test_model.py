from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from reading import inspect

from beam_semdedup.config.parameters import ForecastParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.forecast.model import Data, Earlier, Machines, forecast, recommend
from beam_semdedup.forecast.spread import measure
from beam_semdedup.plan.probes import Spread
from beam_semdedup.plan.rates import Rates
from beam_semdedup.plan.sizes import SEGMENT_BYTES
from beam_semdedup.stages.assign import find_assigned
from beam_semdedup.stages.visits import _Facts, find_basis
from beam_semdedup.storage.segments import VISITS, read, read_index
from beam_semdedup.workflow.run import SemanticDeduplicationWorkflow

RATES = Rates(
    cores=2,
    dimension=384,
    fit_flops=2e11,
    assign_flops=2e11,
    compare_flops=2e11,
    read_value=5e-9,
    fit_value=2e-9,
    assign_value=1e-8,
    compare_value=5e-9,
    row=1e-7,
    visit_value=5e-9,
    visit=1e-6,
    visitor=1e-6,
    match_flops=1e11,
    merge=1e-6,
    segment=1e-4,
    unit=1e-3,
    disk=1e9,
    start=2.0,
    start_workers=4.0,
    reference=1e-4,
)
MACHINES = Machines(cores=2)


def parameters(**values):
    return resolve({"rows": 10**10, "dimension": 384, **values}, ForecastParameters)


SPREAD = Spread((1000,), (4.0,), (1.2,), 32)


def made(rows=1_000_000, clusters=1000, machines=MACHINES, rates=RATES, dimension=384, spread=None, **values):
    return forecast(parameters(**values), Data(rows, dimension, 0, 4 * dimension), clusters, machines, rates, spread)


def stage(found, name):
    return next(s for s in found.stages if s.name == name)


def test_sizes_are_those_of_a_run(make_dataset, tmp_path):
    data = make_dataset(rows=3000, copies=100, clusters=12)
    sizes = {"n_clusters": 12, "comparison_rows": 500, "assign_unit_bytes": 4 * 16 * 400, "fit_data_fraction": 0.5}
    fixed = {"memory_budget": "1GiB", "max_cluster_rows": 1000}
    workflow = SemanticDeduplicationWorkflow(
        input_path=data.path, output_path=str(tmp_path / "out"), verbose=False, **sizes, **fixed
    )
    job = workflow.plan().job
    units = workflow.plan().units
    workflow.run()
    found = [segment for name in job.segments.names() for segment in find_assigned(job, name).segments]
    p = parameters(**sizes, **fixed)
    machines = Machines(memory=p.memory_budget)
    expected = forecast(p, Data(3000, 16, 0, 0, inspect(data.path)), 12, machines, RATES)
    assert (expected.units, expected.sizes.num_keys, expected.segments) == (len(units), job.sizes.num_keys, len(found))
    assert expected.sizes.sample_rows == job.sizes.sample_rows == 1500
    assert expected.comparisons == sum(name.endswith(".parquet") for name in job.pairwise.names())
    assert expected.segments * expected.segment_bytes == pytest.approx(sum(s.length for s in found), rel=0.02)


def test_operations_are_counted():
    found = made(rows=1000, clusters=10, skew=2, fit_iterations=4)
    assert stage(found, "assign").flops == 2 * 384 * 1000 * 10
    assert stage(found, "fit").flops == 2 * 384 * 1000 * 10 * 5
    sizes = np.full(10, 100)
    assert stage(made(rows=1000, clusters=10, skew=1), "compare").flops == 384 * (sizes * (sizes - 1)).sum()
    assert stage(found, "compare").flops == pytest.approx(2 * 384 * 1000 * 199 / 2)


def test_sizes_of_visits_are_those_of_a_run(make_dataset, tmp_path):
    data = make_dataset(rows=4000, copies=100, clusters=12)
    sizes = {"n_clusters": 12, "comparison_rows": 700, "assign_unit_bytes": 4 * 16 * 800, "eps": 0.2}
    workflow = SemanticDeduplicationWorkflow(
        input_path=data.path, output_path=str(tmp_path / "out"), verbose=False, n_probes="exact", **sizes
    )
    workflow.run()
    job = workflow.plan().job
    found = [
        read_index(job.visits.file(name), _Facts, VISITS)[1].segments for name in job.visits.names() if "arrow" in name
    ]
    segments = [segment for index in found for segment in index]
    p = resolve({"input_path": data.path, "n_probes": "exact", **sizes}, ForecastParameters)
    facts = inspect(data.path)
    spread = measure(p, facts, 12)
    expected = forecast(p, Data(4000, 16, 0, 0, facts), 12, MACHINES, RATES, spread)
    batches = read(job.visits, segments, job.visit_schema(find_basis(job)[0].width + 1))
    visits = sum(len(batch.column("__visited").flatten()) for batch in batches) / 4000
    assert visits > 0.5
    assert expected.visits == pytest.approx(visits, rel=0.35)
    assert expected.visits_bytes == pytest.approx(sum(segment.length for segment in segments), rel=0.35)


def test_what_visits_takes_more_in_every_way():
    within, across = made(), made(spread=SPREAD)
    assert {s.name for s in across.stages} - {s.name for s in within.stages} == {"visits", "matches", "merge"}
    assert (within.visits, across.visits) == (0, 4)
    assert across.visits_bytes == pytest.approx(4e6 * (4 * 33 + 40 + 4), rel=0.05)
    assert across.comparing > within.comparing
    assert across.seconds > within.seconds
    assert across.driver_memory > within.driver_memory
    assert across.worker_memory >= within.worker_memory
    far = dataclasses.replace(SPREAD, visits=(999.0,))
    assert made(spread=far).worker_memory > across.worker_memory


def test_the_driver_holds_files_and_keys_and_not_their_segments():
    machines = Machines(workers=1000, cores=8, memory=16 << 30, fit_workers=64, storage_bandwidth=10**9)
    for spread in (None, SPREAD):
        found = made(rows=10**10, clusters=42_000, machines=machines, spread=spread)
        assert found.segments > 5e7
        assert found.driver_memory < 1 << 30
        assert stage(found, "index").seconds < 0.1 * found.seconds


@pytest.mark.parametrize("spread", [None, SPREAD], ids=["n_probes=1", "exact"])
def test_earlier_rows_are_compared_and_assigned_if_they_are_not(spread):
    def with_earlier(**rows):
        data = Data(10**6, 384, 0, 4 * 384, earlier=Earlier(**rows))
        p = parameters(**({"within": False, "corpus_rows": 1} if rows else {}))
        return forecast(p, data, 1000, MACHINES, RATES, spread)

    comparing = "matches" if spread else "compare"
    alone, against, corpus = with_earlier(), with_earlier(references=10**6), with_earlier(corpus=10**6)
    assert stage(against, "assign").flops == 2 * stage(alone, "assign").flops == 2 * stage(corpus, "assign").flops
    # With each other the rows make half as many pairs as with as many others.
    assert stage(against, comparing).flops == pytest.approx(2 * stage(alone, comparing).flops, rel=0.01)
    assert against.segments == pytest.approx(2 * alone.segments, rel=0.01)
    assert against.seconds > corpus.seconds > alone.seconds
    both = with_earlier(references=10**6, corpus=10**6)
    assert stage(both, "assign").flops == stage(against, "assign").flops
    assert stage(both, comparing).flops == pytest.approx(4 * stage(alone, comparing).flops, rel=0.01)
    assert both.seconds > against.seconds
    far = with_earlier(corpus=10**7)
    assert stage(far, comparing).units == stage(alone, comparing).units  # blocks would read them again


def test_visits_share_the_work_and_are_found_on_cores_alone():
    one, many = (made(spread=SPREAD, machines=Machines(workers=w, cores=2)) for w in (1, 10))
    for name in ("visits", "matches", "merge"):
        assert stage(many, name).seconds == pytest.approx(stage(one, name).seconds / 10, rel=0.5)
    assert stage(made(spread=SPREAD, machines=Machines(cores=2, gpus=1)), "matches") == stage(one, "matches")
    fast = stage(made(spread=SPREAD, machines=Machines(cores=4)), "matches")
    assert fast.parts["products"] == pytest.approx(stage(one, "matches").parts["products"] / 2)


def test_more_rows_take_more():
    found = [made(rows=rows, clusters=rows // 1000) for rows in (10**4, 10**5, 10**6, 10**7)]
    for a, b in zip(found[:-1], found[1:], strict=True):
        assert a.seconds < b.seconds
        assert a.segments <= b.segments
        assert a.driver_memory <= b.driver_memory


@pytest.mark.parametrize("name", ["assign", "compare", "duplicates"])
def test_twice_the_work_takes_twice_as_long(name):
    once, twice = (stage(made(rows=rows, clusters=k), name) for rows, k in ((10**6, 500), (2 * 10**6, 1000)))
    factor = 4 if name == "assign" else 2
    assert twice.flops == pytest.approx(factor * once.flops, rel=1e-2)
    if name != "assign":
        assert twice.seconds == pytest.approx(2 * once.seconds, rel=0.05)
    assert twice.parts["memory"] == pytest.approx(2 * once.parts["memory"])


def test_workers_share_units_in_whole_rounds():
    one = made(rows=10**7)
    many = made(rows=10**7, machines=Machines(workers=10, cores=2))
    assert stage(many, "assign").seconds == pytest.approx(stage(one, "assign").seconds / 10, rel=0.1)
    assert stage(many, "index").seconds == stage(one, "index").seconds  # one unit
    few = made(rows=10**5, machines=Machines(workers=100, cores=2))
    units = stage(few, "assign").units
    assert stage(few, "assign").seconds == pytest.approx(stage(made(rows=10**5), "assign").seconds / units)


def test_what_bounds_a_stage_is_named():
    assert stage(made(clusters=10_000), "assign").bottleneck == "products"
    fast = Machines(cores=2, storage_bandwidth=10**12)
    assert stage(made(clusters=10, machines=fast), "assign").bottleneck == "memory"
    slow = Machines(cores=2, storage_bandwidth=10**7)
    assert stage(made(machines=slow), "assign").bottleneck == "storage"
    gpu = Machines(cores=2, gpus=1)
    assert stage(made(machines=gpu), "assign").parts["products"] == pytest.approx(2 * 384e9 / RATES.gpu_flops)
    assert made(rows=1000, clusters=30).bottleneck == "start"


@pytest.mark.parametrize(
    ("machines", "rows", "clusters", "what"),
    [
        (Machines(memory=1 << 30), 10**9, 30_000, "segments of"),
        (Machines(memory=256 << 20), 10**7, 3_000, "fit on"),
        (Machines(memory=64 << 30, workers=64), 10**9, 30_000, "fit in one process"),
    ],
)
def test_a_limit_of_the_design_is_named_with_advice(machines, rows, clusters, what):
    found = [limit for limit in made(rows=rows, clusters=clusters, machines=machines).limits]
    assert any(limit.what.startswith(what) and limit.advice for limit in found), found


def test_what_the_advice_asks_for_helps():
    limits = made(rows=10**9, clusters=30_000, machines=Machines(memory=2 << 30)).limits
    (small,) = [limit for limit in limits if limit.what.startswith("segments")]
    memory = int(small.advice.removeprefix("memory_budget=").split("GiB")[0]) << 30
    found = made(rows=10**9, clusters=30_000, machines=Machines(memory=memory))
    assert found.segment_bytes >= 0.9 * SEGMENT_BYTES
    assert not [limit for limit in found.limits if limit.what.startswith("segments")]


def test_no_limit_is_reached_where_runs_were_measured():
    for rows in (10**5, 10**6, 2 * 10**6, 10**7):
        assert made(rows=rows, clusters=rows // 1000).limits == ()


def test_the_recommended_number_is_the_least_of_those_that_take_little_time():
    data, p = Data(10**7, 384, 0, 4 * 384), parameters()
    best = recommend(p, data, MACHINES, RATES)
    least = min(forecast(p, data, k, MACHINES, RATES).seconds for k in range(200, 20_000, 200))
    assert best.seconds <= 1.11 * least
    assert forecast(p, data, best.sizes.n_clusters // 2, MACHINES, RATES).seconds > 1.1 * least


def test_given_centroids_need_no_fit():
    found = made(fit_iterations=0)
    assert [s.name for s in found.stages] == ["start", "assign", "index", "compare", "duplicates"]
    assert found.sizes.sample_rows == 0
