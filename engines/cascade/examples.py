"""Draw augmented examples from packs: flips, scales, crops and colours; numpy and OpenCV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
IGNORE = 255
TARGET_STRIDE = 4


@dataclass(frozen=True, slots=True)
class Example:
    """One crop.

    picture: (3, h, w) uint8 Y, U, V. target: (classes, h / 4, w / 4) float32, share of each class
    in each cell; a cell of void alone sums to 0.
    """

    picture: U8
    target: F32


class Packs:
    """Pictures of one or more packs, drawn alike."""

    def __init__(self, folders: Sequence[Path], classes: int) -> None:
        """Map the packs into memory.

        Raises:
            SystemExit: a folder holds no pack, or a label is neither a class nor void.
        """
        self.classes = classes
        self._packs: list[tuple[U8, U8]] = []
        for folder in folders:
            try:
                pictures = np.load(folder / "pictures.npy", mmap_mode="r")
                labels = np.load(folder / "labels.npy", mmap_mode="r")
            except (OSError, ValueError) as error:
                raise SystemExit(
                    f"{folder}: folder must be a pack, got {error}; make it with "
                    "python -m engines.cascade.pack"
                ) from error
            if labels.shape != pictures.shape[:3]:
                raise SystemExit(
                    f"{folder}: labels must be {pictures.shape[:3]}, got {labels.shape}; pack again"
                )
            self._packs.append((pictures, labels))
        counts = np.zeros(256, np.int64)
        for _, labels in self._packs:
            for label in labels:
                counts += np.bincount(label.reshape(-1), minlength=256)
        if counts[classes:IGNORE].any():
            raise SystemExit(
                f"packs: labels must be below {classes} or {IGNORE}, got "
                f"{np.flatnonzero(counts[classes:IGNORE]) + classes}; check the classes"
            )
        self.shares: F32 = (counts[:classes] / max(counts[:classes].sum(), 1)).astype(np.float32)

    def __len__(self) -> int:
        return sum(len(pictures) for pictures, _ in self._packs)

    def __getitem__(self, index: int) -> tuple[U8, U8]:
        for pictures, labels in self._packs:
            if index < len(pictures):
                return pictures[index], labels[index]
            index -= len(pictures)
        raise IndexError(index)

    def draw(self, random: np.random.Generator, size: tuple[int, int]) -> Example:
        """Cut and alter one picture, drawn at random; size is (width, height) of the crop."""
        picture, label = self[int(random.integers(len(self)))]
        width, height = size
        scale = math.exp(random.uniform(math.log(0.7), math.log(1.6)))
        stretch = math.exp(random.uniform(-0.12, 0.12))
        across, down = scale * stretch, scale / stretch
        left = _start(random, label.shape[1] * across, width)
        top = _start(random, label.shape[0] * down, height)
        move = np.array([[across, 0, -left], [0, down, -top]], np.float32)
        if random.random() < 0.5:
            move[0] = [-across, 0, label.shape[1] * across - 1 - left]
        cut = cv2.warpAffine(
            picture, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        label = cv2.warpAffine(label, move, size, flags=cv2.INTER_NEAREST, borderValue=IGNORE)
        return Example(_degraded(random, _recoloured(random, cut)), shares(label, self.classes))


def shares(label: U8, classes: int) -> F32:
    """Measure the share of each class in each 4x4 cell of (h, w) labels: (classes, h/4, w/4)."""
    small = (label.shape[1] // TARGET_STRIDE, label.shape[0] // TARGET_STRIDE)
    out = np.empty((classes, small[1], small[0]), np.float32)
    for index in range(classes):
        cv2.resize(
            (label == index).astype(np.float32), small, dst=out[index], interpolation=cv2.INTER_AREA
        )
    return out


def _start(random: np.random.Generator, length: float, wanted: int) -> float:
    """First pixel of a crop; one that is longer than the picture hangs over at either end."""
    spare = length - wanted
    return random.uniform(min(spare, 0), max(spare, 0))


def _recoloured(random: np.random.Generator, picture: U8) -> U8:
    """Alter brightness, contrast, gamma, saturation and hue; (h, w, 3) to (3, h, w)."""
    levels = np.arange(256, dtype=np.float32)
    gain, offset = random.uniform(0.7, 1.35), random.uniform(-20, 20)
    luma = np.clip((levels - 16) / 219, 0, 1) ** math.exp(random.uniform(-0.3, 0.3))
    table = np.clip(((luma - 0.5) * gain + 0.5) * 219 + 16 + offset, 0, 255).astype(np.uint8)
    angle, saturation = random.uniform(-0.2, 0.2), random.uniform(0.6, 1.4)
    cosine, sine = saturation * math.cos(angle), saturation * math.sin(angle)
    turn = np.array(
        [
            [cosine, -sine, 128 - 128 * (cosine - sine)],
            [sine, cosine, 128 - 128 * (cosine + sine)],
        ],
        np.float32,
    )
    chroma = cv2.transform(np.ascontiguousarray(picture[..., 1:]), turn)
    return np.stack([cv2.LUT(np.ascontiguousarray(picture[..., 0]), table), *cv2.split(chroma)])


def _degraded(random: np.random.Generator, picture: U8) -> U8:
    """Add a sensor's noise to half of the pictures, and an encoder's loss to a third; (3, h, w)."""
    if random.random() < 0.5:
        start = int(random.integers(_NOISE.size - picture.size))
        noise = _NOISE[start : start + picture.size].reshape(len(picture), -1)
        part = random.uniform(0.5, 6) / _NOISE_LEVELS
        noisy = cv2.addWeighted(picture.reshape(len(picture), -1), 1, noise, part, -128 * part)
        picture = noisy.reshape(picture.shape)
    if random.random() < 1 / 3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(30, 90))]
        coded = cv2.imencode(".jpg", picture[0], quality)[1]
        decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_UNCHANGED))
        picture = np.concatenate([decoded[None], picture[1:]])
    return picture


_NOISE_LEVELS = 24
_NOISE = (
    (128 + _NOISE_LEVELS * np.random.default_rng(0).standard_normal(1 << 20))
    .clip(0, 255)
    .astype(np.uint8)
)
