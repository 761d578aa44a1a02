"""Blocks, roundings and probability models of the learned codecs, in torch; offline.

Knows no codec: rt.py and dvc.py put these together.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LIKELIHOOD_FLOOR = 2.0**-40


def ste_round(x: Tensor) -> Tensor:
    """Round to the nearest integer, with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


def ste_floor(x: Tensor) -> Tensor:
    """Round down, with the gradient of the identity."""
    return x + (torch.floor(x) - x).detach()


def uniform_noise_like(x: Tensor) -> Tensor:
    """Noise of one quantiser step, which stands for rounding where a rate is estimated."""
    return torch.rand_like(x) - 0.5


def laplace_bits(values: Tensor, scale: Tensor) -> Tensor:
    """Bits of values under a zero-mean Laplace of this scale, integrated over unit intervals."""
    magnitude = values.abs()

    def cdf(x: Tensor) -> Tensor:
        tail = 0.5 * torch.exp(-x.abs() / scale)
        return torch.where(x <= 0, tail, 1 - tail)

    likelihood = cdf(0.5 - magnitude) - cdf(-0.5 - magnitude)
    return -torch.log2(likelihood.clamp_min(LIKELIHOOD_FLOOR))


class FactorizedDensity(nn.Module):  # type: ignore[misc]
    """Learned distribution of one integer per channel (Ballé et al. 2018, appendix 6.1).

    x ──softplus(w0)·x+b0, +tanh(f0)·tanh──(w1,f1)──...──(w3)──sigmoid──> CDF(x)
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (3, 3, 3), spread: float = 4.0):
        super().__init__()
        sizes = (1, *widths, 1)
        step = spread ** (1 / (len(sizes) - 1))
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            # softplus(start) * step * fan_out == 1, so the whole chain divides by `spread`
            start = torch.log(torch.expm1(torch.tensor(1.0 / step / fan_out)))
            self.matrices.append(nn.Parameter(start.expand(channels, fan_out, fan_in).clone()))
            self.biases.append(nn.Parameter(torch.rand(channels, fan_out, 1) - 0.5))
        for width in widths:
            self.factors.append(nn.Parameter(torch.zeros(channels, width, 1)))

    def logits(self, x: Tensor) -> Tensor:
        """Logit of the CDF at x: (C, 1, n) in and out."""
        last = len(self.matrices) - 1
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = F.softplus(matrix) @ x + bias
            if i < last:
                x = x + torch.tanh(self.factors[i]) * torch.tanh(x)
        return x

    def bits(self, values: Tensor) -> Tensor:
        """Bits of each value of (B, C, H, W), integrated over its unit interval."""
        shape = values.transpose(0, 1).shape
        flat = values.transpose(0, 1).reshape(shape[0], 1, -1).float()
        lower, upper = self.logits(flat - 0.5), self.logits(flat + 0.5)
        sign = -torch.sign(lower + upper).detach()  # evaluate where sigmoid keeps its digits
        likelihood = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return -torch.log2(likelihood.clamp_min(LIKELIHOOD_FLOOR)).reshape(shape).transpose(0, 1)


class DepthBlock(nn.Module):  # type: ignore[misc]
    """Residual block of a depthwise 3x3 between 1x1s, then a feed-forward pair of 1x1s.

    x ─┬─ 1x1 ─ lrelu ─ dw3x3 ─ 1x1 ─ + ─┬─ 1x1 (x2) ─ lrelu ─ 1x1 ─ + ─>
       └───────────────────────────────┘ └─────────────────────────┘
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 1)
        self.depth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.leave = nn.Conv2d(channels, channels, 1)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)
        for last in (self.leave, self.narrow):  # starts close to the identity
            nn.init.zeros_(last.bias)
            last.weight.data.mul_(0.05)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = x + self.leave(self.depth(F.leaky_relu(self.enter(x), 0.1)))
        return x + self.narrow(F.leaky_relu(self.widen(x), 0.1))


class QualityBank(nn.Module):  # type: ignore[misc]
    """One positive vector of gains for each quality, interpolated between few learned knots.

    Few knots learn from every quality that is drawn; the table that is exported has them all.
    """

    def __init__(self, qualities: int, channels: int, *, knots: int, low: float, high: float):
        super().__init__()
        self.log_gains = nn.Parameter(
            torch.linspace(low, high, knots)[:, None].expand(knots, channels).clone()
        )
        position = torch.arange(qualities) * ((knots - 1) / (qualities - 1))
        distance = (position[:, None] - torch.arange(knots)).abs()
        self.register_buffer("hats", (1 - distance).clamp_min(0), persistent=False)

    def table(self) -> Tensor:
        """The logarithms of all gains: (qualities, channels)."""
        return self.hats @ self.log_gains

    def forward(self, quality: Tensor) -> Tensor:
        """Gains (B, C, 1, 1) of int64 qualities (B,), or (B, C, h, w) of a map (B, h, w)."""
        return spread(torch.exp(self.table()), quality)


def spread(table: Tensor, quality: Tensor) -> Tensor:
    """Rows of a table (qualities, C) where a quality (B,) or a map of them (B, h, w) asks for them.

    Returns:
        (B, C, 1, 1) or (B, C, h, w).
    """
    if quality.dim() == 1:
        return table.index_select(0, quality)[:, :, None, None]
    batch, height, width = quality.shape
    rows = table.index_select(0, quality.reshape(-1))
    return rows.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


class GDN(nn.Module):  # type: ignore[misc]
    """Generalised divisive normalisation (Ballé et al. 2016), or its inverse.

    y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2);  the inverse multiplies.
    """

    OFFSET = 2.0**-18
    BETA_MIN = 1e-6

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        pedestal = self.OFFSET**2
        self.beta = nn.Parameter(torch.sqrt(torch.ones(channels) + pedestal))
        self.gamma = nn.Parameter(torch.sqrt(0.1 * torch.eye(channels) + pedestal))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        pedestal = self.OFFSET**2
        beta = self.beta.clamp_min((self.BETA_MIN + pedestal) ** 0.5) ** 2 - pedestal
        gamma = self.gamma.clamp_min(self.OFFSET) ** 2 - pedestal
        norm = torch.sqrt(F.conv2d(x * x, gamma[:, :, None, None], beta))
        return x * norm if self.inverse else x / norm
