"""The networks OFF takes its maps from: BN-Inception, MobileNets, the street detector's trunk.

Each is a list of stages; a stage ends where a map is tapped. Runs in training and export only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from engines.detectors.model import StreetNet
from engines.off.config import BackboneName


@dataclass(frozen=True, slots=True)
class Tap:
    """One feature map that is handed out."""

    name: str
    stride: int
    channels: int


class Backbone(nn.Module):  # type: ignore[misc]
    """Stages in a row; the output of each is a tap."""

    name: BackboneName
    width: float

    def __init__(self, stages: Sequence[nn.Module], taps: Sequence[Tap]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.taps = tuple(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Turn pictures (N, C, H, W) into one map for each tap."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def make_backbone(name: BackboneName, *, inputs: int = 3, width: float = 1.0) -> Backbone:
    """Build a backbone with random weights.

    Args:
        name: which one.
        inputs: channels of the picture.
        width: factor on all channels; MobileNets only.
    """
    if name in ("bn_inception", "street"):
        if width != 1.0:
            raise ValueError(f"width must be 1 for {name}, got {width}; leave it out")
        backbone = _bn_inception(inputs) if name == "bn_inception" else _street(inputs)
    else:
        backbone = _mobilenet(name, inputs, width)
    backbone.name, backbone.width = name, width
    return backbone


def _mobilenet(name: str, inputs: int, width: float) -> Backbone:
    """Cut a torchvision MobileNetV3 behind its last block of strides 8, 16 and 32."""
    if name == "mobilenet_v3_large":
        layers = torchvision.models.mobilenet_v3_large(width_mult=width, reduced_tail=True).features
        ends = (6, 12, 15)
    else:
        layers = torchvision.models.mobilenet_v3_small(width_mult=width).features
        ends = (3, 8, 11)
    if inputs != 3:
        first = layers[0][0]
        layers[0][0] = nn.Conv2d(inputs, first.out_channels, 3, 2, 1, bias=False)
    begins = (0, *(end + 1 for end in ends))
    stages = [layers[begin : end + 1] for begin, end in zip(begins, ends, strict=False)]
    taps = [
        Tap(f"{stride}", stride, layers[end].out_channels)
        for stride, end in zip((8, 16, 32), ends, strict=True)
    ]
    return Backbone(stages, taps)


def _street(inputs: int) -> Backbone:
    """Take the trunk of the project's detector; its neck and heads are left behind."""
    net = StreetNet()
    if inputs != 3:
        first = net.stem[0][0]
        net.stem[0][0] = nn.Conv2d(inputs, first.out_channels, 3, 2, 1, bias=False)
    stages = [nn.Sequential(net.stem, net.stage3), net.stage4, net.stage5]
    channels = net.config.channels[2:]
    taps = [Tap(f"{s}", s, c) for s, c in zip((8, 16, 32), channels, strict=True)]
    return Backbone(stages, taps)


class ConvBnRelu(nn.Sequential):  # type: ignore[misc]
    """Convolution, batch norm, ReLU."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(inplace=True),
        )


class Inception(nn.Module):  # type: ignore[misc]
    """1x1 | 1x1 3x3 | 1x1 3x3 3x3 | pool 1x1, side by side."""

    def __init__(
        self,
        fan_in: int,
        one: int,
        three: tuple[int, int],
        double: tuple[int, int],
        pool: int,
        *,
        max_pool: bool = False,
    ) -> None:
        super().__init__()
        self.one = ConvBnRelu(fan_in, one, 1)
        self.three = nn.Sequential(ConvBnRelu(fan_in, three[0], 1), ConvBnRelu(*three, 3))
        self.five = nn.Sequential(
            ConvBnRelu(fan_in, double[0], 1),
            ConvBnRelu(*double, 3),
            ConvBnRelu(double[1], double[1], 3),
        )
        self.pool = nn.Sequential(
            nn.MaxPool2d(3, 1, 1) if max_pool else nn.AvgPool2d(3, 1, 1),
            ConvBnRelu(fan_in, pool, 1),
        )
        self.channels = one + three[1] + double[1] + pool

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


class Reduction(nn.Module):  # type: ignore[misc]
    """1x1 3x3/2 | 1x1 3x3 3x3/2 | max pool/2, side by side: halves the map."""

    def __init__(self, fan_in: int, three: tuple[int, int], double: tuple[int, int]) -> None:
        super().__init__()
        self.three = nn.Sequential(ConvBnRelu(fan_in, three[0], 1), ConvBnRelu(*three, 3, 2))
        self.five = nn.Sequential(
            ConvBnRelu(fan_in, double[0], 1),
            ConvBnRelu(*double, 3),
            ConvBnRelu(double[1], double[1], 3, 2),
        )
        self.channels = three[1] + double[1] + fan_in

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, 3, 2, 1)  # padded, so that odd sizes fit the convolutions
        return torch.cat([self.three(x), self.five(x), pooled], dim=1)


def _bn_inception(inputs: int) -> Backbone:
    """Build BN-Inception; the tap of a block is its output, 4e is passed through untapped."""
    stem = nn.Sequential(
        ConvBnRelu(inputs, 64, 7, 2),
        nn.MaxPool2d(3, 2, 1),
        ConvBnRelu(64, 64, 1),
        ConvBnRelu(64, 192, 3),
        nn.MaxPool2d(3, 2, 1),
    )
    blocks: dict[str, Inception | Reduction] = {
        "3a": Inception(192, 64, (64, 64), (64, 96), 32),
        "3b": Inception(256, 64, (64, 96), (64, 96), 64),
        "3c": Reduction(320, (128, 160), (64, 96)),
        "4a": Inception(576, 224, (64, 96), (96, 128), 128),
        "4b": Inception(576, 192, (96, 128), (96, 128), 128),
        "4c": Inception(576, 160, (128, 160), (128, 160), 128),
        "4d": Inception(608, 96, (128, 192), (160, 192), 128),
        "4e": Reduction(608, (128, 192), (192, 256)),
        "5a": Inception(1056, 352, (192, 320), (160, 224), 128),
        "5b": Inception(1024, 352, (192, 320), (192, 224), 128, max_pool=True),
    }
    stages, taps = [], []
    before: list[nn.Module] = [stem]
    for name, block in blocks.items():
        before.append(block)
        if name != "4e":
            stride = 8 if name in ("3a", "3b") else 32 if name.startswith("5") else 16
            taps.append(Tap(name, stride, block.channels))
            stages.append(nn.Sequential(*before))
            before = []
    return Backbone(stages, taps)
