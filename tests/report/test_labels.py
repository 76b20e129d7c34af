from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.errors import InputError
from beam_semdedup.report.labels import Labels, precision_at
from beam_semdedup.report.scale import BANDS, Scale

SCALE = Scale.around(0.05, None)
EDGES = SCALE.edges(BANDS)


def counted(places: np.ndarray) -> np.ndarray:
    """How many of rows at these places are removed at each threshold."""
    return np.cumsum(np.bincount(places, minlength=len(SCALE.values)))


def test_without_weights_it_is_wilsons_interval() -> None:
    found = counted(np.full(1000, EDGES[3]))
    precision = precision_at(SCALE, found, [EDGES[3]] * 50, [True] * 45 + [False] * 5, 0.3)
    assert precision is not None
    assert precision.estimate == 0.9
    assert (precision.low, precision.high) == pytest.approx((0.7864, 0.9565), abs=1e-4)


def test_a_label_stands_for_the_rows_of_its_band() -> None:
    found = counted(np.array([EDGES[1]] * 900 + [EDGES[2]] * 100))
    places, same = [EDGES[1], EDGES[2], EDGES[2]], [True, True, False]
    whole = precision_at(SCALE, found, places, same, 0.3)
    near = precision_at(SCALE, found, places, same, float(SCALE.values[EDGES[1]]))
    assert whole is not None
    assert near is not None
    assert whole.estimate == pytest.approx((900 + 50) / 1000)
    assert (near.estimate, near.high) == (1, 1)
    assert near.low < 1


def test_rows_without_a_label_widen_the_interval_on_both_sides() -> None:
    found = counted(np.array([EDGES[1]] * 50 + [EDGES[9]] * 50))
    precision = precision_at(SCALE, found, [EDGES[1]] * 30, [False] * 15 + [True] * 15, 0.3)
    assert precision is not None
    assert precision.estimate == 0.5
    assert precision.low < 0.25
    assert precision.high > 0.75
    assert precision_at(SCALE, found, [], [], 0.3) is None
    assert precision_at(SCALE, found, [EDGES[9]], [True], float(SCALE.values[EDGES[1]])) is None


@given(seed=st.integers(0, 1 << 30), labels=st.integers(1, 80), eps=st.floats(0, 0.3))
def test_the_interval_holds_its_estimate_and_stays_a_share(seed: int, labels: int, eps: float) -> None:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(0, EDGES[-1] + 1, 500))
    precision = precision_at(SCALE, counted(rows), rng.choice(rows, labels).tolist(), rng.random(labels) < 0.8, eps)
    if precision:
        assert 0 <= precision.low <= precision.estimate + 1e-9
        assert precision.low <= precision.high <= 1 + 1e-9


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Rows of 6 bands of very different sizes, 8 labels in each; the true share falls from band to band."""
    rng = np.random.default_rng(5)
    sizes, shares = [3000, 100, 300, 700, 1500, 2500], [1, 0.97, 0.95, 0.9, 0.8, 0.6]
    rows = np.repeat(EDGES[1:7], sizes)
    truth = rng.random(len(rows)) < np.repeat(shares, sizes)
    found, held, times = counted(rows), 0, 1000
    starts = np.cumsum([0, *sizes])
    for _ in range(times):
        drawn = np.concatenate([start + rng.choice(size, 8, replace=False) for start, size in zip(starts, sizes)])  # noqa: B905
        precision = precision_at(SCALE, found, rows[drawn].tolist(), truth[drawn].tolist(), 0.3)
        assert precision is not None
        held += precision.low <= truth.mean() <= precision.high
    assert held / times > 0.93


def test_a_file_of_labels_is_read(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    entry = {"pair": "0" * 32, "same": True, "score": 0.97, "id": "a", "max_id": "b"}
    file.write_text(json.dumps({"program": "beam-semdedup", "labels": [entry]}))
    assert Labels.load(str(file)) == {"0" * 32: True}
    for wrong in ("{", "[]", '{"program": "beam-semdedup", "labels": [{"pair": 1, "same": 2}]}'):
        file.write_text(wrong)
        with pytest.raises(InputError, match=r"labels\.json: not a file of labels"):
            Labels.load(str(file))
    with pytest.raises(InputError, match="no such file"):
        Labels.load(str(tmp_path / "none"))
