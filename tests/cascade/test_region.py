"""Region convolution is dense convolution followed by masking."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engines.cascade.layers import ConvBnRelu
from engines.cascade.published import block_b, block_c
from engines.cascade.region import masked, masked_sequence, region_conv

KERNELS = [(1, 1), (3, 3), (1, 7), (7, 1), (1, 3), (3, 1)]


def random_mask(size: tuple[int, int, int, int], share: float) -> torch.Tensor:
    return torch.rand(size) < share


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_it_equals_dense_convolution_and_masking(kernel: tuple[int, int], share: float) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    x = torch.randn(2, 5, 9, 13)
    mask = random_mask((2, 1, 9, 13), share)
    ours = region_conv(x, conv, mask)
    assert torch.allclose(ours, conv(x) * mask, atol=1e-5)
    assert not ours[~mask.expand_as(ours)].any()


def test_gradients_are_those_of_the_masked_convolution() -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    mask = random_mask((1, 1, 7, 6), 0.4)
    x = torch.randn(1, 3, 7, 6, requires_grad=True)
    grads = []
    for out in (region_conv(x, conv, mask), masked(conv(x), mask)):
        grads.append(torch.autograd.grad(out.square().sum(), [x, conv.weight, conv.bias]))
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    ],
)
def test_what_it_cannot_do_is_refused(conv: nn.Conv2d) -> None:
    with pytest.raises(ValueError, match="kernel must keep the size at stride 1 in one group"):
        region_conv(torch.randn(1, 4, 6, 6), conv, random_mask((1, 1, 6, 6), 0.5))


@pytest.mark.parametrize("block", [block_b, block_c])
def test_a_residual_keeps_what_was_dropped(block: type) -> None:
    torch.manual_seed(2)
    residual = block().eval()
    channels = residual.join.out_channels
    x = torch.rand(1, channels, 6, 8)  # the rectifier behind the sum leaves it as it is
    mask = random_mask((1, 1, 6, 8), 0.5)
    with torch.no_grad():
        out, dense = residual(x, mask), residual(x)
    dropped = ~mask.expand_as(x)
    assert torch.equal(out[dropped], x[dropped])
    assert not torch.equal(out[~dropped], x[~dropped])
    assert not torch.allclose(out[~dropped], dense[~dropped]), "inside, dropped neighbours are zero"
    with torch.no_grad():
        assert torch.allclose(residual(x, torch.ones_like(mask)), dense)


def test_a_masked_sequence_equals_compact_region_convolutions() -> None:
    torch.manual_seed(3)
    layers = nn.Sequential(ConvBnRelu(4, 6, (1, 7)), ConvBnRelu(6, 5, (7, 1))).eval()
    x, mask = torch.randn(2, 4, 10, 9), random_mask((2, 1, 10, 9), 0.3)
    with torch.no_grad():
        compact = x
        for conv, norm, relu in layers:
            compact = relu(norm(region_conv(compact, conv, mask))) * mask
        assert torch.allclose(masked_sequence(layers, x, mask), compact, atol=1e-5)
