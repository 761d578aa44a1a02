"""Post-training quantisation: Q/DQ nodes that all engines read, from pictures of the user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import ModelError
from engines.load import load_engine
from engines.quantize import FEWEST, quantize

SIDE = 16


def small_network(path: Path, opset: int = 17, *, bytes_in: bool = True) -> None:
    """Pictures -> /128 -> conv, ReLU -> depthwise conv, ReLU -> conv."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.normal(0, 0.3, (8, 3, 3, 3)),
        "w2": random.normal(0, 0.3, (8, 1, 3, 3)) * np.geomspace(0.3, 1, 8).reshape(8, 1, 1, 1),
        "w3": random.normal(0, 0.3, (4, 8, 1, 1)),
        "b1": random.normal(0, 0.1, 8),
        "divisor": np.array(128.0),
    }
    nodes = [
        helper.make_node("Cast", ["picture"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["cast" if bytes_in else "picture", "divisor"], ["x0"]),
        helper.make_node("Conv", ["x0", "w1", "b1"], ["x1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x1"], ["x2"]),
        helper.make_node("Conv", ["x2", "w2"], ["x3"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Relu", ["x3"], ["x4"]),
        helper.make_node("Conv", ["x4", "w3"], ["y"]),
    ][0 if bytes_in else 1 :]
    kind = TensorProto.UINT8 if bytes_in else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("picture", kind, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, SIDE, SIDE])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    helper.set_model_props(model, {"family": "small", "classes": "a,b"})
    onnx.save(model, path)


def pictures(count: int = 12, dtype: str = "uint8") -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [
        {"picture": random.integers(0, 256, (1, 3, SIDE, SIDE)).astype(dtype)} for _ in range(count)
    ]


def outputs(path: Path, samples: list[dict[str, np.ndarray]], device: str) -> np.ndarray:
    engine = load_engine(path, device=device)
    found = np.concatenate([engine.infer(sample)["y"] for sample in samples])
    engine.close()
    return found


@pytest.mark.parametrize("device", ["onnxruntime:cpu", "openvino:cpu"])
def test_int8_says_nearly_the_same_on_both_engines(tmp_path: Path, device: str) -> None:
    source, target = tmp_path / "small.onnx", tmp_path / "int8.onnx"
    small_network(source)
    quantize(source, target, pictures())
    wanted = outputs(source, pictures(4), "onnxruntime:cpu")
    found = outputs(target, pictures(4), device)
    assert np.std(found - wanted) < 0.05 * np.std(wanted)
    assert not np.array_equal(found, wanted)
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert "QuantizeLinear" in kinds
    assert not {"Cast", "Div"} & set(kinds)  # bytes go in as they are
    assert {entry.key: entry.value for entry in model.metadata_props}["classes"] == "a,b"
    assert not list(tmp_path.glob("*.unchecked"))


def test_tensorrt_gets_signed_numbers_without_zero_points(tmp_path: Path) -> None:
    source, target = tmp_path / "small.onnx", tmp_path / "int8.onnx"
    small_network(source)
    quantize(source, target, pictures(), runs="tensorrt")
    model = onnx.load(target)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            held[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    quantisers = [
        node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert len(quantisers) >= 9
    for node in quantisers:
        zero = held[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    assert "picture" not in [name for node in quantisers for name in node.input]


def test_older_files_are_brought_to_opset_17_first(tmp_path: Path) -> None:
    source, target = tmp_path / "small.onnx", tmp_path / "int8.onnx"
    small_network(source, opset=11, bytes_in=False)
    quantize(source, target, pictures(dtype="float32"))
    assert onnx.load(target).opset_import[0].version == 17
    wanted = outputs(source, pictures(4, "float32"), "onnxruntime:cpu")
    found = outputs(target, pictures(4, "float32"), "openvino:cpu")
    assert np.std(found - wanted) < 0.05 * np.std(wanted)


def test_what_can_not_be_quantised_is_said(tmp_path: Path) -> None:
    source, target = tmp_path / "small.onnx", tmp_path / "int8.onnx"
    small_network(source)
    with pytest.raises(ValueError, match=f"needs at least {FEWEST} pictures, got 3; give a longer"):
        quantize(source, target, pictures(3))
    quantize(source, target, pictures())
    with pytest.raises(ModelError, match="must be in fp32, got one with Q/DQ nodes"):
        quantize(target, tmp_path / "again.onnx", pictures())
    source.write_bytes(b"no network")
    with pytest.raises(ModelError, match="file must be an ONNX model"):
        quantize(source, tmp_path / "again.onnx", pictures())
    assert not (tmp_path / "again.onnx").exists()
