"""Put exported stages together as one dense graph, the cascade's yardstick; offline.

Blocks and halos are gone: the convolutions pad for themselves, and nothing leaves the engine
between the stages. It computes what the stages do with a rho of 1, and faster.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from engines.cascade.signature import FILES

_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def dense_model(folder: Path, stages: int = len(FILES)) -> onnx.ModelProto:
    """Read the first stages and make one graph: planes -> logits (1, K, h / 4, w / 4)."""
    models = [onnx.load(folder / file) for file in FILES[:stages]]
    graphs = [
        onnx.compose.add_prefix_graph(model.graph, f"stage{number}.")
        for number, model in enumerate(models, start=1)
    ]
    planes, logits = graphs[0].input[0].name, f"stage{stages}.logits"
    nodes = list(graphs[0].node)
    if stages > 1:
        nodes += _joined("stage1.fine", "stage1.context", "stage2.blocks")
    for graph, given in zip(graphs[1:], ("stage2.blocks", "stage2.features"), strict=False):
        nodes += _padding_itself(graph, given)
    graph = helper.make_graph(
        nodes,
        "dense",
        [graphs[0].input[0]],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, _shape(graphs[0]))],
        [tensor for each in graphs for tensor in each.initializer] + _constants(),
    )
    made = helper.make_model(graph, opset_imports=models[0].opset_import)
    made.ir_version = models[0].ir_version
    _rename(made.graph, {planes: "planes", logits: "logits"})
    onnx.checker.check_model(made)
    return made


def _joined(fine: str, context: str, out: str) -> list[NodeProto]:
    """Nodes that enlarge the context and put it behind the fine features."""
    return [
        helper.make_node("Transpose", [context], ["join.nchw"], perm=_TO_NCHW),
        helper.make_node(
            "Resize",
            ["join.nchw", "", "join.twice"],
            ["join.large"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("Transpose", ["join.large"], ["join.nhwc"], perm=_TO_NHWC),
        helper.make_node("Concat", [fine, "join.nhwc"], [out], axis=3),
    ]


def _shape(first: GraphProto) -> list[int]:
    """Of the logits, which stage 1 has already at their final size."""
    value = next(value for value in first.output if value.name.endswith(".logits"))
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _constants() -> list[TensorProto]:
    twice = np.array([1, 1, 2, 2], np.float32)
    return [numpy_helper.from_array(twice, "join.twice")]


def _padding_itself(graph: GraphProto, given: str) -> list[NodeProto]:
    """Nodes of a later stage that take a map without a halo."""
    same = {graph.input[0].name: given}
    nodes = []
    for node in graph.node:
        inputs = [same.get(name, name) for name in node.input]
        if node.op_type == "Slice":  # cuts the halo off, which there is none of
            same[node.output[0]] = inputs[0]
            continue
        del node.input[:]
        node.input.extend(inputs)
        for attribute in node.attribute:
            if node.op_type == "Conv" and attribute.name == "pads" and _kernel(node) == [3, 3]:
                attribute.ints[:] = [1, 1, 1, 1]
        nodes.append(node)
    return nodes


def _kernel(node: NodeProto) -> list[int]:
    return next(list(a.ints) for a in node.attribute if a.name == "kernel_shape")


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
