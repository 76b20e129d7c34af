"""Input, cache and output on an S3 server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "kind", ["arrow file", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("npy", "arrow stream"))]
)
def test_arrays_and_arrow_on_s3_are_read_and_copied_there(kind: str, s3: Any) -> None:
    rows = np.random.default_rng(3).normal(size=(200, 8)).astype(np.float32)
    rows[150:] = rows[:50]
    ids, name = np.arange(200), "in/a.npy" if kind == "npy" else "in/a.arrow"
    options = {"storage_options": s3.options}
    given: dict[str, Any] = {"read_kwargs": options, "write_kwargs": options, "eps": 1e-4, "n_probes": "exact"}
    if kind == "npy":
        for file, array in ((name, np.asfortranarray(rows)), ("ids/a.npy", ids)):
            with fsspec.open(s3.join(file), "wb", **s3.options) as sink:
                np.save(sink, array)
        given |= {"ids_path": s3.join("ids"), "write_arrays": True}
    else:
        table = pa.table({"id": ids, "embeddings": rows.tolist()})
        make = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
        with fsspec.open(s3.join(name), "wb", **s3.options) as sink, make(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=30)
    summary = dedup(s3.join("in"), s3.join("out"), remove=True, assign_unit_bytes=2000, **given)
    assert summary.num_duplicates == 50
    kept = np.setdiff1d(ids, duplicates(summary, s3.options).column("id").to_numpy())
    with fsspec.open(s3.join(f"out/deduplicated/{Path(name).name}"), "rb", **s3.options) as source:
        if kind == "npy":
            np.testing.assert_array_equal(np.load(source), rows[kept])
        else:
            opened = pa.ipc.open_file if kind == "arrow file" else pa.ipc.open_stream
            assert opened(source).read_all().column("id").to_pylist() == kept.tolist()
