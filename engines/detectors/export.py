"""Turn a trained "street" network into one ONNX file that says how to feed and read it; offline.

Opset 17, free batch axis, uint8 planes in; checked against torch before it is written.

    python -m engines.detectors.export RUN OUT.onnx --calibrate PACKS --on fight,crowd,highway
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from engines.detectors.calibrate import drawn, fit, outcomes
from engines.detectors.model import StreetNet
from engines.detectors.runtime import Detector
from engines.detectors.signature import FAMILY, STREET_CLASSES, STREET_STRIDES
from engines.detectors.train import load_average
from engines.export import export as export_network


class _Predictor(nn.Module):  # type: ignore[misc]
    """The network with scores instead of logits."""

    def __init__(self, net: StreetNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, planes: Tensor) -> Tensor:
        return self.net.predict(planes)


def export(net: StreetNet, path: Path) -> float:
    """Write a network as ONNX; see engines.export.export.

    Args:
        net: is put into evaluation mode; batch norms are folded into the convolutions.
        path: file to write.

    Returns:
        Largest difference from torch over a batch of two random pictures.

    Raises:
        ModelError: the difference is too large; nothing was written.
    """
    random = torch.Generator().manual_seed(0)
    shape = (2, 3, net.config.height, net.config.width)
    metadata = {
        "family": FAMILY,
        "classes": ",".join(STREET_CLASSES[: net.config.classes]),
        "strides": ",".join(map(str, STREET_STRIDES)),
        "colour": "yuv",
        "scale": "1",
        "letterbox": "1",
        "enlarge": "0",
        "objectness": "0",
        "picture_step": str(STREET_STRIDES[-1]),
        "licence": "Apache-2.0",
    }
    planes = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    example = {"planes": planes}
    return export_network(_Predictor(net), example, path, outputs=["rows"], metadata=metadata)


def scale_logits(net: StreetNet, gain: float, offset: float) -> None:
    """Fold a calibration into the last convolution of each head; costs nothing at run time."""
    with torch.no_grad():
        for head in net.heads:
            head.score[-1].weight.mul_(gain)
            head.score[-1].bias.mul_(gain).add_(offset)


def main(argv: Sequence[str] | None = None) -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--calibrate", type=Path, metavar="PACKS")
    parser.add_argument("--on", default="", help="packs whose labels say how sure they are")
    parser.add_argument(
        "--offset", type=float, default=0.0, help="add to all logits, so that 0.4 is the best score"
    )
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
    if options.offset:
        scale_logits(net, 1.0, options.offset)
        difference = export(net, options.out)
    size = options.out.stat().st_size
    sys.stdout.write(f"{options.out}: {size} bytes, differs from torch by {difference:.1e}\n")


if __name__ == "__main__":
    main()
