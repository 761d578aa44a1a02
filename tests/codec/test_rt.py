"""The rt codec in torch: shapes, gradients, costs, and decoding that equals encoding."""

from __future__ import annotations

import pytest
import torch
from codec_tiny import TINY

from engines.codec.layers import FactorizedDensity, laplace_bits
from engines.codec.rt import (
    CONFIGS,
    QUALITIES,
    RtCodec,
    State,
    blocks_to_planes,
    lagrangian,
    planes_to_blocks,
)


@pytest.fixture
def codec() -> RtCodec:
    torch.manual_seed(0)
    return RtCodec(TINY)


def random_blocks(batch: int, height: int, width: int) -> torch.Tensor:
    y = torch.rand(batch, 1, height, width) * 219 + 16
    u, v = (torch.rand(batch, 1, height // 2, width // 2) * 224 + 16 for _ in range(2))
    return planes_to_blocks(y, u, v)


def test_blocks_and_planes_are_inverse():
    y = torch.arange(64 * 128).reshape(1, 1, 64, 128) % 256
    u = torch.arange(32 * 64).reshape(1, 1, 32, 64) % 251
    planes = blocks_to_planes(planes_to_blocks(y.float(), u.float(), u.float() / 2))
    torch.testing.assert_close(planes, (y.float(), u.float(), u.float() / 2))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 192)])
def test_shapes_of_a_frame_and_its_successor(codec, height, width):
    quality = torch.tensor([0, QUALITIES - 1])
    blocks = random_blocks(2, height, width)
    first = codec(blocks, None, quality)
    second = codec(blocks, first.state, quality)
    for result in (first, second):
        assert result.blocks.shape == (2, 96, height // 8, width // 8)
        assert result.q.shape == result.index.shape == (2, 20, height // 16, width // 16)
        assert result.z.shape == (2, 4, height // 64, width // 64)
        assert result.bits.shape == (2,)
        assert float(result.bits.detach().min()) > 0
    assert float(first.state.magnitudes.abs().max()) == 0
    torch.testing.assert_close(
        second.state.magnitudes, second.q.detach().abs().clamp_max(15), rtol=0, atol=0
    )


def test_every_parameter_gets_a_gradient(codec):
    quality = torch.tensor([5, 50])
    blocks = random_blocks(2, 64, 64)
    codec.frame.h_a[-1].weight.data.mul_(100)  # fresh weights give z = 0, which hides what reads z
    first = codec(blocks, None, quality)
    second = codec(blocks, first.state, quality)
    refreshed = State(codec.refresh(second.state.memory), torch.full_like(second.q.detach(), 3))
    third = codec(blocks, refreshed, quality, change=random_blocks(2, 64, 64))
    loss = first.bits.sum() + second.bits.sum() + third.bits.sum()
    loss = loss + (first.blocks - blocks).square().sum() + (second.blocks - blocks).square().sum()
    loss.backward()
    missing = [n for n, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_decode_draws_the_picture_that_encode_remembers(codec):
    codec.eval()
    quality = torch.tensor([40])
    with torch.no_grad():
        blocks = random_blocks(1, 64, 128)
        result = codec(blocks, None, quality)
        q, z, memory = codec.frame.encode(blocks, None, quality)
        assert torch.equal(q, result.q)
        assert torch.equal(z, result.z)
        torch.testing.assert_close(memory, result.state.memory)
        torch.testing.assert_close(codec.frame.decode(q, z, None, quality), memory)
        context = codec.context_of(memory, random_blocks(1, 64, 128), quality)
        q, z, memory = codec.frame.encode(blocks, context, quality)
        torch.testing.assert_close(codec.frame.decode(q, z, context, quality), memory)


def test_motion_changes_what_is_expected_of_the_next_picture(codec):
    """A picture that moved costs less than without its motion, before anything is trained."""
    codec.eval()
    quality = torch.tensor([40])
    with torch.no_grad():
        first = random_blocks(1, 64, 128)
        second = torch.roll(first, 4, 3)
        state = codec(first, None, quality).state
        shown = codec(first, None, quality).blocks
        blind = codec(second, state, quality)
        moved = codec(second, state, quality, change=torch.roll(shown, 4, 3) - shown)
    assert float(moved.bits) < 0.9 * float(blind.bits)


def test_scale_indices_are_whole_numbers_in_range(codec):
    result = codec(random_blocks(2, 64, 64), None, torch.tensor([0, 63]))
    assert torch.equal(result.index, result.index.round())
    assert 0 <= int(result.index.min()) <= int(result.index.max()) <= 63


@pytest.mark.parametrize(("name", "limit_kmac"), [("rt-nano", 40), ("rt-small", 120)])
def test_costs_are_within_the_budget_of_each_size(name, limit_kmac):
    codec = RtCodec(CONFIGS[name])
    for inter in (False, True):
        encode, decode = codec.macs("encode", inter=inter), codec.macs("decode", inter=inter)
        assert 1000 < decode < encode <= limit_kmac * 1000


def test_params_and_macs_of_nano_are_known():
    codec = RtCodec(CONFIGS["rt-nano"])
    assert codec.params() == 1_918_400
    assert round(codec.macs("encode", inter=True)) == 17_694
    assert round(codec.macs("decode", inter=True)) == 13_411


def test_lambda_grows_with_quality_in_equal_ratios():
    values = lagrangian(torch.arange(QUALITIES))
    assert float(values[0]) == pytest.approx(0.003)
    assert float(values[-1]) == pytest.approx(0.8)
    ratios = values[1:] / values[:-1]
    torch.testing.assert_close(ratios, ratios[0].expand_as(ratios))


def test_laplace_bits_are_those_of_a_distribution():
    values = torch.arange(-400.0, 401.0)
    for scale in (0.04, 1.0, 30.0):
        total = torch.exp2(-laplace_bits(values, torch.tensor(scale)))
        assert float(total[total > 2**-39].sum()) == pytest.approx(1, abs=1e-4)


def test_factorized_density_is_a_distribution():
    torch.manual_seed(0)
    density = FactorizedDensity(3)
    values = torch.arange(-2000.0, 2001.0).expand(1, 3, 1, 4001)
    total = torch.exp2(-density.bits(values)).sum((0, 2, 3))
    torch.testing.assert_close(total, torch.ones(3), atol=1e-3, rtol=0)
