from __future__ import annotations

import dataclasses

import pytest

from beam_semdedup.compute import threads
from beam_semdedup.forecast import calibration


@pytest.fixture
def tiny(monkeypatch):
    """A calibration that measures next to nothing."""
    sizes = {"_ROWS": 512, "_FEW": 2, "_SOME": 8, "_MORE": 16, "_MANY": 64, "_REPEATS": 1, "_DISK_BYTES": 1 << 20}
    for name, value in sizes.items():
        monkeypatch.setattr(calibration, name, value)
    monkeypatch.setattr(calibration._Calibration, "_start", lambda self: 2.0)


def test_rates_are_measured_of_as_many_cores_as_asked_for(tiny, monkeypatch):
    before = threads.cores()
    rates = calibration.calibrate(8, 1)
    assert (rates.cores, rates.dimension, rates.start) == (1, 8, 2.0)
    assert threads.cores() == before
    assert all(value >= 0 for value in dataclasses.astuple(rates))
    for name in ("fit_flops", "assign_flops", "compare_flops", "read_value", "row", "unit", "disk", "match_flops"):
        assert getattr(rates, name) > 0, name
    monkeypatch.setattr(calibration._Calibration, "rates", lambda self, number: number)
    assert calibration.calibrate(8, 1000) == before
