"""A vision tower in a directory: an ONNX model, and what its `preprocessor_config.json` does to an image before."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_semdedup.embed.encoder import Embeddings, Settings, check_installed, open_session, providers, read_json
from beam_semdedup.errors import InputError, as_input_error, reason
from beam_semdedup.storage.folder import Folder

_MODELS = ("vision_model.onnx", "onnx/vision_model.onnx", "model.onnx", "onnx/model.onnx")
_CONFIG = "preprocessor_config.json"
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded; others of Pillow run programs, or are rare and little tried."""
_MOST_PIXELS, _MOST_BYTES = 64_000_000, 64 << 20
"""Of an image: one that is larger, or says that it is, is not decoded."""
_BATCH = 16


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image, as the classes of transformers do it.

    Attributes:
        shortest_edge: whether the shorter side becomes `size[0]`, and the other as long as it is in proportion.
        size: (height, width), null where it is left as it is; `crop` is of the same kind.
        resample: the number of one of Pillow's filters.
        scale: what values from 0 to 255 are multiplied by.
        mean, std: of the three channels, which are subtracted, and divided by.
    """

    shortest_edge: bool
    size: tuple[int, int] | None
    resample: int
    crop: tuple[int, int] | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, said: dict[str, Any]) -> Preprocessing:
        """Reads a configuration; ValueError where it asks for what is not here."""
        if said.get("do_pad"):
            raise ValueError("do_pad is not known here")
        is_clip = "CLIP" in str(said.get("image_processor_type", said.get("feature_extractor_type", "")))
        size = said.get("size", 224) if said.get("do_resize", True) else None
        shortest = "shortest_edge" in size if isinstance(size, dict) else isinstance(size, int) and is_clip
        crop = said.get("crop_size", 224) if said.get("do_center_crop", is_clip) else None
        normalizes = said.get("do_normalize", True)
        found = cls(
            shortest,
            None if size is None else _size(size),
            int(said.get("resample", 3 if is_clip else 2)),
            None if crop is None else _size(crop),
            float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0,
            _three(said.get("image_mean", 0.5)) if normalizes else (0.0,) * 3,
            _three(said.get("image_std", 0.5)) if normalizes else (1.0,) * 3,
        )
        if not all(found.std) or found.resample not in range(6):
            raise ValueError("image_std has a zero, or resample is no filter")
        if found.crop is None and (found.size is None or shortest):
            raise ValueError("images would have several sizes, as it neither crops them nor gives both sides")
        return found

    def apply(self, image: Any) -> npt.NDArray[np.float32]:
        """Returns an image of Pillow as (3, height, width)."""
        image = image.convert("RGB")
        if self.size is not None:
            height, width = self.size
            if self.shortest_edge:
                shorter = min(image.size)
                width, height = (int(self.size[0] * side / shorter) for side in image.size)
                if width * height > _MOST_PIXELS:
                    raise ValueError(f"{image.size[0]:,} x {image.size[1]:,} pixels, too long and narrow to be resized")
            image = image.resize((width, height), self.resample)
        if self.crop is not None:
            height, width = self.crop
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        mean, std = np.array([self.mean, self.std], dtype=np.float32)
        values = (np.asarray(image, dtype=np.float32) * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)


@dataclass(frozen=True)
class VisionFiles:
    """A vision tower, and what is done to an image before."""

    directory: Path
    onnx: Path
    preprocessing: Preprocessing
    pooling: str = "none"

    @classmethod
    def find(cls, directory: str) -> VisionFiles:
        """Reads what the directory says.

        Raises:
            InputError: it is none, a file is missing, or its configuration asks for what is not here.
        """
        place = Path(directory)
        if not place.is_dir():
            raise InputError(f"model={directory} is no directory; give one with vision_model.onnx and {_CONFIG}")
        onnx = next((place / name for name in _MODELS if (place / name).is_file()), None)
        said = read_json(place / _CONFIG)
        if onnx is None or said is None:
            raise InputError(f"model={directory}: no {_CONFIG if onnx else _MODELS[0]} there")
        with as_input_error(f"{place / _CONFIG}: cannot be understood"):
            return cls(place, onnx, Preprocessing.of(said))

    @property
    def version(self) -> list[Any]:
        """Describes what the embeddings depend on."""
        stat = self.onnx.stat()
        said = [str(value) for value in vars(self.preprocessing).values()]
        return [str(self.directory.resolve()), self.onnx.name, stat.st_size, stat.st_mtime_ns, said]

    def check(self, device: str) -> None:
        """Raises InputError where the extra is not installed, or there is no GPU and one is asked for."""
        check_installed()
        try:
            import PIL.Image  # noqa: F401
        except ImportError as error:
            raise InputError("pillow is not installed; `make install EXTRAS=embed` does") from error
        providers(device)

    def load(self, p: Settings) -> ImageEncoder:
        """Returns the loaded model; see `ImageEncoder`."""
        return ImageEncoder(self, p.device)


class ImageEncoder:
    """Embeds images by a loaded model."""

    def __init__(self, files: VisionFiles, device: str) -> None:
        """Loads the model; InputError where it cannot be loaded, or is none of images."""
        self._session, self._preprocessing = open_session(files.onnx, device), files.preprocessing
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise InputError(f"{files.onnx}: expected one input of four dimensions, found {[i.name for i in inputs]}")
        self._input, number = inputs[0].name, inputs[0].shape[0]
        self._batch = number if isinstance(number, int) else _BATCH
        names = [output.name for output in self._session.get_outputs()]
        self._output = next((name for name in ("image_embeds", "pooler_output") if name in names), names[0])
        with as_input_error(f"{files.onnx} does not take what {_CONFIG} makes"):
            self._empty = self._run([np.zeros(self._shape(), dtype=np.float32)])[:0]

    def embed(self, images: pa.ChunkedArray, folder: Folder) -> Embeddings:
        """Returns the embeddings of a column of images: bytes, paths in the folder, or structs of both."""
        there, broken = np.zeros(len(images), dtype=bool), []
        vectors, waiting = [self._empty], []
        for number, value in enumerate(images):
            try:
                data = _bytes(value.as_py(), folder)
                if data is None:
                    continue
                waiting.append(self._preprocessing.apply(_opened(data)))
            except Exception as error:  # whatever a decoder makes of bytes that anybody wrote
                broken.append((number, reason(error)))
                continue
            there[number] = True
            if len(waiting) == self._batch:
                vectors.append(self._run(waiting))
                waiting = []
        if waiting:
            vectors.append(self._run(waiting))
        return Embeddings.of(np.concatenate(vectors), there, broken)

    def _run(self, images: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        filled = [*images, *[np.zeros_like(images[0])] * (self._batch - len(images))]  # a model may want so many
        (output,) = self._session.run([self._output], {self._input: np.stack(filled)})
        vectors = output.astype(np.float32, copy=False)[: len(images)]
        if vectors.ndim == 3:
            vectors = vectors[:, 0]
        elif vectors.ndim == 4:
            vectors = vectors.mean(axis=(2, 3))
        return np.asarray(vectors, dtype=np.float32)

    def _shape(self) -> tuple[int, int, int]:
        sides = self._preprocessing.crop or self._preprocessing.size
        assert sides is not None
        return (3, *sides)


def is_image_type(type_: pa.DataType) -> bool:
    """Says whether a column of this type can hold images."""
    if pa.types.is_struct(type_):
        return {"bytes", "path"} <= {field.name for field in type_}
    return bool(
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
    )


def _bytes(value: Any, folder: Folder) -> bytes | None:
    """Returns the bytes of an image; ValueError where its path leads out of the folder, or it is too large."""
    if isinstance(value, dict):
        value = value["bytes"] if value["bytes"] is not None else value["path"]
    if value is None:
        return None
    if isinstance(value, str):
        root = folder.realpath()
        file = folder.file(value.removeprefix(f"{folder.url}/"))
        if not file.realpath().is_inside(root):
            raise ValueError(f"the path leads out of {folder}")
        with file.open() as source:
            if source.size() > _MOST_BYTES:
                raise ValueError(f"{source.size():,} bytes, more than {_MOST_BYTES:,}")
            value = source.read()
    if len(value) > _MOST_BYTES:
        raise ValueError(f"{len(value):,} bytes, more than {_MOST_BYTES:,}")
    return bytes(value)


def _opened(data: bytes) -> Any:
    """Returns an image of Pillow, decoded; of several frames the first."""
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if image.width * image.height > _MOST_PIXELS:
        raise ValueError(f"{image.width:,} x {image.height:,} pixels, more than {_MOST_PIXELS:,}")
    image.load()
    return image


def _size(said: Any) -> tuple[int, int]:
    if isinstance(said, dict):
        side = said.get("shortest_edge")
        said = (said["height"], said["width"]) if side is None else (side, side)
    height, width = (said, said) if isinstance(said, int) else said
    if not all(isinstance(side, int) and 0 < side <= 4096 for side in (height, width)):
        raise ValueError(f"{height} x {width} is no size")
    return height, width


def _three(said: Any) -> tuple[float, ...]:
    values = [float(value) for value in (said if isinstance(said, list) else [said] * 3)]
    if len(values) != 3:
        raise ValueError(f"{len(values)} values for three channels")
    return tuple(values)
