"""Read exported "street" networks back into torch, and average them; offline.

Batch norms are folded into the convolutions of a file: each comes back with unit statistics, a gain
of one and the convolution's bias, so that the network computes the same. Averaging networks that
came from the same one keeps more of what each knows than training on alone does: Wortsman et al.,
Robust fine-tuning of zero-shot models, 2022.

    python -m engines.detectors.restore RUN street.onnx --size 448x288
    python -m engines.detectors.restore RUN street.onnx=0.4 tuned.onnx=0.6
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from engines.detectors.model import Config, StreetNet
from engines.errors import ModelError
from engines.training import Run


def restore(path: Path, config: Config) -> StreetNet:
    """Build the network of a file.

    Args:
        path: written by engines.detectors.export.
        config: its geometry; width and height of the input may be others than the file's.

    Returns:
        In evaluation mode; scores are calibrated where those of the file are.

    Raises:
        ModelError: the convolutions of the file are not those of such a StreetNet.
    """
    graph = onnx.load(path).graph
    net = StreetNet(config)
    net.eval()
    arrays = {i.name: torch.tensor(numpy_helper.to_array(i)) for i in graph.initializer}
    stored = [[arrays[name] for name in n.input[1:]] for n in graph.node if n.op_type == "Conv"]
    layers = _in_order(net)
    wanted = [tuple(conv.weight.shape) for conv, _ in layers]
    if (got := [tuple(weight.shape) for weight, *_ in stored]) != wanted:
        raise ModelError(
            f"{path}: convolutions must be {wanted}, got {got}; "
            "give the config that it was exported with"
        )
    with torch.no_grad():
        for (conv, norm), (weight, bias) in zip(layers, stored, strict=True):
            conv.weight.copy_(weight)
            if norm is None:
                conv.bias.copy_(bias)
            else:
                norm.running_var.fill_(1 - norm.eps)
                norm.bias.copy_(bias)
    return net


def _in_order(net: StreetNet) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Convolutions in the order of their calls, which is that of the file, with their norms."""
    layers: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]] = []

    def called(layer: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = (layers[-1][0], layer)
        else:
            layers.append((layer, None))

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [m.register_forward_hook(called) for m in net.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        net(torch.zeros(1, 3, net.config.height, net.config.width))
    for hook in hooks:
        hook.remove()
    return layers


def averaged(files: dict[Path, float], config: Config) -> StreetNet:
    """Average the weights of several files of one geometry.

    Args:
        files: with their shares, in any unit.
        config: as for restore.

    Returns:
        In evaluation mode.
    """
    total = sum(files.values())
    nets = [(restore(path, config), share / total) for path, share in files.items()]
    net, _ = nets[0]
    with torch.no_grad():
        for parts in zip(*(each.parameters() for each, _ in nets), strict=True):
            mean = sum(part * share for part, (_, share) in zip(parts, nets, strict=True))
            parts[0].copy_(mean)
    return net


def main(argv: Sequence[str] | None = None) -> None:
    """Restore from the command line, as a run that has ended."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("files", nargs="+", metavar="FILE[=SHARE]")
    parser.add_argument("--size", default="448x256", help="of the input")
    options = parser.parse_args(argv)
    width, height = (int(n) for n in options.size.split("x"))
    shares = {
        Path(name): float(share or 1)
        for name, _, share in (given.partition("=") for given in options.files)
    }
    net = averaged(shares, Config(width=width, height=height))
    Run(options.run, {"net": net, "average": net}, config=asdict(net.config)).save()


if __name__ == "__main__":
    main()
