"""The examples as the README names them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import DEMO

EXAMPLES = DEMO.parent


@pytest.mark.slow
def test_the_notebook_runs_and_was_run() -> None:
    cells = json.loads((EXAMPLES / "in_memory.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    ended = subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=EXAMPLES, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    told = "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))
    pattern = r"5,000 rows, 3,\d{3} kept, 1,\d{3} duplicates\n0.95"
    assert re.match(pattern, ended.stdout)
    assert re.match(pattern, told)


@pytest.mark.slow
def test_the_transforms_run_in_a_pipeline_of_ones_own(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "own_pipeline.py", DEMO, tmp_path / "out"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert sum(map(int, re.findall(r"^(\d+) duplicates in ", ended.stdout, re.M))) > 900
