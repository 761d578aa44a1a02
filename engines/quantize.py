"""Turn an ONNX network of fp32 into one of int8, by pictures like those it will see; offline.

Post-training quantisation by NNCF, or by ONNX Runtime's tool for TensorRT. Precision lives in the
graph: pairs of QuantizeLinear and DequantizeLinear around what is to run in int8, so that every
engine can read it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from engines.base import Array
from engines.errors import EngineUnavailable, ModelError
from engines.load import load_engine
from engines.onnxfile import read_metadata

Runs = Literal["cpu", "tensorrt"]

OPSET = 17
LAST = 3
"""Layers before each output that stay as they are: small, and boxes hang on their last bits."""

FEWEST = 8
"""Pictures below which ranges are luck."""


def quantize(
    source: Path, target: Path, samples: Sequence[dict[str, Array]], *, runs: Runs = "cpu"
) -> None:
    """Write the quantised network.

    Args:
        source: ONNX file in fp32.
        target: file to write; it appears when ONNX Runtime has run it.
        samples: inputs of the network, one call each, as the pipeline would feed them.
        runs: "cpu" takes unsigned activations and lets uint8 pictures in as they are; "tensorrt"
            takes what its parser asks for: signed, symmetric, no zero points.

    Raises:
        ModelError: the network is damaged, quantised already, or can't be quantised.
        EngineUnavailable: NNCF is not installed.
        ValueError: there are too few samples.
    """
    if len(samples) < FEWEST:
        raise ValueError(
            f"{source}: calibration needs at least {FEWEST} pictures, got {len(samples)}; give a "
            "longer clip, one that shows what the camera will see"
        )
    metadata = read_metadata(source)
    model = onnx.load(source)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ModelError(
            f"{source}: network must be in fp32, got one with Q/DQ nodes; quantise the original"
        )
    model = _of_opset(model, source)
    if runs == "cpu":
        quantised = _by_nncf(model, samples, source)
        _make_scalar(quantised.graph)
        _let_bytes_in(quantised.graph)
    else:
        quantised = _by_onnxruntime(model, samples, source)
    if not any(node.op_type == "QuantizeLinear" for node in quantised.graph.node):
        raise ModelError(
            f"{source}: network must have convolutions or products to quantise, got none; run it "
            "in fp32"
        )
    del quantised.graph.value_info[:]
    helper.set_model_props(quantised, metadata)
    unchecked = target.with_name(f"{target.name}.unchecked")
    onnx.save(quantised, unchecked)
    try:
        engine = load_engine(unchecked, device="onnxruntime:cpu")
        try:
            engine.infer(samples[0])
        finally:
            engine.close()
        unchecked.replace(target)
    finally:
        unchecked.unlink(missing_ok=True)


def last_layers(graph: onnx.GraphProto, count: int) -> list[str]:
    """Names of the convolutions and products with fewer than so many others behind them.

    Those that more than one such path leads to are counted by the longest. At least one layer of a
    network is always left to quantise.
    """
    heavy = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
    behind: dict[str, int] = {value.name: 0 for value in graph.output}
    ahead: dict[str, int] = {}
    for node in reversed(graph.node):
        layers = max((behind.get(name, 0) for name in node.output), default=0)
        if node.op_type in heavy:
            ahead[node.name] = layers
            layers += 1
        for name in node.input:
            behind[name] = max(behind.get(name, 0), layers)
    deepest = max(ahead.values(), default=0)
    return [name for name, layers in ahead.items() if name and layers < min(count, deepest)]


def _of_opset(model: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    """Scales for each channel came with opset 13; older files would silently lose them."""
    opset = max((entry.version for entry in model.opset_import if not entry.domain), default=0)
    if opset >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{source}: network of opset {opset} must be convertible to {OPSET}, got {error}; "
            f"export it again at opset {OPSET}"
        ) from error


def _by_nncf(
    model: onnx.ModelProto, samples: Sequence[dict[str, Array]], source: Path
) -> onnx.ModelProto:
    """Quantise for OpenVINO and ONNX Runtime, with what rounding shifts put back into biases."""
    try:
        with _quiet():
            import nncf
            from nncf.common.quantization.structs import QuantizationScheme
            from nncf.quantization import advanced_parameters as advanced
    except ImportError as error:
        raise EngineUnavailable(
            f"{source}: int8 needs NNCF ({error}); pip install 'streamer[train]'"
        ) from error
    # One scale for a whole activation: one for each channel, NNCF's choice before depthwise layers,
    # is refused by the fused operators of ONNX Runtime.
    activations = advanced.QuantizationParameters(
        per_channel=False, mode=QuantizationScheme.SYMMETRIC
    )
    try:
        with _quiet():
            quantised: onnx.ModelProto = nncf.quantize(
                model,
                nncf.Dataset(list(samples)),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(samples),
                ignored_scope=nncf.IgnoredScope(names=last_layers(model.graph, LAST)),
                advanced_parameters=advanced.AdvancedQuantizationParameters(
                    activations_quantization_params=activations
                ),
            )
    except (nncf.errors.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{source}: NNCF can't quantise this network: {error}; run it in fp32 or fp16"
        ) from error
    return quantised


class _Samples:
    """Samples as ONNX Runtime reads them."""

    def __init__(self, samples: Sequence[dict[str, Array]]) -> None:
        self._left = iter(samples)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._left, None)


def _by_onnxruntime(
    model: onnx.ModelProto, samples: Sequence[dict[str, Array]], source: Path
) -> onnx.ModelProto:
    """Quantise for TensorRT: NNCF can't be told to use signed numbers everywhere."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        from onnxruntime import quantization

        made = Path(folder) / "int8.onnx"
        try:
            quantization.quantize_static(
                model,
                made,
                _Samples(samples),
                quant_format=quantization.QuantFormat.QDQ,
                nodes_to_exclude=last_layers(model.graph, LAST),
                op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                },
            )
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{source}: ONNX Runtime can't quantise this network: {error}; run it in fp16"
            ) from error
        return onnx.load(made)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and notes of the libraries off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _make_scalar(graph: onnx.GraphProto) -> None:
    """Scales of a whole tensor must have no axis, or ONNX Runtime's fused operators refuse them."""
    wanted = {
        name
        for node in graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for name in node.input[1:]
    }
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in wanted:
            tensors += [attribute.t for attribute in node.attribute if attribute.name == "value"]
    for tensor in tensors:
        if list(tensor.dims) == [1]:
            del tensor.dims[:]


def _let_bytes_in(graph: onnx.GraphProto) -> None:
    """Read uint8 pictures as quantised ones: uint8 -> Cast -> Div -> Q -> DQ becomes uint8 -> DQ.

    Bytes are quantised exactly already; quantising them again costs a tenth of a small network.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for image in graph.input:
        if image.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        chain = _chain(graph, image.name, ("Cast", "Div", "QuantizeLinear", "DequantizeLinear"))
        divisor = constants.get(chain[1].input[1]) if chain else None
        if divisor is None or divisor.size != 1 or divisor.item() <= 0:
            continue
        last = chain[-1]
        scale, zero = f"{image.name}/scale", f"{image.name}/zero"
        graph.initializer.append(
            numpy_helper.from_array(np.array(1 / divisor.item(), np.float32), scale)
        )
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), zero))
        for node in chain:
            graph.node.remove(node)
        graph.node.insert(
            0,
            helper.make_node(
                "DequantizeLinear",
                [image.name, scale, zero],
                list(last.output),
                name=f"{image.name}/dq",
            ),
        )


def _chain(graph: onnx.GraphProto, name: str, kinds: Sequence[str]) -> list[onnx.NodeProto]:
    """Nodes of these kinds behind one tensor, each the only reader of the one before; or none."""
    chain: list[onnx.NodeProto] = []
    for kind in kinds:
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type != kind:
            return []
        chain.append(readers[0])
        name = readers[0].output[0]
    return chain
