"""`runner=prism` where it is built."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import psutil
import pytest
from apache_beam.transforms import window
from prism_on_this_machine import PRISM, needs_prism
from runs import DEMO, SIZES, Ended, finish, start, unit_files, wait

from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import RunError, UnitError, WorkerLost
from beam_semdedup.runners import base as runners
from beam_semdedup.runners.registry import make_runner


def _run(build: runners.Build, **settings: Any) -> None:
    values = {"input_path": "in", "output_path": "out"}
    before = psutil.Process().children(recursive=True)
    try:
        runners.run(
            build, make_runner(resolve({**values, "runner": {"name": "prism", "prism_location": PRISM, **settings}}))
        )
    finally:
        wait(lambda: psutil.Process().children(recursive=True) == before)


@needs_prism
def test_what_a_unit_says_comes_back() -> None:
    def fail(number: int) -> None:
        raise UnitError(f"file.parquet: {number} is wrong")

    with pytest.raises(RunError, match=r"^file\.parquet: 7 is wrong$"):
        _run(lambda p: p | beam.Create([7]) | beam.Map(fail))


@needs_prism
@pytest.mark.slow
def test_a_killed_worker_is_said_and_the_run_is_started_again(tmp_path: Path) -> None:
    place = str(tmp_path / "died")

    def die_once(number: int) -> None:
        if not os.path.exists(place):  # noqa: PTH110 - the worker has this function alone
            open(place, "w").close()  # noqa: PTH123
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLost, match=r"^worker process \d+ was killed by SIGKILL"):
        _run(lambda p: p | beam.Create([7]) | beam.Map(die_once))
    Path(place).unlink()
    _run(lambda p: p | beam.Create([7]) | beam.Map(die_once), max_retries=3)


@needs_prism
def test_a_streaming_pipeline_runs(tmp_path: Path) -> None:
    def write(key: int, values: Any) -> None:
        (tmp_path / f"{key}-{sum(values)}").touch()

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | beam.Create([(1, 2), (1, 3), (2, 4)])
            | beam.Map(lambda pair: window.TimestampedValue(pair, 10 * pair[1]))
            | beam.WindowInto(window.FixedWindows(1000))
            | beam.GroupByKey()
            | beam.MapTuple(write)
        )

    _run(build, options={"streaming": True})
    assert {file.name for file in tmp_path.iterdir()} == {"1-5", "2-4"}


@needs_prism
@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing_running(tmp_path: Path, init: str) -> None:
    given = {
        "input_path": DEMO,
        "output_path": tmp_path / "out",
        "n_clusters": 100,
        "init": init,
        "max_iter": 0,
        **SIZES,
    }
    on_prism = {"runner": "prism", "runner.prism_location": PRISM}
    process = start([f"{name}={value}" for name, value in {**given, **on_prism}.items()], tmp_path)
    try:
        wait(lambda: len(unit_files(tmp_path / "out")) >= 3 or process.poll() is not None)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 130
        wait(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family))
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("prism_location=/none", "there is no such file"),
        ("num_workers=2", "Prism starts one worker, which has all cores"),
    ],
)
def test_what_prism_cannot_run_with_is_bad_input(
    setting: str, said: str, semdedup: Callable[..., Ended], tmp_path: Path
) -> None:
    ended = semdedup(f"input_path={DEMO}", f"output_path={tmp_path}/out", "runner=prism", f"runner.{setting}")
    assert (ended.code, ended.err) == (2, f"Error: runner.{setting}: {said}\n")
