"""Where the system gives no more threads (`ulimit -v`, a limit of processes), a run ends and waits for nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import finish, start

LIMIT = """
import os, sys, threading

is_worker = b"beam_semdedup.runners.worker" in open("/proc/self/cmdline", "rb").read()
left = int(os.environ["THREADS_OF_WORKERS" if is_worker else "THREADS"])
begin = threading._start_new_thread

def limited(*arguments, **more):
    global left
    left -= 1
    if left < 0:
        raise RuntimeError("can't start new thread")
    return begin(*arguments, **more)

threading._start_new_thread = limited
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("threads", "of_workers"),
    [
        (1000, 0),
        pytest.param(1000, 2, marks=pytest.mark.slow),
        pytest.param(1000, 4, marks=pytest.mark.slow),
        pytest.param(1000, 9, marks=pytest.mark.slow),
        pytest.param(9, 1000, marks=pytest.mark.slow),
        pytest.param(19, 1000, marks=pytest.mark.slow),
        pytest.param(20, 1000, marks=pytest.mark.slow),
        (21, 1000),
    ],
)
def test_a_run_ends_where_no_thread_can_be_started(
    threads: int, of_workers: int, tmp_path: Path, parquet_dataset: Any
) -> None:
    (tmp_path / "limit").mkdir()
    (tmp_path / "limit" / "sitecustomize.py").write_text(LIMIT)
    path = os.pathsep.join(filter(None, [str(tmp_path / "limit"), os.environ.get("PYTHONPATH")]))
    limits = {"THREADS": str(threads), "THREADS_OF_WORKERS": str(of_workers)}
    given = [f"input_path={parquet_dataset.path}", "output_path=out", "n_clusters=3", "max_iter=1"]
    process = start([*given, "runner.num_workers=2", "verbose=false"], tmp_path, PYTHONPATH=path, **limits)
    try:
        ended = finish(process, 90)
    finally:
        process.kill()
    assert ended.code == 1
    assert "can't start new thread" in ended.err
