"""Make a run out of exported stages, from which training can start; offline.

Export folds batch norms into the convolutions before them. Here each norm is made anew from what
its convolution gives on some pictures, so that the network computes what the files do.

    python -m engines.cascade.restore RUN FOLDER PACK...
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from engines.cascade.examples import Packs
from engines.cascade.model import Cascade
from engines.cascade.signature import FILES

_CROPS, _CROP = 16, (352, 288)
"""How many, and how large, to learn what is usual."""


def restore(net: Cascade, folder: Path, planes: Tensor) -> None:
    """Take over the weights of exported stages; layers may have grown and still give the same.

    Args:
        net: small variant in evaluation mode, with random weights; what it has more than the files
            keeps them, with zeros where old filters would read it.
        folder: of the three files.
        planes: (N, 3, h, w), pictures from which the batch norms learn what is usual.

    Raises:
        ValueError: a layer is smaller than the file's, or is not in it.
    """
    with torch.no_grad():
        for number, file in enumerate(FILES, start=1):
            _fill(getattr(net, f"stage{number}"), _weights(folder / file), folder / file)
        _learn_norms(net, planes)


def _weights(path: Path) -> dict[str, Tensor]:
    return {
        tensor.name.removeprefix("stage.").removesuffix(".half"): torch.from_numpy(
            numpy_helper.to_array(tensor).astype("f4")
        )
        for tensor in onnx.load(path).graph.initializer
    }


def _fill(stage: nn.Module, folded: dict[str, Tensor], path: Path) -> None:
    """Fill in the convolutions, and norms that add the folded biases and do nothing else."""
    norms = dict(_norms(stage))
    for name, layer in stage.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        weight, old, bias = layer.weight, folded.get(f"{name}.weight"), folded.get(f"{name}.bias")
        if old is None or bias is None or any(map(int.__lt__, weight.shape, old.shape)):
            raise ValueError(
                f"{path}: {name} must be there and be no larger than {tuple(weight.shape)}, got "
                f"{None if old is None else tuple(old.shape)}; give the folder of such a cascade"
            )
        filters, inputs = old.shape[:2]
        weight[:filters] = 0
        weight[:filters, :inputs] = old
        if layer.bias is not None:
            layer.bias[:filters] = bias
            continue
        norm = norms[name]
        length = weight.flatten(1).norm(dim=1).clamp(min=1e-6)
        weight.div_(length[:, None, None, None])
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.weight.copy_(length)
        norm.bias.zero_()
        norm.bias[:filters] = bias


def _norms(stage: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Each batch norm by the name of the convolution before it."""
    for name, parent in stage.named_modules():
        for (key, conv), (_, norm) in itertools.pairwise(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                yield f"{name}.{key}".removeprefix("."), norm


def _learn_norms(net: Cascade, planes: Tensor) -> None:
    """Let each norm subtract the mean and divide by the deviation, and undo both again."""
    seen: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def watch(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        channels = inputs[0].transpose(0, 1).flatten(1)
        seen[norm] = channels.mean(dim=1), channels.var(dim=1)

    norms = [norm for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(watch) for norm in norms]
    net(planes)
    for hook in hooks:
        hook.remove()
    for norm, (mean, variance) in seen.items():
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * gain
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(gain * torch.sqrt(variance + norm.eps))
        norm.bias.copy_(shift + mean * gain)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path, help="of the exported stages")
    parser.add_argument("packs", type=Path, nargs="+")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    random, net = np.random.default_rng(0), Cascade().eval()
    packs = Packs(options.packs, net.config.classes)
    crops = [packs.draw(random, _CROP).picture for _ in range(_CROPS)]
    restore(net, options.folder, torch.from_numpy(np.stack(crops)))
    options.run.mkdir(parents=True, exist_ok=True)
    state = {"average": net.state_dict(), "config": asdict(net.config)}
    torch.save(state, options.run / "checkpoint.pt")


if __name__ == "__main__":
    main()
