"""Both variants: sizes, gradients, the rule, and that they learn."""

from __future__ import annotations

import cascade_tiny
import pytest
import torch
from torch.nn import functional

from engines.cascade.model import Cascade, Config, union
from engines.cascade.rule import Rule, spread
from engines.cascade.small import load_trunk


@pytest.mark.parametrize("size", [(96, 64), (112, 80)])
@pytest.mark.parametrize("variant", ["small", "published"])
def test_shapes_and_gradients(variant: str, size: tuple[int, int]) -> None:
    net = cascade_tiny.random_net(variant=variant).train()
    width, height = size
    if variant == "published":
        width, height = width // 2, height // 2
    outputs = net(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8))
    for logits, stride in zip(outputs.logits, net.config.strides, strict=True):
        assert logits.shape == (2, 11, height // stride, width // stride)
    sum(logits.square().mean() for logits in outputs.logits).backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_the_published_network_is_as_large_as_published() -> None:
    net = Cascade(Config(variant="published", classes=21))
    assert net.parameters_count() == pytest.approx(35.5e6, rel=0.05)


def test_the_small_network_keeps_most_of_its_work_for_what_is_hard() -> None:
    net = Cascade()
    first, second, third = net.macs(480, 368)
    assert net.parameters_count() < 1_000_000
    assert second + third > 2 * first


@pytest.mark.parametrize("variant", ["small", "published"])
def test_rho_of_one_is_the_plain_network(variant: str) -> None:
    net = cascade_tiny.random_net(variant=variant)
    planes = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        plain, ruled = net(planes), net(planes, Rule(1.0, 0.5))
    for ours, theirs in zip(ruled.logits, plain.logits, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(union(ruled), plain.logits[2])


def test_blocks_that_left_keep_the_labels_of_their_stage() -> None:
    net = cascade_tiny.random_net()
    planes = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        plain = net(planes)
        rho = float(plain.logits[0].softmax(1).amax(1).median())
        outputs = net(planes, Rule(rho, 0.25))
    ran2, ran3 = outputs.ran
    assert 0 < ran3.sum() <= ran2.sum() < ran2.numel()
    assert not (ran3 & ~ran2).any(), "what has left stays away"
    merged = union(outputs)
    away = ~spread(ran2, 4).expand_as(merged)
    first = functional.interpolate(outputs.logits[0], scale_factor=2.0, mode="bilinear")
    assert torch.equal(merged[away], first[away])
    last = spread(ran3, 4).expand_as(merged)
    assert torch.equal(merged[last], outputs.logits[2][last])


def test_nothing_is_left_for_a_low_rho() -> None:
    net = cascade_tiny.random_net()
    with torch.no_grad():
        outputs = net(torch.zeros(1, 3, 32, 32), Rule(1e-6))
    assert not outputs.ran[0].any()
    known = functional.interpolate(outputs.logits[0], scale_factor=2.0)
    assert torch.equal(outputs.logits[2], known), "masked everywhere"


@pytest.mark.parametrize("rho", [0.0, -1.0, 1.01, float("nan")])
def test_rho_outside_its_range_is_refused(rho: float) -> None:
    with pytest.raises(ValueError, match=r"rho must be in \(0, 1\], got"):
        Rule(rho)


def test_share_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\), got 1"):
        Rule(0.9, 1.0)


def test_sizes_that_do_not_divide_are_refused_and_the_remedy_works() -> None:
    net = cascade_tiny.random_net()
    planes = torch.zeros(1, 3, 40, 33)
    with pytest.raises(ValueError, match=r"multiples of 16, got \(1, 3, 40, 33\)"):
        net(planes)
    net(functional.pad(planes, (0, 15, 0, 8), mode="replicate"))


@pytest.mark.parametrize("config", [{"variant": "huge"}, {"classes": 1}, {"classes": 256}])
def test_configurations_that_make_no_sense_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        Config(**config)  # type: ignore[arg-type]


def test_a_trunk_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="weights must be of a network with"):
        load_trunk(Cascade().stage1, {"stem.0.0.weight": torch.zeros(1)})


@pytest.mark.slow
def test_the_published_network_learns() -> None:
    torch.manual_seed(0)
    net = Cascade(Config(variant="published", classes=2)).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    planes = torch.full((2, 3, 24, 24), 60.0)
    truth = torch.zeros(2, 3, 3, dtype=torch.long)
    for index in range(2):
        planes[index, :, :, 8 * index + 8 :] = 200
        truth[index, :, index + 1 :] = 1
    losses = []
    for _ in range(15):
        loss = sum(functional.cross_entropy(logits, truth) for logits in net(planes).logits)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    assert all((logits.argmax(1) == truth).float().mean() > 0.9 for logits in net(planes).logits)
