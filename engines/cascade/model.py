"""The cascade in torch: three stages, each ending in labels, the later ones on what is left.

For training, export and as the reference; the runtime never imports this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cascade.classes import CAMVID_CLASSES
from engines.cascade.published import PublishedStage1, PublishedStage2, PublishedStage3
from engines.cascade.rule import Rule, spread
from engines.cascade.small import SmallLater, SmallSizes, SmallStage1

Variant = Literal["small", "published"]


@dataclass(frozen=True, slots=True)
class Config:
    """Which network; the default is what is shipped."""

    variant: Variant = "small"
    classes: int = len(CAMVID_CLASSES)
    sizes: SmallSizes = SmallSizes()  # noqa: RUF009  frozen
    dropout: float = 0.0
    """In front of the published variant's heads."""

    def __post_init__(self) -> None:
        if self.variant not in ("small", "published"):
            raise ValueError(f"variant must be small or published, got {self.variant!r}")
        if not 2 <= self.classes <= 255:
            raise ValueError(f"classes must be between 2 and 255, got {self.classes}")

    @property
    def block_px(self) -> int:
        """Side of a block, the unit that is decided, in pixels of the input."""
        return 16 if self.variant == "small" else 8

    @property
    def channels(self) -> int:
        """What travels between the small variant's stages: features and the logits so far."""
        return self.sizes.features + self.classes

    @property
    def strides(self) -> tuple[int, int, int]:
        """Of each stage's labels."""
        return (8, 4, 4) if self.variant == "small" else (8, 8, 8)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the stages said about a batch.

    logits: of each stage, at its own stride. Where a stage was not run its logits mean nothing.
    ran: (N, 1, h / block, w / block) bool for the second and the third stage; None is everywhere.
    """

    logits: tuple[Tensor, Tensor, Tensor]
    ran: tuple[Tensor | None, Tensor | None]


class Cascade(nn.Module):  # type: ignore[misc]
    """Layer cascade of either variant.

    planes -> stage 1 -> features -> stage 2 -> features -> stage 3
                 |                      | where             | where still
                 v                      v undecided         v undecided
               logits                 logits              logits      the last that ran counts
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        if config.variant == "small":
            self.stage1: nn.Module = SmallStage1(config.sizes, config.classes)
            inside2, (inside3, refine3) = config.sizes.inside2, config.sizes.inside3
            self.stage2: nn.Module = SmallLater(config.sizes, config.classes, inside2, 0)
            self.stage3: nn.Module = SmallLater(config.sizes, config.classes, (inside3,), refine3)
        else:
            self.stage1 = PublishedStage1(config.classes, config.dropout)
            self.stage2 = PublishedStage2(config.classes, config.dropout)
            self.stage3 = PublishedStage3(config.classes, config.dropout)

        self.prior: Tensor
        """(classes, 1, 1), added to the logits that each stage gives, not to those it reads."""
        self.register_buffer("prior", torch.zeros(config.classes, 1, 1), persistent=False)

    def forward(self, planes: Tensor, rule: Rule | None = None) -> Outputs:
        """Run all stages.

        Args:
            planes: (N, 3, h, w) Y, U, V of limited range, uint8 or any float, 0..255; h and w
                multiples of the block.
            rule: who travels on; None runs every stage everywhere.

        Raises:
            ValueError: the size is no multiple of the block.
        """
        block, strides = self.config.block_px, self.config.strides
        if planes.shape[2] % block or planes.shape[3] % block:
            raise ValueError(
                f"planes must have sides that are multiples of {block}, got "
                f"{tuple(planes.shape)}; pad them by their last row and column"
            )
        weight = next(self.parameters())
        features, first = self.stage1(planes.to(weight.dtype) / 128)
        first = first + self.prior
        going2 = None if rule is None else rule.going(first, block // strides[0])
        mask = None if going2 is None else spread(going2, block // strides[1])
        features, second = self.stage2(features, mask)
        second = second + self.prior
        going3 = None if rule is None else rule.going(second, block // strides[1], going2)
        mask = None if going3 is None else spread(going3, block // strides[2])
        _, third = self.stage3(features, mask)
        return Outputs((first, second, third + self.prior), (going2, going3))

    def parameters_count(self) -> int:
        """Count trained numbers."""
        return sum(p.numel() for p in self.parameters())

    def macs(self, width: int, height: int) -> tuple[int, int, int]:
        """Count multiplications of each stage's convolutions for one picture, run everywhere."""
        totals = [0, 0, 0]
        hooks = [
            layer.register_forward_hook(_adder(totals, index))
            for index, stage in enumerate((self.stage1, self.stage2, self.stage3))
            for layer in stage.modules()
            if isinstance(layer, nn.Conv2d)
        ]
        training = self.training
        with torch.no_grad():
            self.eval()(torch.zeros(1, 3, height, width))
        self.train(training)
        for hook in hooks:
            hook.remove()
        return totals[0], totals[1], totals[2]


def union(outputs: Outputs) -> Tensor:
    """Put the last logits that each block got into one map, at the stride of the last stage."""
    first, second, third = outputs.logits
    size = third.shape[2:]
    merged = F.interpolate(first, size=size, mode="bilinear", align_corners=False)
    for logits, ran in ((second, outputs.ran[0]), (third, outputs.ran[1])):
        if ran is None:
            merged = logits
        else:
            merged = torch.where(spread(ran, size[0] // ran.shape[2]), logits, merged)
    return merged


def _adder(totals: list[int], index: int):  # type: ignore[no-untyped-def]
    def add(layer: nn.Conv2d, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        totals[index] += output.numel() * layer.weight[0].numel()

    return add
