"""A generation of a watched input: what a worker knows of it, which is told its number alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_semdedup import watched_input
from beam_semdedup.errors import RunError
from beam_semdedup.stages import assign
from beam_semdedup.storage.layout import BEGUN
from beam_semdedup.streams.arrivals import Position
from beam_semdedup.streams.generation import Watched


def _watched(directory: Path, **given: Any) -> Watched:
    places = {f"{name}_path": directory / name for name in ("input", "output", "corpus")}
    return watched_input(**{**places, "eps": 0.05, "verbose": False, **given})


def _arrive(watched: Watched, directory: Path, number: int) -> None:
    """Has a file of ten rows arrive, of an id, an embedding and a column that the order may depend on."""
    (directory / "input").mkdir(exist_ok=True)
    vectors = np.random.default_rng(number).standard_normal((10, 4)).astype(np.float32)
    table = pa.table({"id": [f"{number}-{n}" for n in range(10)], "embeddings": list(vectors), "date": range(10)})
    pq.write_table(table, directory / "input" / f"{number}.parquet")
    position = Position(number)
    for _ in range(2):
        _, position = watched.arrivals.next(position)
    assert position.number == number + 1


@pytest.mark.parametrize(
    "given",
    [
        {"n_probes": 1, "n_clusters": 2},
        {"n_probes": "exact", "n_clusters": 3, "which_to_keep": "easy"},
        {"n_probes": 2, "reach": 0.2, "remove": True, "ranking_strategy": {"metadata_cols": ["date", "id"]}},
        {"n_probes": "exact", "remove": "mark", "metadata_fields": ["date"], "max_cluster_rows": 5, "eps": 0.1},
    ],
)
def test_who_knows_the_number_of_an_arrival_knows_its_job_and_its_centroids(
    given: dict[str, Any], tmp_path: Path
) -> None:
    watched = _watched(tmp_path, **given)
    for number in range(2):
        _arrive(watched, tmp_path, number)
        begun = watched.begin(watched.plan(number))
        job, fitted = watched.job(number), watched.fitted(number)
        assert job == begun.plan.job
        assert fitted == begun.plan.fitted
        assert watched.begin(watched.plan(number)).plan.fitted == fitted
        assign.finish(job, [assign.assign_unit(job, unit, fitted) for unit in begun.plan.units], fitted)
        watched.arrivals.finished(number).write_bytes(b"done")
    assert job.earlier == (0,)


@pytest.mark.parametrize("damage", [None, b'{"generation": 0}'])
def test_what_is_known_of_a_generation_is_not_guessed_where_it_is_lost(damage: bytes | None, tmp_path: Path) -> None:
    watched = _watched(tmp_path)
    _arrive(watched, tmp_path, 0)
    watched.begin(watched.plan(0))
    file = watched.scratch(0).file(BEGUN)
    file.delete()
    if damage:
        file.write_bytes(damage)
    with pytest.raises(RunError, match=r"0000000000/begun\.json is gone or damaged"):
        watched.job(0)
