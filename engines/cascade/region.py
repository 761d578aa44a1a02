"""Region convolution: compute only where a mask says so, elsewhere keep what there was; in torch.

The oracle of the runtime, and what training uses. Two forms that give equal numbers: dense and then
masked, which is differentiable and simple, and compact, which gathers only the taps that are
needed and is one matrix product. The runtime never imports this file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero what a mask (N, 1, h, w) leaves out; None leaves out nothing."""
    return x if mask is None else x * mask.to(x.dtype)


def masked_sequence(layers: nn.Sequential, x: Tensor, mask: Tensor | None) -> Tensor:
    """Run layers so that each sees zeros where the layer before it was not evaluated."""
    for layer in layers:
        x = masked(layer(x), mask)
    return x


def region_conv(x: Tensor, conv: nn.Conv2d, mask: Tensor) -> Tensor:
    """Evaluate a convolution at masked positions only; outputs elsewhere are zero.

    Args:
        x: (N, C, h, w); neighbours of a masked position are read wherever they lie.
        conv: stride 1 and one group, padded so that it keeps the size.
        mask: (N, 1, h, w) bool.

    Returns:
        (N, K, h, w), equal to conv(x) * mask.

    Raises:
        ValueError: the convolution has a stride or groups, or changes the size.
    """
    (high, wide), (down, right) = conv.kernel_size, conv.padding
    kept = (high, wide) == (2 * down + 1, 2 * right + 1)
    if conv.stride != (1, 1) or conv.groups != 1 or conv.dilation != (1, 1) or not kept:
        raise ValueError(
            f"region convolution: kernel must keep the size at stride 1 in one group, got {conv}; "
            "run it densely"
        )
    n, channels, h, w = x.shape
    out_channels = conv.out_channels
    where = mask.expand(n, 1, h, w).reshape(-1).nonzero().squeeze(1)  # (A,)
    padded = F.pad(x, (right, right, down, down)).permute(0, 2, 3, 1).reshape(-1, channels)
    taps = padded[_tap_rows(where, (h, w), (high, wide))]  # (A, high * wide, C)
    weight = conv.weight.permute(0, 2, 3, 1).reshape(out_channels, -1)  # (K, high * wide * C)
    compact = F.linear(taps.reshape(-1, weight.shape[1]), weight, conv.bias)  # (A, K)
    out = x.new_zeros(n * h * w, out_channels).index_copy(0, where, compact.to(x.dtype))
    return out.reshape(n, h, w, out_channels).permute(0, 3, 1, 2)


def _tap_rows(where: Tensor, size: tuple[int, int], kernel: tuple[int, int]) -> Tensor:
    """Rows of the padded, flattened map that each output reads: (A, high * wide)."""
    (h, w), (high, wide) = size, kernel
    padded_h, padded_w = h + high - 1, w + wide - 1
    picture, rest = where // (h * w), where % (h * w)
    first = picture * (padded_h * padded_w) + (rest // w) * padded_w + rest % w
    down, right = torch.meshgrid(
        torch.arange(high, device=where.device),
        torch.arange(wide, device=where.device),
        indexing="ij",
    )
    return first[:, None] + (down * padded_w + right).reshape(1, -1)
