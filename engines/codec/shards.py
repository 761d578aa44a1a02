"""Read packed shards into memory and draw batches of moving crops from them; offline.

Needs numpy and cv2 alone. Frames are converted once, on loading, to limited-range planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.codec.colour import planes_from_bgr

U8 = NDArray[np.uint8]
Batch = tuple[NDArray[np.generic], ...]
"""Planes y, u, v (T, B, 1, h, w) of T frames of B crops, and what a training makes of them."""

GROUP_WEIGHT = (0.48, 0.12, 0.05, 0.0, 0.08, 0.08, 0.12, 0.07)
"""How often each of pack.GROUPS is drawn; fight is noisy and small, road is held back."""
PROCEDURAL = 0.15
"""Share of clips made by moving one still, for motions larger than the data has."""
AT_REST = 0.25
"""Share of those that do not move at all: nothing new must cost nothing."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Consecutive frames as planes, each (T, H, W)."""

    group: int
    y: U8
    u: U8
    v: U8


def load_clips(folder: Path, prefix: str) -> list[Clip]:
    """Decode every clip of the shards `prefix`-*.npz."""
    files = sorted(folder.glob(f"{prefix}-*.npz"))
    if not files:
        raise SystemExit(f"{folder}: no {prefix}-*.npz; make them with engines.codec.pack")
    return [clip for file in files for clip in _clips_of(file)]


def _clips_of(file: Path) -> list[Clip]:
    with np.load(file, allow_pickle=False) as shard:
        jpeg, end, clip_of, group = (shard[k] for k in ("jpeg", "end", "clip", "group"))
    start = np.concatenate(([0], end[:-1]))
    clips = []
    for number in range(len(group)):
        planes = [
            planes_from_bgr(np.asarray(cv2.imdecode(jpeg[start[i] : end[i]], 1), np.uint8))
            for i in np.flatnonzero(clip_of == number)
        ]
        y, u, v = (np.stack(plane) for plane in zip(*planes, strict=True))
        clips.append(Clip(int(group[number]), y, u, v))
    return clips


class Sampler:
    """Draws batches of crops; each call of `batch` with the same number draws the same one."""

    def __init__(self, clips: list[Clip], *, seed: int) -> None:
        self.clips = clips
        self.seed = seed
        weight = np.array([GROUP_WEIGHT[c.group] for c in clips])
        count = np.bincount([c.group for c in clips], [len(c.y) for c in clips])
        self.weight = weight * [len(c.y) / count[c.group] for c in clips]

    def batch(self, number: int, *, size: int, frames: int, crop: int) -> Batch:
        """Planes of `size` clips of `frames` frames of crop x crop pixels."""
        rng = np.random.default_rng((self.seed, number))
        fits = np.array([min(c.y.shape[1:]) >= crop for c in self.clips])
        long = fits & np.array([len(c.y) >= frames for c in self.clips])
        drawn = []
        for _ in range(size):
            moved = frames > 1 and rng.random() < PROCEDURAL
            weight = self.weight * (fits if moved else long)
            clip = self.clips[rng.choice(len(self.clips), p=weight / weight.sum())]
            drawn.append(
                _moving_still(clip, rng, frames, crop) if moved else _cut(clip, rng, frames, crop)
            )
        y, u, v = (np.stack(p, axis=1)[:, :, None] for p in zip(*drawn, strict=True))
        return y, u, v


def _cut(clip: Clip, rng: np.random.Generator, frames: int, crop: int) -> Batch:
    length, height, width = clip.y.shape
    t = int(rng.integers(length - frames + 1))
    top = int(rng.integers((height - crop) // 2 + 1))
    left = int(rng.integers((width - crop) // 2 + 1))
    half = crop // 2
    y = clip.y[t : t + frames, 2 * top : 2 * top + crop, 2 * left : 2 * left + crop]
    u = clip.u[t : t + frames, top : top + half, left : left + half]
    v = clip.v[t : t + frames, top : top + half, left : left + half]
    flips = tuple(slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(3))
    return y[flips], u[flips], v[flips]


def _moving_still(clip: Clip, rng: np.random.Generator, frames: int, crop: int) -> Batch:
    t = int(rng.integers(len(clip.y)))
    height, width = clip.y.shape[1:]
    centre = np.array([width, height]) * rng.uniform(0.35, 0.65, 2)
    moves = rng.random() >= AT_REST
    speed = moves * rng.normal(0, 3, 2)
    turn, zoom = moves * rng.normal(0, 0.006), moves * rng.normal(0, 0.004)
    y, u, v = [], [], []
    for step in range(frames):
        angle, scale = turn * step, float(np.exp(zoom * step))
        rotation = scale * np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        origin = centre + speed * step
        y.append(_warp(clip.y[t], rotation, origin, crop))
        u.append(_warp(clip.u[t], rotation, origin / 2, crop // 2))
        v.append(_warp(clip.v[t], rotation, origin / 2, crop // 2))
    return np.stack(y), np.stack(u), np.stack(v)


def _warp(plane: U8, rotation: NDArray[np.float64], origin: NDArray[np.float64], size: int) -> U8:
    # pixel centres are at half positions, so that luma and chroma move together
    middle = np.full(2, size / 2 - 0.5)
    shift = origin - 0.5 - rotation @ middle
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    matrix = np.hstack((rotation, shift[:, None]))
    moved = cv2.warpAffine(
        plane, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(moved, np.uint8)
