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
