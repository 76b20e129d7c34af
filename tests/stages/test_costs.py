"""What a run says of its cost before it has it."""

from __future__ import annotations

import logging
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_semdedup.stages import costs
from beam_semdedup.workflow.run import SemanticDeduplicationWorkflow


def warnings(caplog, data, tmp_path, **parameters):
    workflow = SemanticDeduplicationWorkflow(
        input_path=data, output_path=str(tmp_path / "out"), n_probes="exact", verbose=False, **parameters
    )
    with caplog.at_level(logging.WARNING):
        workflow.run()
    return [record.getMessage() for record in caplog.records if "n_probes=exact" in record.getMessage()]


@pytest.fixture
def white(tmp_path, monkeypatch):
    """White noise: rows of which each is about as far from all others; they are few, and worth a word all the same."""
    monkeypatch.setattr(costs, "_SECONDS", 0)
    rows = np.random.default_rng(0).standard_normal((3000, 48), dtype=np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 48)
    pq.write_table(pa.table({"id": np.arange(len(rows)), "embeddings": vectors}), tmp_path / "white.parquet")
    return str(tmp_path / "white.parquet")


def test_white_noise_that_visits_all_clusters_is_told_of_with_what_would_help(white, tmp_path, caplog):
    (message,) = warnings(caplog, white, tmp_path, eps=0.3, n_clusters=60)
    visits, times = re.match(
        r"n_probes=exact: a row visits ([\d.]+) of the 59 other clusters within eps=0\.3, so that comparing takes "
        r"about (\d+) times as long as with n_probes=1; ",
        message,
    ).groups()
    assert 45 < float(visits) <= 59
    assert float(times) > 10
    assert "n_clusters=1 would take 0." in message
    # What it names does help: there, nothing is said.
    caplog.clear()
    assert warnings(caplog, white, tmp_path, eps=0.3, n_clusters=1) == []


def test_nothing_is_said_of_rows_that_visit_little(make_dataset, tmp_path, caplog):
    assert warnings(caplog, make_dataset(rows=2000).path, tmp_path, eps=0.01, n_clusters=20) == []


def test_the_reach_is_named_where_it_is_what_costs(white, tmp_path, caplog):
    (message,) = warnings(caplog, white, tmp_path, eps=0.001, reach=0.4, n_clusters=60)
    assert "within reach=0.4" in message
