from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("onnx")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("onnxruntime")

import vision_model  # noqa: E402
from reading import write_lines  # noqa: E402

from beam_semdedup.config.parameters import EmbedParameters  # noqa: E402
from beam_semdedup.embed import images as module  # noqa: E402
from beam_semdedup.embed.images import ImageEncoder, Preprocessing, VisionFiles  # noqa: E402
from beam_semdedup.embed.job import EmbeddingResult, embed_texts  # noqa: E402
from beam_semdedup.errors import InputError  # noqa: E402
from beam_semdedup.storage.folder import Folder  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_model.model_in(tmp_path_factory.mktemp("tower"))


def picture(left: tuple[int, int, int], right: tuple[int, int, int], width: int = 24, height: int = 24) -> Any:
    values = np.empty((height, width, 3), dtype=np.uint8)
    values[:, : width // 2], values[:, width // 2 :] = left, right
    return Image.fromarray(values)


def encoded(image: Any, kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind)
    return sink.getvalue()


RED, BLUE = (255, 0, 0), (0, 0, 255)


def expected(*halves: tuple[int, int, int]) -> np.ndarray:
    mean, std = (np.array(vision_model.CLIP[name]) for name in ("image_mean", "image_std"))
    return np.stack([(np.array(half) / 255 - mean) / std for half in halves], axis=1).reshape(-1)


def embedded(model: Path, values: Any, folder: Path | None = None) -> tuple[list[Any], dict[int, str]]:
    encoder = ImageEncoder(VisionFiles.find(str(model)), "cpu")
    found = encoder.embed(pa.chunked_array([values]), Folder.at(str(folder or model), {}))
    return found.column.to_pylist(), dict(found.broken)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG"])
def test_an_image_has_the_vector_of_its_colours(model: Path, kind: str) -> None:
    data = encoded(picture(RED, BLUE), kind)
    (vector,), broken = embedded(model, pa.array([data]))
    np.testing.assert_allclose(vector, expected(RED, BLUE), atol=0.1)  # as the filter reaches over the edge
    assert not broken


def test_the_shorter_side_is_resized_and_the_middle_is_taken(model: Path) -> None:
    wide = picture(RED, BLUE, width=60, height=20)
    values = np.asarray(wide).copy()
    values[:, :15] = values[:, 45:] = 255  # which is cut off
    (vector,), _ = embedded(model, pa.array([encoded(Image.fromarray(values))]))
    np.testing.assert_allclose(vector, expected(RED, BLUE), atol=0.05)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA", "I;16"])
def test_images_of_every_mode_become_colours(model: Path, mode: str) -> None:
    white = Image.new("L", (10, 10), 255) if mode == "I;16" else Image.new("RGB", (10, 10), (255,) * 3)
    white = white.convert(mode)
    data = encoded(white, "TIFF" if mode == "CMYK" else "PNG")
    (vector,), broken = embedded(model, pa.array([data]))
    assert (vector is None) == (0 in broken)
    if mode != "I;16":
        np.testing.assert_allclose(vector, expected(*[(255,) * 3] * 2), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, "n"])
def test_batches_of_any_size_give_each_its_own(tmp_path: Path, batch: int | str) -> None:
    model = vision_model.model_in(tmp_path / "model", batch=batch)
    greys = [(3 * n,) * 3 for n in range(40)]
    vectors, _ = embedded(model, pa.array([encoded(picture(grey, grey)) for grey in greys]))
    np.testing.assert_allclose(vectors, [expected(grey, grey) for grey in greys], atol=1e-5)


def test_paths_are_of_the_folder_and_do_not_lead_out_of_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    for place in ("in/a.png", "in/sub/b.png", "secret.png"):
        (tmp_path / place).write_bytes(encoded(picture(RED, RED)))
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    paths = ["a.png", "sub/b.png", f"{tmp_path}/in/a.png", None]
    refused = ["../secret.png", "link.png", f"{tmp_path}/secret.png", "gone.png", "sub"]
    vectors, broken = embedded(model, pa.array([*paths, *refused]), tmp_path / "in")
    assert [vector is not None for vector in vectors] == [True] * 3 + [False] * 6
    assert sorted(broken) == [4, 5, 6, 7, 8]
    assert "leads out of" in broken[5]


def test_structs_of_bytes_and_path(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(BLUE, BLUE)))
    rows = [{"bytes": encoded(picture(RED, RED)), "path": "no.png"}, {"bytes": None, "path": "a.png"}, None]
    type_ = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    vectors, broken = embedded(model, pa.array(rows, type_), tmp_path)
    np.testing.assert_allclose(vectors[:2], [expected(RED, RED), expected(BLUE, BLUE)], atol=1e-5)
    assert (vectors[2], broken) == (None, {})


def test_what_is_broken_has_no_embedding_and_a_reason(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = encoded(picture(RED, BLUE))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    cut, flipped = encoded(picture(RED, BLUE, 200, 200), "JPEG")[:-200], good[:40] + b"\xff" * 20 + good[60:]
    vectors, broken = embedded(model, pa.array([good, b"", b"text", cut, flipped, postscript, good]))
    assert [vector is not None for vector in vectors] == [True, False, False, False, False, False, True]
    assert sorted(broken) == [1, 2, 3, 4, 5]
    assert "cannot identify image file" in broken[5]
    monkeypatch.setattr(module, "_MOST_BYTES", 100)
    _, broken = embedded(model, pa.array([good + b"x" * 100]))
    assert "more than 100" in broken[0]


def test_a_decompression_bomb_is_not_decoded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    assert len(bomb) < 100_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    _, broken = embedded(model, pa.array([bomb]))
    assert "20,000 x 20,000 pixels" in broken[0] or "DecompressionBomb" in broken[0]
    monkeypatch.undo()
    narrow = encoded(Image.new("1", (60_000, 1)))
    _, broken = embedded(vision_model.model_in(model.parent / "large", size=2000, crop_size=8), pa.array([narrow]))
    assert "too long and narrow" in broken[0]


class TestPreprocessing:
    def test_a_vit_has_both_sides(self):
        found = Preprocessing.of({"image_processor_type": "ViTImageProcessor", "size": {"height": 4, "width": 6}})
        assert found == Preprocessing(False, (4, 6), 2, None, 1 / 255, (0.5,) * 3, (0.5,) * 3)
        values = found.apply(Image.new("RGB", (30, 50), (255, 0, 0)))
        assert values.shape == (3, 4, 6)
        np.testing.assert_allclose(values[:, 0, 0], [1, -1, -1], atol=1e-6)

    def test_what_is_not_done_is_left_out(self):
        said = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_center_crop": True, "crop_size": 3}
        values = Preprocessing.of(said).apply(Image.new("RGB", (5, 4), (7, 8, 9)))
        np.testing.assert_array_equal(values, np.broadcast_to(np.float32([7, 8, 9])[:, None, None], (3, 3, 3)))

    @pytest.mark.parametrize(
        "said",
        [
            {"do_pad": True},
            {"size": {"longest_edge": 3}},
            {"size": 0},
            {"size": 10**6},
            {"size": {"shortest_edge": 224}},
            {"image_mean": [1, 2]},
            {"image_std": 0},
            {"resample": 9},
            {"do_resize": False},
            [],
        ],
    )
    def test_what_is_not_known_is_an_error(self, said, tmp_path):
        (tmp_path / "model.onnx").write_bytes(b"x")
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
        with pytest.raises(InputError, match=r"preprocessor_config\.json: cannot be understood"):
            VisionFiles.find(str(tmp_path))


class TestJob:
    def embed(self, place: Path, model: Path, output: Path, **given: Any) -> EmbeddingResult:
        values = {"image_field": "image", "verbose": False, "device": "cpu", **given}
        return embed_texts(EmbedParameters(input_path=str(place), model=str(model), output_path=str(output), **values))

    def test_from_images_to_embeddings_with_what_is_broken_counted(self, model, tmp_path, caplog):
        images = [encoded(picture(RED, BLUE)), b"broken", None, encoded(picture(BLUE, RED))]
        pq.write_table(pa.table({"id": list("abcd"), "image": images, "lang": ["x"] * 4}), tmp_path / "a.parquet")
        found = self.embed(tmp_path / "a.parquet", model, tmp_path / "out", metadata_fields=["lang"])
        assert (found.rows, found.nulls, found.broken, found.malformed) == (4, 1, 1, 0)
        table = pq.read_table(tmp_path / "out")
        assert table.column_names == ["id", "lang", "embeddings"]
        vectors = table.column("embeddings").to_pylist()
        assert [vector is None for vector in vectors] == [False, True, True, False]
        np.testing.assert_allclose(vectors[3], expected(BLUE, RED), atol=0.1)
        assert "as they cannot be read: 1 image: b: UnidentifiedImageError" in caplog.text

    def test_paths_of_lines_of_json_beside_the_images(self, model, tmp_path):
        (tmp_path / "in/pictures").mkdir(parents=True)
        (tmp_path / "in/pictures/1.png").write_bytes(encoded(picture(RED, RED)))
        lines = [{"id": 1, "image": "pictures/1.png"}, {"id": 2, "image": "pictures/2.png"}]
        write_lines(tmp_path / "in/a.jsonl", *lines)
        found = self.embed(tmp_path / "in", model, tmp_path / "out", input_filetype="jsonl")
        assert (found.rows, found.broken) == (2, 1)
        write_lines(tmp_path / "b.jsonl", *lines)
        given = {"images_path": str(tmp_path / "in"), "dtype": "float16"}
        assert self.embed(tmp_path / "b.jsonl", model, tmp_path / "two", **given).broken == 1

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"image_field": "n"}, r"image_field='n' is int64, expected bytes, paths, or a struct of both"),
            ({"image_field": "x"}, r"no column 'x'"),
            ({"model": "nowhere"}, r"model=nowhere is no directory; give one with vision_model\.onnx"),
        ],
    )
    def test_mistakes_are_said(self, given, said, model, tmp_path):
        pq.write_table(pa.table({"id": [1], "image": [b"x"], "n": [1]}), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=said):
            self.embed(tmp_path / "a.parquet", given.pop("model", model), tmp_path / "out", **given)
        assert not (tmp_path / "out").exists()

    def test_a_model_of_texts_is_none_of_images(self, tmp_path, model):
        data = (model / "vision_model.onnx").read_bytes().replace(b"pixel_values", b"other_valuez")
        (tmp_path / "m").mkdir()
        (tmp_path / "m/model.onnx").write_bytes(data)
        (tmp_path / "m/preprocessor_config.json").write_text(json.dumps({**vision_model.CLIP, "crop_size": 4}))
        with pytest.raises(InputError, match=r"does not take what preprocessor_config\.json makes"):
            ImageEncoder(VisionFiles.find(str(tmp_path / "m")), "cpu")
