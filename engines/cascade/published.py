"""The three stages of the published variant in torch: a reduced Inception-ResNet-v2.

X. Li, Z. Liu, P. Luo, C. C. Loy, X. Tang, "Not All Pixels Are Equal", CVPR 2017, figure 2. Both
reductions have stride 1, so that every stage's map lies at stride 8. All convolutions of stages 2
and 3 are region convolutions. The runtime never imports this file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cascade.layers import ConvBnRelu, Head
from engines.cascade.region import masked, masked_sequence

_A, _B, _C = 384, 1154, 2048
_HIDDEN = 128
"""Channels between the two convolutions of a head."""

_SCALE = 0.17
"""Of each residual branch, without which such deep sums don't train."""


class Stem(nn.Module):  # type: ignore[misc]
    """Three planes to 384 channels at stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Sequential(
            ConvBnRelu(3, 32, 3, stride=2), ConvBnRelu(32, 32, 3), ConvBnRelu(32, 64, 3)
        )
        self.halve1 = ConvBnRelu(64, 96, 3, stride=2)
        self.short = nn.Sequential(ConvBnRelu(160, 64, 1), ConvBnRelu(64, 96, 3))
        self.long = nn.Sequential(
            ConvBnRelu(160, 64, 1),
            ConvBnRelu(64, 64, (7, 1)),
            ConvBnRelu(64, 64, (1, 7)),
            ConvBnRelu(64, 96, 3),
        )
        self.halve2 = ConvBnRelu(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)  # 64 at stride 2
        x = torch.cat([F.max_pool2d(x, 3, 2, 1), self.halve1(x)], dim=1)  # 160 at stride 4
        x = torch.cat([self.short(x), self.long(x)], dim=1)  # 192
        return torch.cat([self.halve2(x), F.max_pool2d(x, 3, 2, 1)], dim=1)  # 384 at stride 8


class Residual(nn.Module):  # type: ignore[misc]
    """x + scale * 1x1(branches side by side), evaluated where the mask says so."""

    def __init__(self, channels: int, inside: int, *branches: nn.Sequential) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.join = nn.Conv2d(inside, channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        inside = torch.cat([masked_sequence(b, x, mask) for b in self.branches], dim=1)
        return F.relu(x + _SCALE * masked(self.join(inside), mask))


class Reduction(nn.Module):  # type: ignore[misc]
    """Widen the features: branches side by side with what there was; stride 1, so no pooling."""

    def __init__(self, *branches: nn.Sequential) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.cat([x, *(masked_sequence(b, x, mask) for b in self.branches)], dim=1)


def block_a() -> Residual:
    """Inception-ResNet-A of 384 channels."""
    return Residual(
        _A,
        128,
        nn.Sequential(ConvBnRelu(_A, 32, 1)),
        nn.Sequential(ConvBnRelu(_A, 32, 1), ConvBnRelu(32, 32, 3)),
        nn.Sequential(ConvBnRelu(_A, 32, 1), ConvBnRelu(32, 48, 3), ConvBnRelu(48, 64, 3)),
    )


def block_b() -> Residual:
    """Inception-ResNet-B of 1154 channels."""
    return Residual(
        _B,
        384,
        nn.Sequential(ConvBnRelu(_B, 192, 1)),
        nn.Sequential(
            ConvBnRelu(_B, 128, 1), ConvBnRelu(128, 160, (1, 7)), ConvBnRelu(160, 192, (7, 1))
        ),
    )


def block_c() -> Residual:
    """Inception-ResNet-C of 2048 channels."""
    return Residual(
        _C,
        448,
        nn.Sequential(ConvBnRelu(_C, 192, 1)),
        nn.Sequential(
            ConvBnRelu(_C, 192, 1), ConvBnRelu(192, 224, (1, 3)), ConvBnRelu(224, 256, (3, 1))
        ),
    )


def reduction_a() -> Reduction:
    """384 to 1154 channels."""
    return Reduction(
        nn.Sequential(ConvBnRelu(_A, 384, 3)),
        nn.Sequential(ConvBnRelu(_A, 256, 1), ConvBnRelu(256, 256, 3), ConvBnRelu(256, 386, 3)),
    )


def reduction_b() -> Reduction:
    """1154 to 2048 channels."""
    return Reduction(
        nn.Sequential(ConvBnRelu(_B, 256, 1), ConvBnRelu(256, 384, 3)),
        nn.Sequential(ConvBnRelu(_B, 256, 1), ConvBnRelu(256, 256, 3)),
        nn.Sequential(ConvBnRelu(_B, 256, 1), ConvBnRelu(256, 256, 3), ConvBnRelu(256, 254, 3)),
    )


class _Stage(nn.Module):  # type: ignore[misc]
    """Residuals, where there is one a reduction, and the head."""

    def __init__(
        self, blocks: list[Residual], reduction: Reduction | None, head: Head, dropout: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.reduction = reduction
        self.dropout = nn.Dropout2d(dropout)
        self.head = head

    def run(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features for the next stage, logits of this one."""
        for block in self.blocks:
            x = block(x, mask)
        if self.reduction is not None:
            x = self.reduction(x, mask)
        return x, masked(self.head(self.dropout(x)), mask)


class PublishedStage1(_Stage):
    """Stem, five blocks A and reduction A, on the whole picture."""

    def __init__(self, classes: int, dropout: float) -> None:
        blocks = [block_a() for _ in range(5)]
        super().__init__(blocks, reduction_a(), Head(_B, _HIDDEN, classes, kernel=3), dropout)
        self.stem = Stem()

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        return self.run(self.stem(planes), None)


class PublishedStage2(_Stage):
    """Ten blocks B and reduction B, where stage 1 is in doubt."""

    def __init__(self, classes: int, dropout: float) -> None:
        blocks = [block_b() for _ in range(10)]
        super().__init__(blocks, reduction_b(), Head(_C, _HIDDEN, classes, kernel=3), dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.run(x, mask)


class PublishedStage3(_Stage):
    """Five blocks C, where stage 2 is in doubt too."""

    def __init__(self, classes: int, dropout: float) -> None:
        blocks = [block_c() for _ in range(5)]
        super().__init__(blocks, None, Head(_C, _HIDDEN, classes, kernel=3), dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.run(x, mask)
