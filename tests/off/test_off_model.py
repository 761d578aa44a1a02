"""The network against the published one, and its two forms against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engines.off.config import Config
from engines.off.model import OffNet, OffUnit, SpatialGradient
from engines.off.weights import load_net, save_net

PUBLISHED_UNITS = [256, 320, 576, 576, 576, 608, 608, 1024, 1024]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def planes(*shape: int) -> Tensor:
    return torch.randint(16, 236, shape, generator=torch.Generator().manual_seed(1)).float()


def tiny(**changes: object) -> Config:
    config = Config.small(2, width=64, height=64)
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("gradient", "spatial_in"), [("released", 32), ("sobel", 16)])
def test_the_published_sub_network_has_as_many_parameters(gradient: str, spatial_in: int) -> None:
    config = replace(Config.published(), gradient=gradient)  # type: ignore[arg-type]
    net = OffNet(config)
    assert net.subnetwork_parameters() == pytest.approx(9.87e6, rel=0.01)
    assert [unit.reduce.in_channels for unit in net.units] == PUBLISHED_UNITS
    assert all(unit.reduce.out_channels == 128 + spatial_in for unit in net.units)
    assert [level.entry[0].in_channels for level in net.levels] == [320, 1056, 832]


def test_differences_have_no_spatial_branch() -> None:
    net = OffNet(Config.published(modality="diff"))
    assert net.subnetwork_parameters() == pytest.approx(8.83e6, rel=0.01)
    assert net.backbone.stages[0][0][0][0].in_channels == 15
    assert [level.entry[0].in_channels for level in net.levels] == [256, 896, 768]


def test_the_published_maps_have_their_sizes_and_costs() -> None:
    net = OffNet(Config.published()).eval()
    backbone, off = net.macs()
    assert off == pytest.approx(0.79e9, rel=0.02)
    assert backbone == pytest.approx(2e9, rel=0.05)
    sides = [x.shape[-1] for x in net.first_state(1).maps]
    assert sides == [28, 28, 14, 14, 14, 14, 14, 7, 7]


def test_off_is_orthogonal_to_the_motion() -> None:
    """Fx vx + Fy vy + Ft = 0 where a smooth map is shifted by (vx, vy)."""
    vx, vy = 0.4, -0.3
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")

    def scene(shift_x: float, shift_y: float) -> Tensor:
        return (torch.sin(0.2 * (x - shift_x)) + torch.cos(0.15 * (y - shift_y)))[None, None]

    gradient = SpatialGradient(1, "sobel")
    # centred in time, as the gradient is in space
    fx, fy = gradient(scene(0, 0))[0]
    change = (scene(vx / 2, vy / 2) - scene(-vx / 2, -vy / 2))[0, 0]
    rest = (fx * vx + fy * vy + change)[2:-2, 2:-2]
    assert change.abs().max() > 0.05
    assert rest.abs().max() < 0.02 * change.abs().max()


def test_the_released_kernel_adds_both_derivatives_with_y_negated() -> None:
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    ramp = (3 * x + 5 * y)[None, None]
    out = SpatialGradient(1, "released")(ramp)
    assert out.shape == (1, 1, 8, 8)
    assert torch.allclose(out[0, 0, 1:-1, 1:-1], torch.tensor(2 * 3.0 - 2 * 5.0))


def test_the_spatial_branch_is_of_the_earlier_picture() -> None:
    unit = OffUnit(8, 6, tiny(spatial=4))
    this, following = unit.prepare(torch.rand(1, 8, 8, 8)), unit.prepare(torch.rand(1, 8, 8, 8))
    out = unit(this, following)
    assert torch.equal(out[:, :4], unit.gradient(this[:, 6:]))
    assert torch.equal(out[:, 4:], following[:, :6] - this[:, :6])


def test_a_clip_is_never_compared_with_its_neighbour_in_the_batch() -> None:
    net = OffNet(tiny()).eval()
    clips = planes(3, 4, 3, 64, 64)
    with torch.no_grad():
        together = net(clips)
        alone = [net(clip[None]) for clip in clips]
    assert torch.allclose(together.fused, torch.cat([s.fused for s in alone]), atol=1e-5)
    for number in range(3):
        level = torch.cat([scores.levels[number] for scores in alone])
        assert torch.allclose(together.levels[number], level, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        tiny(),
        tiny(order=1, gradient="released"),
        tiny(modality="diff", stack=2, spatial=0),
        tiny(backbone="street", backbone_width=1.0),
    ],
    ids=["sobel", "released", "differences", "street"],
)
def test_steps_over_a_stream_give_what_the_clip_gives(config: Config) -> None:
    net = OffNet(config).eval()
    clips = planes(2, 7, 3, 64, 64)
    state, steps = net.first_state(2), []
    with torch.no_grad():
        scores = net(clips)
        for t in range(7):
            logits, state = net.step(clips[:, t], state)
            steps.append(logits)
    logits = torch.stack(steps, 1)  # (B, T, 1 + levels, classes)
    assert torch.allclose(logits[:, config.lag :, 0].mean(1), scores.rgb, atol=1e-5)
    for number, level in enumerate(scores.levels, 1):
        assert torch.allclose(logits[:, config.least - 1 :, number].mean(1), level, atol=1e-5)


@pytest.mark.parametrize("modality", ["rgb", "diff"])
def test_gradients_reach_every_parameter(modality: str) -> None:
    net = OffNet(tiny(modality=modality, dropout=0.0)).train()
    scores = net(planes(3, 4, 3, 64, 64))
    sum(x.square().sum() for x in (scores.rgb, *scores.levels)).backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


@pytest.mark.parametrize("size", [(97, 61), (70, 130)])
@pytest.mark.parametrize("name", ["small", "published"])
def test_odd_sizes_pass(name: str, size: tuple[int, int]) -> None:
    config = tiny() if name == "small" else Config.published(3)
    net = OffNet(replace(config, width=size[0], height=size[1])).eval()
    with torch.no_grad():
        scores = net(planes(1, 3, 3, size[1], size[0]))
        logits, _ = net.step(planes(1, 3, size[1], size[0]), net.first_state(1))
    assert scores.fused.isfinite().all()
    assert logits.shape == (1, 4, config.classes)


def test_one_picture_has_no_motion() -> None:
    with pytest.raises(ValueError, match="at least 2 pictures a clip, got 1"):
        OffNet(tiny(order=1))(planes(1, 1, 3, 64, 64))
    with pytest.raises(ValueError, match="at least 5 pictures a clip, got 4"):
        OffNet(tiny(modality="diff", stack=2))(planes(1, 4, 3, 64, 64))


def test_ftt_is_the_change_of_ft() -> None:
    """A map that changes by equal steps has none; where a step is larger, the head sees by what."""
    net = OffNet(tiny(dropout=0.0)).eval()
    seen = []
    net.levels[0].head.register_forward_hook(lambda _head, inputs, _out: seen.append(inputs[1]))
    first = torch.rand(1, 1, 24, 8, 8)
    deeper = zip(net.backbone.taps[1:], (4, 2), strict=True)
    others = [torch.zeros(1, 3, tap.channels, size, size) for tap, size in deeper]
    for last in (2.0, 2.5):
        ramp = torch.cat([first, first + 1, first + last], dim=1)
        with torch.no_grad():
            net.units[0].reduce.weight.abs_()  # so that the ReLU cuts nothing
            net.pair_logits([ramp, *others])
    (ft, still), (_, jerk) = (x.chunk(2, dim=1) for x in seen)  # [Ft | Ftt]
    assert ft.abs().min() > 0.1
    assert still.abs().max() < 1e-4
    assert torch.allclose(jerk, ft / 2, rtol=0.01)


def test_a_unit_needs_a_tap_that_is_there() -> None:
    with pytest.raises(ValueError, match="taps of 8, 16, 32, got 3a, 3b"):
        OffNet(replace(Config.published(2), backbone="mobilenet_v3_small"))
    with pytest.raises(ValueError, match=r"order must be 1 .*, got 3"):
        tiny(order=3)
    with pytest.raises(ValueError, match="spatial must be even"):
        tiny(spatial=5)


def test_levels_can_be_taken_alone() -> None:
    config = tiny().with_levels(("16",))
    net = OffNet(config).eval()
    with torch.no_grad():
        scores = net(planes(1, 3, 3, 64, 64))
    assert len(scores.levels) == 1
    assert len(net.units) == 1


def test_a_network_survives_its_file(tmp_path) -> None:
    net = OffNet(tiny(dropout=0.25)).eval()
    save_net(net, tmp_path / "net.pt")
    again = load_net(tmp_path / "net.pt")
    clip = planes(1, 3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(clip).fused, again(clip).fused)
    assert again.config == net.config


def test_the_published_network_learns_which_way_things_move() -> None:
    """A few dozen steps as in its second stage: backbone frozen, OFF and heads trained."""
    config = replace(Config.published(2), width=64, height=64, dropout=0.0)
    net = OffNet(config)
    right = torch.arange(8) % 2
    texture = torch.nn.functional.avg_pool2d(torch.rand(8, 1, 72, 72), 5, 1) * 400
    clips = torch.full((8, 2, 3, 64, 64), 128.0)
    for clip in range(8):
        for t in range(2):
            x = 2 + (2 if right[clip] else -2) * t
            clips[clip, t, 0] = texture[clip, 0, 2:66, x : x + 64].clamp(16, 235)
    norms = [m for m in net.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # take the statistics of one batch as they are
    with torch.no_grad():
        net.train().backbone(net.colour(clips.flatten(0, 1)))
        maps = net.eval().maps_of(clips)
    optimizer = torch.optim.Adam([*net.units.parameters(), *net.levels.parameters()], lr=3e-4)
    losses = []
    for _ in range(24):
        levels = net.pair_logits(maps)
        loss = sum(torch.nn.functional.cross_entropy(x.mean(1), right) for x in levels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 40.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.9  # three levels that know nothing: 3 ln 2
    assert min(losses[-3:]) < 0.5
    assert (net.classify(maps).levels[2].argmax(1) == right).all()
