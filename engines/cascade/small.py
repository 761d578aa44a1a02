"""The three stages of the small variant in torch, for edge devices.

Stage 1 is a thin network that sees the whole frame and labels it at stride 8. Stages 2 and 3 work
at stride 4 and hold most of the multiplications; they read the logits so far beside the features
and correct them. The runtime never imports this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cascade.layers import Bottleneck, ConvBn, ConvBnRelu, Head
from engines.cascade.region import masked
from engines.cascade.signature import HALO


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
    inside2: tuple[int, int] = (96, 192)
    inside3: tuple[int, int] = (128, 256)
    """Of the layers inside the branches of stages 2 and 3; the last is of 3's second look."""
    hidden: int = 64
    """Of the heads of stages 2 and 3."""

    @property
    def features(self) -> int:
        """Channels that stages 2 and 3 refine at stride 4, beside the logits."""
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
                          '-> c4 /16 ---+--> p4 '    '--> head -> logits /8 -> features /4
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
        """Compute what later stages read, at stride 4 and at stride 8, and the logits, its end."""
        c2 = self.stem(planes)
        c3 = self.stage3(c2)
        c4 = self.stage4(c3)
        c5 = self.stage5(c4)
        c5 = F.relu(c5 + self.whole(c5.mean(dim=(2, 3), keepdim=True)))
        p4 = self.fuse4(self.lateral4(c4) + enlarged(self.lateral5(c5), c4))
        p3 = self.fuse3(self.lateral3(c3) + enlarged(p4, c3))
        logits = self.head(p3)
        return c2, torch.cat([self.context(p3), logits], dim=1), logits


class SmallLater(nn.Module):  # type: ignore[misc]
    """Look again at stride 4 and correct the labels: what stages 2 and 3 are.

    (features, logits) -> features + branch -> [features + refine] -> head -> logits + correction

    Only the first convolution of the branch is 3x3: around a block it reads a halo of one position.
    """

    def __init__(self, sizes: SmallSizes, classes: int, inside: Sequence[int], refine: int) -> None:
        super().__init__()
        features = sizes.features
        self.split = [features, classes]
        widths = [sum(self.split), *inside, features]
        self.branch = nn.Sequential(
            *(
                ConvBnRelu(fan_in, fan_out, 1 if index else 3)
                for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths[:-1]))
            ),
            ConvBn(widths[-2], features),
        )
        self.refine = (
            nn.Sequential(ConvBnRelu(features, refine, 1), ConvBn(refine, features))
            if refine
            else None
        )
        self.head = Head(features, sizes.hidden, classes)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        features, known = x.split(self.split, dim=1)
        features, logits = self._corrected(features, known, self.branch(x), mask)
        return torch.cat([features, logits], dim=1), logits

    def on_blocks(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Run on blocks with their halo, channels last; they lose it: (n, h, w, C), logits."""
        (conv, norm, rectify), *others = self.branch
        x = rectify(norm(F.conv2d(blocks.permute(0, 3, 1, 2), conv.weight, conv.bias)))
        for layer in others:
            x = layer(x)
        inside = blocks[:, HALO:-HALO, HALO:-HALO].split(self.split, dim=3)
        features, known = (part.permute(0, 3, 1, 2) for part in inside)
        features, logits = self._corrected(features, known, x, None)
        return torch.cat([part.permute(0, 2, 3, 1) for part in (features, logits)], dim=3), logits

    def _corrected(
        self, features: Tensor, known: Tensor, branch: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        features = F.relu(features + masked(branch, mask))
        if self.refine is not None:
            features = F.relu(features + masked(self.refine(features), mask))
        return features, known + masked(self.head(features), mask)


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
