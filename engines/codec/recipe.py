"""Say what trainings draw, weigh and schedule; offline. Knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEARNING_RATE_FLOOR = 0.02
WARM_UP_STEPS = 200
EMPHASIS_PROBABILITY = 0.5
MOST_EMPHASIS = 20


@dataclass(frozen=True, slots=True)
class Stage:
    """Clips of one part of the training."""

    until: float
    """Progress at which the next stage begins."""
    crop: int
    frames: int
    window: int
    """Frames between two steps of the optimiser; the memory goes on, its gradient does not."""
    batch: float
    """Relative number of clips."""


STAGES = (
    Stage(0.10, 128, 1, 1, 2.0),
    Stage(0.40, 128, 3, 3, 1.0),
    Stage(0.65, 192, 5, 5, 0.5),
    Stage(0.85, 192, 8, 4, 0.5),
    Stage(1.00, 192, 16, 4, 0.5),
)


def stage_at(progress: float, stages: Sequence[Stage]) -> Stage:
    """The stage of this progress, 0..1."""
    return next((s for s in stages if progress < s.until), stages[-1])


def learning_rate_at(progress: float, step: int, peak: float) -> float:
    """Cosine from the peak to the floor, after a short warm-up."""
    cosine = 0.5 * (1 + np.cos(np.pi * min(progress, 1.0)))
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return float(peak * warm * (LEARNING_RATE_FLOOR + (1 - LEARNING_RATE_FLOOR) * cosine))


def distortion(decoded: Tensor, blocks: Tensor) -> Tensor:
    """(6 mse_y + mse_u + mse_v) / 8 of each 8x8 block in squared 8-bit units: (B, H/8, W/8)."""
    square = (decoded.float() - blocks).square() * 128**2
    y, u, v = square[:, :64].mean(1), square[:, 64:80].mean(1), square[:, 80:].mean(1)
    return (6 * y + u + v) / 8


def draw_emphasis(rng: np.random.Generator, count: int, crop: int) -> Tensor:
    """(count, crop/16, crop/16) int64: zero but for one rectangle of each picture."""
    side = crop // 16
    emphasis = np.zeros((count, side, side), np.int64)
    for picture in emphasis:
        (top, bottom), (left, right) = (
            np.sort(rng.choice(side + 1, 2, replace=False)) for _ in range(2)
        )
        picture[top:bottom, left:right] = rng.integers(-MOST_EMPHASIS, MOST_EMPHASIS + 1)
    return torch.from_numpy(emphasis)
