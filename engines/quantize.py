"""Turn an ONNX network of fp32 into one of int8, by pictures like those it will see; offline.

Post-training quantisation by NNCF. Precision lives in the graph: pairs of QuantizeLinear and
DequantizeLinear around what is to run in int8, so that every engine can read it.
"""

from __future__ import annotations

import contextlib
import io
import logging
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

Runs = Literal["cpu", "tensorrt"]

OPSET = 17
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
    try:
        model = onnx.load(source)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{source}: file must be an ONNX model, got {error}") from error
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ModelError(
            f"{source}: network must be in fp32, got one with Q/DQ nodes; quantise the original"
        )
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    quantised = _by_nncf(_of_opset(model, source), samples, runs, source)
    _make_scalar(quantised.graph)
    if runs == "cpu":
        _let_bytes_in(quantised.graph)
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
    model: onnx.ModelProto, samples: Sequence[dict[str, Array]], runs: Runs, source: Path
) -> onnx.ModelProto:
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
    # is refused by TensorRT and by the fused operators of ONNX Runtime.
    activations = advanced.QuantizationParameters(
        per_channel=False,
        mode=QuantizationScheme.SYMMETRIC,
        signedness_to_force=True if runs == "tensorrt" else None,
    )
    options = advanced.AdvancedQuantizationParameters(activations_quantization_params=activations)
    try:
        with _quiet():
            quantised: onnx.ModelProto = nncf.quantize(
                model,
                nncf.Dataset(list(samples)),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(samples),
                advanced_parameters=options,
            )
    except (nncf.errors.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{source}: NNCF can't quantise this network: {error}; run it in fp32 or fp16"
        ) from error
    if not any(node.op_type == "QuantizeLinear" for node in quantised.graph.node):
        raise ModelError(f"{source}: network must have convolutions or products to quantise")
    return quantised


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
