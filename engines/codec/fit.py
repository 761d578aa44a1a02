"""Fit the integers of a trained `rt` codec to the symbols that it really codes; offline.

Training sees uniform noise in place of rounding. What an exported model holds beside its networks,
tables and integer scales, is made for the rounded symbols of clips of the training set instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.codec.layers import laplace_bits
from engines.codec.rt import INTER, INTRA, KINDS, Z_LIMIT, RtCodec, scale_of
from engines.codec.scales import SCALE_LEVELS, Z_CONTEXTS
from engines.codec.shards import Sampler, load_clips
from engines.codec.train import CodedFrame, Coder, with_vectors

Counts = NDArray[np.int64]

CLIPS = 120
CROP = 192
LENGTHS = (6, 10, 16)
BEST_QUALITY = 60
KEPT = 0.4
"""Of the frames between intra frames; the others are much alike."""
STEPS = 1000
FRAMES_AT_ONCE = 4
INTRA_EACH = 5
"""Steps; the others are on frames between intra frames."""
RATE = 2e-3
BIAS_RATE = 0.05
SMALL_BITS = 500.0
"""Frames of far more bits count alike in the fit, by the share of bits that they save."""
VALUE_REACH = 1024
"""Larger symbols are not counted one by one."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The symbols of one frame, as CodedFrame has them."""

    quality: Tensor
    q: Tensor
    z: Tensor
    magnitudes: Tensor | None
    z_before: Tensor
    """Zeros after and in an intra frame."""

    @property
    def kind(self) -> int:
        """INTRA or INTER."""
        return INTRA if self.magnitudes is None else INTER


@dataclass(frozen=True, slots=True)
class Statistics:
    """How often each symbol was coded."""

    q: Counts
    """(levels, 2 * VALUE_REACH + 1) by scale index."""
    z: tuple[Counts, Counts]
    """(hyper, 2 * Z_LIMIT + 1) of intra frames; (hyper, Z_CONTEXTS, 2 * Z_LIMIT + 1) of others."""


def fit(codec: RtCodec, data: Path, *, clips: int = CLIPS, steps: int = STEPS) -> Statistics:
    """Train the integer scales of a codec on what it codes, and count symbols with them.

    Args:
        codec: trained; its integer scales change.
        data: folder of shards.
        clips: that are coded.
        steps: of the optimiser.
    """
    codec.eval()
    frames = list(observe(codec, data, clips))
    fit_scales(codec, frames, steps)
    return count(codec, frames)


def observe(codec: RtCodec, data: Path, clips: int) -> Iterator[Observed]:
    """Code clips of the training set at qualities drawn by chance."""
    sampler = Sampler(load_clips(data, "train"), seed=clips)
    coder = Coder(codec, torch.device("cpu"), compiled=False)
    rng = np.random.default_rng(clips)
    side = CROP // 16
    for number in range(clips):
        frames = int(rng.choice(LENGTHS))
        batch = with_vectors(sampler.batch(number, size=1, frames=frames, crop=CROP))
        base = torch.full((1, side, side), int(rng.integers(0, BEST_QUALITY)))
        with torch.no_grad():
            for seen in _with_z_before(coder.frames(batch, base)):
                if seen.kind == INTRA or rng.random() < KEPT:
                    yield seen


def _with_z_before(frames: Iterator[CodedFrame]) -> Iterator[Observed]:
    before = None
    for coded in frames:
        last = torch.zeros_like(coded.z) if before is None else before
        yield Observed(coded.quality, coded.q, coded.z, coded.magnitudes, last)
        before = None if coded.magnitudes is None else coded.z


def fit_scales(codec: RtCodec, frames: list[Observed], steps: int) -> None:
    """Train the integer scales alone, each step on frames of one kind."""
    scales = codec.frame.h_s_scales
    biases = [p for name, p in scales.named_parameters() if "index_bias" in name or "odd" in name]
    weights = [p for p in scales.parameters() if all(p is not b for b in biases)]
    groups = [{"params": weights, "lr": RATE}, {"params": biases, "lr": BIAS_RATE}]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    by_kind = [[f for f in frames if f.kind == kind] for kind in KINDS]
    rng = np.random.default_rng(0)
    for step in range(steps):
        seen = by_kind[INTRA if step % INTRA_EACH == 0 else INTER]
        drawn = [seen[i] for i in rng.integers(len(seen), size=FRAMES_AT_ONCE)]
        bits = _bits(codec, _together(drawn))
        loss = (bits / (bits.detach() + SMALL_BITS)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _together(frames: list[Observed]) -> Observed:
    """Frames of one kind as a batch."""
    parts = ([getattr(f, field.name) for f in frames] for field in fields(Observed))
    return Observed(*(None if part[0] is None else torch.cat(part) for part in parts))


def _bits(codec: RtCodec, seen: Observed) -> Tensor:
    """(B,) of q."""
    return laplace_bits(seen.q, scale_of(_index(codec, seen))).sum((1, 2, 3))


def _index(codec: RtCodec, seen: Observed) -> Tensor:
    index: Tensor = codec.frame.h_s_scales(seen.z, seen.magnitudes, seen.quality, seen.q)
    return index


def count(codec: RtCodec, frames: list[Observed]) -> Statistics:
    """Count symbols by what chooses their table."""
    hyper = codec.config.hyper
    q = np.zeros((SCALE_LEVELS, 2 * VALUE_REACH + 1), np.int64)
    z = np.zeros((hyper, 2 * Z_LIMIT + 1), np.int64)
    z_inter = np.zeros((hyper, Z_CONTEXTS, 2 * Z_LIMIT + 1), np.int64)
    channel = np.arange(hyper)[:, None, None]
    reach = Z_CONTEXTS // 2
    for seen in frames:
        with torch.no_grad():
            index = _whole(_index(codec, seen))
        symbols = _whole(seen.q)
        known = np.abs(symbols) <= VALUE_REACH
        np.add.at(q, (index[known], symbols[known] + VALUE_REACH), 1)
        values = _whole(seen.z)[0] + Z_LIMIT
        if seen.kind == INTRA:
            np.add.at(z, (channel, values), 1)
        else:
            before = _whole(seen.z_before)[0].clip(-reach, reach) + reach
            np.add.at(z_inter, (channel, before, values), 1)
    return Statistics(q, (z, z_inter))


def _whole(tensor: Tensor) -> Counts:
    return np.asarray(tensor.numpy(), np.int64)
