"""Fixed transforms that untrained networks start from, so that training begins at a plain codec.

8x8 cosine transforms of luma, 4x4 of chroma, and sums and differences of 2x2 of their blocks; rows
go from coarse to fine. In torch; offline.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHROMA_FINENESS = 2.0
"""Chroma is smoother: its coefficients come as late as luma's of twice the frequency."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Orthonormal rows, and how fine the detail is that each of them sees."""

    rows: Tensor
    fineness: Tensor


def _cosines(size: int) -> Tensor:
    sample = (torch.arange(size) + 0.5) / size
    rows = torch.cos(torch.pi * torch.arange(size)[:, None] * sample) * (2 / size) ** 0.5
    rows[0] *= 0.5**0.5
    return rows


def block_basis() -> Basis:
    """Basis of the 96 samples of an 8x8 luma block and its two 4x4 chroma blocks."""
    rows = torch.zeros(96, 96)
    fineness = torch.zeros(96)
    for side, first, factor in ((8, 0, 1.0), (4, 64, CHROMA_FINENESS), (4, 80, CHROMA_FINENESS)):
        cosines, count = _cosines(side), side * side
        rows[first : first + count, first : first + count] = torch.kron(cosines, cosines)
        u, v = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        radius = torch.hypot(u.float(), v.float()).reshape(-1)
        fineness[first : first + count] = factor * radius + (factor - 1)
    order = torch.argsort(fineness, stable=True)
    return Basis(rows[order], fineness[order])


def quad_basis(blocks: Basis, channels: int, count: int) -> Basis:
    """The `count` coarsest of all sums and differences of 2x2 neighbours of each channel.

    Args:
        blocks: what the channels hold; only the first `channels` are there.
        channels: of the features; those beyond the basis stay unused.
        count: rows wanted; more than there are leaves rows of zeros.

    Returns:
        rows of shape (count, channels, 2, 2).
    """
    known = min(channels, len(blocks.rows))
    sign = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) * 0.5**0.5
    quads = torch.stack([torch.outer(a, b) for a in sign for b in sign])
    detail = torch.tensor([0.0, 0.5, 0.5, 0.75])
    fineness = (2 * (blocks.fineness[:known, None] + detail)).reshape(-1)
    order = torch.argsort(fineness, stable=True)[:count]
    rows = torch.zeros(count, channels, 2, 2)
    rows[torch.arange(len(order)), order // 4] = quads[order % 4]
    filled = torch.full((count,), float(fineness.max()))
    filled[: len(order)] = fineness[order]
    return Basis(rows, filled)
