"""Rewrite an ONNX network of fp32 so that its convolutions and products compute in fp16 or bf16.

Inputs and outputs stay as they are. So does everything behind the last convolution or product:
that is where boxes get their coordinates, which need more than the 11 or 8 bits of the short
types. Needs the onnx package; knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, inliner, numpy_helper, shape_inference

from engines.errors import ModelError

_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that the standard wants in fp32 whatever the data is."""


def lower(model: bytes, precision: str, where: str) -> bytes:
    """Rewrite a model.

    Args:
        model: content of an ONNX file, in fp32.
        precision: "fp16" or "bf16".
        where: its name, for errors.

    Raises:
        ModelError: it branches or loops, or the onnx package finds it broken.
    """
    try:
        proto = onnx.load_from_string(model)
        proto = shape_inference.infer_shapes(inliner.inline_local_functions(proto))
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{where}: network must be whole to be rewritten in {precision}, got {error}; "
            "export it again"
        ) from error
    _refuse_branches(proto.graph, precision, where)
    _Lowering(proto.graph, precision).run()
    return bytes(proto.SerializeToString())


class _Lowering:
    """One graph and what is decided of it."""

    def __init__(self, graph: onnx.GraphProto, precision: str) -> None:
        self.graph = graph
        self.type = _TYPES[precision]
        self.suffix = f"/{precision}"
        values = (*graph.input, *graph.output, *graph.value_info)
        self.floats = {
            value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self.weights = {
            tensor.name: tensor
            for tensor in graph.initializer
            if tensor.data_type == TensorProto.FLOAT
        }
        self.lowered = self._nodes_to_lower()
        self.short = {  # tensors that are made in the short type
            name for index in self.lowered for name in graph.node[index].output
        } & self.floats
        self.wanted: set[str] = set()
        """Names, with the suffix or without, that some node or output reads."""

    def run(self) -> None:
        """Rewrite all nodes, then put a cast behind whatever is read in the other type."""
        for index, node in enumerate(self.graph.node):
            self._rewrite(node, lowered=index in self.lowered)
        self.wanted |= {value.name for value in self.graph.output}
        nodes = list(self._with_casts())
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._keep_wanted_weights()
        del self.graph.value_info[:]

    def _nodes_to_lower(self) -> set[int]:
        """Find nodes of float results that are a convolution or product, or feed one; by index."""
        feeding: set[str] = set()
        found: set[int] = set()
        for index, node in reversed(list(enumerate(self.graph.node))):
            makes_floats = any(name in self.floats for name in node.output)
            if makes_floats and (node.op_type in _HEAVY or feeding & set(node.output)):
                found.add(index)
                feeding.update(node.input)
        return found

    def _rewrite(self, node: onnx.NodeProto, *, lowered: bool) -> None:
        kept = _FP32_INPUTS.get(node.op_type, ()) if lowered else range(len(node.input))
        for index, name in enumerate(node.input):
            if name in self.floats | self.weights.keys() and index not in kept:
                node.input[index] = name + self.suffix
            self.wanted.add(node.input[index])
        if lowered:
            for index, name in enumerate(node.output):
                if name in self.short:
                    node.output[index] = name + self.suffix
            for attribute in node.attribute:
                self._rewrite_attribute(node, attribute)

    def _rewrite_attribute(self, node: onnx.NodeProto, attribute: AttributeProto) -> None:
        is_type = attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT
        if is_type and attribute.type == AttributeProto.INT:
            attribute.i = self.type
        elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(self._shortened(attribute.t))
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            values = np.array(helper.get_attribute_value(attribute), np.float32)
            short = self._shortened(numpy_helper.from_array(values))
            attribute.CopyFrom(helper.make_attribute("value", short))

    def _shortened(self, tensor: TensorProto) -> TensorProto:
        """Round a tensor of fp32; what is too large for the type becomes its largest number."""
        values = numpy_helper.to_array(tensor).astype(np.float32)
        short = helper.tensor_dtype_to_np_dtype(self.type)
        if self.type == TensorProto.FLOAT16:
            largest = np.float32(np.finfo(np.float16).max)
            finite = np.isfinite(values)
            values = np.where(finite, np.clip(values, -largest, largest), values)
        return numpy_helper.from_array(values.astype(short), tensor.name)

    def _with_casts(self) -> Iterator[onnx.NodeProto]:
        for value in self.graph.input:
            if value.name in self.floats and value.name + self.suffix in self.wanted:
                yield self._cast(value.name, value.name + self.suffix, self.type)
        for node in self.graph.node:
            yield node
            for made in node.output:
                long = made.removesuffix(self.suffix)
                if long in self.short and made != long and long in self.wanted:
                    yield self._cast(made, long, TensorProto.FLOAT)
                elif made in self.floats - self.short and made + self.suffix in self.wanted:
                    yield self._cast(made, made + self.suffix, self.type)

    def _cast(self, source: str, target: str, to: int) -> onnx.NodeProto:
        return helper.make_node("Cast", [source], [target], name=f"cast/{target}", to=to)

    def _keep_wanted_weights(self) -> None:
        outside = {value.name for value in self.graph.input}
        for name, tensor in self.weights.items():
            if name + self.suffix in self.wanted and name not in outside:
                short = self.graph.initializer.add()
                short.CopyFrom(self._shortened(tensor))
                short.name = name + self.suffix
            if name not in self.wanted:
                self.graph.initializer.remove(tensor)


def _refuse_branches(graph: onnx.GraphProto, precision: str, where: str) -> None:
    inner = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    for node in graph.node:
        if any(attribute.type in inner for attribute in node.attribute):
            raise ModelError(
                f"{where}: network must have no branches and loops to be rewritten in {precision}, "
                f"got {node.op_type}; export it without them, or build it in fp32"
            )
