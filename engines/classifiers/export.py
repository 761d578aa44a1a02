"""Turn a trained "street-check" network into one ONNX file that says how it is read; offline.

Opset 17, free batch axis, uint8 planes in; weights are stored in 16 bits and computed with in 32.
How much its opinion weighs beside the detector's is fitted on crops that it was not trained on.
Platt, Probabilistic outputs for support vector machines, 1999.

    python -m engines.classifiers.export RUN.pt OUT.onnx --fit PACK.npz...
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.classifiers.model import CheckNet
from engines.classifiers.signature import CHECK_MARGIN, FAMILY, GROUPS
from engines.classifiers.train import load_net
from engines.load import load_engine

OPSET = 17  # TensorRT 8.6 parses no later one
TOLERANCE = 1e-4
ROUNDING = 0.02
"""Largest change of a logit by weights of 16 bits; right and wrong are several apart."""
NAMES = ("person", "two-wheeler", "vehicle")

_SMALL = 64  # numbers; biases and the like stay in 32 bits
_NEWTON_STEPS = 12
_CLOSEST = 1e-6  # to a score of 0 or 1


def export(net: CheckNet, path: Path, fusion: tuple[float, float, float]) -> float:
    """Write a network as ONNX.

    Args:
        net: is put into evaluation mode.
        path: file to write.
        fusion: weights of the detector's and the verifier's logits, and an offset.

    Returns:
        Largest difference of a logit from torch over a batch of two random crops.

    Raises:
        RuntimeError: it is larger than TOLERANCE, or than ROUNDING with weights of 16 bits; nothing
            was written.
    """
    model = _trace(net.eval())
    helper.set_model_props(
        model,
        {
            "family": FAMILY,
            "kind": "verifier",
            "names": ",".join(NAMES),
            "accepts": ",".join("+".join(group) for group in GROUPS),
            "colour": "yuv",
            "margin": str(CHECK_MARGIN),
            "fusion": ",".join(f"{number:.4f}" for number in fusion),
            "licence": "Apache-2.0",
        },
    )
    unchecked = path.with_suffix(".unchecked")
    try:
        _save_checked(model, net, unchecked, TOLERANCE)
        _halve_weights(model)
        difference = _save_checked(model, net, unchecked, ROUNDING)
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)
    return difference


def opinions(net: CheckNet, pack: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Logits (n, 2) of detector and verifier for the boxes of a pack, and which are right."""
    loaded = np.load(pack)
    crops, config = loaded["crops"], net.config
    top, left = (crops.shape[2] - config.height) // 2, (crops.shape[3] - config.width) // 2
    middle = crops[:, :, top : top + config.height, left : left + config.width]
    with torch.no_grad():
        logits = net(torch.from_numpy(np.ascontiguousarray(middle))).numpy()
    scores = np.clip(loaded["scores"].astype(np.float64), _CLOSEST, 1 - _CLOSEST)
    own = logits[np.arange(len(logits)), loaded["groups"]]
    return np.column_stack([np.log(scores / (1 - scores)), own]), loaded["truths"] >= 0.5


def fit(
    packs: Sequence[tuple[NDArray[np.float64], NDArray[np.bool_]]],
) -> tuple[float, float, float]:
    """Fit the weights of both logits and an offset by Newton's method on the likelihood.

    Each pack counts the same, however many boxes it has, so that no camera decides for the others.
    """
    columns = np.concatenate(
        [np.column_stack([inputs, np.ones(len(inputs))]) for inputs, _ in packs]
    )
    right = np.concatenate([right for _, right in packs])
    weight = np.concatenate([np.full(len(right), 1 / len(right)) for _, right in packs])
    solution = np.array([0.5, 0.5, 0.0])
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-columns @ solution))
        slope = columns.T @ (weight * (right - chance))
        curvature = (columns * (weight * chance * (1 - chance))[:, None]).T @ columns
        solution += np.linalg.solve(curvature + 1e-9 * np.eye(3), slope)
    ours, theirs, offset = (float(number) for number in solution)
    return ours, theirs, offset


def _trace(net: CheckNet) -> onnx.ModelProto:
    planes = torch.zeros(1, 3, net.config.height, net.config.width, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The tracing exporter is called legacy, but it is the one that writes opset 17 directly.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net,
            (planes,),
            buffer,
            input_names=["planes"],
            output_names=["logits"],
            dynamic_axes={"planes": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def _halve_weights(model: onnx.ModelProto) -> None:
    """Store large weights in 16 bits, each with a cast that an engine does once when it loads."""
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) <= _SMALL:
            continue
        name, half = weight.name, numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _save_checked(model: onnx.ModelProto, net: CheckNet, path: Path, tolerance: float) -> float:
    """Save a model and compare it with torch on two random crops."""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    shape = (2, 3, net.config.height, net.config.width)
    planes = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    engine = load_engine(path, device="onnxruntime:cpu")
    ours = engine.infer({"planes": planes})["logits"]
    engine.close()
    with torch.no_grad():
        theirs = net(torch.from_numpy(planes)).numpy()
    difference = float(np.abs(ours - theirs).max())
    if difference > tolerance:
        raise RuntimeError(
            f"{path}: export must equal torch within {tolerance}, differs by {difference}; "
            "compare the outputs of its layers to find the operator"
        )
    return difference


def main(argv: Sequence[str] | None = None) -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fit", type=Path, nargs="+", required=True, metavar="PACK.npz")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    net = load_net(options.run)
    fusion = fit([opinions(net, pack) for pack in options.fit])
    difference = export(net, options.out, fusion)
    sys.stdout.write(
        f"{options.out}: {options.out.stat().st_size} bytes, differs from torch by "
        f"{difference:.1e}; weights {', '.join(f'{number:.2f}' for number in fusion)}\n"
    )


if __name__ == "__main__":
    main()
