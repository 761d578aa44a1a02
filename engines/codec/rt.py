"""The `rt` codec in torch: one scale, and a memory of features that moves; trains and exports.

Knows no file and no entropy coder: q and z are integers that entropy.py turns into bytes. The
probability of every one of them follows from integers alone (IntegerHyper), so that a decoder on
another machine parses the same symbols. Ideas: DCVC-RT (CVPR 2025) for the single scale and the
memory, Ballé et al. 2018 for the hyperprior, Minnen & Singh 2020 for means by channel halves.
Motion comes in as a picture: what motion.py made of the decoded one, less that one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.codec.costs import count_macs
from engines.codec.layers import (
    DepthBlock,
    FactorizedDensity,
    QualityBank,
    laplace_bits,
    spread,
    ste_floor,
    ste_round,
    uniform_noise_like,
)
from engines.codec.scales import (
    FRACTION_BITS,
    HIDDEN_LIMIT,
    LEVEL_STEP,
    MAGNITUDE_LIMIT,
    SCALE_LEVELS,
    SCALE_LOW,
)
from engines.codec.transforms import block_basis, quad_basis

QUALITIES = 64
LAMBDA_LOW, LAMBDA_HIGH = 0.003, 0.8
Z_LIMIT = 15
FIXED_POINT = 1 << FRACTION_BITS
MEMORY_LIMIT = 32.0
"""Far above what a trained memory reaches; a sum over frames can't run away."""
START_NOISE = 0.05
"""Of the usual random weights, beside the fixed transforms that training starts from."""
INTRA, INTER = KINDS = (0, 1)
PICTURE_CHANNELS = 96
"""An 8x8 luma block and its two 4x4 chroma blocks."""


@dataclass(frozen=True, slots=True)
class RtConfig:
    """Widths and depths of one size of the codec."""

    name: str
    channels: int
    """Of features and memory, at 1/8."""
    latents: int
    """Of y, at 1/16; even."""
    hyper: int
    """Of z, at 1/64."""
    prior: int
    """Of the features that give means, at 1/16."""
    analysis_blocks: int
    synthesis_blocks: int
    context_blocks: int
    head_blocks: int
    hidden: int = 64
    """Of the integer hyper path."""
    knots: int = 8


NANO = RtConfig(
    name="rt-nano",
    channels=128,
    latents=288,
    hyper=32,
    prior=96,
    analysis_blocks=2,
    synthesis_blocks=2,
    context_blocks=3,
    head_blocks=2,
)
SMALL = RtConfig(
    name="rt-small",
    channels=128,
    latents=288,
    hyper=32,
    prior=96,
    analysis_blocks=3,
    synthesis_blocks=3,
    context_blocks=4,
    head_blocks=3,
)
CONFIGS = {config.name: config for config in (NANO, SMALL)}


def lagrangian(quality: Tensor) -> Tensor:
    """Lambda of a quality in bits a pixel for one unit of squared 8-bit error."""
    span = math.log(LAMBDA_HIGH / LAMBDA_LOW) / (QUALITIES - 1)
    return LAMBDA_LOW * torch.exp(span * quality.float())


def scale_of(index: Tensor) -> Tensor:
    """Laplace scale of a scale index."""
    return SCALE_LOW * torch.exp(LEVEL_STEP * index)


def planes_to_blocks(y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Planes of 0..255, (B, 1, H, W) and two of half size, to (B, 96, H/8, W/8) around zero."""
    blocks = torch.cat(
        (F.pixel_unshuffle(y, 8), F.pixel_unshuffle(u, 4), F.pixel_unshuffle(v, 4)), 1
    )
    return blocks * (1 / 128) - 1


def blocks_to_planes(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse of planes_to_blocks; not rounded, not clamped."""
    planes = (blocks.float() + 1) * 128
    return (
        F.pixel_shuffle(planes[:, :64], 8),
        F.pixel_shuffle(planes[:, 64:80], 4),
        F.pixel_shuffle(planes[:, 80:], 4),
    )


@dataclass(frozen=True, slots=True)
class State:
    """What a decoder remembers between two frames."""

    memory: Tensor
    """(B, channels, H/8, W/8) features; may differ a little between machines."""
    magnitudes: Tensor
    """(B, latents, H/16, W/16) of the last symbols, 0..15; equal everywhere."""


@dataclass(frozen=True, slots=True)
class FrameResult:
    """One coded frame, with the state for the next one."""

    blocks: Tensor
    """(B, 96, H/8, W/8): the decoded picture."""
    state: State
    q: Tensor
    """(B, latents, H/16, W/16) integers."""
    z: Tensor
    """(B, hyper, H/64, W/64) integers in -15..15."""
    index: Tensor
    """(B, latents, H/16, W/16) scale index of each q, 0..63."""
    bits: Tensor
    """(B,) estimated bits of q and z."""


class IntegerHyper(nn.Module):  # type: ignore[misc]
    """h_s for scales: integers in, scale indices out, in arithmetic that has no rounding errors.

    z ─────────── 1x1 ─ shuffle x4 ─┐
    |q| before ─┬─ 1x1 ─────────────┤
                └─ sum3x3 ─ 1x1 ────┴─ + ─ >>6 ─ clamp 0..255 ─ 1x1 + bias[quality] ─ >>6 ─> index

    Symbols whose channel, row and column sum to an even number are coded first. The indices of the
    others are computed in the same way, with one more pair of 1x1 of the even |q| around them.

    Weights are multiples of 1/64 (integers in the model file). All sums stay below 2^24, so that
    float32 holds them exactly here as int32 does in entropy.py.
    """

    def __init__(self, config: RtConfig) -> None:
        super().__init__()
        self.hidden = config.hidden
        self.from_z = nn.Parameter(torch.randn(config.hidden * 16, config.hyper) * 0.5)
        self.from_magnitudes = nn.Parameter(torch.randn(config.hidden, 2 * config.latents) * 0.2)
        self.from_even = nn.Parameter(torch.zeros(config.hidden, 2 * config.latents))
        self.hidden_bias = nn.Parameter(torch.full((config.hidden,), 8.0))
        self.to_index = nn.Parameter(torch.randn(config.latents, config.hidden) * 0.02)
        self.index_bias = nn.ModuleList(
            QualityBank(QUALITIES, config.latents, knots=config.knots, low=12.0, high=36.0)
            for _ in KINDS
        )
        self.odd_bias = nn.Parameter(torch.zeros(len(KINDS), config.latents))

    def start_at(self, kind: int, scales: Tensor) -> None:
        """Let the bias alone give these scales (qualities, latents), at the knots."""
        index = torch.log(scales / SCALE_LOW).clamp_min(0) / LEVEL_STEP
        knots = self.index_bias[kind].log_gains
        positions = torch.linspace(0, QUALITIES - 1, len(knots))
        knots.data.copy_(index[positions.round().long()])

    def integers(self, kind: int) -> dict[str, Tensor]:
        """All weights of a kind of frame times 64, rounded: what the model file holds."""
        tensors = {
            "from_z": self.from_z,
            "from_even": self.from_even,
            "hidden_bias": self.hidden_bias,
            "to_index": self.to_index,
            "index_bias": self.index_bias[kind].table(),
            "odd_bias": self.odd_bias[kind],
        }
        if kind == INTER:
            tensors["from_magnitudes"] = self.from_magnitudes
        return {
            k: torch.round(t.detach() * FIXED_POINT).to(torch.int32) for k, t in tensors.items()
        }

    def forward(self, z: Tensor, magnitudes: Tensor | None, quality: Tensor, q: Tensor) -> Tensor:
        """Scale indices (B, latents, H/16, W/16), integers with a straight-through gradient.

        Args:
            z: (B, hyper, H/64, W/64) integers.
            magnitudes: of the last symbols; None for an intra frame.
            quality: (B,) or (B, H/16, W/16).
            q: (B, latents, H/16, W/16) the symbols; only the even ones are looked at.
        """
        kind = INTRA if magnitudes is None else INTER
        h = F.pixel_shuffle(_pointwise(z, self.from_z), 4)
        h = h + _fixed(self.hidden_bias)[:, None, None]
        if magnitudes is not None:
            h = h + _pointwise(with_sums(magnitudes), self.from_magnitudes)
        bias = spread(_fixed(self.index_bias[kind].table()), quality)
        even = are_even(q)
        seen = magnitudes_of(q) * even
        h_odd = h + _pointwise(with_sums(seen), self.from_even)
        bias_odd = bias + _fixed(self.odd_bias[kind])[:, None, None]
        return torch.where(even, self._index(h, bias), self._index(h_odd, bias_odd))

    def _index(self, h: Tensor, bias: Tensor) -> Tensor:
        h = ste_floor(h + 0.5).clamp(0, HIDDEN_LIMIT)
        return ste_floor(_pointwise(h, self.to_index) + bias + 0.5).clamp(0, SCALE_LEVELS - 1)

    def macs_at_z(self) -> int:
        """Multiplications for one position of z (64x64 pixels)."""
        each = (self.from_magnitudes, self.from_even, self.to_index, self.to_index)
        return int(self.from_z.numel()) + 16 * sum(int(weight.numel()) for weight in each)


def _fixed(weight: Tensor) -> Tensor:
    return ste_round(weight * FIXED_POINT) / FIXED_POINT


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, _fixed(weight)[:, :, None, None])


def with_sums(magnitudes: Tensor) -> Tensor:
    """Each channel, and then its sums over 3x3."""
    return torch.cat((magnitudes, F.avg_pool2d(magnitudes, 3, 1, 1, divisor_override=1)), 1)


def magnitudes_of(q: Tensor) -> Tensor:
    """What is remembered of symbols: 0..15, without a gradient."""
    return q.detach().abs().clamp_max(MAGNITUDE_LIMIT)


def are_even(q: Tensor) -> Tensor:
    """True (channels, rows, columns) where these sum to an even number."""
    channel, row, column = (torch.arange(size, device=q.device) for size in q.shape[1:])
    return (channel[:, None, None] + row[:, None] + column) % 2 == 0


class FrameCodec(nn.Module):  # type: ignore[misc]
    """One frame to q and z and back to features.

    An intra frame has a learned constant in place of the context, and scales of its own; all else
    is shared.

    `quality` is (B,), or a map (B, H/16, W/16) that spends more bits in some places.

    blocks ─ 1x1 ─ g_a ─ conv2 s2 ─┬─ gain ─ y ───────(y - mu)─ round ─> q ─(q + mu)─ y_hat
               context ┘           └─ h_a ─ round ─> z ─ h_s ┐                │
                     └─ conv2 s2 ─ temporal prior ────────── + ─ gain ─> mu   │
               context ───────────────────── + ─ g_s ─ 1x1 ─ up x2 ─ gain ────┘ ──> features

    The first half of y has its mean from z and the context, the second half from the first too.
    """

    def __init__(self, config: RtConfig) -> None:
        super().__init__()
        n, m, p = config.channels, config.latents, config.prior
        self.half = m // 2
        self.no_context = nn.Parameter(torch.zeros(1, n, 1, 1))
        self.enter = nn.Conv2d(PICTURE_CHANNELS + n, n, 1)
        self.g_a = nn.Sequential(*(DepthBlock(n) for _ in range(config.analysis_blocks)))
        self.to_y = nn.Conv2d(n, m, 2, 2)
        low, high = (math.log(_start_gain(v)) for v in (LAMBDA_LOW, LAMBDA_HIGH))
        self.encoder_gain = QualityBank(QUALITIES, m, knots=config.knots, low=low, high=high)
        self.decoder_gain = QualityBank(QUALITIES, m, knots=config.knots, low=-low, high=-high)
        self.temporal_prior = nn.Conv2d(n, p, 2, 2)
        self.h_a = nn.Sequential(
            nn.Conv2d(m + p, p, 2, 2), nn.LeakyReLU(0.1), nn.Conv2d(p, config.hyper, 3, 2, 1)
        )
        self.density = nn.ModuleList(FactorizedDensity(config.hyper) for _ in KINDS)
        self.h_s_scales = IntegerHyper(config)
        self.h_s_up = nn.Conv2d(config.hyper, 16 * p, 1)
        self.h_s = nn.Sequential(DepthBlock(p), nn.LeakyReLU(0.1))
        self.first_mean = nn.Conv2d(p, self.half, 1)
        self.second_mean = nn.Sequential(
            nn.Conv2d(p + self.half, p, 1), nn.LeakyReLU(0.1), nn.Conv2d(p, m - self.half, 1)
        )
        self.up = nn.Conv2d(m, 4 * n, 1)
        self.merge = nn.Conv2d(2 * n, n, 1)
        self.g_s = nn.Sequential(*(DepthBlock(n) for _ in range(config.synthesis_blocks)))
        self._start_as_transform_codec(config)

    def _start_as_transform_codec(self, config: RtConfig) -> None:
        """Cosine transforms in and out; between frames, of the difference to the context."""
        n = config.channels
        blocks = block_basis()
        known = min(n, PICTURE_CHANNELS)
        quads = quad_basis(blocks, n, config.latents)
        identity = torch.eye(n)
        with torch.no_grad():
            enter = self.enter.weight[:, :, 0, 0].mul_(START_NOISE)
            enter[:known, :PICTURE_CHANNELS] += blocks.rows[:known]
            self.to_y.weight.mul_(START_NOISE).add_(quads.rows)
            inverse = quads.rows.permute(1, 2, 3, 0).flatten(0, 2)
            self.up.weight.mul_(START_NOISE)[:, :, 0, 0].add_(inverse)
            merge = self.merge.weight[:, :, 0, 0].mul_(START_NOISE)
            merge[:, :n] += identity
            enter[:known, PICTURE_CHANNELS:] -= identity[:known]
            for last in (self.first_mean, self.second_mean[-1]):
                last.weight.mul_(START_NOISE)
                last.bias.zero_()
            for layer in (self.enter, self.to_y, self.up, self.merge):
                layer.bias.zero_()
            usual = self.encoder_gain.table().exp() * 3 / (1 + quads.fineness) ** 1.5
            self.h_s_scales.start_at(INTRA, usual)
            self.h_s_scales.start_at(INTER, 0.4 * usual)

    def context_for(self, like: Tensor, scale: int, context: Tensor | None) -> Tensor:
        """The context, or what stands for it in an intra frame, `scale` times as high as `like`."""
        if context is not None:
            return context
        batch, _, height, width = like.shape
        return self.no_context.expand(batch, -1, scale * height, scale * width)

    def analyse(self, blocks: Tensor, context: Tensor) -> Tensor:
        """y of a picture before its gain: (B, latents, H/16, W/16)."""
        return self.to_y(self.g_a(self.enter(torch.cat((blocks, context), 1))))

    def hyper_analyse(self, y: Tensor, prior: Tensor) -> Tensor:
        """z before rounding: (B, hyper, H/64, W/64)."""
        return self.h_a(torch.cat((4 * y / (1 + y.abs()), prior), 1))

    def prior_features(self, z_hat: Tensor, prior: Tensor) -> Tensor:
        """What both means are computed from: (B, prior, H/16, W/16)."""
        return self.h_s(F.pixel_shuffle(self.h_s_up(z_hat), 4) + prior)

    def synthesise(self, y_hat: Tensor, context: Tensor) -> Tensor:
        """Features of the decoded picture: (B, channels, H/8, W/8)."""
        features = F.pixel_shuffle(self.up(y_hat), 2)
        out = context + self.g_s(self.merge(torch.cat((features, context), 1)))
        return out.clamp(-MEMORY_LIMIT, MEMORY_LIMIT)

    def encode(
        self, blocks: Tensor, context: Tensor | None, quality: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Integers q and z, and the features a decoder makes of them."""
        context = self.context_for(blocks, 1, context)
        (gain_a, gain_b), (back_a, back_b) = self._gains(quality)
        prior = self.temporal_prior(context)
        y = self.analyse(blocks, context)
        z = torch.round(self.hyper_analyse(y, prior)).clamp(-Z_LIMIT, Z_LIMIT)
        features = self.prior_features(z, prior)
        mean_a = self.first_mean(features) * gain_a
        q_a = torch.round(y[:, : self.half] * gain_a - mean_a)
        y_a = (q_a + mean_a) * back_a
        mean_b = self.second_mean(torch.cat((features, y_a), 1)) * gain_b
        q_b = torch.round(y[:, self.half :] * gain_b - mean_b)
        y_b = (q_b + mean_b) * back_b
        out = self.synthesise(torch.cat((y_a, y_b), 1), context)
        return torch.cat((q_a, q_b), 1), z, out

    def decode(self, q: Tensor, z: Tensor, context: Tensor | None, quality: Tensor) -> Tensor:
        """Features of the decoded picture from its integers."""
        context = self.context_for(q, 2, context)
        (gain_a, gain_b), (back_a, back_b) = self._gains(quality)
        features = self.prior_features(z, self.temporal_prior(context))
        mean_a = self.first_mean(features) * gain_a
        y_a = (q[:, : self.half] + mean_a) * back_a
        mean_b = self.second_mean(torch.cat((features, y_a), 1)) * gain_b
        y_b = (q[:, self.half :] + mean_b) * back_b
        return self.synthesise(torch.cat((y_a, y_b), 1), context)

    def forward(
        self,
        blocks: Tensor,
        context: Tensor | None,
        magnitudes: Tensor | None,
        quality: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As encode, but with gradients: q, z, index, bits (B,), features.

        In training the rate sees uniform noise where the picture sees rounding.
        """
        density = self.density[INTRA if context is None else INTER]
        context = self.context_for(blocks, 1, context)
        (gain_a, gain_b), (back_a, back_b) = self._gains(quality)
        prior = self.temporal_prior(context)
        y = self.analyse(blocks, context).float()
        z = self.hyper_analyse(y, prior).float()
        z_hat = ste_round(z).clamp(-Z_LIMIT, Z_LIMIT)
        features = self.prior_features(z_hat, prior)
        mean_a = self.first_mean(features).float() * gain_a
        residual_a = y[:, : self.half] * gain_a - mean_a
        y_a = (ste_round(residual_a) + mean_a) * back_a
        mean_b = self.second_mean(torch.cat((features, y_a), 1)).float() * gain_b
        residual_b = y[:, self.half :] * gain_b - mean_b
        y_b = (ste_round(residual_b) + mean_b) * back_b
        residual = torch.cat((residual_a, residual_b), 1)
        q = ste_round(residual)
        with torch.autocast(blocks.device.type, enabled=False):
            index = self.h_s_scales(z_hat, magnitudes, quality, q)
            rate_q, rate_z = (
                (residual + uniform_noise_like(residual), z + uniform_noise_like(z))
                if self.training
                else (q, z_hat)
            )
            bits = laplace_bits(rate_q, scale_of(index)).sum((1, 2, 3))
            bits = bits + density.bits(rate_z).sum((1, 2, 3))
        return q, z_hat, index, bits, self.synthesise(torch.cat((y_a, y_b), 1), context)

    def _gains(self, quality: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        gain, back = self.encoder_gain(quality), self.decoder_gain(quality)
        half = self.half
        return (gain[:, :half], gain[:, half:]), (back[:, :half], back[:, half:])


def _start_gain(lagrangian_: float) -> float:
    """128 over the best quantiser step at high rates: dD/dR = -1/lambda with D = step^2 / 12."""
    return 128 / math.sqrt(6 / math.log(2) / 0.75 / lagrangian_)


class RtCodec(nn.Module):  # type: ignore[misc]
    """The whole codec: one frame codec around one memory and one head.

    picture ─> frame ─────────────────────────────> memory ─┬─ head ─> decoded picture
                 │                                          └──────┐
                 └─ context <─ blocks <─ gain ─ + ─ memory (or embed of the decoded picture)
                                                └─ 1x1 ─ change of the picture by its motion
    """

    def __init__(self, config: RtConfig) -> None:
        super().__init__()
        n = config.channels
        self.config = config
        self.frame = FrameCodec(config)
        self.memory_gain = QualityBank(QUALITIES, n, knots=config.knots, low=0.0, high=0.0)
        self.context = nn.Sequential(*(DepthBlock(n) for _ in range(config.context_blocks)))
        self.head_blocks = nn.Sequential(*(DepthBlock(n) for _ in range(config.head_blocks)))
        self.leave = nn.Conv2d(n, PICTURE_CHANNELS, 1)
        self.embed_enter = nn.Conv2d(PICTURE_CHANNELS, n, 1)
        self.embed_block = DepthBlock(n)
        self.carry = nn.Conv2d(PICTURE_CHANNELS, n, 1, bias=False)
        basis = block_basis().rows[: min(n, PICTURE_CHANNELS)]
        with torch.no_grad():
            self.leave.bias.zero_()
            self.embed_enter.bias.zero_()
            self.leave.weight.mul_(START_NOISE)[:, : len(basis), 0, 0].add_(basis.T)
            for layer in (self.embed_enter, self.carry):
                layer.weight.mul_(START_NOISE)[: len(basis), :, 0, 0].add_(basis)

    def head(self, memory: Tensor) -> Tensor:
        """The decoded picture in blocks."""
        return self.leave(self.head_blocks(memory))

    def embed(self, blocks: Tensor) -> Tensor:
        """A memory made from a decoded picture alone."""
        return self.embed_block(self.embed_enter(blocks))

    def refresh(self, memory: Tensor) -> Tensor:
        """Forget everything but the decoded picture, in whole 8-bit steps."""
        planes = ste_round((self.head(memory).float() + 1) * 128).clamp(0, 255)
        return self.embed(planes * (1 / 128) - 1)

    def context_of(self, memory: Tensor, change: Tensor, quality: Tensor) -> Tensor:
        """What the memory says of the next frame.

        Args:
            memory: (B, channels, H/8, W/8).
            change: (B, 96, H/8, W/8) blocks of the decoded picture after its motion, less before.
            quality: (B,) or (B, H/16, W/16).
        """
        gain = self.memory_gain(quality)
        if quality.dim() > 1:
            gain = gain.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.context((memory + self.carry(change)) * gain)

    def intra_tensors(self, blocks: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Picture, memory, q, z, index and bits of one picture by itself."""
        q, z, index, bits, memory = self.frame(blocks, None, None, quality)
        return self.head(memory), memory, q, z, index, bits

    def inter_tensors(
        self,
        blocks: Tensor,
        memory: Tensor,
        change: Tensor,
        magnitudes: Tensor,
        quality: Tensor,
    ) -> tuple[Tensor, ...]:
        """Picture, memory, q, z, index and bits of one picture after another."""
        context = self.context_of(memory, change, quality)
        q, z, index, bits, memory = self.frame(blocks, context, magnitudes, quality)
        return self.head(memory), memory, q, z, index, bits

    def forward(
        self, blocks: Tensor, state: State | None, quality: Tensor, change: Tensor | None = None
    ) -> FrameResult:
        """Code one picture, intra without a state; nothing has moved without a change."""
        if state is None:
            picture, memory, q, z, index, bits = self.intra_tensors(blocks, quality)
            magnitudes = torch.zeros_like(q).detach()
        else:
            change = torch.zeros_like(blocks) if change is None else change
            picture, memory, q, z, index, bits = self.inter_tensors(
                blocks, state.memory, change, state.magnitudes, quality
            )
            magnitudes = magnitudes_of(q)
        return FrameResult(picture, State(memory, magnitudes), q, z, index, bits)

    def params(self) -> int:
        """Number of learned parameters."""
        return sum(p.numel() for p in self.parameters())

    def macs(self, task: Literal["encode", "decode"], *, inter: bool) -> float:
        """Multiply-accumulates a luma sample; both sides draw the picture, which then moves."""
        shadow = RtCodec(self.config).to("meta").eval()
        side = 512
        blocks = torch.empty(1, PICTURE_CHANNELS, side // 8, side // 8, device="meta")
        memory = torch.empty(1, self.config.channels, side // 8, side // 8, device="meta")
        q = torch.empty(1, self.config.latents, side // 16, side // 16, device="meta")
        z = torch.empty(1, self.config.hyper, side // 64, side // 64, device="meta")
        quality = torch.zeros(1, dtype=torch.int64, device="meta")
        frame = shadow.frame

        def run() -> None:
            context = shadow.context_of(memory, blocks, quality) if inter else None
            if task == "encode":
                features = frame.encode(blocks, context, quality)[-1]
            else:
                features = frame.decode(q, z, context, quality)
            shadow.head(features)

        scales = frame.h_s_scales.macs_at_z() / 64**2
        return float(count_macs(shadow, run) / side**2 + scales)
