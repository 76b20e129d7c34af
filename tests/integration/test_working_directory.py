"""The processes of a run import nothing of the working directory, which may be anybody's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import finish, start

MODULES = ("numpy", "pyarrow", "json", "logging", "pickle", "apache_beam", "joblib", "ray", "cloudpickle")
RUNS = {
    "processes": ["runner.num_workers=2", "eps=0.05"],
    "sweep": ["-m", "eps=0.03,0.05", "hydra/launcher=joblib"],
    "ray": ["runner=ray", "runner.num_workers=1", "runner.max_retries=0", "kmeans=ray", "eps=0.05"],
}


@pytest.mark.parametrize(
    "run", ["processes", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sweep", "ray"))]
)
def test_a_run_imports_nothing_of_the_working_directory(run: str, parquet_dataset: Any, tmp_path: Path) -> None:
    pytest.importorskip({"sweep": "hydra_plugins.hydra_joblib_launcher", "ray": "ray"}.get(run, "pyarrow"))
    caught = tmp_path / "caught"
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"open({str(caught)!r}, 'a').write('{name} ')\n")
    places = [f"input_path={parquet_dataset.path}", "output_path=out", "n_clusters=5", "max_iter=1"]
    ended = finish(start([*places, *RUNS[run]], tmp_path))
    assert not caught.exists(), caught.read_text()
    assert ended.code == 0, ended.err
