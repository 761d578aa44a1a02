"""The OFF network in torch: pictures in, scores of actions out; one code for clips and streams.

Optical Flow guided Features: brightness constancy holds for feature maps too, so the spatial
gradient (Fx, Fy) and the temporal difference Ft of reduced maps say what moved, and no flow is
computed. For training, export and as the reference; the runtime never imports this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.off.backbones import make_backbone
from engines.off.colour import Rgb
from engines.off.config import Block, Config, Gradient, Level

_DIFFERENCE_GAIN = 3.0
"""Differences of pictures are about so much smaller than pictures."""
_SILENCE = 1e-2
"""Strength of OFF maps below which all is still."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Consensus over a batch of clips, logits (B, classes) each."""

    rgb: Tensor
    levels: tuple[Tensor, ...]
    fused: Tensor


@dataclass(frozen=True, slots=True)
class State:
    """What one sample leaves to the next of its stream; all (N, ...)."""

    maps: tuple[Tensor, ...]
    """Reduced maps of each unit, temporal channels first, then spatial ones; for Ftt also Ft."""
    pictures: Tensor | None = field(default=None)
    """The last `stack` pictures, for differences alone."""


class SpatialGradient(nn.Module):  # type: ignore[misc]
    """Fixed 3x3 derivative of each channel: (N, s, h, w) -> (N, 2s, h, w), or (N, s, h, w).

    "sobel" gives Fx and Fy of each channel in turn, in units of the map a pixel. "released" is the
    one kernel of the published code, which adds both derivatives in one map, y negated.
    """

    def __init__(self, channels: int, kind: Gradient) -> None:
        super().__init__()
        if kind == "sobel":
            across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
            kernels = torch.stack([across, across.T])
        else:
            kernels = torch.tensor([[[0.0, 1, 0], [-1, 0, 1], [0, -1, 0]]])
        self.channels = channels
        weight = kernels[:, None].repeat(channels, 1, 1, 1)  # (k * channels, 1, 3, 3)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=1, groups=self.channels)


class OffUnit(nn.Module):  # type: ignore[misc]
    """One OFF: a map of one picture and of the next -> [Fx, Fy | Ft].

    map -> 1x1 -+- temporal, ReLU --- (next - this) --+
                +- spatial ---------- gradient(this) -+-> (N, spatial + temporal, h, w)
    """

    def __init__(self, fan_in: int, temporal: int, config: Config) -> None:
        super().__init__()
        self.temporal = min(temporal, fan_in)
        reduced = config.spatial // 2 if config.gradient == "sobel" else config.spatial
        self.reduced = reduced
        self.reduce = nn.Conv2d(fan_in, self.temporal + reduced, 1)
        nn.init.kaiming_normal_(self.reduce.weight, nonlinearity="relu")
        with torch.no_grad():
            self.reduce.bias.fill_(0.0)
            self.reduce.bias[: self.temporal] = 0.2
        self.gradient = SpatialGradient(reduced, config.gradient) if reduced else None

    def prepare(self, x: Tensor) -> Tensor:
        """Reduce the map of one picture; this is what a stream remembers."""
        x = self.reduce(x)
        return torch.cat([x[:, : self.temporal].relu(), x[:, self.temporal :]], dim=1)

    def forward(self, this: Tensor, following: Tensor) -> Tensor:
        """Compare two prepared maps; the spatial branch belongs to the earlier one."""
        change = following[:, : self.temporal] - this[:, : self.temporal]
        if self.gradient is None:
            return change
        return torch.cat([self.gradient(this[:, self.temporal :]), change], dim=1)


class Residual(nn.Module):  # type: ignore[misc]
    """x + bottleneck(x), with a projection where the channels differ."""

    def __init__(self, fan_in: int, block: Block, *, batch_norm: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(fan_in, block.middle, 1, batch_norm=batch_norm),
            nn.ReLU(inplace=True),
            conv(block.middle, block.middle, 3, batch_norm=batch_norm),
            nn.ReLU(inplace=True),
            conv(block.middle, block.out, block.last, batch_norm=batch_norm),
        )
        same = fan_in == block.out
        self.shortcut = None if same else conv(fan_in, block.out, 1, batch_norm=batch_norm)
        self.relu = block.relu

    def forward(self, x: Tensor) -> Tensor:
        total = self.body(x) + (x if self.shortcut is None else self.shortcut(x))
        return total.relu() if self.relu else total


class Head(nn.Module):  # type: ignore[misc]
    """Map -> one logit for each class; how strong Ft is speaks on its own where it is asked for."""

    def __init__(
        self, channels: int, config: Config, *, pool_first: bool = False, strengths: int = 0
    ) -> None:
        super().__init__()
        self.pool_first, self.peak = pool_first, config.peak
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(channels * (2 if config.peak else 1), config.classes)
        self.strength = nn.Linear(2 * strengths, config.classes) if strengths else None
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        if self.strength is not None:
            nn.init.normal_(self.strength.weight, std=0.01)
            nn.init.zeros_(self.strength.bias)

    def forward(self, x: Tensor, change: Tensor | None = None) -> Tensor:
        if self.pool_first:
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        pooled = x.mean((2, 3))
        if self.peak:
            pooled = torch.cat([pooled, x.amax((2, 3))], dim=1)
        logits = _linear(self.linear, self.dropout(pooled))
        if self.strength is None:
            return logits
        assert change is not None
        return logits + _linear(self.strength, strengths_of(change))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer as a 1x1 convolution, which OpenVINO runs faster than a tiny matrix product."""
    return F.conv2d(x[:, :, None, None], layer.weight[:, :, None, None], layer.bias)[:, :, 0, 0]


def strengths_of(change: Tensor) -> Tensor:
    """Logarithms of the mean and of the largest |change| of channels: (N, C, h, w) -> (N, 2C)."""
    size = change.abs()
    both = torch.cat([size.mean((2, 3)), size.amax((2, 3))], dim=1)
    return (both + _SILENCE).log()


class SubLevel(nn.Module):  # type: ignore[misc]
    """One level of the sub-network: [units, level before] -> map, logits."""

    def __init__(self, units: Sequence[OffUnit], above: int, level: Level, config: Config) -> None:
        super().__init__()
        norm = config.batch_norm
        temporal = sum(unit.temporal for unit in units)
        off = temporal + len(units) * config.spatial
        self.entry = nn.Sequential(
            conv(off + above, level.channels, level.kernel, stride=level.stride, batch_norm=norm),
            nn.ReLU(inplace=True),
        )
        channels, blocks = level.channels, []
        for block in level.blocks:
            blocks.append(Residual(channels, block, batch_norm=norm))
            channels = block.out
        self.blocks = nn.Sequential(*blocks)
        strengths = temporal * config.order if config.energy else 0
        self.head = Head(channels, config, pool_first=level.pool_first, strengths=strengths)
        self.channels = channels

    def forward(
        self, units: Sequence[Tensor], changes: Sequence[Tensor], above: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        inputs = list(units) if above is None else [*units, above]
        x = self.blocks(self.entry(torch.cat(inputs, dim=1)))
        if self.head.strength is None:
            return x, self.head(x)
        return x, self.head(x, torch.cat(list(changes), dim=1))


class OffNet(nn.Module):  # type: ignore[misc]
    """Backbone, its own head, the OFF units, and the sub-network of three levels.

    picture t   -> backbone --+-- taps /8 -> units -> level /8 -> logits
    picture t+1 -> backbone --+-- taps /16 -> units --+> level /16 -> logits
                              +-- taps /32 -> units -----+> level /32 -> logits
                              +-- last tap -> head -> logits of the backbone alone
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.colour = Rgb()
        self.backbone_inputs = 3 * config.stack if config.modality == "diff" else 3
        self.backbone = make_backbone(
            config.backbone, inputs=self.backbone_inputs, width=config.backbone_width
        )
        taps = {tap.name: tap for tap in self.backbone.taps}
        used = [name for level in config.levels for name in level.taps]
        unknown = sorted(set(used) - taps.keys())
        if unknown:
            raise ValueError(
                f"levels must use taps of {', '.join(taps)}, got {', '.join(unknown)}; "
                f"{config.backbone} has no other"
            )
        self.used = tuple(list(taps).index(name) for name in used)
        """Index among the backbone's maps of each unit's map."""
        self.units = nn.ModuleList(
            OffUnit(taps[name].channels, level.temporal, config)
            for level in config.levels
            for name in level.taps
        )
        levels, channels, units = [], 0, iter(self.units)
        for level in config.levels:
            levels.append(SubLevel([next(units) for _ in level.taps], channels, level, config))
            channels = levels[-1].channels
        self.levels = nn.ModuleList(levels)
        self.rgb_head = Head(self.backbone.taps[-1].channels, config)
        weights = [config.rgb_weight, *(level.weight for level in config.levels)]
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def forward(self, planes: Tensor) -> Scores:
        """Score clips.

        Args:
            planes: (B, T, 3, H, W) Y, U, V of limited range, 0..255, uint8 or float; T at least
                `config.least`.
        """
        return self.classify(self.maps_of(planes))

    def maps_of(self, planes: Tensor) -> list[Tensor]:
        """Give the backbone's maps (B, T, C, h, w), all taps; T is shorter by `lag`."""
        inputs = self.inputs_of(planes)
        maps: list[Tensor] = self.backbone(inputs.flatten(0, 1))
        return [x.unflatten(0, inputs.shape[:2]) for x in maps]

    def inputs_of(self, planes: Tensor) -> Tensor:
        """Give what the backbone sees of clips: (B, T - lag, C, H, W) pictures or differences."""
        clips, time = planes.shape[:2]
        if time < self.config.least:
            raise ValueError(
                f"planes must hold at least {self.config.least} pictures a clip, got {time}; "
                "one picture has no motion"
            )
        rgb: Tensor = self.colour(planes.flatten(0, 1)).unflatten(0, (clips, time))
        if self.config.modality == "rgb":
            return rgb
        change = (rgb[:, 1:] - rgb[:, :-1]) * _DIFFERENCE_GAIN
        inputs = time - self.config.stack
        return torch.cat([change[:, k : k + inputs] for k in range(self.config.stack)], dim=2)

    def classify(self, maps: Sequence[Tensor]) -> Scores:
        """Score clips by all maps of the backbone, each (B, T, C, h, w)."""
        rgb = self.rgb_logits(maps).mean(1)
        levels = tuple(logits.mean(1) for logits in self.pair_logits(maps))
        fused = self.weights[0] * rgb
        for weight, logits in zip(self.weights[1:], levels, strict=True):
            fused = fused + weight * logits
        return Scores(rgb, levels, fused)

    def rgb_logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits of each picture by the backbone's own head: (B, T, classes)."""
        clips, time = maps[-1].shape[:2]
        logits: Tensor = self.rgb_head(maps[-1].flatten(0, 1))
        return logits.unflatten(0, (clips, time))

    def pair_logits(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits of each level for each pair of following pictures: (B, T - order, classes).

        The first pair is only there to be compared with where Ftt is looked at.
        """
        clips, time = maps[0].shape[:2]
        order = self.config.order
        units, changes = [], []
        for unit, index in zip(self.units, self.used, strict=True):
            x = unit.prepare(maps[index].flatten(0, 1)).unflatten(0, (clips, time))
            # each clip's own pictures: the last of one is never compared with the first of the next
            pairs = unit(x[:, :-1].flatten(0, 1), x[:, 1:].flatten(0, 1))
            pairs = pairs.unflatten(0, (clips, time - 1))
            ft = pairs[:, :, self.config.spatial :]
            units.append(pairs[:, order - 1 :].flatten(0, 1))
            if order == 2:
                ft = torch.cat([ft[:, 1:], ft[:, 1:] - ft[:, :-1]], dim=2)
            changes.append(ft.flatten(0, 1))
        return [x.unflatten(0, (clips, time - order)) for x in self._levels(units, changes)]

    def step(self, planes: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one sample of each of N streams, as it is exported.

        Args:
            planes: (N, 3, H, W).
            state: of the same streams, zeros at their begin; what the outputs say then is void:
                those of the backbone for `lag` samples, those of OFF for `order` more.

        Returns:
            Logits (N, 1 + levels, classes), the backbone's first, and the state for the next.
        """
        picture = self.colour(planes)
        pictures = None
        if self.config.modality == "diff":
            assert state.pictures is not None, "differences need the pictures before"
            pictures = torch.cat([state.pictures[:, 3:], picture], dim=1)
            picture = (pictures - state.pictures) * _DIFFERENCE_GAIN  # each less the one before
        maps = self.backbone(picture)
        units, changes, after = [], [], []
        for unit, index, before in zip(self.units, self.used, state.maps, strict=True):
            now = unit.prepare(maps[index])
            prepared = now.shape[1]
            units.append(unit(before[:, :prepared], now))
            ft = units[-1][:, self.config.spatial :]
            if self.config.order == 2:
                changes.append(torch.cat([ft, ft - before[:, prepared:]], dim=1))
                after.append(torch.cat([now, ft], dim=1))
            else:
                changes.append(ft)
                after.append(now)
        logits = torch.stack([self.rgb_head(maps[-1]), *self._levels(units, changes)], dim=1)
        return logits, State(tuple(after), pictures)

    def first_state(self, streams: int) -> State:
        """Zeros for the begin of some streams."""
        config = self.config
        zeros = torch.zeros(streams, 3, config.height, config.width)
        with torch.no_grad():
            training = self.training
            inputs = zeros.repeat(1, config.stack, 1, 1) if config.modality == "diff" else zeros
            maps = self.eval().backbone(inputs)
            self.train(training)
        shapes = [
            (streams, unit.temporal * config.order + unit.reduced, *maps[index].shape[2:])
            for unit, index in zip(self.units, self.used, strict=True)
        ]
        pictures = inputs if config.modality == "diff" else None
        return State(tuple(torch.zeros(shape) for shape in shapes), pictures)

    def subnetwork_parameters(self) -> int:
        """Count the trained numbers of units and sub-network."""
        modules = (self.units, self.levels)
        return sum(p.numel() for module in modules for p in module.parameters())

    def macs(self) -> tuple[int, int]:
        """Count multiplications a sample: of the backbone with its head, and of OFF."""
        state = self.first_state(1)
        parts = ([self.backbone, self.rgb_head], [self.units, self.levels])
        counts = [0, 0]

        def adder(part: int) -> Callable[[nn.Module, Sequence[Tensor], Tensor], None]:
            def add(layer: nn.Module, _inputs: Sequence[Tensor], output: Tensor) -> None:
                places = output[0].numel() if isinstance(layer, nn.Conv2d) else len(output[0])
                counts[part] += places * layer.weight[0].numel()

            return add

        hooks = [
            layer.register_forward_hook(adder(number))
            for number, modules in enumerate(parts)
            for module in modules
            for layer in module.modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        ]
        training = self.training
        with torch.no_grad():
            self.eval().step(torch.zeros(1, 3, self.config.height, self.config.width), state)
        self.train(training)
        for hook in hooks:
            hook.remove()
        return counts[0], counts[1]

    def _levels(self, units: Sequence[Tensor], changes: Sequence[Tensor]) -> list[Tensor]:
        """Run the sub-network over the units' outputs, each level on top of the one before.

        Args:
            units: outputs [Fx, Fy | Ft] of all units.
            changes: Ft of each, for the heads; behind it Ftt where that is looked at.
        """
        logits, used = [], 0
        above: Tensor | None = None
        for level, layer in zip(self.config.levels, self.levels, strict=True):
            own = slice(used, used + len(level.taps))
            used += len(level.taps)
            # the level above is of the same size, also an odd one: every stride rounds up
            above, out = layer(units[own], changes[own], above)
            logits.append(out)
        return logits


def conv(fan_in: int, fan_out: int, kernel: int, *, stride: int = 1, batch_norm: bool) -> nn.Module:
    """Convolution of the sub-network, with its norm where it has one."""
    layer = nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=not batch_norm)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if not batch_norm:
        nn.init.zeros_(layer.bias)
        return layer
    return nn.Sequential(layer, nn.BatchNorm2d(fan_out))
