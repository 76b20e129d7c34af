from __future__ import annotations

import pytest

from beam_semdedup.errors import UnitError
from beam_semdedup.plan import stored
from beam_semdedup.plan.stored import AssignManifest, Counts
from beam_semdedup.storage import layout
from beam_semdedup.storage.damage import DamagedFile
from beam_semdedup.storage.folder import Folder


def test_a_discarded_unit_leaves_the_stage_unfinished(tmp_path):
    unit = tmp_path / "00000000-00000001.parquet"
    unit.touch()
    stage = Folder(str(tmp_path))
    manifest = AssignManifest(
        Counts.of([]), finished=0.0, began=0.0, centroids="hash", centroids_per_key=1, files=(unit.name,), rejected=0
    )
    manifest.store(stage)
    assert AssignManifest.find(stage) == manifest
    with (
        pytest.raises(UnitError, match="damaged or gone: two rows; the same command computes it again"),
        stored.discarding(stage),
    ):
        raise DamagedFile(stage.file(unit.name), "two rows")
    assert AssignManifest.find(stage) is None
    assert layout.finished_units(stage) == []
