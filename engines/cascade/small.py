"""The three stages of the small variant in torch, for edge devices.

Stage 1 is a thin network that sees the whole frame and labels it at stride 8. Stages 2 and 3 work
at stride 4 and hold most of the multiplications: one 3x3 convolution each, which reads a halo of
one position around a block, and 1x1 layers. The runtime never imports this file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cascade.layers import Bottleneck, ConvBn, ConvBnRelu, Head
from engines.cascade.region import masked


@dataclass(frozen=True, slots=True)
class SmallSizes:
    """Channels and depths of the small variant."""

    trunk: tuple[int, int, int, int, int] = (16, 32, 48, 96, 128)
    """Of the maps at strides 2, 4, 8, 16 and 32; as in the detector "street", whose weights fit."""
    depths: tuple[int, int, int] = (1, 3, 2)
    """Residual blocks at strides 8, 16 and 32."""
    neck: int = 64
    context: int = 32
    """Channels that stage 1 hands on from stride 8."""
    wide2: int = 128
    wide3: int = 192

    @property
    def features(self) -> int:
        """Channels of what travels between the stages, at stride 4."""
        return self.trunk[1] + self.context


class TrunkStage(nn.Sequential):  # type: ignore[misc]
    """Halve the map, then refine it."""

    def __init__(self, fan_in: int, fan_out: int, depth: int) -> None:
        super().__init__(
            ConvBnRelu(fan_in, fan_out, 3, stride=2), *(Bottleneck(fan_out) for _ in range(depth))
        )


class SmallStage1(nn.Module):  # type: ignore[misc]
    """See the whole frame.

    planes -> /2 -> c2 /4 -------------------------------------------+
                     '-> c3 /8 ----------------+--> p3 -> context -> features /4
                          '-> c4 /16 ---+--> p4 '    '--> head -> logits /8
                               '-> c5 /32 + its mean
    """

    def __init__(self, sizes: SmallSizes, classes: int) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = sizes.trunk
        neck = sizes.neck
        self.stem = nn.Sequential(ConvBnRelu(3, c1, 3, stride=2), ConvBnRelu(c1, c2, 3, stride=2))
        self.stage3 = TrunkStage(c2, c3, sizes.depths[0])
        self.stage4 = TrunkStage(c3, c4, sizes.depths[1])
        self.stage5 = TrunkStage(c4, c5, sizes.depths[2])
        self.whole = ConvBn(c5, c5)
        self.lateral3 = ConvBnRelu(c3, neck, 1)
        self.lateral4 = ConvBnRelu(c4, neck, 1)
        self.lateral5 = ConvBnRelu(c5, neck, 1)
        self.fuse4 = Bottleneck(neck)
        self.fuse3 = Bottleneck(neck)
        self.context = ConvBnRelu(neck, sizes.context, 1)
        self.head = Head(neck, neck, classes, kernel=3)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        c2, context, logits = self.parts(planes)
        return torch.cat([c2, F.interpolate(context, scale_factor=2.0)], dim=1), logits

    def parts(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the features at stride 4, what joins them from stride 8, and the logits."""
        c2 = self.stem(planes)
        c3 = self.stage3(c2)
        c4 = self.stage4(c3)
        c5 = self.stage5(c4)
        c5 = F.relu(c5 + self.whole(c5.mean(dim=(2, 3), keepdim=True)))
        p4 = self.fuse4(self.lateral4(c4) + enlarged(self.lateral5(c5), c4))
        p3 = self.fuse3(self.lateral3(c3) + enlarged(p4, c3))
        return c2, self.context(p3), self.head(p3)


class SmallStage2(nn.Module):  # type: ignore[misc]
    """Look again at stride 4: features + 1x1(1x1(3x3(features)))."""

    def __init__(self, sizes: SmallSizes, classes: int) -> None:
        super().__init__()
        features, wide = sizes.features, sizes.wide2
        self.branch = nn.Sequential(
            ConvBnRelu(features, features, 3), ConvBnRelu(features, wide, 1), ConvBn(wide, features)
        )
        self.head = Head(features, features // 2, classes)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        x = F.relu(x + masked(self.branch(x), mask))
        return x, masked(self.head(x), mask)


class SmallStage3(nn.Module):  # type: ignore[misc]
    """Look longest at what is hardest: two residuals, the first with a 3x3 convolution."""

    def __init__(self, sizes: SmallSizes, classes: int) -> None:
        super().__init__()
        features, wide = sizes.features, sizes.wide3
        self.branch = nn.Sequential(ConvBnRelu(features, wide // 2, 3), ConvBn(wide // 2, features))
        self.refine = nn.Sequential(ConvBnRelu(features, wide, 1), ConvBn(wide, features))
        self.head = Head(features, features, classes)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        x = F.relu(x + masked(self.branch(x), mask))
        x = F.relu(x + masked(self.refine(x), mask))
        return x, masked(self.head(x), mask)


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Double a map; an odd last row or column of the larger one needs no partner."""
    height, width = like.shape[2:]
    return F.interpolate(x, scale_factor=2.0)[:, :, :height, :width]


def load_trunk(stage1: SmallStage1, weights: dict[str, Tensor]) -> int:
    """Take over the trunk of the detector "street"; returns how many tensors were taken.

    Raises:
        ValueError: no tensor of it fits.
    """
    own = stage1.state_dict()
    trunk = ("stem.", "stage3.", "stage4.", "stage5.")
    fitting = {
        name: value
        for name, value in weights.items()
        if name.startswith(trunk) and name in own and own[name].shape == value.shape
    }
    if not fitting:
        raise ValueError(
            f"trunk: weights must be of a network with {_names(own)}, got {_names(weights)}; "
            "give a checkpoint of the detector with the same channels"
        )
    stage1.load_state_dict(fitting, strict=False)
    return len(fitting)


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.partition(".")[0] for name in names}))
