"""Multiply-accumulates of a torch network, counted while shapes alone run through it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def count_macs(network: nn.Module, run: Callable[[], object]) -> int:
    """Multiply-accumulates of every convolution of `network` that `run` passes through.

    Args:
        network: already on the meta device, where nothing is computed.
        run: calls it once.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        taps = layer.kernel_size[0] * layer.kernel_size[1]
        if isinstance(layer, nn.ConvTranspose2d):
            positions = inputs[0].shape[-2] * inputs[0].shape[-1]
            per_position = layer.in_channels * layer.out_channels * taps // layer.groups
        else:
            positions = output.shape[-2] * output.shape[-1]
            per_position = layer.out_channels * layer.in_channels * taps // layer.groups
        total += positions * per_position

    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return total
