"""From texts to embeddings to duplicates, by the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentence_model
from reading import write_lines
from runs import Ended, read_parquet
from sentence_model import PAIRS, TEXTS

from beam_semdedup.cli import commands
from beam_semdedup.config.parameters import EmbedParameters
from beam_semdedup.embed import unit
from beam_semdedup.embed.encoder import Encoder, ModelFiles
from beam_semdedup.embed.job import EmbeddingResult, embed_texts
from beam_semdedup.errors import InputError, RunError

pytestmark = pytest.mark.skipif(not sentence_model.is_there(), reason="the packages with the model are not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_model.model_in(tmp_path_factory.mktemp("model"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two files with these texts, the second of four rows."""
    (tmp_path / "texts").mkdir()
    table = pa.table({"doc": range(len(TEXTS)), "text": TEXTS, "lang": ["en"] * len(TEXTS)})
    pq.write_table(table[:4], tmp_path / "texts/a.parquet")
    pq.write_table(table[4:], tmp_path / "texts/b.parquet")
    return tmp_path / "texts"


def embed(texts: Path, model: Path, output: Path, **parameters: Any) -> EmbeddingResult:
    given = {"id_field": "doc", "file_rows": 3, "verbose": False, **parameters}
    return embed_texts(EmbedParameters(input_path=str(texts), model=str(model), output_path=str(output), **given))


def test_from_texts_to_duplicates_by_two_commands(
    texts: Path, model: Path, tmp_path: Path, called: Callable[..., Ended]
) -> None:
    given = [f"input_path={texts}", f"model={model}", f"output_path={tmp_path}/embeddings", "id_field=doc"]
    ended = called(commands.embed_main, *given, "metadata_fields=[lang,text]", "dtype=float16")
    assert ended.code == 0, ended.err
    assert "Embedded 8 rows, 1 without a text or image" in ended.out
    table = read_parquet(tmp_path / "embeddings").sort_by("doc")
    assert table.column_names == ["doc", "lang", "text", "embeddings"]
    assert table.schema.field("embeddings").type == pa.list_(pa.field("element", pa.float16()))
    vectors = table.column("embeddings").to_pylist()
    assert [vector is None for vector in vectors] == [text is None for text in TEXTS]
    encoder = Encoder(ModelFiles.find(str(model)), "cpu", 1)
    wanted = encoder.encode([text for text in TEXTS if text])
    found = np.array([vector for vector in vectors if vector], dtype=np.float32)
    assert (found * wanted).sum(axis=1).min() > 0.97
    run = [f"input_path={tmp_path}/embeddings", f"output_path={tmp_path}/out", "id_field=doc", "n_clusters=1"]
    ended = called(commands.main, *run, "eps=0.15", "metadata_fields=[text]")
    assert ended.code == 0, ended.err
    listed = pq.read_table(tmp_path / "out/duplicates").to_pylist()
    assert {frozenset((row["text"], TEXTS[row["max_id"]])) for row in listed} == {frozenset(p) for p in PAIRS.items()}
    assert json.loads((tmp_path / "out/summary.json").read_text())["rejected"] == {"embedding is null": 1}


def test_a_run_that_was_stopped_goes_on_from_its_finished_units(
    texts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = unit.embed_unit

    def stop(job: Any, element: Any, encoder: Any) -> Any:
        if len(list((tmp_path / "out").glob("*.parquet"))) == 2:
            raise OSError("killed")
        return original(job, element, encoder)

    with monkeypatch.context() as patched:
        patched.setattr(unit, "embed_unit", stop)
        with pytest.raises(RunError, match="killed"):
            embed(texts, model, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert len(before) == 2
    result = embed(texts, model, tmp_path / "out")
    assert (result.rows, result.nulls, len(result.files)) == (8, 1, 4)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before} == before
    assert read_parquet(tmp_path / "out").num_rows == 8


@pytest.mark.slow
def test_worker_processes_give_the_same(texts: Path, model: Path, tmp_path: Path) -> None:
    from beam_semdedup.runners.direct import DirectConfig

    embed(texts, model, tmp_path / "one")
    embed(texts, model, tmp_path / "two", runner=DirectConfig(name="direct", num_workers=2))
    one, two = (read_parquet(tmp_path / name) for name in ("one", "two"))
    assert one.column("doc").equals(two.column("doc"))
    for a, b in zip(*(table.column("embeddings").to_pylist() for table in (one, two)), strict=True):
        assert (a is None and b is None) or np.allclose(a, b, atol=1e-5)


def test_lines_of_json_whose_rows_go_by_their_places(model: Path, tmp_path: Path) -> None:
    lines = [{"text": text} for text in TEXTS]
    write_lines(tmp_path / "a.jsonl", *lines[:3], "no object", *lines[3:])
    result = embed(tmp_path / "a.jsonl", model, tmp_path / "out", id_field=None)
    assert (result.rows, result.malformed) == (8, 1)
    ids = read_parquet(tmp_path / "out").column("id").to_pylist()
    assert ids == [f"{tmp_path}/a.jsonl:{row}" for row in (0, 1, 2, 4, 5, 6, 7, 8)]


def test_what_it_wrote_before_goes_and_what_is_foreign_stays(texts: Path, model: Path, tmp_path: Path) -> None:
    first = embed(texts, model, tmp_path / "out", embedding_field="vector")
    (tmp_path / "out/mine.txt").write_text("x")
    with pytest.raises(InputError, match="is of other texts or another model; give another output_path"):
        embed(texts, model, tmp_path / "out", clear_output=False)
    second = embed(texts, model, tmp_path / "out")
    assert not any(Path(file).exists() for file in first.files)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "mine.txt",
        "_embedding.json",
        *(Path(file).name for file in second.files),
    }


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"text_field": "body"}, r"a\.parquet: no column 'body'; it has: doc, text, lang"),
        ({"text_field": "doc"}, "text_field='doc' is int64, expected text"),
        ({"embedding_field": "doc"}, "two columns of the output would have one name: doc, doc"),
        ({"output_path": "texts/out"}, "lies inside input_path="),
        ({"device": "gpu"}, "device=gpu: ONNX Runtime has"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(
    texts: Path, model: Path, tmp_path: Path, parameters: dict[str, Any], said: str
) -> None:
    output = tmp_path / parameters.pop("output_path", "out")
    with pytest.raises(InputError, match=said):
        embed(texts, model, output, **parameters)
    assert not output.exists()


def test_a_model_that_cannot_be_loaded_ends_with_2(
    texts: Path, model: Path, tmp_path: Path, called: Callable[..., Ended]
) -> None:
    (tmp_path / "model").mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / "model" / name).write_bytes(b"{}")
    given = [f"input_path={texts}", f"model={tmp_path}/model", f"output_path={tmp_path}/out", "id_field=doc"]
    ended = called(commands.embed_main, *given)
    assert ended.code == 2
    assert f"Error: {tmp_path}/model/tokenizer.json: not a readable tokenizer" in ended.err


def test_the_extra_is_named_where_it_is_missing(
    texts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match="onnxruntime is not installed; `make install EXTRAS=embed` does"):
        embed(texts, model, tmp_path / "out")
