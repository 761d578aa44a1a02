"""Turn a trained "street" network into one ONNX file that says how to feed and read it; offline.

Opset 17, free batch axis, uint8 planes in; checked against torch before it is written.

    python -m engines.detectors.export RUN OUT.onnx --calibrate PACKS --on fight,crowd,highway
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
from onnx import helper
from torch import Tensor, nn

from engines.detectors.calibrate import drawn, fit, outcomes
from engines.detectors.model import StreetNet
from engines.detectors.runtime import Detector
from engines.detectors.signature import FAMILY, STREET_CLASSES, STREET_STRIDES
from engines.detectors.train import load_average
from engines.load import load_engine

OPSET = 17  # TensorRT 8.6 parses no later one
TOLERANCE = 1e-4


class _Predictor(nn.Module):  # type: ignore[misc]
    """The network with scores instead of logits."""

    def __init__(self, net: StreetNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, planes: Tensor) -> Tensor:
        return self.net.predict(planes)


def export(net: StreetNet, path: Path) -> float:
    """Write a network as ONNX.

    Args:
        net: is put into evaluation mode; batch norms are folded into the convolutions.
        path: file to write.

    Returns:
        Largest difference from torch over a batch of two random pictures.

    Raises:
        RuntimeError: the difference is larger than TOLERANCE; nothing was written.
    """
    model = _trace(net)
    helper.set_model_props(
        model,
        {
            "family": FAMILY,
            "classes": ",".join(STREET_CLASSES[: net.config.classes]),
            "strides": ",".join(map(str, STREET_STRIDES)),
            "colour": "yuv",
            "scale": "1",
            "letterbox": "1",
            "objectness": "0",
            "licence": "Apache-2.0",
        },
    )
    _name_axes(model, net)
    onnx.checker.check_model(model, full_check=True)
    unchecked = path.with_suffix(".unchecked")
    onnx.save(model, unchecked)
    try:
        difference = _difference(net, unchecked)
        if difference > TOLERANCE:
            raise RuntimeError(
                f"{path}: export must equal torch within {TOLERANCE}, differs by {difference}; "
                "compare the outputs of its layers to find the operator"
            )
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)
    return difference


def scale_logits(net: StreetNet, gain: float, offset: float) -> None:
    """Fold a calibration into the last convolution of each head; costs nothing at run time."""
    with torch.no_grad():
        for head in net.heads:
            head.score[-1].weight.mul_(gain)
            head.score[-1].bias.mul_(gain).add_(offset)


def _trace(net: StreetNet) -> onnx.ModelProto:
    planes = torch.zeros(1, 3, net.config.height, net.config.width, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The tracing exporter is called legacy, but it is the one that writes opset 17 directly.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            _Predictor(net).eval(),
            (planes,),
            buffer,
            input_names=["planes"],
            output_names=["rows"],
            dynamic_axes={"planes": {0: "batch"}, "rows": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def _name_axes(model: onnx.ModelProto, net: StreetNet) -> None:
    """Write the output's known lengths, which the exporter leaves open."""
    lengths = ("batch", net.config.cells, 4 + net.config.classes)
    dims = model.graph.output[0].type.tensor_type.shape.dim
    for dim, length in zip(dims, lengths, strict=True):
        dim.Clear()
        if isinstance(length, str):
            dim.dim_param = length
        else:
            dim.dim_value = length


def _difference(net: StreetNet, path: Path) -> float:
    shape = (2, 3, net.config.height, net.config.width)
    planes = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    engine = load_engine(path, device="onnxruntime:cpu")
    ours = engine.infer({"planes": planes})["rows"]
    engine.close()
    with torch.no_grad():
        theirs = net.predict(torch.from_numpy(planes)).numpy()
    return float(np.abs(ours - theirs).max())


def main(argv: Sequence[str] | None = None) -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--calibrate", type=Path, metavar="PACKS")
    parser.add_argument("--on", default="", help="packs whose labels say how sure they are")
    options = parser.parse_args(argv)
    net = load_average(options.run)
    difference = export(net, options.out)
    if options.calibrate:
        detector = Detector.load(options.out, device="onnxruntime:cpu", score=0.05)
        gain, offset = fit(*outcomes(detector, drawn(options.calibrate, options.on.split(","))))
        detector.close()
        scale_logits(net, gain, offset)
        difference = export(net, options.out)
        sys.stdout.write(f"calibrated: logits * {gain:.3f} + {offset:.3f}\n")
    size = options.out.stat().st_size
    sys.stdout.write(f"{options.out}: {size} bytes, differs from torch by {difference:.1e}\n")


if __name__ == "__main__":
    main()
