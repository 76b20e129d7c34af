"""The benchmark for GPUs, run small on a stand-in for one."""

from __future__ import annotations

import json

from benchmarks import gpu


def test_every_case_is_measured_and_reported(device, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)  # neither PyTorch nor Beam
    sizes = gpu.Sizes(8, 40, (3, 5, 20), (4, 6), 60, (4, 7), 50, 10, 20, 100, 1)
    text = gpu.write(gpu.run(sizes), tmp_path / "gpu")
    assert text == (tmp_path / "gpu.md").read_text()
    stored = json.loads((tmp_path / "gpu.json").read_text())
    assert stored["device"]["device:"] == "a stand-in"
    cases = {row["case"] for row in stored["table"]}
    assert {"one cluster of 40", "3 clusters of 5 to 20", "4 clusters of 6", "assign 60 to 7"} <= cases
    assert [goal["measured"] for goal in stored["goals"] if "alone" in goal["what"]] == [0, 0, 0]
    assert "Without PyTorch there is nothing to compare with." in text
    assert "Beam is not installed" in text


def test_a_short_run_is_smaller_in_everything():
    sizes = gpu.Sizes().shrunk(0.01)
    assert (sizes.large, sizes.mixed, sizes.small, sizes.dimension) == (655, (16, 65, 6500), (500, 100), 768)
