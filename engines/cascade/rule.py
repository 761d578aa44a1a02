"""The rule of the cascade: which blocks have been decided and which travel on; in torch.

A position is decided when its largest softmax exceeds rho, a block when the share of its undecided
positions is at most `share`. Blocks of one position and share 0 are the published rule. The runtime
applies the same rule in numpy; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from engines.cascade.signature import LAST_SHARE


@dataclass(frozen=True, slots=True)
class Rule:
    """When a block leaves the cascade.

    rho in (0, 1]; at 1 nothing ever leaves early. share in [0, 1).
    """

    rho: float
    share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.rho <= 1:
            raise ValueError(f"rho must be in (0, 1], got {self.rho}; 1 decides nothing early")
        if not 0 <= self.share < 1:
            raise ValueError(f"share must be in [0, 1), got {self.share}; 0 is the published rule")

    def going(self, logits: Tensor, cells: int, before: Tensor | None = None) -> Tensor:
        """Choose the blocks that go on to the next stage.

        Args:
            logits: (N, K, h, w) of the stage that has just run.
            cells: side of a block in positions of these logits.
            before: (N, 1, h / cells, w / cells) bool, blocks that this stage was run on; None is
                all, of stage 1. A block that has left stays away.

        Returns:
            (N, 1, h / cells, w / cells) bool.
        """
        undecided = ~(logits.float().softmax(dim=1).amax(dim=1, keepdim=True) > self.rho)
        share = self.share if before is None else max(self.share, LAST_SHARE)
        going = F.avg_pool2d(undecided.float(), cells) > share
        return going if before is None else going & before


def spread(blocks: Tensor, cells: int) -> Tensor:
    """Turn a mask of blocks into one of positions."""
    return blocks.repeat_interleave(cells, dim=2).repeat_interleave(cells, dim=3)
