"""Say what one OFF network is made of: the published one, the small one, and what is between.

Knows no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

BackboneName = Literal["bn_inception", "mobilenet_v3_small", "mobilenet_v3_large", "street"]
Gradient = Literal["sobel", "released"]
Modality = Literal["rgb", "diff"]


@dataclass(frozen=True, slots=True)
class Block:
    """One residual bottleneck 1x1, 3x3, last x last."""

    middle: int
    out: int
    last: int = 1
    relu: bool = True
    """Whether a ReLU follows the sum."""


@dataclass(frozen=True, slots=True)
class Level:
    """What is done at one stride: which taps have a unit, the entry convolution, the blocks."""

    taps: tuple[str, ...]
    kernel: int
    stride: int
    channels: int
    blocks: tuple[Block, ...]
    temporal: int = 128
    """Maps of Ft in each unit, but not more than its tap has channels."""
    pool_first: bool = False
    """Max pool 3/2 in front of the head's mean."""
    weight: float = 1.0
    """Of this level's score in the fused one."""


@dataclass(frozen=True, slots=True)
class Config:
    """One network; `published` and `small` make the two that are used."""

    classes: int
    levels: tuple[Level, ...]
    backbone: BackboneName = "mobilenet_v3_large"
    backbone_width: float = 0.5
    width: int = 320
    height: int = 192
    modality: Modality = "rgb"
    stack: int = 1
    """Consecutive differences in one input of modality diff."""
    spatial: int = 16
    """Maps of the spatial gradient in each unit."""
    gradient: Gradient = "sobel"
    batch_norm: bool = True
    """In the sub-network; the published one has none."""
    peak: bool = True
    """Heads see the largest value beside the mean: a small fight in a large scene counts."""
    energy: bool = True
    """Heads also see how strong Ft is, as a logarithm: how much moves says much about a fight, and
    is learned from few clips."""
    order: int = 1
    """Highest derivative in time whose strength they see: 2 is Ftt, the change of Ft from pair to
    pair, which is small where somebody walks steadily and large where somebody struggles."""
    dropout: float = 0.5
    rgb_weight: float = 1.0
    """Of the backbone's own score in the fused one."""

    def __post_init__(self) -> None:
        if self.gradient == "sobel" and self.spatial % 2:
            raise ValueError(f"spatial must be even for sobel (Fx and Fy), got {self.spatial}")
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 (Ft) or 2 (also Ftt), got {self.order}")
        if self.classes < 2 or self.stack < 1 or not self.levels:
            raise ValueError(
                "classes must be at least 2, stack and levels at least 1, "
                f"got {self.classes}, {self.stack} and {len(self.levels)}"
            )

    @property
    def lag(self) -> int:
        """Samples that pass before the backbone has its first input."""
        return self.stack if self.modality == "diff" else 0

    @property
    def least(self) -> int:
        """Samples that the first score needs."""
        return self.lag + 1 + self.order

    @classmethod
    def published(cls, classes: int = 101, *, modality: Modality = "rgb") -> Config:
        """Sun et al., CVPR 2018: nine units on BN-Inception; differences have no spatial branch."""
        three = (Block(64, 256),) * 3
        return cls(
            classes,
            (
                Level(("3a", "3b"), 7, 2, 64, three, pool_first=True, weight=0.0),
                Level(
                    ("3c", "4a", "4b", "4c", "4d"),
                    5, 2, 128, (Block(128, 512), Block(128, 512, last=3)),
                ),
                Level(("5a", "5b"), 3, 1, 256, (Block(256, 1024, relu=False),), weight=2.0),
            ),
            backbone="bn_inception",
            backbone_width=1.0,
            width=224,
            height=224,
            modality=modality,
            stack=5 if modality == "diff" else 1,
            spatial=32 if modality == "rgb" else 0,
            gradient="released",
            batch_norm=False,
            peak=False,
            energy=False,
            dropout=0.8,
        )  # fmt: skip

    @classmethod
    def small(cls, classes: int, *, width: int = 320, height: int = 192) -> Config:
        """For edge devices: units at strides 8, 16 and 32 of a MobileNet."""
        return cls(
            classes,
            (
                Level(("8",), 3, 2, 32, (Block(16, 32),), temporal=16),
                Level(("16",), 3, 2, 48, (Block(24, 48),), temporal=96),
                Level(("32",), 1, 1, 64, (Block(24, 64),)),
            ),
            width=width,
            height=height,
            spatial=8,
            order=2,
            rgb_weight=0.25,
        )

    def with_levels(self, strides: Sequence[str]) -> Config:
        """Keep only the units at these taps, for ablations."""
        levels = tuple(
            replace(level, taps=tuple(t for t in level.taps if t in strides))
            for level in self.levels
        )
        return replace(self, levels=tuple(level for level in levels if level.taps))
