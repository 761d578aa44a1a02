"""Turn a graph of a model folder into one of a single picture size, for compilers that ask for it.

Weights come into the graph, in float32: which precision it is compiled in is chosen later. Needs
the onnx package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference

from engines.errors import ModelError


def fix_sizes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Rewrite an ONNX file.

    Args:
        path: of the graph; its weights may lie beside it.
        shapes: of each input by name.

    Raises:
        ModelError: the file is missing, damaged, or has no such inputs of such shapes.
    """
    try:
        model = onnx.load(str(path))
        _widen_weights(model.graph)
        for value in model.graph.input:
            _set_shape(value, shapes[value.name])
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
        model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        for value in model.graph.output:  # all graphs have one picture; not every one shows it
            value.type.tensor_type.shape.dim[0].dim_value = 1
    except KeyError as error:
        raise ModelError(
            f"{path}: inputs must be {sorted(shapes)}, got {error}; export it again"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path}: a graph must fit the shapes {dict(shapes)}, got {error}; export it again"
        ) from error
    return bytes(model.SerializeToString())


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    dims = value.type.tensor_type.shape.dim
    if len(dims) != len(shape):
        raise ValueError(f"{value.name} of {len(dims)} axes")
    for dim, length in zip(dims, shape, strict=True):
        if dim.HasField("dim_value") and dim.dim_value != length:
            raise ValueError(f"{value.name} with an axis of {dim.dim_value}")
        dim.dim_value = length


def _widen_weights(graph: onnx.GraphProto) -> None:
    """Put float32 weights where float16 ones are cast."""
    short = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT16}
    casts = [n for n in graph.node if n.op_type == "Cast" and n.input[0] in short]
    for node in casts:
        stored = short[node.input[0]]
        wide = numpy_helper.to_array(stored).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(wide, node.output[0]))
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for name, tensor in short.items():
        if name not in read:
            graph.initializer.remove(tensor)
