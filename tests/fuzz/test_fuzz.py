"""The fuzzers, for some seconds; `make fuzz` runs them as long as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
_KINDS = ("parquet-bytes", "parquet-structure", "jsonl-bytes", "jsonl-lines", "npy", "arrow", "stored")


def _fuzz(*arguments: str) -> None:
    path = os.pathsep.join([str(_TESTS.parent), str(_TESTS), str(_TESTS / "integration")])
    process = subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr


def test_a_few_cases_of_each_kind_end_well() -> None:
    _fuzz(*_KINDS, "--cases", os.environ.get("SEMDEDUP_FUZZ_CASES", "10"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", _KINDS)
def test_many_cases_end_well(kind: str) -> None:
    _fuzz(
        kind,
        "--cases",
        os.environ.get("SEMDEDUP_FUZZ_CASES", "500"),
        "--seed",
        os.environ.get("SEMDEDUP_FUZZ_SEED", "1"),
    )
