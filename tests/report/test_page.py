from __future__ import annotations

import json
import re
from typing import Any, cast

import numpy as np
import pytest

from beam_semdedup.report.collect import Collected, Removed, Sample
from beam_semdedup.report.content import Content, Pair, command
from beam_semdedup.report.page import MARK, write_page
from beam_semdedup.report.results import FinishedRun, Results, RunConfiguration
from beam_semdedup.report.rows import Row
from beam_semdedup.report.scale import BANDS, Scale


def page_of(pairs: int, fields: int, text: str, sources: int) -> bytes:
    """A page of as many pairs of different rows as there may be, all with this text in all fields."""
    scale = Scale.around(0.05, None)
    names = [f"{text[:100]}{number}" for number in range(fields)]
    counts = np.arange(len(scale.source_places) + 1)[::-1] + 10**9
    found = np.arange(len(scale.values)) * 10**9
    collected = Collected(
        *(scale, 0.05, found, 5, Sample(1), Sample(1), Sample(1)),
        {f"{number}{text[:120]}": counts for number in range(sources)},
        *(False, np.full((1000, 2), 10**9), Removed(10, 11)),
    )
    configuration = RunConfiguration(0.05, 1, None, tuple(names), "exact")

    class Fake:
        num_rows = 10**12

    results = cast(Results, Fake())
    results.configuration = configuration  # type: ignore[misc]
    found_pairs = [Pair(2 * n, 2 * n + 1, 0.96123456789, n % 1000, n % BANDS) for n in range(pairs)]
    rows = {n: Row(text, 0, (text,) * fields) for n in range(2 * pairs)}
    content = Content(results, collected, None, found_pairs, rows, names, None, None, {}, np.empty(0))
    given = dict.fromkeys(["rows_read", "rows_kept", "num_duplicates", "rows_rejected", "n_clusters"], 10**12)
    given |= {"largest_cluster": 5, "dimension": 5, "total_time": 1.5, "rejected": {text: 4}, "runner": text}
    more: dict[str, Any] = {"stages": {}, "repeated_ids": {}, "paths": {}, "versions": {}, "configuration": {}}
    return write_page(FinishedRun(**given, **more), content)


@pytest.mark.parametrize("text", ["<" * 1500, "😀" * 1500, "\u2028" * 1500, "word " * 300, '"\\' * 700])
def test_it_stays_below_5_mb_whatever_the_texts(text: str) -> None:
    page = page_of(1600, 12, text, 600)
    assert len(page) < 5_000_000
    assert page.startswith(MARK)


@pytest.mark.parametrize("text", ["</script><script>x", "<!--<script>", "\u2028</SCRIPT >", "\ud800&lt;"])
def test_no_text_ends_the_data(text: str) -> None:
    html = page_of(5, 2, text, 3).decode()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert not set("<>&\u2028\u2029") & set(data)
    known = json.loads(data)
    shown = text.encode(errors="backslashreplace").decode()
    assert known["rows"][0][1].encode(errors="backslashreplace").decode() in (text, shown)
    assert html.count("<script") == html.count("</script>") == 2


def test_the_command_of_a_run_is_told_as_it_would_be_typed() -> None:
    values = {
        "input_path": ["/data/a b"],
        "output_path": "out",
        "eps": 0.05,
        "metadata_fields": ["text", "lang"],
        "n_probes": 1,
        "kmeans": {"name": "ray", "num_actors": 4},
        "runner": {"name": "direct", "num_workers": 2},
        "read_kwargs": {"storage_options": {"key": "***"}},
        "verbose": True,
    }
    said = command(values)
    assert said.startswith("semdedup 'input_path=/data/a b' output_path=out ")
    for part in ("eps=0.05", '\'metadata_fields=["text", "lang"]\'', "kmeans=ray", "kmeans.num_actors=4"):
        assert part in said
    assert "runner.num_workers=2" in said
    assert "verbose" not in said
    assert "n_probes" not in said
