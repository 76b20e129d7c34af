"""`semdedup-watch` as a user types it: what it finds, in what is left when it is killed, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flink_on_this_machine import needs_the_jar, session_cluster
from prism_on_this_machine import PRISM, needs_prism
from runs import Ended, finish, wait

from beam_semdedup.cli import commands

EPS = 0.05
COMMAND = [sys.executable, "-P", "-c", "from beam_semdedup.cli.commands import watch_main; watch_main()"]
ON_PRISM = pytest.param(
    {"runner": "prism", "runner.prism_location": PRISM, "runner.max_retries": 3}, marks=needs_prism, id="prism"
)
ON_FLINK = pytest.param({"runner": "flink", "runner.num_workers": 2}, marks=needs_the_jar, id="flink")


class _Watched:
    """A watched directory, and the commands that watch it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.out = directory, directory / "out"
        self._rng = np.random.default_rng(0)
        self._base = self._rng.standard_normal((60, 8))
        self.rows: dict[str, tuple[list[str], np.ndarray]] = {}
        self.references: list[str] = []
        self.processes: list[subprocess.Popen[str]] = []
        (directory / "in").mkdir()

    def drop(self, name: str, rows: int = 80) -> None:
        """Puts a whole file of rows there, some like others that are there or come."""
        pq.write_table(self._rows(name, rows), self.directory / name)
        (self.directory / name).rename(self.directory / "in" / f"{name}.parquet")

    def refer(self, name: str) -> Path:
        """Writes a file of rows to be given as `against`, some like those that come."""
        file = self.directory / f"{name}.parquet"
        pq.write_table(self._rows(name, 40), file)
        self.references.append(file.name)
        return file

    def _rows(self, name: str, rows: int) -> pa.Table:
        vectors = self._base[self._rng.integers(0, 60, rows)] + 0.1 * self._rng.standard_normal((rows, 8))
        vectors = vectors.astype(np.float32)
        ids = [f"{name}-{number:03d}" for number in range(rows)]
        self.rows[f"{name}.parquet"] = ids, vectors.astype(np.float64)
        return pa.table({"id": ids, "embeddings": list(vectors)})

    def start(self, **given: Any) -> subprocess.Popen[str]:
        places = {f"{name}put_path": self.directory / name for name in ("in", "out")}
        values = {
            **places,
            "corpus_path": self.directory / "corpus",
            "eps": EPS,
            "n_probes": "exact",
            "n_clusters": 5,
            "ranking_strategy": "{metadata_cols:[id]}",
            "poll_interval": 0.3,
            **given,
        }
        self.processes.append(
            subprocess.Popen(
                [*COMMAND, *(f"{name}={value}" for name, value in values.items())],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=self.directory,
            )
        )
        return self.processes[-1]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.processes[-1].pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        return [p for p in self.family() if "beam_semdedup.runners.flink.worker_pool" in p.cmdline()]

    def recorded(self) -> int:
        return len(list(self.out.glob("arrivals/*.json")))

    def finished(self) -> int:
        return len(list(self.out.glob("generations/*.json")))

    def arrived(self) -> list[list[str]]:
        """The names of the files of each arrival."""
        records = [json.loads(file.read_bytes()) for file in sorted(self.out.glob("arrivals/*.json"))]
        return [[Path(file["url"]).name for file in record["files"]] for record in records]

    def wait(self, condition: Callable[[], Any]) -> None:
        process = self.processes[-1]
        wait(lambda: condition() or process.poll() is not None, 400)
        assert process.poll() is None, finish(process)

    def found(self) -> dict[str, tuple[int, str]]:
        """The generation of each duplicate, and the row that it is like."""
        found = {}
        for folder in sorted(self.out.glob("duplicates/generation=*")):
            (file,) = folder.glob("*.parquet")
            table = pq.read_table(file, partitioning=None)
            pairs = zip(table.column("id").to_pylist(), table.column("max_id").to_pylist(), strict=True)
            found.update((id_, (int(folder.name[-4:]), max_id)) for id_, max_id in pairs)
        return found

    def expected(self) -> dict[str, tuple[int, str]]:
        """The same by all products in float64, of rows in the order of their arrival and then of their ids.

        References rank before them.
        """
        arrived = [self.references, *self.arrived()]
        order = sorted(
            (number, id_, vector / np.linalg.norm(vector))
            for number, names in enumerate(arrived, -1)
            for name in names
            for id_, vector in zip(*self.rows[name], strict=True)
        )
        vectors = np.stack([vector for _, _, vector in order])
        products = np.tril(vectors @ vectors.T, -1) - np.triu(np.full((len(order), len(order)), 2.0))
        assert np.abs(products - (1 - EPS)).min() > 1e-6
        best = products.argmax(axis=1)
        return {
            id_: (number, order[best[n]][1])
            for n, (number, id_, _) in enumerate(order)
            if products[n, best[n]] >= 1 - EPS and number >= 0
        }


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[_Watched]:
    made = _Watched(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def _are_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@needs_prism
def test_what_is_there_is_deduplicated_and_what_is_broken_set_aside(watched: _Watched) -> None:
    watched.drop("b")
    watched.drop("a")
    (watched.directory / "in" / "broken.parquet").write_bytes(b"no parquet")
    process = watched.start(**{"runner.prism_location": PRISM}, stop_after=1, remove=True)
    ended = finish(process)
    assert ended.code == 0, ended
    expected = watched.expected()
    assert watched.found() == expected
    assert len(expected) > 20
    number = len(expected)
    assert re.search(rf"Generation 0: 160 rows in 2 files: {number} duplicates, {160 - number} kept; ", ended.err)
    assert re.search(r"Set aside: \S+broken\.parquet: not a readable parquet file", ended.err)
    assert f"Duplicates  {number:>14,}" in ended.out
    kept = pq.read_table(watched.out / "deduplicated" / "generation=0000", partitioning=None).column("id").to_pylist()
    assert set(kept) == {f"{name}-{n:03d}" for name in "ab" for n in range(80)} - expected.keys()
    assert [f.name for f in (watched.out / "arrivals").iterdir()] == ["0000000000.json"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("runner", [ON_PRISM, ON_FLINK])
def test_references_remove_rows_of_every_generation(runner: dict[str, Any], watched: _Watched) -> None:
    references = watched.refer("r")
    watched.drop("a")
    process = watched.start(**runner, stop_after=2, against=references, remove=True)
    watched.wait(lambda: watched.finished() == 1)
    watched.drop("b")
    ended = finish(process)
    assert ended.code == 0, ended
    expected = watched.expected()
    assert watched.found() == expected
    of_references = {number for number, max_id in expected.values() if max_id.startswith("r-")}
    assert of_references == {0, 1}
    (file,) = (watched.out / "duplicates" / "generation=0001").glob("*.parquet")
    sources = pq.read_table(file, partitioning=None).column("max_source").to_pylist()
    assert set(sources) == {"input", str(references), str(watched.directory / "in" / "a.parquet")}
    kept = pq.read_table(watched.out / "deduplicated", partitioning=None).column("id").to_pylist()
    assert set(kept) == {f"{name}-{n:03d}" for name in "ab" for n in range(80)} - expected.keys()


@pytest.mark.slow
@pytest.mark.timeout(1500)  # Flink starts three times
@pytest.mark.parametrize("runner", [ON_PRISM, ON_FLINK])
def test_whatever_is_killed_nothing_is_lost_or_repeated(runner: dict[str, Any], watched: _Watched) -> None:
    watched.drop("a")
    watched.drop("b")
    process = watched.start(**runner)
    watched.wait(lambda: watched.finished() == 1)
    watched.drop("c")
    watched.wait(lambda: watched.recorded() == 2)
    watched.workers()[0].kill()
    watched.drop("d")
    watched.wait(lambda: watched.finished() == 3)
    assert watched.arrived()[1:] == [["c.parquet"], ["d.parquet"]]
    watched.drop("e")
    watched.wait(lambda: watched.recorded() == 4)
    family = watched.family()
    process.kill()
    process.wait()
    wait(lambda: _are_gone(family))
    watched.drop("f")
    process = watched.start(**runner)
    watched.wait(lambda: watched.finished() == 5)
    watched.drop("g")
    watched.wait(lambda: watched.recorded() == 6)
    family = watched.family()
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert ended.code == 143, ended
    assert "Terminated. What had arrived is finished" in ended.err
    assert "Traceback" not in ended.err
    assert _are_gone(family)
    assert watched.finished() == watched.recorded() == 6
    assert watched.found() == watched.expected()
    assert {number for number, _ in watched.found().values()} == set(range(6))


@needs_prism
@pytest.mark.slow
def test_a_watch_ends_when_another_one_takes_its_place(watched: _Watched) -> None:
    watched.drop("a")
    first = watched.start(**{"runner.prism_location": PRISM})
    watched.wait(lambda: watched.finished() == 1)
    second = watched.start(**{"runner.prism_location": PRISM}, stop_after=1)
    ended = finish(first)
    assert (ended.code, "another semdedup-watch was started with output_path=" in ended.err) == (1, True), ended
    assert "Traceback" not in ended.err
    watched.drop("b")
    assert finish(second).code == 0
    assert watched.found() == watched.expected()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@needs_the_jar
def test_a_killed_watch_leaves_no_job_on_a_cluster_beside_the_next_one(watched: _Watched) -> None:
    watched.drop("a")
    with session_cluster(watched.directory / "flink") as cluster:
        settings = {f"runner.{name}": value for name, value in cluster.settings.items() if name != "name"}
        process = watched.start(runner="flink", **settings)
        watched.wait(lambda: watched.finished() == 1)
        process.kill()
        process.wait()
        watched.drop("b")
        process = watched.start(runner="flink", **settings)
        watched.wait(lambda: [job["state"] for job in cluster.jobs()] == ["CANCELED", "RUNNING"])
        watched.drop("c")
        watched.wait(lambda: set(watched.rows) == {name for names in watched.arrived() for name in names})
        process.send_signal(signal.SIGTERM)
        ended = finish(process)
        assert ended.code == 143, ended
        assert [job["state"] for job in cluster.jobs()] == ["CANCELED", "CANCELED"]
    assert watched.finished() == watched.recorded()
    assert watched.found() == watched.expected()


@pytest.mark.slow
@needs_prism
def test_every_row_of_each_generation_is_marked(watched: _Watched) -> None:
    watched.drop("a")
    process = watched.start(**{"runner.prism_location": PRISM}, stop_after=2, remove="mark")
    watched.wait(lambda: watched.finished() == 1)
    watched.drop("b")
    ended = finish(process)
    assert ended.code == 0, ended
    expected = watched.expected()
    assert {number for number, _ in expected.values()} == {0, 1}
    for number, name in enumerate("ab"):
        marked = pq.read_table(watched.out / "marked" / f"generation={number:04d}", partitioning=None)
        given = pq.read_table(watched.directory / "in" / f"{name}.parquet")
        assert marked.select(given.column_names).equals(given)
        ids, like = marked.column("id").to_pylist(), marked.column("duplicate_of").to_pylist()
        assert dict(zip(ids, like, strict=True)) == {id_: expected.get(id_, (0, None))[1] for id_ in ids}
        assert marked.column("duplicate").to_pylist() == [id_ in expected for id_ in ids]
    assert not (watched.out / "deduplicated").exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@needs_prism
def test_a_bucket_is_watched_and_gone_on_with_after_a_kill(watched: _Watched, s3: Any) -> None:
    bucket, endpoint = fsspec.filesystem("s3", **s3.options), s3.options["client_kwargs"]["endpoint_url"]
    options = f'{{storage_options: {{key: test, secret: test, client_kwargs: {{endpoint_url: "{endpoint}"}}}}}}'
    places = {f"{name}_path": s3.join(name) for name in ("corpus", "output")}
    given = {**places, "input_path": s3.join("in"), "read_kwargs": options, "write_kwargs": options, "remove": True}

    def drop(name: str) -> None:
        watched.drop(name)
        bucket.put_file(str(watched.directory / "in" / f"{name}.parquet"), s3.join("in", f"{name}.parquet"))

    def recorded(kind: str) -> int:
        keys = s3.keys()
        return sum(key.startswith(f"output/{kind}/") and key.count("/") == 2 for key in keys)

    drop("a")
    process = watched.start(**{"runner.prism_location": PRISM}, **given)
    watched.wait(lambda: recorded("generations") == 1)
    drop("b")
    watched.wait(lambda: recorded("arrivals") == 2)
    family = watched.family()
    process.kill()
    process.wait()
    wait(lambda: _are_gone(family))
    drop("c")
    left = 3 - recorded("generations")
    ended = finish(watched.start(**{"runner.prism_location": PRISM}, **given, stop_after=left))
    assert ended.code == 0, ended
    bucket.get(s3.join("output"), str(watched.out), recursive=True)
    assert watched.arrived() == [["a.parquet"], ["b.parquet"], ["c.parquet"]]
    expected = watched.expected()
    assert watched.found() == expected
    assert {number for number, _ in expected.values()} == {0, 1, 2}
    kept = pq.read_table(watched.out / "deduplicated", partitioning=None).column("id").to_pylist()
    assert sorted(kept) == sorted({id_ for ids, _ in watched.rows.values() for id_ in ids} - expected.keys())
    keys = s3.keys()
    assert {key.split("/")[0] for key in keys} == {"in", "output", "corpus"}


@pytest.mark.slow
@needs_prism
def test_a_watch_ends_when_nothing_came_and_the_corpus_is_known_to_the_next(watched: _Watched) -> None:
    watched.drop("a")
    ended = finish(watched.start(**{"runner.prism_location": PRISM}, idle=4))
    assert ended.code == 0, ended
    assert watched.finished() == 1
    first = watched.found()
    watched.drop("b")
    watched.out.rename(watched.directory / "before")
    ended = finish(watched.start(**{"runner.prism_location": PRISM}, idle=4))
    assert ended.code == 0, ended
    assert watched.arrived() == [["b.parquet"]]  # the other is in the corpus
    (watched.out / "arrivals" / "0000000000.json").rename(watched.out / "arrivals" / "0000000001.json")
    before = watched.directory / "before" / "arrivals" / "0000000000.json"
    before.rename(watched.out / "arrivals" / "0000000000.json")
    assert first | watched.found() == watched.expected()


@pytest.mark.slow
@needs_prism
def test_the_example_deduplicates_a_stream_of_its_own(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "own_stream.py"
    ended = subprocess.run(
        [sys.executable, str(example), str(tmp_path), "2"], capture_output=True, text=True, check=True
    )
    found = re.findall(
        r"^(\d+) duplicates in \S+/generation=(\d+)/part-\w+-00000\.parquet$", ended.stdout, re.MULTILINE
    )
    assert [number for _, number in found[:2]] == ["0000", "0001"]
    assert int(found[1][0]) > 5


def test_references_that_do_not_fit_are_said_before_anything_arrives(
    called: Callable[..., Ended], tmp_path: Path
) -> None:
    for name, dimension in (("first", 8), ("against", 5), ("in/same", 8)):
        (tmp_path / name).mkdir(parents=True)
        table = {"id": ["x"], "embeddings": np.ones((1, dimension), np.float32).tolist()}
        pq.write_table(pa.table(table), tmp_path / name / "x.parquet")
    corpus = f"corpus_path={tmp_path}/corpus"
    given = ["eps=0.1", "n_probes=exact", corpus]
    begun = called(commands.main, f"input_path={tmp_path}/first", f"output_path={tmp_path}/0", "n_clusters=1", *given)
    assert begun.code == 0, begun.err
    watched = [f"input_path={tmp_path}/in", f"output_path={tmp_path}/out", "runner=prism", *given]
    for against, said in (("against", "8 values in corpus_path and 5 in against"), ("in/same", "a file of input_path")):
        ended = called(commands.watch_main, *watched, f"against={tmp_path}/{against}")
        assert (ended.code, said in ended.err) == (2, True), ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["runner=direct"], "runner=direct cannot run streams: give runner=prism (make install EXTRAS=prism builds it"),
        (["runner=ray"], "runner=ray cannot run streams: give runner=prism"),
        (["corpus_path=null"], "corpus_path is required"),
        (["eps=null"], "eps is required: give eps="),
        (["idle=0"], "idle=0 is out of range: it must be above 0"),
        (["against={}/nowhere"], "against: no files at"),
        (["poll_interval=0"], "poll_interval=0 is out of range"),
        (["output_path={}/in/out"], "lies inside input_path="),
    ],
)
def test_what_cannot_be_watched_is_said_before_anything_is_done(
    given: list[str], said: str, called: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    defaults = ["input_path={}/in", "output_path={}/out", "corpus_path={}/corpus", "eps=0.1", "runner=prism"]
    names = {argument.partition("=")[0] for argument in given}
    arguments = [argument for argument in defaults if argument.partition("=")[0] not in names]
    ended = called(commands.watch_main, *(argument.format(tmp_path) for argument in (*arguments, *given)))
    assert ended.code == 2, ended
    assert said in ended.err
    assert not {"out", "corpus"} & {file.name for file in tmp_path.iterdir()}
