"""Run stages 2 and 3 on chosen blocks alone, as the runtime does, but with gradients; in torch.

Blocks are gathered with their halo, run as one batch, and their features put back for the next
stage. Equal to the masked form of the network, and as much cheaper as blocks are left out. For
training; the runtime never imports this file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.cascade.signature import HALO
from engines.cascade.small import SmallLater


def least_sure(logits: Tensor, cells: int, count: int, any_share: float) -> Tensor:
    """Choose blocks of a batch: some anywhere, the others where a stage is least sure.

    Args:
        logits: (N, K, h, w) of the stage.
        cells: side of a block in positions of these logits.
        count: blocks to choose.
        any_share: part of all blocks that is chosen at random, whatever the stage says.

    Returns:
        (count,) indices into the blocks of the batch, in reading order.
    """
    sure = logits.float().softmax(dim=1).amax(dim=1, keepdim=True)
    doubt = 1 - F.avg_pool2d(sure, cells).flatten()
    anywhere = torch.rand_like(doubt) < any_share
    return torch.where(anywhere, 1 + doubt, doubt).topk(count).indices


def run_on_blocks(
    stages: tuple[SmallLater, ...], features: Tensor, chosen: Tensor, cells: int
) -> list[Tensor]:
    """Run one stage after the other on the same blocks.

    Args:
        stages: stages 2 and 3.
        features: (N, C, h, w) of stage 1, its logits the last channels.
        chosen: (M,) indices of blocks.
        cells: side of a block in positions of the features.

    Returns:
        Logits of each stage, (M * cells * cells, K), in the order of `rows_of`.
    """
    edge, channels = cells + 2 * HALO, features.shape[1]
    outer = window_rows(chosen, features.shape, cells, HALO).flatten()
    inner = window_rows(chosen, features.shape, cells, 0).flatten()
    table = padded_rows(features)
    found = []
    for stage in stages:
        new, logits = stage.on_blocks(table[outer].view(-1, edge, edge, channels))
        table = table.index_copy(0, inner, new.reshape(-1, channels).to(table.dtype))
        found.append(_rows(logits))
    return found


def padded_rows(plane: Tensor) -> Tensor:
    """Flatten a map with a ring of zeros around it: (N * (h + 2) * (w + 2), C)."""
    return _rows(F.pad(plane, (HALO, HALO, HALO, HALO)))


def window_rows(chosen: Tensor, shape: torch.Size, cells: int, halo: int) -> Tensor:
    """Find the rows of `padded_rows` that blocks hold: (M, (cells + 2 * halo) ** 2)."""
    h, w = shape[2:]
    across, down = w // cells, h // cells
    padded_w = w + 2 * HALO
    picture, block = chosen // (down * across), chosen % (down * across)
    top = picture * (h + 2 * HALO) + block // across * cells + HALO - halo
    first = top * padded_w + block % across * cells + HALO - halo
    reach = torch.arange(cells + 2 * halo, device=chosen.device)
    return first[:, None] + (reach[:, None] * padded_w + reach).flatten()


def _rows(plane: Tensor) -> Tensor:
    return plane.permute(0, 2, 3, 1).reshape(-1, plane.shape[1])
