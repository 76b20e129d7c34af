from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentence_model
from hub_on_this_machine import COMMIT, OTHER, Hub, serving

from beam_semdedup.embed import hub as module
from beam_semdedup.embed.encoder import ModelFiles
from beam_semdedup.errors import InputError

constants = pytest.importorskip("huggingface_hub.constants")
pytest.importorskip("onnxruntime")
NAME = "someone/small"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = tmp_path / "files"
    (files / "onnx").mkdir(parents=True)
    (files / "1_Pooling").mkdir()
    (files / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    for name in ("onnx/model.onnx", "tokenizer.json", "modeling.py", "pytorch_model.bin", "setup.json"):
        (files / name).write_text(f"content of {name}")
    with serving(files) as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield found


def said(*given: Any, **more: Any) -> str:
    with pytest.raises(InputError) as raised:
        ModelFiles.find(*given, **more)
    return str(raised.value)


def test_what_is_data_is_fetched_and_nothing_else(hub: Hub) -> None:
    found = ModelFiles.find(NAME)
    assert found.hub == (NAME, COMMIT)
    assert found.pooling == "cls"
    assert found.onnx.read_text() == "content of onnx/model.onnx"
    names = {str(path.relative_to(found.directory)) for path in found.directory.rglob("*") if path.is_file()}
    assert names == {"onnx/model.onnx", "tokenizer.json", "1_Pooling/config.json"}
    assert names <= set(module.FILES)
    assert not any("modeling" in path or "pytorch" in path for path in hub.asked)


def test_a_revision_is_another_model_and_a_commit_needs_no_hub(hub: Hub) -> None:
    main = ModelFiles.find(NAME)
    other = ModelFiles.find(NAME, revision="v2")
    assert other.hub == (NAME, OTHER)
    assert main.version != other.version
    assert ModelFiles.find(NAME, revision=COMMIT).version == main.version
    hub.revisions["main"] = OTHER
    assert ModelFiles.find(NAME).version == other.version
    hub.asked.clear()
    assert ModelFiles.find(NAME, revision=OTHER).version == other.version
    assert not hub.asked


def test_a_worker_on_another_machine_fetches_it(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ModelFiles.find(NAME)
    assert found.here() is found
    (tmp_path / "cache").rename(tmp_path / "moved")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "there"))
    here = found.here()
    assert here.onnx.read_text() == "content of onnx/model.onnx"
    assert (tmp_path / "there") in here.directory.parents
    assert here.version == found.version


def test_a_directory_goes_before_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / NAME
    place.mkdir(parents=True)
    for name in ("model.onnx", "tokenizer.json"):
        (place / name).write_text("x")
    assert ModelFiles.find(NAME).hub is None
    assert said(NAME, revision="v2") == f"model_revision=v2 is of the hub, and model={NAME} is a directory"
    assert not hub.asked


def test_what_is_not_there_is_named(hub: Hub) -> None:
    assert "model=someone/else is no directory, and cannot be fetched from the hub: " in said("someone/else")
    assert "cannot be fetched from the hub: RevisionNotFoundError" in said(NAME, revision="v9")
    (hub.files / "onnx/model.onnx").unlink()
    assert f"model={NAME}: no model.onnx there" in said(NAME, revision=OTHER)
    assert "model=/no/where is no directory; give one with model.onnx" in said("/no/where")
    assert "model=../no-such-model is no directory; give one" in said("../no-such-model")


def test_a_hub_that_cannot_be_reached_is_an_error_unless_the_model_is_there(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ModelFiles.find(NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert ModelFiles.find(NAME).version == found.version
    assert "model=someone/else is no directory, and cannot be fetched from the hub" in said("someone/else")


def test_a_configuration_that_is_too_large_is_not_read(hub: Hub) -> None:
    (hub.files / "modules.json").write_text(json.dumps(["x" * (1 << 20)]))
    assert "modules.json: not JSON: ValueError: too large for a configuration" in said(NAME)


@pytest.mark.skipif(not sentence_model.is_there(), reason="the packages with the model are not installed")
@pytest.mark.slow
def test_the_command_takes_a_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "text": ["Cats purr", "A cat purrs"]}), tmp_path / "a.parquet")
    with serving(sentence_model.model_in(tmp_path / "model")) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        command = [str(Path(sys.executable).with_name("semdedup-embed")), f"input_path={tmp_path}/a.parquet"]
        command += [f"output_path={tmp_path}/out", f"model={NAME}", f"model_revision={COMMIT}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Embedded 2 rows" in done.stdout
    assert f"model={NAME} is at commit {COMMIT} of the hub" in done.stderr
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1
