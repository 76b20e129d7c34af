from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sentence_model
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.embed import encoder as module
from beam_semdedup.embed.encoder import Embeddings, Encoder, ModelFiles
from beam_semdedup.errors import InputError

TEXTS = [
    "A cat sits on the mat.",
    "The cat is sitting on a mat.",
    "Interest rates rose by a quarter of a percent in March, which surprised most of the analysts.",
    "",
    "x" * 5000,
    "日本語の文",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not sentence_model.is_there():
        pytest.skip("the packages with the model are not installed")
    return sentence_model.model_in(tmp_path_factory.mktemp("model"))


def alone(model: Path, text: str, max_tokens: int) -> np.ndarray:
    """The embedding of a text, computed by itself and without what fills it up."""
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    ids = np.array([tokenizer.encode(text).ids])
    session = onnxruntime.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    output = session.run(None, {each.name: given[each.name] for each in session.get_inputs()})[0]
    vector = output.astype(np.float64)[0].mean(axis=0) if output.ndim == 3 else output[0].astype(np.float64)
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_each_text_is_embedded_as_it_is_alone(model: Path, batch_tokens: int) -> None:
    found = Encoder(ModelFiles.find(str(model)), "cpu", batch_tokens).encode(TEXTS)
    assert found.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    wanted = np.array([alone(model, text, 256) for text in TEXTS])
    assert (found * wanted).sum(axis=1).min() > (0.9999 if batch_tokens == 1 else 0.97)  # 8 bits have a range in common
    assert found[0] @ found[1] > 0.9 > 0.3 > found[0] @ found[2]


def test_no_text_has_no_embedding(model: Path) -> None:
    assert len(Encoder(ModelFiles.find(str(model)), "cpu", 100).encode([])) == 0


@given(st.lists(st.lists(st.sampled_from(["a", "b", "", None, "é"]), max_size=6), max_size=4))
def test_equal_texts_are_encoded_once(chunks: list[list[str | None]]) -> None:
    asked = []

    def encode(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[ord(text[:1] or " "), len(text)] for text in texts], dtype=np.float32).reshape(-1, 2)

    given = [text for chunk in chunks for text in chunk]
    found = Embeddings.of_texts(pa.chunked_array(chunks, pa.string()), encode).column.to_pylist()
    assert found == [None if text is None else [ord(text[:1] or " "), len(text)] for text in given]
    assert len(asked) == len(set(given) - {None})


def test_a_text_is_cut_after_some_tokens(model: Path) -> None:
    short = Encoder(ModelFiles.find(str(model), max_tokens=4), "cpu", 1)
    found = short.encode(["A cat sits", "A cat and what it does in the house"])
    np.testing.assert_allclose(found[0] @ found[1], found[0] @ found[0], atol=0.2)
    assert ModelFiles.find(str(model)).max_tokens == 256


@given(lengths=st.lists(st.integers(0, 600), max_size=60), batch_tokens=st.integers(1, 2000))
def test_batches_hold_each_text_once_and_few_tokens(lengths: list[int], batch_tokens: int) -> None:
    batches = list(module._batches(lengths, batch_tokens))
    assert sorted(number for batch in batches for number in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[number] for number in batch) <= batch_tokens


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [[2.0, 3.0], [7.0, 8.0]]), ("cls", [[1.0, 2.0], [7.0, 8.0]])]
)
def test_tokens_are_pooled_over_those_that_are_there(pooling: str, expected: list[list[float]]) -> None:
    output = np.array([[[1, 2], [3, 4]], [[7, 8], [100, 100]]], dtype=np.float32)
    encoder = object.__new__(Encoder)
    encoder._files = SimpleNamespace(pooling=pooling, normalize=False)  # type: ignore[assignment]
    encoder._session = SimpleNamespace(run=lambda names, values: [output])
    encoder._pad, encoder._inputs, encoder._output = 0, ["input_ids", "attention_mask"], "x"
    np.testing.assert_array_equal(encoder._embed([[5, 6], [7]]), expected)


class TestModelFiles:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        for name in ("model.onnx", "tokenizer.json"):
            (tmp_path / name).write_bytes(b"x")
        return tmp_path

    def said(self, place: Path, **given: Any) -> str:
        with pytest.raises(InputError) as raised:
            ModelFiles.find(str(place), **given)
        return str(raised.value)

    def test_without_a_configuration_it_is_the_mean_of_512_tokens(self, place):
        found = ModelFiles.find(str(place))
        assert (found.pooling, found.max_tokens, found.normalize) == ("mean", 512, False)
        (place / "onnx").mkdir()
        (place / "model.onnx").rename(place / "onnx/model.onnx")
        assert ModelFiles.find(str(place), "cls", 7).onnx == place / "onnx/model.onnx"

    @pytest.mark.parametrize(
        ("mode", "expected"), [("pooling_mode_cls_token", "cls"), ("pooling_mode_mean_tokens", "mean")]
    )
    def test_the_configuration_says_how_tokens_are_pooled(self, place, mode, expected):
        (place / "1_Pooling").mkdir()
        (place / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 3, mode: True}))
        assert ModelFiles.find(str(place)).pooling == expected
        (place / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
        assert "it pools by pooling_mode_max_tokens; give pooling=mean or pooling=cls" in self.said(place)
        assert ModelFiles.find(str(place), "cls").pooling == "cls"

    def test_what_is_missing_is_named(self, place):
        assert "is no directory; give one with model.onnx and tokenizer.json" in self.said(place / "nowhere")
        (place / "tokenizer.json").unlink()
        assert f"model={place}: no tokenizer.json there" in self.said(place)
        (place / "model.onnx").unlink()
        assert f"model={place}: no model.onnx there" in self.said(place)

    @pytest.mark.parametrize("content", [b"{", b"[1]", b'[{"a": 1}]', b"3"])
    def test_a_configuration_that_is_none_is_an_error(self, place, content):
        (place / "modules.json").write_bytes(content)
        assert str(place) in self.said(place)

    def test_what_is_no_model_is_named(self, place):
        pytest.importorskip("onnxruntime")
        with pytest.raises(InputError, match=r"tokenizer\.json: not a readable tokenizer"):
            Encoder(ModelFiles.find(str(place)), "cpu", 100)

    def test_a_damaged_model_is_named(self, place, model):
        (place / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
        with pytest.raises(InputError, match=r"model\.onnx: not a readable ONNX model"):
            Encoder(ModelFiles.find(str(place)), "cpu", 100)

    def test_a_gpu_that_is_not_there_is_an_error(self):
        pytest.importorskip("onnxruntime")
        if "CUDAExecutionProvider" in module.providers("auto"):
            pytest.skip("there is one")
        with pytest.raises(InputError, match=r"device=gpu: ONNX Runtime has .*CPUExecutionProvider"):
            module.providers("gpu")
        assert module.providers("auto") == module.providers("cpu") == ["CPUExecutionProvider"]
