"""Layers that both variants of the cascade are made of, in torch.

For training, export and as the reference; the runtime never imports this file.
"""

from __future__ import annotations

from torch import Tensor, nn


class ConvBnRelu(nn.Sequential):  # type: ignore[misc]
    """Convolution of any kernel, batch norm, ReLU; keeps the size at stride 1."""

    def __init__(
        self, fan_in: int, fan_out: int, kernel: int | tuple[int, int], *, stride: int = 1
    ) -> None:
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        super().__init__(
            nn.Conv2d(fan_in, fan_out, (high, wide), stride, (high // 2, wide // 2), bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(inplace=True),
        )


class ConvBn(nn.Sequential):  # type: ignore[misc]
    """1x1 convolution and batch norm: the last layer of a branch that is added to its input."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(nn.Conv2d(fan_in, fan_out, 1, bias=False), nn.BatchNorm2d(fan_out))


class Bottleneck(nn.Module):  # type: ignore[misc]
    """x + 3x3(1x1(x)), half as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvBnRelu(channels, channels // 2, 1)
        self.expand = ConvBnRelu(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.squeeze(x))


class Head(nn.Sequential):  # type: ignore[misc]
    """The two convolutions that end each stage; their softmax is taken where it is needed."""

    def __init__(self, fan_in: int, hidden: int, classes: int, *, kernel: int = 1) -> None:
        super().__init__(ConvBnRelu(fan_in, hidden, kernel), nn.Conv2d(hidden, classes, 1))
