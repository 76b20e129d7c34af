"""The examples as `make demo` and the README run them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import DEMO, Ended, dedup

EXAMPLES = DEMO.parent
LOOK = EXAMPLES / "look_at_pairs.py"


def _python(script: Path, *arguments: object) -> Ended:
    ended = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on the demo data with its texts."""
    return dedup(DEMO, tmp_path_factory.mktemp("run") / "out", n_clusters=40, eps=0.05, metadata_fields=["text"])


def test_the_pairs_of_a_run_are_shown_from_the_threshold_on(run: Any) -> None:
    ended = _python(LOOK, run.paths["output"])
    assert (ended.code, ended.err) == (0, "")
    assert re.search(rf"^ +0.05 +{run.num_duplicates:,} +{run.num_duplicates / 5000:.2%} .*<- this$", ended.out, re.M)
    least, most, drawn = re.split(r"\n\n(?=\w.*, at eps=0.05:\n)", ended.out)[1:]
    scores = [[float(score) for score in re.findall(r"^(\d\.\d{6})  ", part, re.M)] for part in (least, most, drawn)]
    assert [len(found) for found in scores] == [5, 5, 5]
    assert 0.95 <= min(scores[0]) <= max(scores[0]) < 0.96
    assert 0.94 < min(scores[1]) <= max(scores[1]) < 0.95
    assert min(scores[2]) >= 0.95
    assert re.search(r"^0.95\d+  \S+  \w.* \w.*\n is like  \S+  \w.* \w", least, re.M)


def test_what_another_eps_would_find_is_what_it_finds(run: Any, tmp_path: Path) -> None:
    other = dedup(
        DEMO, tmp_path, n_clusters=40, eps=0.2, metadata_fields=["text"], cache_path=Path(run.paths["output"])
    )
    ended = _python(LOOK, run.paths["output"], 0.2, "-n", 1)
    assert re.search(rf"^ +0.2 +{other.num_duplicates:,} .*<- this$", ended.out, re.M)
    assert ended.out.count("is like") == 3


def test_rows_of_other_columns_and_without_eps(make_dataset: Callable[..., Any], tmp_path: Path) -> None:
    data = make_dataset(rows=60, copies=10, clusters=3)
    dedup(data.path, tmp_path / "out", n_clusters=3, eps=None, metadata_fields=["quality", "text"])
    assert "the run had no eps: give one" in _python(LOOK, tmp_path / "out").err
    ended = _python(LOOK, tmp_path / "out", 0)
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"quality=\S+  text=|text=.*  quality=", ended.out)
    without = dedup(data.path, tmp_path / "without", n_clusters=3)
    assert "Kept, the most alike" in _python(LOOK, without.paths["output"]).out


@pytest.mark.parametrize("arguments", [[], ["nowhere"]])
def test_a_missing_run_is_asked_for(arguments: list[str]) -> None:
    ended = _python(LOOK, *arguments)
    assert ended.code == 2
    assert "usage: look_at_pairs.py" in ended.err
    assert "output_path" in ended.err
    assert "Traceback" not in ended.err


def test_the_notebook_runs_and_was_run() -> None:
    cells = json.loads((EXAMPLES / "in_memory.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    ended = subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=EXAMPLES, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    told = "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))
    pattern = r"5,000 rows, 3,\d{3} kept, 1,\d{3} duplicates\n0.95"
    assert re.match(pattern, ended.stdout)
    assert re.match(pattern, told)
