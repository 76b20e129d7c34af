"""What killed processes leave behind is swept; what living ones use never is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from beam_semdedup.storage import scratch
from beam_semdedup.storage.folder import File, Folder

USE = """
import sys
from beam_semdedup.storage import scratch
with scratch.{use} as place:
    print(place, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _another_process(monkeypatch, tmp_path):
    """Each test sweeps anew, as a process does, and has a temporary directory of its own."""
    scratch._sweep.cache_clear()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)


def user_of(use: str) -> tuple[subprocess.Popen[str], Path]:
    """A process that uses a file or a directory until its input ends, and that."""
    command = [sys.executable, "-c", USE.format(use=use)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_a_killed_process_leaves_is_swept_and_what_a_living_one_uses_is_not(kind, tmp_path):
    use = f"file_beside({str(tmp_path / 'out.parquet')!r})" if kind == "file" else "directory()"
    (dead, left), (alive, used) = user_of(use), user_of(use)
    dead.kill()
    dead.wait()
    assert left.exists()
    if kind == "file":
        used.write_bytes(b"written to")
        File(str(tmp_path / "other.parquet")).write_bytes(b"")
    else:
        (left / "inner").mkdir()
        (used / "inner").touch()
        with scratch.directory():
            pass
    assert not left.exists()
    assert used.exists()
    alive.communicate("")
    assert not used.exists()


def test_only_own_names_are_swept(tmp_path):
    names = [".a.tmp", "a.tmp", f".a.{'0' * 31}g.tmp", "semdedup-flink", "semdedup-x.tmp.b", "semdedup-.tmp"]
    for name in names:
        (tmp_path / name).touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "semdedup-link.tmp").symlink_to(elsewhere)
    (tmp_path / f".a.{'0' * 32}.tmp").touch()
    Folder(str(tmp_path)).file("b").write_bytes(b"")
    assert {path.name for path in tmp_path.iterdir()} == {*names, "semdedup-link.tmp", "elsewhere", "b", "temporary"}


def test_a_file_that_another_sweep_took_before_its_lock_is_made_again(tmp_path, monkeypatch):
    flock, taken = scratch.fcntl.flock, []

    def late(lock, operation):
        if not taken:
            taken.extend(tmp_path.glob(".a.*.tmp"))
            taken[0].unlink()
        flock(lock, operation)

    monkeypatch.setattr(scratch.fcntl, "flock", late)
    File(str(tmp_path / "a")).write_bytes(b"whole")
    assert (len(taken), (tmp_path / "a").read_bytes()) == (1, b"whole")


def test_where_nothing_can_be_locked_nothing_is_swept(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks")

    monkeypatch.setattr(scratch.fcntl, "flock", refuse)
    left = tmp_path / f".a.{'0' * 32}.tmp"
    left.touch()
    File(str(tmp_path / "a")).write_bytes(b"whole")
    assert left.exists()
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_many_writers_and_sweeps_at_once_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "_sweep", scratch._sweep.__wrapped__)
    failed = []

    def write(number):
        try:
            for i in range(50):
                File(str(tmp_path / f"{number}-{i}")).write_bytes(b"whole")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(list(tmp_path.iterdir())) == 8 * 50 + 1
