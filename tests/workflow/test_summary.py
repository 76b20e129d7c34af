from __future__ import annotations

from beam_semdedup.workflow.summary import reasons


def test_rejected_rows_are_counted_by_reason():
    assert reasons({"id is null": 1200, "malformed line": 1}) == "1,200: id is null, 1: malformed line"
