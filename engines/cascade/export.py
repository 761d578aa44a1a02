"""Turn a trained small cascade into three ONNX files, one for each stage; offline.

Opset 17. Weights are stored in half precision and computed with in single, so that a processor
loses nothing. Stages 2 and 3 take any number of blocks of any size, the whole map too. Each file is
checked against torch before all three are written.

    python -m engines.cascade.export RUN engines/zoo/cascade --prior PACK --rho 0.8 --share 0.25
"""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from engines.cascade.classes import CAMVID_CLASSES
from engines.cascade.examples import Packs
from engines.cascade.model import Cascade
from engines.cascade.prior import fit_prior
from engines.cascade.signature import FILES, HALO, STRIDE, Signature
from engines.cascade.train import load_average
from engines.load import load_engine

OPSET = 17  # TensorRT 8.6 parses no later one
TOLERANCE = 1e-3
LICENCE = "CC BY-NC 4.0"
OUTPUTS = (
    ("fine", "context", "logits", "confidence"),
    ("features", "logits", "confidence"),
    ("logits",),
)
"""Of each stage."""
_SMALL_TENSOR = 32  # constants shorter than this are no weights


class FirstStage(nn.Module):  # type: ignore[misc]
    """planes -> fine features, context at stride 8, logits at stride 4, confidence at stride 8."""

    def __init__(self, net: Cascade) -> None:
        super().__init__()
        self.stage, self.leaving = net.stage1, Leaving(net.prior)

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:
        fine, context, logits = self.stage.parts(planes.float() / 128)
        logits, confidence = self.leaving(logits)
        enlarged = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
        return fine.permute(0, 2, 3, 1), context.permute(0, 2, 3, 1), enlarged, confidence


class LaterStage(nn.Module):  # type: ignore[misc]
    """blocks with their halo -> what the stage gives for them densely; the last one only logits."""

    def __init__(self, net: Cascade, number: int) -> None:
        super().__init__()
        self.stage, self.leaving = getattr(net, f"stage{number}"), Leaving(net.prior)
        self.last = number == len(FILES)

    def forward(self, blocks: Tensor) -> tuple[Tensor, ...]:
        x, logits = self.stage.on_blocks(blocks)
        logits, confidence = self.leaving(logits)
        return (logits,) if self.last else (x, logits, confidence)


class Leaving(nn.Module):  # type: ignore[misc]
    """logits -> with the prior, confidence."""

    def __init__(self, prior: Tensor) -> None:
        super().__init__()
        # Engines drop a sum with zeros, and the name of their output with it.
        self.register_buffer("prior", prior if prior.any() else None)

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits if self.prior is None else logits + self.prior
        return logits, logits.softmax(dim=1).amax(dim=1)


def export(net: Cascade, folder: Path, signature: Signature) -> float:
    """Write the three stages of a network.

    Args:
        net: of the small variant.
        folder: to write to.
        signature: size of the input and tuned rule; classes and channels must be the network's.

    Returns:
        Largest difference of any output from torch, on random inputs.

    Raises:
        ValueError: the network is no small cascade, or the signature is of another one.
        RuntimeError: the difference is larger than TOLERANCE; nothing was written.
    """
    config = net.config
    if config.variant != "small":
        raise ValueError(
            f"export: variant must be small, got {config.variant}; the published one is for study"
        )
    if (len(signature.classes), signature.channels) != (config.classes, config.channels):
        raise ValueError(
            f"export: signature must have {config.classes} classes and {config.channels} "
            f"channels, got {len(signature.classes)} and {signature.channels}"
        )
    net = rounded(net)
    folder.mkdir(parents=True, exist_ok=True)
    unchecked = [folder / f"{file}.unchecked" for file in FILES]
    worst = 0.0
    try:
        for number, path in enumerate(unchecked, start=1):
            onnx.save(stage_graph(net, number, signature), path)
            worst = max(worst, _difference(net, number, signature, path))
        if not worst <= TOLERANCE:  # a difference that is no number fails too
            raise RuntimeError(
                f"{folder}: export must equal torch within {TOLERANCE}, differs by {worst}; "
                "compare the outputs of its layers to find the operator"
            )
        for path, file in zip(unchecked, FILES, strict=True):
            path.replace(folder / file)
    finally:
        for path in unchecked:
            path.unlink(missing_ok=True)
    return worst


def signature_of(
    net: Cascade, *, width: int = 480, height: int = 368, rho: float = 0.95, share: float = 0.25
) -> Signature:
    """Describe a network for export; the size is rounded up to whole blocks by the caller."""
    classes = CAMVID_CLASSES if net.config.classes == len(CAMVID_CLASSES) else None
    names = classes or tuple(f"class{index}" for index in range(net.config.classes))
    block = net.config.block_px
    return Signature(width, height, block, net.config.channels, names, rho, share)


def rounded(net: Cascade) -> Cascade:
    """Fold batch norms and round weights to half precision: a copy that computes what is stored."""
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(conv, norm)
                setattr(parent, name, nn.Identity())
    for parameter in net.parameters():
        parameter.data = parameter.data.half().float()
    return net


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * gain
    conv.weight = nn.Parameter(conv.weight * gain[:, None, None, None])
    conv.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias * gain)


def _example(number: int, signature: Signature) -> Tensor:
    random = np.random.default_rng(number)
    if number == 1:
        shape = (1, 3, signature.height, signature.width)
        return torch.from_numpy(random.integers(0, 256, shape, np.uint8))
    edge = signature.block_px // STRIDE + 2 * HALO
    blocks = random.normal(size=(3, edge, edge, signature.channels)).astype(np.float32)
    return torch.from_numpy(np.maximum(blocks, 0))


def stage_graph(net: Cascade, number: int, signature: Signature) -> onnx.ModelProto:
    """Make the graph of stage 1, 2 or 3 of a rounded network."""
    name = "planes" if number == 1 else "blocks"
    names = list(OUTPUTS[number - 1])
    free = {
        "blocks": {0: "n", 1: "edge_h", 2: "edge_w"},
        "features": {0: "n", 1: "h", 2: "w"},
        "logits": {0: "n", 2: "h", 3: "w"},
        "confidence": {0: "n", 1: "h", 2: "w"},
    }
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The tracing exporter is called legacy, but it is the one that writes opset 17 directly.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        torch.onnx.export(
            _wrapped(net, number),
            (_example(number, signature),),
            buffer,
            input_names=[name],
            output_names=names,
            dynamic_axes=None if number == 1 else {key: free[key] for key in (name, *names)},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    _store_half(model)
    helper.set_model_props(model, signature.metadata(number) | {"licence": LICENCE})
    onnx.checker.check_model(model, full_check=True)
    return model


def _store_half(model: onnx.ModelProto) -> None:
    """Store each weight as float16 with a Cast behind it, which every engine folds away."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _SMALL_TENSOR:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(
            helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.cast", to=TensorProto.FLOAT)
        )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def _wrapped(net: Cascade, number: int) -> nn.Module:
    return FirstStage(net) if number == 1 else LaterStage(net, number)


def _difference(net: Cascade, number: int, signature: Signature, path: Path) -> float:
    example = _example(number, signature)
    engine = load_engine(path, device="onnxruntime:cpu")
    ours = engine.infer({engine.inputs[0].name: example.numpy()})
    engine.close()
    with torch.no_grad():
        theirs = _wrapped(net, number)(example)
    return max(
        float(np.abs(ours[name] - tensor.numpy()).max())
        for name, tensor in zip(OUTPUTS[number - 1], theirs, strict=True)
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", default="480x368", help="of the input: multiples of 16")
    parser.add_argument("--rho", type=float, default=0.95)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument(
        "--prior", type=Path, nargs="+", required=True, help="packs to fit the classes' prior on"
    )
    options = parser.parse_args(argv)
    net = load_average(options.run)
    net.prior = fit_prior(net, Packs(options.prior, net.config.classes))
    width, height = (int(n) for n in options.size.split("x"))
    signature = signature_of(net, width=width, height=height, rho=options.rho, share=options.share)
    difference = export(net, options.out, signature)
    size = sum((options.out / file).stat().st_size for file in FILES)
    sys.stdout.write(f"{options.out}: {size} bytes, differs from torch by {difference:.2g}\n")


if __name__ == "__main__":
    main()
