"""Networks of three operators whose answers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VERIFIER = {
    "family": "streamer.classifier",
    "kind": "verifier",
    "names": "person,nothing,vehicle",
    "accepts": "person,nothing,car+bus+truck",
    "colour": "yuv",
}


def save_means(
    path: Path,
    metadata: Mapping[str, str],
    *,
    size: tuple[int, int] = (8, 12),
    batch: int | str = "batch",
    kind: int = TensorProto.UINT8,
    gain: float = 0.1,
) -> Path:
    """Write a network that says gain * (mean - 128) of each of three channels of N crops."""
    width, height = size
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["planes"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["real"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Sub", ["mean", "grey"], ["difference"]),
            helper.make_node("Mul", ["difference", "gain"], ["logits"]),
        ],
        "means",
        [helper.make_tensor_value_info("planes", kind, [batch, 3, height, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [
            numpy_helper.from_array(np.float32(128).reshape(1), "grey"),
            numpy_helper.from_array(np.float32(gain).reshape(1), "gain"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)
    return path


def save_masks(
    path: Path, boxes_xyxy: np.ndarray, masks: np.ndarray, *, size: int = 128, score: float = 0.9
) -> Path:
    """Write a detector of the mask R-CNN family that sees the same objects in each lit picture.

    Args:
        path: file to write.
        boxes_xyxy: (N, 4) px of its input.
        masks: (N, h, w) chances.
        size: of its input, both ways.
        score: of all objects.
    """
    count = len(boxes_xyxy)
    planted = {
        "boxes": np.asarray(boxes_xyxy, np.float32)[None],
        "labels": np.ones((1, count), np.int64),
        "masks": np.asarray(masks, np.float32)[None],
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["picture"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["real"], ["light"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Clip", ["light", "none", "all"], ["lit"]),
            helper.make_node("Mul", ["sure", "lit"], ["scores"]),
            *(helper.make_node("Identity", [f"planted/{name}"], [name]) for name in planted),
        ],
        "masks",
        [helper.make_tensor_value_info("picture", TensorProto.UINT8, [1, 3, size, size])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, count, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, count]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [1, count]),
            helper.make_tensor_value_info("masks", TensorProto.FLOAT, [1, *masks.shape]),
        ],
        [
            numpy_helper.from_array(np.float32(0), "none"),
            numpy_helper.from_array(np.float32(1), "all"),
            numpy_helper.from_array(np.full((1, count), score, np.float32), "sure"),
            *(numpy_helper.from_array(array, f"planted/{name}") for name, array in planted.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"family": "maskrcnn", "classes": "-,person"})
    onnx.save(model, path)
    return path
