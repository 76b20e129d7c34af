"""Beam pipelines of any kind, submitted to the job endpoint on Ray as to any portable runner."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsDict, AsIter, AsList, AsSingleton
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from runs import DEMO, duplicates, wait

from beam_semdedup import SemanticDedup, SemanticDeduplicationWorkflow
from beam_semdedup.config.parameters import EndpointParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.runners.ray.runner import RayRunner

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def options(local_ray: Any) -> Iterator[PipelineOptions]:
    from beam_semdedup.runners.ray.endpoint import Endpoint

    here = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # the pipelines refer to this module
    values = {"port": 0, "runner": {"name": "ray", "num_workers": 2, "runtime_env": here}}
    parameters = resolve(values, EndpointParameters)
    endpoint = Endpoint(RayRunner(parameters), parameters.port)
    port = endpoint.start()
    yield PipelineOptions(["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"])
    endpoint.stop()


class _Count(beam.DoFn):
    SEEN = ReadModifyWriteStateSpec("seen", VarIntCoder())

    def process(self, pair: Any, seen: Any = beam.DoFn.StateParam(SEEN)) -> Iterator[tuple[str, int]]:
        seen.write((seen.read() or 0) + pair[1])
        yield pair[0], seen.read()


class _Setup(beam.DoFn):
    def setup(self) -> None:
        self.ready = True

    def process(self, element: int) -> Iterator[int]:
        assert self.ready
        yield element
        if element % 2:
            yield beam.pvalue.TaggedOutput("odd", element)


def _par_do(p: beam.Pipeline) -> None:
    outputs = p | beam.Create(range(10)) | beam.ParDo(_Setup()).with_outputs("odd", main="all")
    assert_that(outputs.all, equal_to(list(range(10))), label="all")
    assert_that(outputs.odd, equal_to([1, 3, 5, 7, 9]), label="odd")


def _group_by_key(p: beam.Pipeline) -> None:
    pairs = p | beam.Create([("a", 1), ("b", 2), ("a", 3)]) | beam.Reshuffle() | beam.GroupByKey()
    assert_that(pairs | beam.MapTuple(lambda k, v: (k, sorted(v))), equal_to([("a", [1, 3]), ("b", [2])]))


def _side_inputs(p: beam.Pipeline) -> None:
    side = p | "Side" >> beam.Create([("x", 1), ("y", 2)])
    one = p | "One" >> beam.Create([5])
    result = (
        p
        | beam.Create([1])
        | beam.Map(
            lambda n, pairs, found, every, single: (n, sorted(pairs), found["y"], len(list(every)), single),
            AsList(side),
            AsDict(side),
            AsIter(side),
            AsSingleton(one),
        )
    )
    assert_that(result, equal_to([(1, [("x", 1), ("y", 2)], 2, 2, 5)]))


def _flatten(p: beam.Pipeline) -> None:
    parts = [p | f"Part {n}" >> beam.Create([n, n]) for n in range(3)]
    assert_that(parts | beam.Flatten(), equal_to([0, 0, 1, 1, 2, 2]))


def _combine(p: beam.Pipeline) -> None:
    numbers = p | beam.Create(range(100))
    assert_that(numbers | beam.CombineGlobally(sum), equal_to([4950]), label="globally")
    per_key = numbers | beam.WithKeys(lambda n: n % 2) | beam.CombinePerKey(beam.combiners.MeanCombineFn())
    assert_that(per_key, equal_to([(0, 49.0), (1, 50.0)]), label="per key")


def _windows(p: beam.Pipeline) -> None:
    timed = p | beam.Create([1, 2, 11]) | beam.Map(lambda n: TimestampedValue(n, n)) | beam.WindowInto(FixedWindows(10))
    counted = timed | beam.combiners.Count.Globally().without_defaults()
    assert_that(counted, equal_to([2, 1]))


def _state(p: beam.Pipeline) -> None:
    counted = p | beam.Create([("a", 1), ("a", 1), ("b", 1)]) | beam.ParDo(_Count())
    assert_that(counted, equal_to([("a", 1), ("a", 2), ("b", 1)]))


class _Part(beam.PTransform):
    """A pipeline as a part of another, with labels of its own."""

    def __init__(self, build: Callable[[Any], None]) -> None:
        super().__init__()
        self._build = build

    def expand(self, root: Any) -> Any:
        self._build(root)
        return root | "End" >> beam.Create([0])


def test_the_command_says_what_it_does_not_understand() -> None:
    command = [sys.executable, "-m", "beam_semdedup.cli.ray_endpoint", "prot=8099"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.endswith("Error: unknown parameter prot; did you mean port?\n")
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_what_a_runner_must_do(options: PipelineOptions) -> None:
    with beam.Pipeline(options=options) as p:
        for build in (_par_do, _group_by_key, _side_inputs, _flatten, _combine, _windows, _state):
            _ = p | build.__name__ >> _Part(build)


@pytest.mark.slow
def test_metrics_come_back(options: PipelineOptions) -> None:
    p = beam.Pipeline(options=options)

    def count(_: int) -> None:
        beam.metrics.Metrics.counter("test", "seen").inc()

    _ = p | beam.Create(range(7)) | beam.Map(count)
    result = p.run()
    result.wait_until_finish()
    (counter,) = result.metrics().query()["counters"]
    assert counter.committed == 7


@pytest.mark.slow
def test_a_failure_comes_back_with_its_cause_and_leaves_nothing_claimed(options: PipelineOptions) -> None:
    def fail(_: int) -> None:
        raise ValueError("what the user did")

    p = beam.Pipeline(options=options)
    _ = p | beam.Create([1]) | beam.Map(fail)
    with pytest.raises(RuntimeError, match="what the user did"):
        p.run().wait_until_finish()
    wait(lambda: ray.available_resources().get("CPU") == 2)


@pytest.mark.slow
def test_a_cancelled_job_ends_its_actors(options: PipelineOptions, tmp_path: Path) -> None:
    running = str(tmp_path / "running")

    def wait_long(_: int) -> None:
        Path(running).touch()
        time.sleep(600)

    p = beam.Pipeline(options=options)
    _ = p | beam.Create([1]) | beam.Map(wait_long)
    result = p.run()
    wait(Path(running).exists)
    result.cancel()
    wait(lambda: ray.available_resources().get("CPU") == 2)


@pytest.mark.slow
def test_pipelines_submitted_together_take_turns(options: PipelineOptions) -> None:
    failures: list[BaseException] = []

    def submit() -> None:
        try:
            with beam.Pipeline(options=options) as p:
                _combine(p)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert failures == []


@pytest.mark.slow
def test_the_transforms_in_a_submitted_pipeline(options: PipelineOptions, tmp_path: Path) -> None:
    fixed = {"input_path": DEMO, "n_clusters": 20, "eps": 0.05}
    workflow = SemanticDeduplicationWorkflow(**fixed, output_path=tmp_path / "submitted")
    with beam.Pipeline(options=options) as p:
        _ = p | SemanticDedup(workflow.plan())
    summary = workflow.run()
    assert summary.stages["pairwise"].units_done == 0
    expected = SemanticDeduplicationWorkflow(**fixed, output_path=tmp_path / "direct").run()
    assert duplicates(summary).equals(duplicates(expected))
