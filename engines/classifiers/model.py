"""The network of the "street-check" verifier in torch: a crop in, one logit for each group out.

For training, export and as the reference; the runtime never imports this file.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from engines.classifiers.signature import CHECK_SIZE, GROUPS
from engines.detectors.model import Bottleneck, ConvBnRelu


@dataclass(frozen=True, slots=True)
class Config:
    """Geometry of one network; the default is what is shipped."""

    width: int = CHECK_SIZE[0]
    height: int = CHECK_SIZE[1]
    channels: tuple[int, int, int, int] = (16, 32, 64, 96)
    """Of the maps at strides 2, 4, 8 and 16."""
    squeezed: int = 32
    groups: int = len(GROUPS)

    def __post_init__(self) -> None:
        if self.width % 16 or self.height % 16:
            raise ValueError(
                f"width and height must be multiples of 16, got {self.width} and {self.height}; "
                "round them up"
            )


class CheckNet(nn.Module):  # type: ignore[misc]
    """Is this box right to be called so?

    planes -> /2 -> /4 -> block -> /8 -> block -> /16 -> block -> 1x1 -> flat -> linear
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        c1, c2, c3, c4 = config.channels
        self.trunk = nn.Sequential(
            ConvBnRelu(3, c1, 3, stride=2),
            ConvBnRelu(c1, c2, 3, stride=2),
            Bottleneck(c2),
            ConvBnRelu(c2, c3, 3, stride=2),
            Bottleneck(c3),
            ConvBnRelu(c3, c4, 3, stride=2),
            Bottleneck(c4),
            ConvBnRelu(c4, config.squeezed, 1),
        )
        flat = config.squeezed * (config.width // 16) * (config.height // 16)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(flat, config.groups))

    def forward(self, planes: Tensor) -> Tensor:
        """Logits (N, groups) of uint8 planes (N, 3, height, width)."""
        logits: Tensor = self.head(self.trunk(planes.float() / 128 - 1))
        return logits

    def params(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())
