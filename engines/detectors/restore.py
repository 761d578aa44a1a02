"""Read exported "street" networks back into torch, and average them; offline.

Batch norms are within the convolutions of a file, and stay there. Averaging networks that came from
the same one: Wortsman et al., Robust fine-tuning of zero-shot models, 2022.

    python -m engines.detectors.restore RUN street.onnx
    python -m engines.detectors.restore RUN street.onnx=0.4 tuned.onnx=0.6
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
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
        Folded, in evaluation mode; scores are calibrated where those of the file are.

    Raises:
        ModelError: the convolutions of the file are not those of such a StreetNet.
    """
    graph = onnx.load(path).graph
    net = StreetNet(replace(config, folded=True))
    net.eval()
    arrays = {i.name: torch.tensor(numpy_helper.to_array(i)) for i in graph.initializer}
    stored = [[arrays[name] for name in n.input[1:]] for n in graph.node if n.op_type == "Conv"]
    layers = _in_order(net)
    wanted = [layer.weight.shape for layer in layers]
    if (got := [weight.shape for weight, *_ in stored]) != wanted:
        raise ModelError(
            f"{path}: convolutions must be {_shapes(wanted)}, got {_shapes(got)}; "
            "give the config that it was exported with"
        )
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, stored, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return net


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def _in_order(net: StreetNet) -> list[nn.Conv2d]:
    """Convolutions in the order of their calls, which is that of the file."""
    layers: list[nn.Conv2d] = []

    def called(layer: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        layers.append(layer)

    hooks = [m.register_forward_hook(called) for m in net.modules() if isinstance(m, nn.Conv2d)]
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
        As restore does.
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
    parser.add_argument("--size", default="448x288", help="of the input")
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
