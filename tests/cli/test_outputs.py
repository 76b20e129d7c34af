"""What a command does where its standard output or standard error cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PLAN = ["plan_main", "rows=1000", "dimension=8"]


def run(command: list[str], redirected: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command's function in a process of its own, its outputs redirected as a shell does it."""
    main, *arguments = command
    call = f"from beam_semdedup.cli import commands; commands.{main}()"
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirected}', "bash", sys.executable, "-c", call, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirected", "said"),
    [
        pytest.param(">&-", "", marks=pytest.mark.slow),
        (">/dev/full", "standard output cannot be written: [Errno 28]"),
        ("| true; exit ${PIPESTATUS[0]}", ""),
    ],
)
def test_a_run_counts_whoever_reads_of_it(parquet_dataset, tmp_path, redirected, said):
    arguments = [f"input_path={parquet_dataset.path}", f"output_path={tmp_path}/out", "eps=0.01", "verbose=false"]
    done = run(["main", *arguments], redirected)
    assert (done.returncode, bool(done.stderr)) == (0, bool(said))
    assert said in done.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["num_duplicates"] == 30


@pytest.mark.parametrize(
    "command", [PLAN, ["main", "--help"], pytest.param(["main", "--cfg", "job"], marks=pytest.mark.slow)]
)
def test_what_is_only_told_is_lost_on_a_full_disk_and_not_where_nobody_reads_on(command):
    full, head = run(command, ">/dev/full"), run(command, "| head -1; exit ${PIPESTATUS[0]}")
    assert (full.returncode, head.returncode) == (1, 0)
    assert full.stderr == "Warning: standard output cannot be written: [Errno 28] No space left on device\n"
    assert (len(head.stdout.splitlines()), head.stderr) == (1, "")


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full"])
def test_bad_input_has_its_exit_code_where_nothing_can_be_said(redirected):
    assert run(["main", "eps=x"], redirected).returncode == 2


def test_what_the_encoding_does_not_have_is_written_as_escapes():
    done = run(["main", "--help"], "", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"input_path=\u2026" in done.stdout
