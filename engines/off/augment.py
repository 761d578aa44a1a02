"""Draw clips from a pack for training, each changed as a whole, so that its motion stays true.

One clip gets one affine map, one exposure, one speed and one level of noise for all its pictures;
only the noise itself differs from picture to picture, as it does in a camera. Needs numpy and cv2.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

STEP = 2
"""Packed pictures from one sample to the next: packs have twice a recogniser's rate."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is done to every picture of one clip."""

    matrix: NDArray[np.float64]
    """(2, 3) from output pixels to those of the packed picture, for warpAffine."""
    gain: float
    offset: float
    gamma: float
    saturation: float
    noise: float
    blur: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, packed: tuple[int, int], size: tuple[int, int]) -> Look:
        """Choose a look; sizes are width and height of the packed picture and of the output."""
        scale = rng.uniform(0.72, 1.08)
        aspect = np.exp(rng.normal(0, 0.08))
        angle = np.deg2rad(rng.normal(0, 3.0))
        flip = -1.0 if rng.random() < 0.5 else 1.0
        across = packed[0] / size[0] * scale * aspect
        down = packed[1] / size[1] * scale / aspect
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[flip * cos * across, -sin * down], [flip * sin * across, cos * down]])
        room = np.maximum(1 - scale, 0.06) / 2
        middle = np.array(packed) * (0.5 + rng.uniform(-room, room, 2)) - 0.5
        shift = middle - rotation @ (np.array(size) / 2 - 0.5)
        return cls(
            np.column_stack([rotation, shift]),
            gain=float(np.exp(rng.normal(0, 0.22))),
            offset=float(rng.normal(0, 14)),
            gamma=float(np.exp(rng.normal(0, 0.18))),
            saturation=float(0.0 if rng.random() < 0.15 else rng.uniform(0.5, 1.3)),
            noise=float(rng.uniform(2, 7) if rng.random() < 0.3 else 0.0),
            blur=bool(rng.random() < 0.2),
        )

    def apply(self, picture: U8, size: tuple[int, int], rng: np.random.Generator) -> U8:
        """Change one picture (3, h, w) to the output's size."""
        planes = [
            cv2.warpAffine(
                plane,
                self.matrix,
                size,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            for plane in picture
        ]
        if self.blur:
            planes[0] = cv2.blur(planes[0], (3, 3))
        luma = np.clip((planes[0].astype(np.float32) - 16) / 219, 0, 1) ** self.gamma * 219
        luma = luma * self.gain + self.offset + 16
        if self.noise:
            luma = luma + rng.normal(0, self.noise, luma.shape)
        chroma = (np.stack(planes[1:]).astype(np.float32) - 128) * self.saturation + 128
        return np.concatenate([luma[None], chroma]).clip(16, 240).astype(np.uint8)


def plain_index(frames: int) -> NDArray[np.int64]:
    """Packed pictures of a clip at a recogniser's rate, from its first one on."""
    return np.arange(0, frames, STEP, dtype=np.int64)


def jittered_index(rng: np.random.Generator, frames: int) -> NDArray[np.int64]:
    """Like plain_index, with a phase and a speed of its own (five sixths to six fifths)."""
    speed = STEP * np.exp(rng.uniform(-0.18, 0.18))
    phase = rng.uniform(0, min(speed, frames / 4))
    return np.asarray(np.arange(phase, frames - 0.51, speed).round(), np.int64)


def plain_clip(frames: U8, size: tuple[int, int]) -> U8:
    """Scale packed pictures (T, 3, h, w) to the output's size, as the runtime would."""
    if frames.shape[3:1:-1] == size:
        return np.asarray(frames)
    return np.stack(
        [
            np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in picture])
            for picture in frames
        ]
    )


def augmented_clip(frames: U8, size: tuple[int, int], rng: np.random.Generator) -> U8:
    """Change packed pictures (T, 3, h, w) by one look drawn for all of them."""
    packed = (frames.shape[3], frames.shape[2])
    look = Look.draw(rng, packed, size)
    return np.stack([look.apply(picture, size, rng) for picture in frames])
