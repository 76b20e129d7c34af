"""A job with an engine of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pydantic.dataclasses import dataclass
from runs import Ended, centroids, dedup

from beam_semdedup.fields import CHECKED, NotNegative
from beam_semdedup.fit.base import Centroids, Engine, Fit, FitParameters, KMeansConfig, Sample
from beam_semdedup.fit.registry import ENGINES


@dataclass(kw_only=True, config=CHECKED)
class ToyConfig(KMeansConfig):
    """An engine of this test."""

    name: Literal["toy"] = "toy"
    first: NotNegative = 0
    """the row that is the first centroid"""


class ToyEngine(Engine[ToyConfig]):
    settings = ToyConfig

    def depends_on(self) -> list[Any]:
        return ["toy", self.config.first]

    def fit(self, sample: Sample, initial: Centroids | None, parameters: FitParameters) -> Fit:
        rows = sample()
        return Fit(rows[self.config.first :][: parameters.n_clusters], 2.5, 1, len(rows))


def test_an_engine_that_is_registered_needs_no_other_line(
    parquet_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, semdedup: Callable[..., Ended]
) -> None:
    monkeypatch.setitem(ENGINES, "toy", ToyEngine)
    first, third = (
        dedup(parquet_dataset.path, tmp_path / "out", kmeans={"name": "toy", "first": first}) for first in (0, 2)
    )
    np.testing.assert_array_equal(centroids(first)[2:], centroids(third)[:3])
    model = json.loads(Path(third.paths["kmeans_results"], "model.json").read_text())
    assert (model["engine"], model["rows"], model["inertia"]) == ("toy", 300, 2.5)
    assert third.num_duplicates >= 30
    assert "kmeans.first" in semdedup("--help").out
    places = [f"input_path={parquet_dataset.path}", f"output_path={tmp_path / 'command'}", "n_clusters=5", "eps=0.05"]
    assert "toy fit on 300 rows" in semdedup(*places, "kmeans=toy", "kmeans.first=1").err
    assert semdedup(*places, "kmeans=other").err == "Error: kmeans=other: kmeans is one of: local, ray, cuml, toy\n"
