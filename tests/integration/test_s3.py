"""Input, cache and output on an S3 server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from runs import Ended, comparisons, dedup, duplicates, read_parquet

from beam_semdedup import InputError


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_on_s3_equals_a_local_run(
    num_workers: int, make_dataset: Callable[..., Any], s3: Any, tmp_path: Path
) -> None:
    local = make_dataset(tmp_path / "in")
    remote = make_dataset(s3.join("in"), options=s3.options)
    init = local.embeddings[:5]
    fixed = {"init": init, "max_iter": 0, "remove": True, "comparison_rows": 60, "max_cluster_rows": 40}
    options = {"storage_options": s3.options}
    expected = dedup(local.path, tmp_path / "out", **fixed)
    places = {"read_kwargs": options, "write_kwargs": options, "cache_path": s3.join("cache")}
    runner = {"name": "direct", "num_workers": num_workers}
    summary = dedup(remote.path, s3.join("out"), runner, **places, **fixed)
    assert comparisons(summary, s3.options).equals(comparisons(expected))
    assert duplicates(summary, s3.options).equals(duplicates(expected))
    kept = [
        read_parquet(place, o)
        for place, o in ((s3.join("out/deduplicated"), s3.options), (tmp_path / "out" / "deduplicated", {}))
    ]
    assert kept[0].equals(kept[1])
    assert kept[0].num_rows == summary.rows_kept < 300
    assert summary.stages["pairwise"].units_done == expected.stages["pairwise"].units_done > 3

    keys = s3.keys()
    assert {key.split("/")[1] for key in keys if key.startswith("out/")} == {
        "deduplicated",
        "duplicates",
        "semdedup.yaml",
        "summary.json",
    }
    assert {key.split("/")[1] for key in keys if key.startswith("cache/")} == {
        "init",
        "kmeans_results",
        "pairwise_results",
    }
    with fsspec.open(s3.join("out/summary.json"), **s3.options) as file:
        stored = json.load(file)
    assert stored["num_duplicates"] == expected.num_duplicates
    assert set(stored["configuration"]["read_kwargs"]["storage_options"].values()) == {"***"}

    again = dedup(remote.path, s3.join("out"), runner, **places, **{**fixed, "eps": 0.5})
    assert (again.stages["assign"].units_done, again.stages["pairwise"].units_done) == (0, 0)
    assert again.num_duplicates > summary.num_duplicates
    keys = s3.keys()
    assert {key for key in keys if key.startswith("out/duplicates/")} == {
        f"out/duplicates/{name}" for name in again.duplicates_files
    }


def test_the_command_takes_storage_options(
    semdedup: Callable[..., Ended], make_dataset: Callable[..., Any], s3: Any
) -> None:
    data = make_dataset(s3.join("in"), rows=60, copies=10, options=s3.options)
    endpoint = s3.options["client_kwargs"]["endpoint_url"]
    options = f'{{storage_options: {{key: test, secret: test, client_kwargs: {{endpoint_url: "{endpoint}"}}}}}}'
    arguments = (f"input_path={data.path}", f"output_path={s3.join('out')}", "n_clusters=3", "eps=0.05")
    ended = semdedup(*arguments, f"read_kwargs={options}", f"write_kwargs={options}", "verbose=false")
    assert (ended.code, ended.err) == (0, "")
    assert f"Results: {s3.join('out')} " in ended.out
    assert {"out/summary.json", "out/semdedup.yaml"} <= s3.keys()


def test_an_interrupted_run_on_s3_goes_on_from_its_finished_units(parquet_dataset: Any, s3: Any) -> None:
    options = {"write_kwargs": {"storage_options": s3.options}, "assign_unit_bytes": 3200}
    first = dedup(parquet_dataset.path, s3.join("out"), **options)
    keys = sorted(s3.keys())
    for lost in (next(k for k in keys if k.endswith(".arrow")), *(k for k in keys if k.endswith("manifest.json"))):
        s3.client().delete_object(Bucket=s3.url[5:], Key=lost)
    second = dedup(parquet_dataset.path, s3.join("out"), **options)
    others = first.stages["assign"].units_done - 1
    assert (second.stages["assign"].units_done, second.stages["assign"].units_reused) == (1, others)
    assert others > 1
    assert second.stages["pairwise"].units_done == 0
    assert duplicates(second, s3.options).equals(duplicates(first, s3.options))


def test_an_output_path_inside_the_input_is_refused_on_s3(make_dataset: Callable[..., Any], s3: Any) -> None:
    data = make_dataset(s3.join("in"), rows=60, copies=10, options=s3.options)
    options = {"storage_options": s3.options}
    before = s3.keys()
    with pytest.raises(InputError, match=r"output_path=\S*/in/out lies inside input_path=\S*/in:"):
        dedup(data.path, s3.join("in/out"), read_kwargs=options, write_kwargs=options)
    assert s3.keys() == before
