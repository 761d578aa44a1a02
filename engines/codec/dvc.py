"""The `dvc` codec in torch: flow, motion compensation and residual as published; for study.

Structure of DVC (Lu et al., CVPR 2019): SpyNet flow, motion auto-encoder, compensation network,
residual auto-encoder with GDN and a scale hyperprior. Two things differ. Pictures are luma with
chroma at full size, not RGB. And the hyper decoder works in whole numbers: its output is the index
of a Laplace scale, exactly equal everywhere, and the scale is the exponential of it as published.
Knows no file and no entropy coder. The first frame is coded by a second residual auto-encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.codec.costs import count_macs
from engines.codec.layers import (
    GDN,
    FactorizedDensity,
    laplace_bits,
    ste_floor,
    ste_round,
    uniform_noise_like,
)
from engines.codec.rt import FIXED_POINT, scale_of
from engines.codec.scales import HIDDEN_LIMIT, SCALE_LEVELS

SYMBOL_LIMIT = 31
"""Of z and of motion; larger ones are clamped."""


@dataclass(frozen=True, slots=True)
class DvcConfig:
    """Widths; the defaults are those of the published PyTorch port."""

    name: str = "dvc-published"
    residual: int = 64
    """Of the residual auto-encoder and the compensation network."""
    latents: int = 96
    """Of y, at 1/16."""
    motion: int = 128
    """Of the motion auto-encoder and its latents m, at 1/16."""
    flow: tuple[int, ...] = (32, 64, 32, 16)
    """Of each level of the flow pyramid."""
    flow_levels: int = 4


NARROW = DvcConfig(name="dvc", residual=18, latents=32, motion=24, flow=(10, 14, 10, 6))
"""The same layers, narrow enough to be shipped."""
CONFIGS = {"narrow": NARROW, "published": DvcConfig()}


@dataclass(frozen=True, slots=True)
class DvcResult:
    """One coded frame."""

    picture: Tensor
    """(B, 3, H, W) decoded, about 0..1; the reference of the next frame, which is its state."""
    predicted: Tensor
    """(B, 3, H, W) after motion compensation; of an intra frame zero."""
    warped: Tensor
    """(B, 3, H, W) before the compensation network."""
    bits: Tensor
    """(B,) estimated bits of y, z and motion."""
    y: Tensor
    """(B, latents, H/16, W/16) integers."""
    z: Tensor
    """(B, residual, H/64, W/64) integers."""
    index: Tensor
    """(B, latents, H/16, W/16) scale index of each y."""
    m: Tensor | None
    """(B, motion, H/16, W/16) integers; None for an intra frame."""


def warp(picture: Tensor, flow: Tensor) -> Tensor:
    """Take each pixel from where the flow (B, 2, H, W) in pixels, x then y, points."""
    flow = flow.float()  # a short type can't tell the pixels of a long row apart
    height, width = picture.shape[2], picture.shape[3]
    x = torch.arange(width, device=picture.device, dtype=flow.dtype)
    y = torch.arange(height, device=picture.device, dtype=flow.dtype)
    at_x = (x[None, None, :] + flow[:, 0]) * (2 / (width - 1)) - 1
    at_y = (y[None, :, None] + flow[:, 1]) * (2 / (height - 1)) - 1
    grid = torch.stack((at_x, at_y), 3)
    return F.grid_sample(picture, grid, "bilinear", "border", align_corners=True)


class FlowPyramid(nn.Module):  # type: ignore[misc]
    """SpyNet: each level refines the flow of the coarser one by five 7x7 convolutions.

    (now, warp(before, 2 up(flow)), 2 up(flow)) ─ 8 ─ 32 ─ 64 ─ 32 ─ 16 ─ 2 ─ + ─> flow
    """

    def __init__(self, config: DvcConfig) -> None:
        super().__init__()
        widths = (8, *config.flow, 2)
        self.levels = nn.ModuleList()
        for _ in range(config.flow_levels):
            layers: list[nn.Module] = []
            for fan_in, fan_out in pairwise(widths):
                layers += [nn.Conv2d(fan_in, fan_out, 7, padding=3), nn.ReLU()]
            self.levels.append(nn.Sequential(*layers[:-1]))

    def forward(self, now: Tensor, before: Tensor) -> Tensor:
        """Flow (B, 2, H, W) from `now` back to `before`; sides must divide by 2^(levels - 1)."""
        pyramid = [(now, before)]
        for _ in self.levels[1:]:
            pyramid.append(tuple(F.avg_pool2d(p, 2) for p in pyramid[-1]))
        flow = torch.zeros_like(pyramid[-1][0][:, :2])
        for number, (level, (one, other)) in enumerate(
            zip(self.levels, reversed(pyramid), strict=True)
        ):
            if number:
                flow = 2 * F.interpolate(flow, scale_factor=2.0, mode="bilinear")
            flow = flow + level(torch.cat((one, warp(other, flow), flow), 1))
        return flow


def motion_encoder(config: DvcConfig) -> nn.Sequential:
    """Flow to m: eight 3x3 convolutions, every other one halves."""
    layers: list[nn.Module] = []
    for i in range(8):
        fan_in = 2 if i == 0 else config.motion
        layers += [nn.Conv2d(fan_in, config.motion, 3, 2 - i % 2, 1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers[:-1])


def motion_decoder(config: DvcConfig) -> nn.Sequential:
    """m to flow: mirror of the encoder."""
    width = config.motion
    layers: list[nn.Module] = []
    for i in range(4):
        last = i == 3
        layers += [nn.ConvTranspose2d(width, width, 3, 2, 1, 1), nn.LeakyReLU(0.1)]
        layers += [nn.Conv2d(width, 2 if last else width, 3, 1, 1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers[:-1])


class ResidualBlock(nn.Module):  # type: ignore[misc]
    """x + conv3(relu(conv3(relu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, 1, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class Compensation(nn.Module):  # type: ignore[misc]
    """The warped picture, made better by what is around.

    (warped, reference) ─ conv3 ─ block ─┬────────────────────────────── + ─ block ─ conv3 ─ + ─>
                                    pool └─ block ─┬────────────── + ─ block ─ up ┘          │
                                              pool └─ block ─ block ─ up ┘           warped ─┘
    """

    def __init__(self, config: DvcConfig) -> None:
        super().__init__()
        width = config.residual
        self.enter = nn.Conv2d(6, width, 3, 1, 1)
        self.down = nn.ModuleList(ResidualBlock(width) for _ in range(3))
        self.rise = nn.ModuleList(ResidualBlock(width) for _ in range(3))
        self.leave = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, warped: Tensor, reference: Tensor) -> Tensor:
        """Prediction (B, 3, H, W)."""
        full = self.down[0](F.relu(self.enter(torch.cat((warped, reference), 1))))
        half = self.down[1](F.avg_pool2d(full, 2))
        quarter = self.rise[0](self.down[2](F.avg_pool2d(half, 2)))
        half = self.rise[1](half + _twice(quarter))
        full = self.rise[2](full + _twice(half))
        return warped + self.leave(F.relu(full)).float()


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


class IntegerHyperDecoder(nn.Module):  # type: ignore[misc]
    """h_s in whole numbers: z to the index of a scale for each y; twin of scales.IntegerLayers.

    z ─ deconv5 s2 ─ floor, 0..255 ─ deconv5 s2 ─ floor, 0..255 ─ conv3 ─ floor, 0..63 ─> index
    """

    def __init__(self, config: DvcConfig) -> None:
        super().__init__()
        n = config.residual
        self.layers = nn.ModuleList(
            (
                nn.ConvTranspose2d(n, n, 5, 2, 2, 1),
                nn.ConvTranspose2d(n, n, 5, 2, 2, 1),
                nn.Conv2d(n, config.latents, 3, 1, 1),
            )
        )
        for layer, bias in zip(self.layers, (8.0, 8.0, 24.0), strict=True):
            nn.init.constant_(layer.bias, bias)

    def forward(self, z: Tensor) -> Tensor:
        """Indices, whole numbers with a straight-through gradient."""
        limits = (HIDDEN_LIMIT, HIDDEN_LIMIT, SCALE_LEVELS - 1)
        for layer, limit in zip(self.layers, limits, strict=True):
            weight, bias = _fixed(layer.weight), _fixed(layer.bias)
            if isinstance(layer, nn.ConvTranspose2d):
                z = F.conv_transpose2d(z, weight, bias, 2, 2, 1)
            else:
                z = F.conv2d(z, weight, bias, 1, 1)
            z = ste_floor(z + 0.5).clamp(0, limit)
        return z


def _fixed(w: Tensor) -> Tensor:
    return ste_round(w * FIXED_POINT) / FIXED_POINT


class ResidualCodec(nn.Module):  # type: ignore[misc]
    """Auto-encoder with GDN and a scale hyperprior (Ballé et al. 2018).

    r ─ g_a ─ y ─ round ─ y_hat ─ g_s ─> r_hat
              └─ |.| ─ h_a ─ z ─ round ─ z_hat ─ h_s ─> scale index of y
    """

    def __init__(self, config: DvcConfig) -> None:
        super().__init__()
        n, m = config.residual, config.latents
        self.g_a = nn.Sequential(
            nn.Conv2d(3, n, 5, 2, 2), GDN(n),
            nn.Conv2d(n, n, 5, 2, 2), GDN(n),
            nn.Conv2d(n, n, 5, 2, 2), GDN(n),
            nn.Conv2d(n, m, 5, 2, 2),
        )  # fmt: skip
        self.g_s = nn.Sequential(
            nn.ConvTranspose2d(m, n, 5, 2, 2, 1), GDN(n, inverse=True),
            nn.ConvTranspose2d(n, n, 5, 2, 2, 1), GDN(n, inverse=True),
            nn.ConvTranspose2d(n, n, 5, 2, 2, 1), GDN(n, inverse=True),
            nn.ConvTranspose2d(n, 3, 5, 2, 2, 1),
        )  # fmt: skip
        self.h_a = nn.Sequential(
            nn.Conv2d(m, n, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(n, n, 5, 2, 2), nn.ReLU(),
            nn.Conv2d(n, n, 5, 2, 2),
        )  # fmt: skip
        self.h_s = IntegerHyperDecoder(config)
        self.density = FactorizedDensity(n, widths=(1, 1, 1))

    def forward(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """r_hat, y_hat, z_hat, index and bits (B,); noise stands for rounding in training."""
        y = self.g_a(r).float()
        z = self.h_a(y.abs()).float()
        z_hat = ste_round(z).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
        y_hat = ste_round(y)
        with torch.autocast(r.device.type, enabled=False):
            index = self.h_s(z_hat)
            noisy_y, noisy_z = (
                (y + uniform_noise_like(y), z + uniform_noise_like(z))
                if self.training
                else (y_hat, z_hat)
            )
            bits = laplace_bits(noisy_y, scale_of(index)).sum((1, 2, 3))
            bits = bits + self.density.bits(noisy_z).sum((1, 2, 3))
        r_hat = self.g_s(noisy_y if self.training else y_hat)
        return r_hat.float(), y_hat, z_hat, index, bits


class InterCodec(nn.Module):  # type: ignore[misc]
    """One frame from the one before.

    now, reference ─ flow ─ encoder ─ m ─ round ─ m_hat ─ decoder ─> flow_hat
    reference ─ warp by flow_hat ─ compensation ─> predicted ;  now - predicted ─ residual codec
    """

    def __init__(self, config: DvcConfig) -> None:
        super().__init__()
        self.flow = FlowPyramid(config)
        self.motion_encoder = motion_encoder(config)
        self.motion_decoder = motion_decoder(config)
        self.motion_density = FactorizedDensity(config.motion, widths=(1, 1, 1))
        self.compensation = Compensation(config)
        self.residual = ResidualCodec(config)

    def predict(self, m_hat: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Warped and predicted picture."""
        warped = warp(reference, self.motion_decoder(m_hat))
        return warped, self.compensation(warped, reference)

    def move(self, now: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The reference moved by the coded flow, m_hat, its bits (B,), the flow and as coded."""
        flow = self.flow(now, reference)
        m = self.motion_encoder(flow).float()
        m_hat = ste_round(m).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
        noisy = m + uniform_noise_like(m) if self.training else m_hat
        with torch.autocast(now.device.type, enabled=False):
            bits = self.motion_density.bits(noisy).sum((1, 2, 3))
        flow_hat = self.motion_decoder(noisy)
        return warp(reference, flow_hat), m_hat, bits, flow, flow_hat

    def tensors(self, now: Tensor, reference: Tensor) -> tuple[Tensor, ...]:
        """The fields of DvcResult, in order."""
        warped, m_hat, motion_bits, _, _ = self.move(now, reference)
        predicted = self.compensation(warped, reference)
        r_hat, y_hat, z_hat, index, bits = self.residual(now - predicted)
        bits = bits + motion_bits
        return predicted + r_hat, predicted, warped, bits, y_hat, z_hat, index, m_hat

    def forward(self, now: Tensor, reference: Tensor) -> DvcResult:
        """Code a frame (B, 3, H, W) of about 0..1, sides multiples of 64."""
        return DvcResult(*self.tensors(now, reference))

    def params(self) -> int:
        """Number of learned parameters, the 4.75 million of the published widths."""
        return sum(p.numel() for p in self.parameters())


class DvcCodec(nn.Module):  # type: ignore[misc]
    """Intra and inter codec; the state is the decoded picture. See InterCodec and ResidualCodec."""

    def __init__(self, config: DvcConfig | None = None) -> None:
        super().__init__()
        self.config = config or DvcConfig()
        self.intra = ResidualCodec(self.config)
        self.inter = InterCodec(self.config)

    def forward(self, now: Tensor, reference: Tensor | None) -> DvcResult:
        """Code a frame (B, 3, H, W) of about 0..1; intra without a reference."""
        if reference is not None:
            coded: DvcResult = self.inter(now, reference)
            return coded
        r_hat, y_hat, z_hat, index, bits = self.intra(now - 0.5)
        nothing = torch.zeros_like(now)
        return DvcResult(r_hat + 0.5, nothing, nothing, bits, y_hat, z_hat, index, None)

    def macs(self, part: Literal["flow", "motion_encoder", "motion_decoder", "compensation",
                                 "g_a", "g_s"]) -> float:  # fmt: skip
        """Multiply-accumulates a pixel of one part of the inter codec."""
        shadow = DvcCodec(self.config).to("meta").eval().inter
        side = 512
        picture = torch.empty(1, 3, side, side, device="meta")
        flow = torch.empty(1, 2, side, side, device="meta")
        m = torch.empty(1, self.config.motion, side // 16, side // 16, device="meta")
        y = torch.empty(1, self.config.latents, side // 16, side // 16, device="meta")
        runs = {
            "flow": lambda: shadow.flow(picture, picture),
            "motion_encoder": lambda: shadow.motion_encoder(flow),
            "motion_decoder": lambda: shadow.motion_decoder(m),
            "compensation": lambda: shadow.compensation(picture, picture),
            "g_a": lambda: shadow.residual.g_a(picture),
            "g_s": lambda: shadow.residual.g_s(y),
        }
        return count_macs(shadow, runs[part]) / side**2


def loss(result: DvcResult, now: Tensor, lagrangian: float, *, warm_up: bool) -> Tensor:
    """lambda * D + R in bits a pixel, averaged over the batch.

    Args:
        result: of a forward in training.
        now: the frame that was coded, about 0..1.
        lagrangian: 256, 512, 1024 or 2048 as published.
        warm_up: add a tenth of the errors of warped and predicted picture to D.
    """
    error = (result.picture - now).square().mean()
    if warm_up and result.m is not None:
        error = error + 0.1 * (result.warped - now).square().mean()
        error = error + 0.1 * (result.predicted - now).square().mean()
    return lagrangian * error + result.bits.mean() / (now.shape[2] * now.shape[3])
