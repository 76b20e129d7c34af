"""Streaming pipelines: what gives the arrivals of a watched input, and where they run."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flink_on_this_machine import needs_the_jar
from prism_on_this_machine import PRISM, needs_prism
from runs import wait

from beam_semdedup.config.parameters import WatchParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError, StorageError, WorkerLost
from beam_semdedup.runners import base as runners
from beam_semdedup.runners.registry import make_runner
from beam_semdedup.streams.arrivals import Arrivals
from beam_semdedup.streams.transforms import ReadArrivals
from beam_semdedup.transforms import Together

ON_PRISM = pytest.param({"name": "prism", "prism_location": PRISM}, marks=needs_prism, id="prism")
ON_FLINK = pytest.param({"name": "flink", "num_workers": 2}, marks=[needs_the_jar, pytest.mark.slow], id="flink")


class _Watched:
    """An input, and a pipeline that lists the files of each arrival, as `generations/` says in the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        places = {f"{name}put_path": str(directory / name) for name in ("in", "out")}
        given = {**places, "corpus_path": str(directory / "corpus"), "eps": 0.1}
        self.arrivals = Arrivals(resolve(given, WatchParameters))

    def drop(self, name: str) -> None:
        vectors = np.eye(4, dtype=np.float32)
        pq.write_table(pa.table({"id": range(4), "embeddings": list(vectors)}), self.directory / name)
        (self.directory / "in").mkdir(exist_ok=True)
        (self.directory / name).rename(self.directory / "in" / f"{name}.parquet")

    def build(self, pipeline: beam.Pipeline) -> None:
        arrivals, died = self.arrivals, str(self.directory / "died")

        def files(number: int) -> Iterator[tuple[str, int]]:
            for file in arrivals.read(number).files:
                yield file.url.rpartition("/")[2].removesuffix(".parquet"), number
                yield file.url.rpartition("/")[2].removesuffix(".parquet"), number

        def counted(name: str, values: Any) -> str:
            numbers = list(values)
            if name == "deadly" and not os.path.exists(died):  # noqa: PTH110 - the worker has this function alone
                open(died, "w").close()  # noqa: PTH123
                os.kill(os.getpid(), signal.SIGKILL)
            return f"{name} {len(numbers)}"

        def finish(found: list[str], window: Any = beam.DoFn.WindowParam) -> None:
            arrivals.finished(int(window.start)).write_bytes(json.dumps(sorted(found)).encode())

        numbers = pipeline | ReadArrivals(arrivals, 0.3)
        found = (
            numbers
            | "List" >> beam.FlatMap(files).with_output_types(tuple[str, int])
            | beam.GroupByKey()
            | "Count" >> beam.MapTuple(counted).with_output_types(str)
        )
        _ = found | "When all is counted" >> Together(numbers) | "Finish" >> beam.Map(finish)

    def run(self, settings: dict[str, Any], enough: Callable[[], bool]) -> None:
        values = {"input_path": "in", "output_path": "out", "runner": settings}
        before = psutil.Process().children(recursive=True)
        try:
            runners.run(self.build, make_runner(resolve(values)), runners.Stream(enough, "test"))
        finally:
            wait(lambda: psutil.Process().children(recursive=True) == before)

    def finished(self) -> list[list[str]]:
        number = self.arrivals.first_unfinished()
        return [json.loads(self.arrivals.finished(n).read_bytes()) for n in range(number)]


@pytest.fixture
def watched(tmp_path: Path) -> _Watched:
    return _Watched(tmp_path)


@pytest.mark.parametrize("settings", [ON_PRISM, ON_FLINK])
def test_files_that_are_dropped_while_it_runs_become_generations(settings: dict[str, Any], watched: _Watched) -> None:
    watched.drop("a")

    def drop() -> None:
        for number, name in enumerate(("b", "c"), 1):
            wait(lambda number=number: len(watched.finished()) == number, 250)
            watched.drop(name)

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    watched.run(settings, lambda: len(watched.finished()) == 3)
    thread.join()
    assert watched.finished() == [["a 2"], ["b 2"], ["c 2"]]


@pytest.mark.parametrize("settings", [ON_PRISM, ON_FLINK])
@pytest.mark.timeout(900)  # Flink starts three times
@pytest.mark.slow
def test_a_stream_that_lost_a_worker_goes_on_with_the_generation_at_hand(
    settings: dict[str, Any], watched: _Watched
) -> None:
    watched.drop("a")
    watched.drop("deadly")
    with pytest.raises(WorkerLost, match="was killed by SIGKILL"):
        watched.run({**settings, "max_retries": 0}, lambda: len(watched.finished()) == 1)
    assert watched.arrivals.numbers() == [0]
    assert watched.finished() == []
    (watched.directory / "died").unlink()
    watched.drop("b")
    watched.run({**settings, "max_retries": 1}, lambda: len(watched.finished()) == 2)
    assert watched.finished() == [["a 2", "deadly 2"], ["b 2"]]


@needs_prism
def test_what_asks_for_the_end_may_fail(watched: _Watched) -> None:
    def fail() -> bool:
        raise StorageError("out: cannot be read")

    with pytest.raises(StorageError, match=r"^out: cannot be read$"):
        watched.run({"name": "prism", "prism_location": PRISM}, fail)


@pytest.mark.parametrize("name", ["direct", "ray"])
def test_runners_without_streams_say_which_have_them(name: str, watched: _Watched) -> None:
    with pytest.raises(InputError, match=rf"^runner={name} cannot run streams: give runner=prism \(make install"):
        watched.run({"name": name}, lambda: True)
