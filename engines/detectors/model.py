"""The network of the "street" detector in torch: three planes in, one row for each cell out.

For training, export and as the reference; the runtime never imports this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from engines.detectors.signature import STREET_CLASSES as CLASSES
from engines.detectors.signature import STREET_STRIDES as STRIDES

PRIOR = 0.01
"""Score of every cell before training, so that the many empty ones don't swamp the first steps."""


@dataclass(frozen=True, slots=True)
class Config:
    """Geometry of one network; the default is what is shipped."""

    width: int = 448
    height: int = 288
    channels: tuple[int, int, int, int, int] = (16, 32, 48, 96, 128)
    """Of the maps at strides 2, 4, 8, 16 and 32; multiples of 16 fill the vector registers."""
    depths: tuple[int, int, int] = (1, 3, 2)
    """Residual blocks at strides 8, 16 and 32."""
    neck: int = 64
    classes: int = len(CLASSES)
    folded: bool = False
    """Batch norms are within the convolutions, as in an exported file."""

    def __post_init__(self) -> None:
        if self.width % STRIDES[-1] or self.height % STRIDES[-1]:
            raise ValueError(
                f"width and height must be multiples of {STRIDES[-1]}, got {self.width} and "
                f"{self.height}; round them up, the letterbox pads"
            )

    @property
    def cells(self) -> int:
        """Rows of the output."""
        return sum((self.width // s) * (self.height // s) for s in STRIDES)


class ConvBnRelu(nn.Sequential):  # type: ignore[misc]
    """Convolution, batch norm, ReLU."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(inplace=True),
        )


class Separable(nn.Sequential):  # type: ignore[misc]
    """Depthwise 3x3, then pointwise 1x1, each with batch norm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            ConvBnRelu(channels, channels, 1),
        )


class Bottleneck(nn.Module):  # type: ignore[misc]
    """x + 3x3(1x1(x)), half as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvBnRelu(channels, channels // 2, 1)
        self.expand = ConvBnRelu(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.squeeze(x))


class Stage(nn.Sequential):  # type: ignore[misc]
    """Halve the map, then refine it."""

    def __init__(self, fan_in: int, fan_out: int, depth: int) -> None:
        super().__init__(
            ConvBnRelu(fan_in, fan_out, 3, stride=2), *(Bottleneck(fan_out) for _ in range(depth))
        )


class Head(nn.Module):  # type: ignore[misc]
    """Rows of one stride: box and class logits, each from its own branch."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.depth = 4 + classes
        self.box = nn.Sequential(Separable(channels), nn.Conv2d(channels, 4, 1))
        self.score = nn.Sequential(Separable(channels), nn.Conv2d(channels, classes, 1))
        prior = torch.log(torch.tensor(PRIOR / (1 - PRIOR)))
        nn.init.constant_(self.score[-1].bias, float(prior))
        nn.init.normal_(self.score[-1].weight, std=0.01)
        nn.init.normal_(self.box[-1].weight, std=0.01)
        with torch.no_grad():  # a box of two strides in the middle of its cell
            self.box[-1].bias.copy_(torch.tensor([0.5, 0.5, 0.7, 0.7]))

    def forward(self, x: Tensor, *, squash: bool = False) -> Tensor:
        box, score = self.box(x), self.score(x)
        rows = torch.cat([box, score.sigmoid() if squash else score], dim=1)
        rows = rows.permute(0, 2, 3, 1)  # (N, 4 + C, h, w) -> (N, h, w, 4 + C)
        if torch.onnx.is_in_onnx_export():
            flat: Tensor = _FlatRows.apply(rows, self.depth)
            return flat
        return rows.flatten(1, 2)


class _FlatRows(torch.autograd.Function):  # type: ignore[misc]
    """flatten(1, 2), exported without a number of cells: engines may shrink the input."""

    @staticmethod
    def forward(_context: object, rows: Tensor, _depth: int) -> Tensor:
        return rows.flatten(1, 2)

    @staticmethod
    def symbolic(graph: torch.Graph, rows: torch.Value, depth: int) -> torch.Value:
        shape = graph.op("Constant", value_t=torch.tensor([0, -1, depth]))  # 0: as it is
        return graph.op("Reshape", rows, shape)


class StreetNet(nn.Module):  # type: ignore[misc]
    """Anchor-free detector of three strides.

    planes -> /2 -> /4 -> c3 /8 ----+--> p3 -> head   cells in reading order, stride 8 first
                          c4 /16 ---+--> p4 -> head
                          c5 /32 ------> p5 -> head
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        c1, c2, c3, c4, c5 = config.channels
        self.stem = nn.Sequential(ConvBnRelu(3, c1, 3, stride=2), ConvBnRelu(c1, c2, 3, stride=2))
        self.stage3 = Stage(c2, c3, config.depths[0])
        self.stage4 = Stage(c3, c4, config.depths[1])
        self.stage5 = Stage(c4, c5, config.depths[2])
        self.lateral3 = ConvBnRelu(c3, config.neck, 1)
        self.lateral4 = ConvBnRelu(c4, config.neck, 1)
        self.lateral5 = ConvBnRelu(c5, config.neck, 1)
        self.fuse3 = Separable(config.neck)
        self.fuse4 = Bottleneck(config.neck)
        self.heads = nn.ModuleList(Head(config.neck, config.classes) for _ in STRIDES)
        if config.folded:
            _fold(self.eval())

    def forward(self, planes: Tensor, *, squash: bool = False) -> Tensor:
        """Compute the raw rows.

        Args:
            planes: (N, 3, height, width) Y, U, V of limited range, uint8 or any float, 0..255.
            squash: give scores, 0..1, in place of logits.

        Returns:
            (N, cells, 4 + classes): dx, dy from the cell's corner and log w, log h, all in strides
            of the cell; then the logit of each class.
        """
        x = self.stem(planes.to(self.heads[0].box[-1].weight.dtype) / 128)
        c3 = self.stage3(x)
        c4 = self.stage4(c3)
        c5 = self.stage5(c4)
        p5 = self.lateral5(c5)
        p4 = self.fuse4(self.lateral4(c4) + F.interpolate(p5, scale_factor=2.0))
        p3 = self.fuse3(self.lateral3(c3) + F.interpolate(p4, scale_factor=2.0))
        parts = zip(self.heads, (p3, p4, p5), strict=True)
        return torch.cat([head(p, squash=squash) for head, p in parts], dim=1)

    def predict(self, planes: Tensor) -> Tensor:
        """Compute the rows as they are exported: scores instead of logits."""
        return self(planes, squash=True)  # within the heads, where an engine joins it to a layer

    def parameters_count(self) -> int:
        """Count trained numbers."""
        return sum(p.numel() for p in self.parameters())

    def macs(self) -> int:
        """Count multiplications of the convolutions for one picture."""
        total = 0

        def add(layer: nn.Module, _inputs: Sequence[Tensor], output: Tensor) -> None:
            nonlocal total
            assert isinstance(layer, nn.Conv2d)
            total += output.numel() * layer.weight[0].numel()

        hooks = [m.register_forward_hook(add) for m in self.modules() if isinstance(m, nn.Conv2d)]
        training = self.training
        with torch.no_grad():
            self.eval()(torch.zeros(1, 3, self.config.height, self.config.width))
        self.train(training)
        for hook in hooks:
            hook.remove()
        return total


def _fold(net: nn.Module) -> None:
    """Put each batch norm into the convolution before it; names of layers stay."""
    for block in net.modules():
        if isinstance(block, nn.Sequential):
            for index, layer in enumerate(block):
                if isinstance(layer, nn.BatchNorm2d):
                    block[index - 1] = fuse_conv_bn_eval(block[index - 1], layer)
                    block[index] = nn.Identity()


def cell_grid(config: Config, device: torch.device | str = "cpu") -> Tensor:
    """Column, row and stride of each cell: (cells, 3), in the order of the output's rows."""
    parts = []
    for stride in STRIDES:
        rows, columns = torch.meshgrid(
            torch.arange(config.height // stride),
            torch.arange(config.width // stride),
            indexing="ij",
        )
        strides = torch.full_like(rows, stride)
        parts.append(torch.stack([columns, rows, strides], dim=-1).flatten(0, 1))
    return torch.cat(parts).float().to(device)


def to_boxes(rows: Tensor, grid: Tensor) -> Tensor:
    """Turn raw rows (..., 4+) and their cells (..., 3) into boxes_xyxy (..., 4) in input pixels."""
    stride = grid[..., 2:]
    centre = (rows[..., :2] + grid[..., :2]) * stride
    half = rows[..., 2:4].clamp(max=8.0).exp() * stride / 2
    return torch.cat([centre - half, centre + half], dim=-1)
