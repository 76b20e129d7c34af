"""Tests that need a GPU and CuPy, and neither Beam, Ray nor cuML.

`tests/compute/test_cuda.py` runs the same paths through a stand-in for CuPy.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_semdedup.compute import arrays
from beam_semdedup.inputs.embeddings import to_matrix

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
xp = arrays.library("auto")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips them where there is no GPU."""
    if xp is np:
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="no GPU, or no CuPy, in this process"))


@pytest.fixture
def cupy() -> Any:
    return xp


@pytest.fixture(scope="session")
def texts() -> np.ndarray:
    """The committed embeddings of real texts, (5000, d) unit rows."""
    files = sorted((Path(__file__).resolve().parents[2] / "examples/data").glob("*.parquet"))
    columns = [pq.read_table(file).column("embeddings") for file in files]
    parts = [to_matrix(column, len(column[0])) for column in columns]
    return np.concatenate([rows for rows, _ in parts])
