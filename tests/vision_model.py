"""A tiny vision tower: the means of the three channels over the left and the right half of an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 8
CLIP = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIZE},
    "crop_size": {"height": SIZE, "width": SIZE},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}


def model_in(directory: Path, batch: int | str = "batch", **configuration: Any) -> Path:
    """Puts the model into a directory, and returns that."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = np.zeros((3 * SIZE * SIZE, 6), dtype=np.float32)
    for channel in range(3):
        for half in range(2):
            mask = np.zeros((3, SIZE, SIZE), dtype=np.float32)
            mask[channel, :, half * SIZE // 2 : (half + 1) * SIZE // 2] = 2 / SIZE**2
            weights[:, channel * 2 + half] = mask.reshape(-1)
    nodes = [
        helper.make_node("Flatten", ["pixel_values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["image_embeds"]),
    ]
    given = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])
    out = helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, [batch, 6])
    graph = helper.make_graph(nodes, "tower", [given], [out], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(directory / "vision_model.onnx"))
    (directory / "preprocessor_config.json").write_text(json.dumps({**CLIP, **configuration}))
    return directory
