from __future__ import annotations

import dataclasses

import pytest

from beam_semdedup import arrays, calibration
from beam_semdedup.calibration import REFERENCE
from beam_semdedup.failures import InputError


@pytest.fixture
def tiny(monkeypatch):
    """A calibration that measures next to nothing."""
    sizes = {"_ROWS": 512, "_FEW": 2, "_SOME": 8, "_MANY": 64, "_REPEATS": 1, "_DISK_BYTES": 1 << 20}
    for name, value in sizes.items():
        monkeypatch.setattr(calibration, name, value)
    monkeypatch.setattr(calibration._Calibration, "_start", lambda self: 2.0)


def test_rates_are_measured_of_as_many_cores_as_asked_for(tiny):
    before = arrays.cores()
    rates = calibration.calibrate(8, 1)
    assert (rates.cores, rates.dimension, rates.start) == (1, 8, 2.0)
    assert arrays.cores() == before
    assert all(value >= 0 for value in dataclasses.astuple(rates))
    for name in ("fit_flops", "assign_flops", "compare_flops", "read_value", "row", "unit", "disk"):
        assert getattr(rates, name) > 0, name
    assert calibration.calibrate(8, 1000).cores == before


def test_rates_are_read_as_they_were_written(tmp_path):
    path = str(tmp_path / "rates.json")
    calibration.save(REFERENCE, path)
    assert calibration.load(path) == REFERENCE


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"cores": 2}'])
def test_what_is_no_calibration_is_an_error_that_names_the_file(content, tmp_path):
    path = tmp_path / "rates.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"^calibration={path}: .*calibrate=true"):
        calibration.load(str(path))


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        calibration.save(REFERENCE, str(tmp_path / "nowhere" / "rates.json"))


def test_tiles_on_the_diagonal_are_whole():
    assert calibration.computed_scores(45, 10, 1024) == 100
    assert calibration.computed_scores(10**6 * (10**6 - 1) // 2, 10**6, 1000) == pytest.approx(5.005e11)
