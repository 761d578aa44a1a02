"""Turn a torch network into one ONNX file that every engine here can load; offline.

Opset 17 exactly, since TensorRT 8.6 parses no later one; a free batch axis; constants folded; and
nothing is written unless ONNX Runtime computes what torch does.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import torch
from onnx import helper
from torch import Tensor, nn

from engines.base import Array
from engines.errors import EngineFailed, ModelError
from engines.load import load_engine

OPSET = 17
TOLERANCE = 1e-4


def export(
    net: nn.Module,
    example: Mapping[str, Tensor],
    path: Path,
    *,
    outputs: Sequence[str],
    metadata: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """Write a network as ONNX.

    Args:
        net: gives a tensor or a tuple of tensors; is put into evaluation mode. Its parameters are
            float32, and it computes in their type, whatever that is.
        example: inputs by name, in the order of net's arguments, with at least two examples
            along the first axis of each; the export is checked on them, and on the first alone.
        path: file to write.
        outputs: names of what net gives; their first axis is the batch.
        metadata: what the file says about itself.
        tolerance: largest difference from torch, of values as large as 1; relative above that.

    Returns:
        Largest difference from torch.

    Raises:
        ModelError: ONNX differs from torch by more than tolerance, the network's shapes depend
            on the batch, or the exporter can't write opset 17; nothing was written.
        ValueError: the example has fewer than two examples.
    """
    if min(len(tensor) for tensor in example.values()) < 2:
        raise ValueError(
            f"{path}: example must have at least 2 along the first axis, got "
            f"{ {name: tuple(tensor.shape) for name, tensor in example.items()} }; stack two"
        )
    net = net.eval()
    expected = _reference(net, example)
    model = _simplified(_traced(net, example, outputs, path), path)
    for value, array in zip(model.graph.output, expected[0], strict=True):
        _name_axes(value, array.shape)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    unchecked = path.with_name(f"{path.name}.unchecked")
    onnx.save(model, unchecked)
    try:
        difference = max(
            _difference(unchecked, example, count, wanted, outputs)
            for count, wanted in zip((None, 1), expected, strict=True)
        )
        if not difference <= tolerance:  # a difference that is no number fails too
            raise ModelError(
                f"{path}: export must equal torch within {tolerance}, differs by {difference:.2g}; "
                "compare the outputs of its layers to find the operator"
            )
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)
    return difference


def _reference(net: nn.Module, example: Mapping[str, Tensor]) -> list[list[Array]]:
    """Outputs for the whole example and for the first of it, in float64 where the net is float32.

    So what is left of a difference is the file's own rounding, which differs by processor.
    """
    floats = [
        tensor.double() if tensor.is_floating_point() else tensor for tensor in example.values()
    ]
    net.double()
    try:
        with torch.no_grad():
            given = [net(*(tensor[:count] for tensor in floats)) for count in (None, 1)]
    finally:
        net.float()
    return [
        [tensor.numpy() for tensor in (each if isinstance(each, tuple) else (each,))]
        for each in given
    ]


def _traced(
    net: nn.Module, example: Mapping[str, Tensor], outputs: Sequence[str], path: Path
) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The tracing exporter is called legacy, but it is the one that writes opset 17 directly.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            torch.onnx.export(
                net,
                tuple(example.values()),
                buffer,
                input_names=list(example),
                output_names=list(outputs),
                dynamic_axes={name: {0: "batch"} for name in (*example, *outputs)},
                opset_version=OPSET,
                dynamo=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ModelError(
                f"{path}: network must consist of operators of opset {OPSET}, got {error}; "
                "replace that operator in the network"
            ) from error
    return onnx.load_from_string(buffer.getvalue())


def _simplified(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    simple, same = onnxsim.simplify(model)
    opset = {entry.domain: entry.version for entry in simple.opset_import}
    if not same or opset != {"": OPSET}:
        raise ModelError(
            f"{path}: simplified network must be the same at opset {OPSET}, got opset {opset} and "
            f"{'the same' if same else 'another'} result; export it with another release of onnxsim"
        )
    return simple


def _name_axes(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    """Write an output's known lengths, which the exporter leaves open."""
    shape_proto = value.type.tensor_type.shape
    del shape_proto.dim[:]
    for axis, length in enumerate(shape):
        dim = shape_proto.dim.add()
        if axis == 0:
            dim.dim_param = "batch"
        else:
            dim.dim_value = length


def _difference(
    file: Path,
    example: Mapping[str, Tensor],
    count: int | None,
    expected: Sequence[Array],
    outputs: Sequence[str],
) -> float:
    """Largest difference from torch, relative where values are above 1; infinite if no number."""
    engine = load_engine(file, device="onnxruntime:cpu")
    try:
        arrays = {name: tensor[:count].numpy() for name, tensor in example.items()}
        got = engine.infer(arrays)
    except EngineFailed as error:
        raise ModelError(
            f"{file.stem}: batch must be free, got {error} for a batch of "
            f"{max(map(len, arrays.values()))}; take sizes from tensors, not from int(x.shape[0])"
        ) from error
    finally:
        engine.close()
    largest = 0.0
    for name, wanted in zip(outputs, expected, strict=True):
        if got[name].shape != wanted.shape:
            return float("inf")
        gap = np.abs(got[name].astype(np.float64) - wanted) / np.maximum(1.0, np.abs(wanted))
        gap[got[name] == wanted] = 0  # infinities too
        largest = max(largest, float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0)))
    return largest
