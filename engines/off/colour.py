"""Turn limited-range planes into what a backbone is fed: RGB, or differences of RGB; in the graph.

A part of the network in torch, so that the runtime feeds plain uint8 planes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SCALE = 58.0
"""About one deviation of RGB values over natural pictures."""


class Rgb(nn.Module):  # type: ignore[misc]
    """Planes (N, 3, H, W), 0..255, to RGB of about zero mean and unit deviation; fixed."""

    def __init__(self) -> None:
        super().__init__()
        luma = 255 / 219
        matrix = torch.tensor([[luma, 0.0, 1.596], [luma, -0.392, -0.813], [luma, 2.017, 0.0]])
        offset = torch.tensor([16.0, 128.0, 128.0])
        bias = -matrix @ offset - 114.0
        self.register_buffer("weight", (matrix / _SCALE)[:, :, None, None], persistent=False)
        self.register_buffer("bias", bias / _SCALE, persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        return nn.functional.conv2d(planes.to(self.weight.dtype), self.weight, self.bias)
