"""What arrives at a watched input: when a file is taken, and what happens to one that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_semdedup.config.parameters import WatchParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError
from beam_semdedup.streams.arrivals import Arrivals, Position


@pytest.fixture
def arrivals(tmp_path: Path) -> Arrivals:
    places = {f"{name}put_path": str(tmp_path / name) for name in ("in", "out")}
    given = {**places, "corpus_path": str(tmp_path / "corpus"), "eps": 0.1}
    return Arrivals(resolve(given, WatchParameters))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """Writes an input file of so many rows."""

    def call(name: str, rows: int = 3, dimension: int = 4, ids: pa.DataType = pa.int64()) -> None:
        (tmp_path / "in").mkdir(exist_ok=True)
        vectors = np.random.default_rng(rows).standard_normal((rows, dimension)).astype(np.float32)
        table = pa.table({"id": pa.array(range(rows)).cast(ids), "embeddings": list(vectors)})
        pq.write_table(table, tmp_path / "in" / name)

    return call


def _look(arrivals: Arrivals, position: Position, times: int = 1) -> tuple[int | None, Position]:
    number = None
    for _ in range(times):
        number, position = arrivals.next(position)
    return number, position


def _finish(arrivals: Arrivals, number: int) -> None:
    arrivals.finished(number).write_bytes(b"done")


def _names(arrivals: Arrivals, number: int) -> list[str]:
    return [Path(file.url).name for file in arrivals.read(number).files]


def test_a_file_is_taken_when_two_looks_find_it_alike(
    arrivals: Arrivals, write: Callable[..., None], tmp_path: Path
) -> None:
    assert _look(arrivals, Position(0), 2) == (None, Position(0))  # not even the directory is there
    write("a.parquet")
    number, position = _look(arrivals, Position(0))
    assert number is None
    write("b.parquet")
    write("a.parquet", rows=5)
    number, position = _look(arrivals, position)
    assert number is None  # the one has changed, the other is seen for the first time
    (tmp_path / "in" / "b.parquet").unlink()
    number, position = _look(arrivals, position)
    assert (number, position) == (0, Position(1))
    assert _names(arrivals, 0) == ["a.parquet"]
    assert arrivals.set_aside() == []


def test_the_next_generation_begins_when_the_one_before_is_finished(
    arrivals: Arrivals, write: Callable[..., None]
) -> None:
    write("a.parquet")
    number, position = _look(arrivals, Position(0), 2)
    assert number == 0
    write("b.parquet")
    number, position = _look(arrivals, position, 3)
    assert number is None
    _finish(arrivals, 0)
    write("c.parquet")
    number, position = _look(arrivals, position)
    assert (number, position) == (1, Position(2))
    assert _names(arrivals, 1) == ["b.parquet"]
    _finish(arrivals, 1)
    number, position = _look(arrivals, position, 2)
    assert number == 2
    assert _names(arrivals, 2) == ["c.parquet"]
    _finish(arrivals, 2)
    assert _look(arrivals, position, 3) == (None, Position(3))


def test_what_was_recorded_and_not_finished_comes_first_after_a_restart(
    arrivals: Arrivals, write: Callable[..., None]
) -> None:
    for name in ("a.parquet", "b.parquet"):
        write(name)
        number, _ = _look(arrivals, Position(arrivals.first_unfinished()), 2)
        if name == "a.parquet":
            assert number == 0
            _finish(arrivals, 0)
    assert number == 1
    assert arrivals.first_unfinished() == 1
    write("c.parquet")
    again, position = _look(arrivals, Position(arrivals.first_unfinished()))
    assert (again, position) == (1, Position(2))
    assert _names(arrivals, 1) == ["b.parquet"]


def test_a_file_that_cannot_be_taken_is_set_aside_until_it_changes(
    arrivals: Arrivals, write: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("a.parquet")
    (tmp_path / "in" / "broken.parquet").write_bytes(b"PAR1 and no more")
    write("long.parquet", dimension=5)
    write("text.parquet", ids=pa.string())
    number, position = _look(arrivals, Position(0), 2)
    assert number == 0
    assert _names(arrivals, 0) == ["a.parquet"]
    _finish(arrivals, 0)
    assert _look(arrivals, position, 4)[0] is None
    assert caplog.text.count("Set aside: ") == 3
    assert {Path(record.file.url).name for record in arrivals.set_aside()} == {
        "broken.parquet",
        "long.parquet",
        "text.parquet",
    }
    reasons = sorted(record.reason.partition(": ")[2] for record in arrivals.set_aside())
    same = "must be the same for all rows of a corpus"
    assert reasons[0].startswith("not a readable parquet file")
    assert reasons[1:] == [
        f"the dimension of vectors {same}: 4 there, 5 in this file",
        f"the type of ids {same}: int64 there, string in this file",
    ]
    write("broken.parquet")
    number, _ = _look(arrivals, position, 2)
    assert number == 1
    assert _names(arrivals, 1) == ["broken.parquet"]


def test_a_changed_file_is_not_read_again_and_said(
    arrivals: Arrivals, write: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    write("a.parquet")
    _, position = _look(arrivals, Position(0), 2)
    _finish(arrivals, 0)
    write("a.parquet", rows=7)
    assert _look(arrivals, position, 3) == (None, Position(1))
    assert caplog.text.count("was changed after it arrived") == 1


def test_storage_that_does_not_answer_is_looked_at_again(
    arrivals: Arrivals, write: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("a.parquet")
    _, position = _look(arrivals, Position(0))
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    (tmp_path / "in").symlink_to(tmp_path / "in")  # a link to itself
    assert _look(arrivals, position) == (None, position)
    assert "The input is looked at again later" in caplog.text
    (tmp_path / "in").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "in")
    assert _look(arrivals, position)[0] == 0


def test_a_damaged_record_is_not_taken_for_none(arrivals: Arrivals, write: Callable[..., None]) -> None:
    write("a.parquet")
    _, position = _look(arrivals, Position(0), 2)
    _finish(arrivals, 0)
    record = arrivals.output.file("arrivals/0000000000.json")
    record.write_bytes(record.read_bytes().replace(b"a.parquet", b"b.parquet"))
    with pytest.raises(InputError, match=r"0000000000\.json is damaged"):
        arrivals.next(position)


def test_a_table_with_a_log_is_refused(arrivals: Arrivals, write: Callable[..., None], tmp_path: Path) -> None:
    write("a.parquet")
    (tmp_path / "in" / "_delta_log").mkdir()
    with pytest.raises(InputError, match="Delta"):
        arrivals.next(Position(0))
