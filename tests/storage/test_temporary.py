"""What killed processes left, and what others are still at."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from beam_semdedup.storage import temporary
from beam_semdedup.storage.folder import Folder

ENDED = """
import os, sys
from beam_semdedup.storage import temporary
from beam_semdedup.storage.folder import Folder
directory = temporary.directory()
with Folder(sys.argv[1]).file("a.parquet").atomic_write() as attempt:
    attempt.write_bytes(b"half of it")
    os._exit(1)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder `results`, beside a temporary directory of its own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    temporary.sweep.cache_clear()
    yield tmp_path
    temporary.sweep.cache_clear()


def _names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_what_a_process_left_that_ended_amid_its_work_is_cleared(place: Path) -> None:
    subprocess.run([sys.executable, "-c", ENDED, str(place / "results")], check=False)
    assert len(_names(place / "results")) == len(_names(place / "tmp")) == 1
    Folder(str(place / "results")).sweep()
    assert _names(place / "results") == []
    with temporary.directory() as mine:
        assert _names(place / "tmp") == [Path(mine).name]


def test_what_is_being_written_stays(place: Path) -> None:
    folder = Folder(str(place / "results"))
    with folder.file("a.parquet").atomic_write() as attempt, temporary.directory() as mine, temporary.file() as file:
        attempt.write_bytes(b"half of it")
        folder.sweep()
        temporary.sweep.cache_clear()
        temporary.sweep()
        assert attempt.exists()
        assert sorted([Path(mine).name, Path(file.name).name]) == _names(place / "tmp")
    assert _names(place / "results") == ["a.parquet"]
    assert _names(place / "tmp") == []


def test_what_is_not_known_to_be_left_stays(place: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    mine = temporary.mark().split("-")
    left = f"{mine[0]}-{process.pid}-{mine[2]}"
    names = [
        f"a.{left}.tmp.parquet",  # no attempt
        f".a.parquet.00000000-{process.pid}-{mine[2]}.tmp",  # of another machine
        f".a.parquet.{mine[2]}.tmp",  # of an earlier version
        ".notes.tmp",
    ]
    (place / "results").mkdir()
    for name in [*names, f".a.parquet.{left}.tmp"]:
        (place / "results" / name).touch()
    Folder(str(place / "results")).sweep()
    assert _names(place / "results") == sorted(names)


def test_a_link_in_the_temporary_directory_is_not_followed(place: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    mine = temporary.mark().split("-")
    (place / "others").mkdir()
    (place / "others" / "file").touch()
    (place / "tmp" / f"semdedup-{mine[0]}-{process.pid}-{mine[2]}-x").symlink_to(place / "others")
    temporary.sweep()
    assert _names(place / "others") == ["file"]
    assert _names(place / "tmp") == []


def test_a_folder_that_is_not_there_or_not_local_has_nothing_to_clear(tmp_path: Path) -> None:
    Folder(str(tmp_path / "no")).sweep()
    Folder("memory://x").sweep()
