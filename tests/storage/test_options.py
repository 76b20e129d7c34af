"""Storage options stay out of what is pickled, shown and sent in a pipeline; workers know them all the same."""

from __future__ import annotations

import base64
import bz2
import contextlib
import copy
import dataclasses
import json
import pickle
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.transforms.display import DisplayData

from beam_semdedup import InputError, SemanticDedup, SemanticDeduplicationWorkflow
from beam_semdedup.config.parameters import RemovalParameters
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.removal.id_list import IdList, find_list
from beam_semdedup.removal.plan import make_plan
from beam_semdedup.removal.transform import RemoveDuplicates
from beam_semdedup.storage import options
from beam_semdedup.storage.options import Carried, StorageOptions

SECRET = "hunter2-of-the-bucket"
KWARGS = {"storage_options": {"secret": SECRET, "nested": {"token": SECRET}}}
LOAD = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])) == {'secret': 'hunter2-of-the-bucket'})"


def _elsewhere(pickled: bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", LOAD, pickled.hex()], env={**path, **environment}, capture_output=True, text=True
    )


@pytest.fixture(autouse=True)
def _none_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_KNOWN", {})


def test_another_process_finds_them_only_where_it_was_told() -> None:
    pickled = pickle.dumps(StorageOptions({"secret": SECRET}))
    assert SECRET.encode() not in pickled
    ended = _elsewhere(pickled)
    assert ended.returncode == 1
    assert "InputError: the storage_options of this run are not known to the worker" in ended.stderr
    assert SECRET not in ended.stderr
    assert _elsewhere(pickled, **options.told()).stdout == "True\n"
    given = json.dumps([{"other": 1}, {"secret": SECRET}])  # as a person gives it to a pool
    assert _elsewhere(pickled, **{options.VARIABLE: given}).stdout == "True\n"


def test_an_actor_is_told_with_what_it_is_given() -> None:
    assert _elsewhere(pickle.dumps(Carried(StorageOptions({"secret": SECRET})))).stdout == "True\n"


def test_they_stay_what_they_are_in_copies() -> None:
    given = StorageOptions(KWARGS["storage_options"])
    for copied in (copy.copy(given), copy.deepcopy(given), pickle.loads(pickle.dumps(given)), StorageOptions(given)):
        assert copied == KWARGS["storage_options"]
        assert SECRET not in repr(copied)
    assert pickle.loads(pickle.dumps(StorageOptions())) == {}
    assert options.told() != {}


def test_nothing_is_told_where_there_are_none() -> None:
    StorageOptions()
    assert options.told() == {}


@pytest.mark.parametrize("given", ["{", "7", '["text"]', "[[1]]"])
def test_what_is_no_list_of_options_is_an_error_that_does_not_show_it(given: str) -> None:
    with pytest.raises(InputError, match=f"^{options.VARIABLE}: expected a JSON list") as raised:
        options.learn(given)
    assert raised.value.__context__ is raised.value.__cause__


def test_options_that_are_no_plain_values_cannot_be_given_to_workers() -> None:
    StorageOptions({"credential": object()})
    with pytest.raises(InputError, match=r"storage_options: .*is not JSON serializable: workers can be given"):
        options.told()


def _all_of(pipeline: beam.Pipeline) -> Iterator[bytes]:
    """What the proto of a pipeline holds, and what is packed in it."""
    proto = pipeline.to_runner_api().SerializeToString()
    yield proto
    for packed in re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", proto):
        with contextlib.suppress(Exception):
            data = base64.b64decode(packed)
            for unpack in (bz2.decompress, zlib.decompress):
                with contextlib.suppress(Exception):
                    yield unpack(data)


def _secret_parameters(dataset: Any, tmp_path: Path) -> dict[str, Any]:
    env = {"name": "ray", "runtime_env": {"env_vars": {"TOKEN": SECRET}}}
    places = {"input_path": dataset.path, "output_path": str(tmp_path / "out"), "cache_path": str(tmp_path / "cache")}
    kwargs = {"read_kwargs": KWARGS, "write_kwargs": KWARGS, "cache_kwargs": KWARGS}
    return {**places, **kwargs, "runner": env, "n_clusters": 5, "eps": 0.05, "verbose": False}


def test_a_pipeline_holds_none_of_them(parquet_dataset: Any, tmp_path: Path) -> None:
    given = _secret_parameters(parquet_dataset, tmp_path)
    workflow = SemanticDeduplicationWorkflow(**given)
    plan = workflow.plan("direct")
    plan = dataclasses.replace(plan, job=dataclasses.replace(plan.job, parameters=workflow.parameters))
    pipeline, transform = beam.Pipeline(), SemanticDedup(plan)
    pipeline | transform
    found = list(_all_of(pipeline))
    assert any(b"cache_kwargs" in part for part in found)  # the parameters are in it
    assert not any(SECRET.encode() in part for part in found)
    shown = f"{plan}{transform}{workflow.parameters}{DisplayData.create_from(transform).items}"
    assert SECRET not in shown


def test_a_removal_holds_none_of_them(parquet_dataset: Any, tmp_path: Path) -> None:
    given = _secret_parameters(parquet_dataset, tmp_path)
    SemanticDeduplicationWorkflow(**given).run("direct")
    parameters = RemovalParameters(
        input_path=given["input_path"],
        input_filetype="parquet",
        duplicates_path=given["output_path"],
        output_path=str(tmp_path / "clean"),
        read_kwargs=KWARGS,
        write_kwargs=KWARGS,
        verbose=False,
    )
    job, units = make_plan(parameters, list_files(parameters), IdList.open(find_list(parameters), 1 << 30), 1 << 30)
    pipeline = beam.Pipeline()
    pipeline | RemoveDuplicates(job, units)
    found = list(_all_of(pipeline))
    assert any(b"duplicates_kwargs" in part for part in found)
    assert not any(SECRET.encode() in part for part in found)


@pytest.mark.slow
@pytest.mark.parametrize("remove", [False, True])
def test_worker_processes_know_them(remove: bool, parquet_dataset: Any, tmp_path: Path) -> None:
    given = {**_secret_parameters(parquet_dataset, tmp_path), "remove": remove}
    summary = SemanticDeduplicationWorkflow(**given).run({"name": "direct", "num_workers": 2})
    assert summary.num_duplicates
    assert bool(summary.removal) == remove
