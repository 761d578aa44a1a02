"""Start OFF from what a linear classifier can say, so that few clips go far; offline.

Units first pass the backbone's channels on, standardised; then the strength of Ft at each level is
weighed by logistic regression over whole clips. Step "off" of train goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.off.model import OffNet, OffUnit, strengths_of
from engines.off.variants import Variant

DECAY = 0.05
"""Of the regression's weights on standardised strengths."""

_SHIFT = 2.0
"""Deviations that a standardised channel is lifted by, so that the ReLU of its unit cuts little."""
_ROUNDS = 80
_SOME = 256
_OWN_SHARE = 0.3
"""Weight of each level's own loss beside that of their sum."""


def standardise_units(net: OffNet, variant: Variant, seed: int) -> None:
    """Let each unit pass on a choice of its tap's channels, all of about the same size."""
    rng = np.random.default_rng(seed)
    frames = np.sort(rng.choice(len(variant.label), min(_SOME, len(variant.label)), replace=False))
    for unit, index in zip(net.units, net.used, strict=True):
        some = torch.from_numpy(variant.maps[index][frames].astype(np.float32))
        deviation, mean = torch.std_mean(some, dim=(0, 2, 3))
        _pass_on(unit, mean, deviation + 1e-3, rng)


def _pass_on(unit: OffUnit, mean: Tensor, deviation: Tensor, rng: np.random.Generator) -> None:
    channels = len(mean)
    with torch.no_grad():
        begin = 0
        for count, shift in ((unit.temporal, _SHIFT), (unit.reduced, 0.0)):
            weight = torch.zeros(count, channels)
            chosen = rng.permutation(channels)[:count]
            weight[torch.arange(len(chosen)), torch.from_numpy(chosen)] = 1.0
            mixed = torch.from_numpy(rng.normal(size=(count - len(chosen), channels))).float()
            weight[len(chosen) :] = mixed / channels**0.5
            rows = slice(begin, begin + count)
            unit.reduce.weight[rows] = (weight / deviation)[:, :, None, None]
            unit.reduce.bias[rows] = shift - weight @ (mean / deviation)
            begin += count


def clip_strengths(net: OffNet, variant: Variant, span: int | None = None) -> list[list[Tensor]]:
    """Mean strengths of each unit's Ft, and Ftt, over each clip, or each run of `span` pairs.

    Returns:
        For each clip the tensors (runs, 2 temporal order) of all units.
    """
    clips = []
    for begin, end in zip(variant.start[:-1], variant.start[1:], strict=True):
        maps = variant.gathered(np.arange(begin, end))
        rows = []
        with torch.no_grad():
            for unit, index in zip(net.units, net.used, strict=True):
                prepared = unit.prepare(maps[index])[:, : unit.temporal]
                change = prepared[1:] - prepared[:-1]
                if net.config.order == 2:
                    change = torch.cat([change[1:], change[1:] - change[:-1]], dim=1)
                rows.append(_means(strengths_of(change), span))
        clips.append(rows)
    return clips


def _means(x: Tensor, span: int | None) -> Tensor:
    if span is None or len(x) <= span:
        return x.mean(0, keepdim=True)
    return x.unfold(0, span, max(span // 2, 1)).mean(-1)


def weigh_strengths(
    net: OffNet, strengths: Sequence[Tensor], labels: Tensor, balance: Tensor | None = None
) -> None:
    """Fit the strength's part of all heads by regression.

    Args:
        net: whose units gave the strengths.
        strengths: of each unit, (rows, 2 temporal order).
        labels: (rows,).
        balance: weight of each class in the loss.
    """
    scales = [torch.std_mean(x, dim=0) for x in strengths]
    inputs = [(x - mean) / (std + 1e-2) for x, (std, mean) in zip(strengths, scales, strict=True)]
    classes = net.config.classes
    weights = [torch.zeros(classes, x.shape[1], requires_grad=True) for x in inputs]
    biases = [torch.zeros(classes, requires_grad=True) for _ in inputs]
    optimizer = torch.optim.LBFGS(
        [*weights, *biases], max_iter=_ROUNDS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = [x @ w.T + b for x, w, b in zip(inputs, weights, biases, strict=True)]
        total = F.cross_entropy(torch.stack(logits).sum(0), labels, weight=balance)
        for own in logits:
            total = total + _OWN_SHARE * F.cross_entropy(own, labels, weight=balance)
        total = total + DECAY * torch.stack([w.square().sum() for w in weights]).sum()
        total.backward()
        return total

    optimizer.step(loss)
    used = 0
    with torch.no_grad():
        for level, layer in zip(net.config.levels, net.levels, strict=True):
            assert len(level.taps) == 1, "one unit a level"
            std, mean = scales[used]
            scaled = weights[used] / (std + 1e-2)
            layer.head.strength.weight.copy_(scaled)
            layer.head.strength.bias.copy_(biases[used] - scaled @ mean)
            used += 1


def warm_start(
    net: OffNet,
    strengths: Sequence[list[list[Tensor]]],
    labels: Tensor,
    clips: np.ndarray,
    balance: Tensor | None = None,
) -> None:
    """Weigh the strengths of some clips; `strengths` has one list a variant, by clip_strengths."""
    units = range(len(net.units))
    rows = [
        torch.cat([variant[clip][unit] for variant in strengths for clip in clips])
        for unit in units
    ]
    weigh_strengths(net, rows, labels[torch.from_numpy(clips)].repeat(len(strengths)), balance)
