from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentence_model

from beam_semdedup import SemanticDeduplicationWorkflow
from beam_semdedup.config.parameters import EmbedParameters
from beam_semdedup.embed.encoder import Encoder, ModelFiles
from beam_semdedup.embed.job import embed_texts
from beam_semdedup.embed.models import find_text_model
from beam_semdedup.embed.torch_model import TorchFiles
from beam_semdedup.errors import InputError

DEMO = Path(__file__).parents[2] / "examples/data/part-00000.parquet"


def given(model: Path, **parameters: Any) -> EmbedParameters:
    return EmbedParameters(**{"input_path": "in", "output_path": "out", "model": str(model), **parameters})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("torch")
    with zipfile.ZipFile(sentence_model._place("all_minilm_l6_v2") / "model.zip") as archive:
        archive.extractall(place)
    return place


class TestFiles:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        (tmp_path / "model.safetensors").write_bytes(b"x")
        (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Pooling"}]))
        return tmp_path

    def test_a_model_of_onnx_goes_before(self, place):
        assert find_text_model(given(place)) == TorchFiles(place)
        for name in ("model.onnx", "tokenizer.json"):
            (place / name).write_bytes(b"x")
        (place / "modules.json").write_text("[]")
        assert isinstance(find_text_model(given(place)), ModelFiles)

    def test_weights_that_are_a_pickle_are_not_taken(self, place):
        (place / "model.safetensors").rename(place / "pytorch_model.bin")
        with pytest.raises(InputError, match=r"no model\.onnx there"):
            find_text_model(given(place))

    def test_code_of_the_model_is_not_run(self, place):
        (place / "modules.json").write_text(json.dumps([{"type": "custom.Module"}]))
        with pytest.raises(InputError, match=r"custom\.Module is code of its own, which is not run"):
            find_text_model(given(place))
        (place / "modules.json").write_text("3")
        with pytest.raises(InputError, match=r"modules\.json: cannot be understood"):
            find_text_model(given(place))

    def test_what_it_says_itself_is_not_given(self, place):
        with pytest.raises(InputError, match=r"pooling=cls: model=.* says itself how it pools"):
            find_text_model(given(place, pooling="cls"))

    def test_what_it_depends_on(self, place):
        before = TorchFiles.find(str(place)).version
        assert TorchFiles.find(str(place)).version == before
        assert TorchFiles.find(str(place), max_tokens=3).version != before
        (place / "config.json").write_text("{}")
        assert TorchFiles.find(str(place)).version != before


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None or not sentence_model.is_there(),
    reason="sentence-transformers, or the packages with the model, are not installed",
)
class TestModel:
    def test_it_embeds_as_the_same_model_does_elsewhere(self, model, tmp_path):
        rows = pq.read_table(DEMO).slice(0, 40)
        texts = rows.column("text").to_pylist()
        found = find_text_model(given(model)).load(given(model, device="cpu"))
        vectors = found.encode(texts)
        stored = np.array(rows.column("embeddings").to_pylist(), dtype=np.float32)
        cosine = (vectors * stored).sum(axis=1) / np.linalg.norm(stored, axis=1)
        assert cosine.min() > 0.999
        onnx = Encoder(ModelFiles.find(str(sentence_model.model_in(tmp_path))), "cpu", 1).encode(texts)
        assert (vectors * onnx).sum(axis=1).min() > 0.9
        assert found.dimension == 384
        assert found.encode([]).shape == (0, 0)

    def test_texts_without_one_and_those_that_are_cut(self, model, tmp_path):
        table = pa.table({"id": [1, 2, 3], "text": ["a b c d", None, "a b c d e f g h"]})
        pq.write_table(table, tmp_path / "a.parquet")
        p = given(model, input_path=str(tmp_path / "a.parquet"), output_path=str(tmp_path / "out"), max_tokens=6)
        result = embed_texts(p)
        assert (result.rows, result.nulls) == (3, 1)
        one, none, other = pq.read_table(tmp_path / "out").column("embeddings").to_pylist()
        assert none is None
        np.testing.assert_allclose(one, other, atol=1e-5)

    def test_a_run_takes_it_too(self, model, tmp_path):
        texts = ["How do I install the package?", "Cats purr", "How can I install the package?"]
        pq.write_table(pa.table({"id": [1, 2, 3], "text": texts}), tmp_path / "a.parquet")
        summary = SemanticDeduplicationWorkflow(
            input_path=str(tmp_path / "a.parquet"), output_path=str(tmp_path / "out"), model=str(model),
            text_field="text", eps=0.1, n_clusters=1, verbose=False,
        ).run()  # fmt: skip
        assert (summary.num_duplicates, summary.dimension) == (1, 384)
