"""The dvc codec against its published description: layers, parameters, costs; and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engines.codec.dvc import DvcCodec, DvcConfig, loss, motion_decoder, warp

SMALL = DvcConfig(name="dvc-tiny", residual=8, latents=6, motion=8, flow=(8, 8, 8, 8))


def shapes(network: nn.Module) -> list[tuple[int, int, int, int]]:
    """(in, out, kernel, stride) of the convolutions in order."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0])
        for m in network.modules()
        if isinstance(m, kinds)
    ]


@pytest.fixture(scope="module")
def published() -> DvcCodec:
    return DvcCodec()


def test_layers_are_the_published_ones(published):
    inter = published.inter
    pyramid = [(8, 32, 7, 1), (32, 64, 7, 1), (64, 32, 7, 1), (32, 16, 7, 1), (16, 2, 7, 1)]
    assert [shapes(level) for level in inter.flow.levels] == [pyramid] * 4
    widths = [2] + [128] * 7
    assert shapes(inter.motion_encoder) == [(w, 128, 3, 2 - i % 2) for i, w in enumerate(widths)]
    mirrored = [(128, 128, 3, 2), (128, 128, 3, 1)] * 3 + [(128, 128, 3, 2), (128, 2, 3, 1)]
    assert shapes(inter.motion_decoder) == mirrored
    blocks = [(64, 64, 3, 1)] * 12
    assert shapes(inter.compensation) == [(6, 64, 3, 1), *blocks, (64, 3, 3, 1)]
    residual = inter.residual
    assert shapes(residual.g_a) == [(3, 64, 5, 2), *[(64, 64, 5, 2)] * 2, (64, 96, 5, 2)]
    assert shapes(residual.g_s) == [(96, 64, 5, 2), *[(64, 64, 5, 2)] * 2, (64, 3, 5, 2)]
    assert shapes(residual.h_a) == [(96, 64, 3, 1), (64, 64, 5, 2), (64, 64, 5, 2)]
    assert shapes(residual.h_s) == [(64, 64, 5, 2), (64, 64, 5, 2), (64, 96, 3, 1)]


def test_parameters_are_the_published_4_75_million(published):
    assert published.inter.params() == 4_754_064
    assert round(published.inter.params() / 1e6, 2) == 4.75


@pytest.mark.parametrize(
    ("part", "kmac"),
    [
        ("flow", 318.6),
        ("motion_encoder", 61.6),
        ("motion_decoder", 99.6),
        ("compensation", 198.7),
        ("g_a", 9.8),
        ("g_s", 9.8),
    ],
)
def test_costs_are_the_published_ones(published, part, kmac):
    # GDN's 1x1 is not a layer and is left out on both sides
    assert published.macs(part) / 1000 == pytest.approx(kmac, abs=0.06)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    codec = DvcCodec(SMALL)
    for residual in (codec.intra, codec.inter.residual):
        residual.g_a[-1].weight.data.mul_(30)  # else z is all zero, and hides what reads it
        residual.h_a[-1].weight.data.mul_(30)
    now = torch.rand(2, 3, 64, 64)
    first = codec(now, None)
    second = codec(now.roll(3, 3), first.picture.detach())
    total = loss(first, now, 256, warm_up=True) + loss(second, now, 256, warm_up=True)
    total.backward()
    assert [n for n, p in codec.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 192)])
def test_shapes_of_a_frame(height, width):
    codec = DvcCodec(SMALL).eval()
    now = torch.rand(1, 3, height, width)
    with torch.no_grad():
        result = codec(now, codec(now, None).picture)
    assert result.picture.shape == result.predicted.shape == now.shape
    assert result.m is not None
    assert result.m.shape == (1, 8, height // 16, width // 16)
    assert result.y.shape == result.index.shape == (1, 6, height // 16, width // 16)
    assert result.z.shape == (1, 8, height // 64, width // 64)
    for whole in (result.m, result.y, result.z, result.index):
        assert torch.equal(whole, whole.round())


def test_warp_moves_by_whole_pixels():
    picture = torch.rand(1, 1, 8, 9)
    flow = torch.zeros(1, 2, 8, 9)
    flow[:, 0] = 2
    moved = warp(picture, flow)
    torch.testing.assert_close(moved[..., :7], picture[..., 2:])
    torch.testing.assert_close(moved[..., 7:], picture[..., -1:].expand(1, 1, 8, 2))


def test_loss_adds_the_errors_of_both_predictions_in_warm_up():
    torch.manual_seed(0)
    codec = DvcCodec(SMALL).eval()
    now = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        result = codec(now, torch.rand(1, 3, 64, 64))
        plain = loss(result, now, 512, warm_up=False)
        warm = loss(result, now, 512, warm_up=True)
        extra = (result.warped - now).square().mean() + (result.predicted - now).square().mean()
    torch.testing.assert_close(warm - plain, 51.2 * extra, rtol=1e-3, atol=1e-3)


def test_motion_decoder_of_any_width_ends_in_a_flow():
    assert motion_decoder(SMALL)(torch.zeros(1, 8, 2, 3)).shape == (1, 2, 32, 48)
