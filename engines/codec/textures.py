"""Draw scenes of textures and cut-out pictures that turn, grow, drift and hide each other; offline.

Every motion is affine and exact, larger and of more kinds than recorded clips have. Needs numpy
and cv2 alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

WIDTH, HEIGHT = 320, 240
_OVERSIZE = 1.5
"""A layer is so much larger than what is seen of it."""
_OCTAVES = 6


@dataclass(frozen=True, slots=True)
class Motion:
    """What a layer does in each frame."""

    speed_px: F64
    """x and y."""
    turn_rad: float
    growth: float
    """Logarithm of its scale."""

    def matrix(self, step: int, centre: F64, target: F64) -> F64:
        """(2, 3) from layer to picture: `centre` of the layer comes to `target`, moved."""
        angle, scale = self.turn_rad * step, np.exp(self.growth * step)
        turned = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        place = target + self.speed_px * step
        return np.hstack((turned, (place - turned @ centre)[:, None]))


@dataclass(frozen=True, slots=True)
class Layer:
    """A picture with a shape, where it begins and how it moves."""

    bgr: U8
    shape: U8
    """(h, w): 255 where it hides what is behind."""
    target: F64
    motion: Motion


@dataclass(frozen=True, slots=True)
class Scene:
    """Layers, the farthest first."""

    layers: tuple[Layer, ...]

    def render(self, step: int) -> U8:
        """The (HEIGHT, WIDTH, 3) picture of a frame."""
        picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for layer in self.layers:
            centre = np.array(layer.shape.shape[::-1]) / 2
            matrix = layer.motion.matrix(step, centre, layer.target)
            size = (WIDTH, HEIGHT)
            bgr = cv2.warpAffine(layer.bgr, matrix, size, flags=cv2.INTER_CUBIC,
                                 borderMode=cv2.BORDER_REFLECT_101)  # fmt: skip
            cover = cv2.warpAffine(layer.shape, matrix, size)[..., None] / np.float32(255)
            picture = picture * (1 - cover) + bgr * cover
        return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def draw_scene(rng: np.random.Generator, stills: list[U8]) -> Scene:
    """A background and one to four things before it.

    Args:
        rng: decides everything.
        stills: (h, w, 3) pictures to cut from, at least WIDTH x HEIGHT.
    """
    wide = (int(HEIGHT * _OVERSIZE), int(WIDTH * _OVERSIZE))
    middle = np.array([WIDTH, HEIGHT]) / 2
    still = rng.random() < 0.3
    background = Layer(
        _surface(rng, stills, wide), np.full(wide, 255, np.uint8), middle,
        _motion(rng, 0.0 if still else 2.0),
    )  # fmt: skip
    return Scene((background, *(_thing(rng, stills) for _ in range(rng.integers(1, 5)))))


def _thing(rng: np.random.Generator, stills: list[U8]) -> Layer:
    side = int(rng.integers(40, 140))
    size = (side, int(side * rng.uniform(0.6, 1.6)))
    shape = np.zeros(size, np.uint8)
    if rng.random() < 0.5:
        centre, axes = (size[1] // 2, size[0] // 2), (size[1] // 2 - 2, size[0] // 2 - 2)
        cv2.ellipse(shape, centre, axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
    else:
        corners = rng.uniform(0.05, 0.95, (int(rng.integers(3, 8)), 2)) * size[::-1]
        cv2.fillConvexPoly(shape, cv2.convexHull(corners.astype(np.int32)), 255, cv2.LINE_AA)
    target = rng.uniform(0.1, 0.9, 2) * (WIDTH, HEIGHT)
    return Layer(_surface(rng, stills, size), shape, target, _motion(rng, 4.0))


def _motion(rng: np.random.Generator, reach_px: float) -> Motion:
    part = reach_px / 4
    return Motion(
        rng.normal(0, 1, 2) * reach_px,
        float(rng.normal(0, 0.015) * part),
        float(rng.normal(0, 0.006) * part),
    )


def _surface(rng: np.random.Generator, stills: list[U8], size: tuple[int, int]) -> U8:
    """A part of a picture where one is large enough and chance says so, else a texture."""
    height, width = size
    fits = [s for s in stills if s.shape[0] >= height and s.shape[1] >= width]
    if not fits or rng.random() < 0.4:
        return _texture(rng, size)
    still = fits[int(rng.integers(len(fits)))]
    top = int(rng.integers(still.shape[0] - height + 1))
    left = int(rng.integers(still.shape[1] - width + 1))
    return still[top : top + height, left : left + width]


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> U8:
    """Noise of several sizes between two colours, with stripes now and then."""
    height, width = size
    field = np.zeros(size, np.float32)
    steepness = rng.uniform(0.6, 1.4)
    for octave in range(_OCTAVES):
        cells = (2 + (height >> (_OCTAVES - octave)), 2 + (width >> (_OCTAVES - octave)))
        coarse = rng.normal(0, 1, cells).astype(np.float32)
        field += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(
            2.0 ** (-steepness * octave)
        )
    if rng.random() < 0.3:
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 40)
        y, x = np.mgrid[:height, :width]
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
        field += (rng.uniform(0.3, 1.5) * wave).astype(np.float32)
    share = 1 / (1 + np.exp(-field[..., None] * rng.uniform(0.7, 2.5)))
    one, other = rng.uniform(20, 235, (2, 1)) + rng.normal(0, 25, (2, 3))
    return np.asarray(np.clip(one + (other - one) * share, 0, 255), np.uint8)
