"""Turn packs into endless augmented training examples; numpy and OpenCV alone, offline.

Knows no network. Pictures are planes (3, h, w) uint8 of limited-range Y, U, V.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

PADDING = (114, 128, 128)
_SMALLEST_PX = 3.0
_LEAST_VISIBLE = 0.35


@dataclass(frozen=True, slots=True)
class Example:
    """A picture with its boxes_xyxy (n, 4) in pixels and scores (n, classes)."""

    picture: U8
    boxes_xyxy: F32
    scores: F32


class Packs:
    """Several packs, drawn from with given weights."""

    def __init__(self, root: Path, mix: dict[str, float], calm: Container[str] = ()) -> None:
        """Open packs without reading their pictures.

        Args:
            root: folder of packs, one folder each.
            mix: name of a pack and how often it is drawn from, in any unit.
            calm: packs of places that the network is for: their pictures are neither zoomed nor
                degraded.
        """
        self._pictures = []
        self._labels = []
        for name in mix:
            folder = root / name
            if not (folder / "labels.npz").exists():
                raise SystemExit(f"{folder}: pack must exist; make it with engines.detectors.pack")
            self._pictures.append(np.load(folder / "pictures.npy", mmap_mode="r"))
            self._labels.append(_split(dict(np.load(folder / "labels.npz"))))
        self._calm = [name in calm for name in mix]
        self._shares = np.array(list(mix.values())) / sum(mix.values())

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of every picture."""
        _, _, height, width = self._pictures[0].shape
        return width, height

    def draw(self, random: np.random.Generator) -> tuple[Example, tuple[int, int], bool]:
        """Pick one picture as it is, the size of its content (the rest is padding), and if calm."""
        pack = int(random.choice(len(self._shares), p=self._shares))
        index = int(random.integers(len(self._pictures[pack])))
        boxes, scores, content = self._labels[pack][index]
        picture = np.array(self._pictures[pack][index])
        return Example(picture, boxes, scores), content, self._calm[pack]

    def augmented(self, random: np.random.Generator, *, mosaic: float) -> Example:
        """Pick one picture, or four small ones with probability `mosaic`, and vary it."""
        if random.random() < mosaic:
            example = four_in_one([_flipped(random, *self.draw(random)[:2]) for _ in range(4)])
            calm = False
        else:
            example, content, calm = self.draw(random)
            example = _flipped(random, example, content)
        if random.random() < 0.7 and not calm:
            example = moved(example, random)
        if random.random() < 0.6:
            recolour(example.picture, random)
        if random.random() < 0.3 and not calm:
            degrade(example.picture, random)
        return example


def _split(labels: dict[str, NDArray[np.generic]]) -> list[tuple[F32, F32, tuple[int, int]]]:
    content = np.asarray(labels["content"], np.int32)
    ends = np.searchsorted(np.asarray(labels["picture"], np.int32), np.arange(len(content) + 1))
    boxes = np.asarray(labels["boxes_xyxy"], np.float32)
    scores = np.asarray(labels["scores"], np.float32)
    return [
        (boxes[ends[i] : ends[i + 1]], scores[ends[i] : ends[i + 1]], (int(w), int(h)))
        for i, (w, h) in enumerate(content)
    ]


def _flipped(random: np.random.Generator, example: Example, content: tuple[int, int]) -> Example:
    return flip(example, content[0]) if random.random() < 0.5 else example


def flip(example: Example, width: int) -> Example:
    """Mirror the first `width` columns, which hold the content."""
    picture = example.picture
    picture[:, :, :width] = picture[:, :, :width][:, :, ::-1].copy()
    boxes = example.boxes_xyxy.copy()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return Example(picture, boxes, example.scores)


def four_in_one(four: list[Example]) -> Example:
    """Halve four pictures and put them into the quarters of one."""
    _, height, width = four[0].picture.shape
    half_w, half_h = width // 2, height // 2
    picture = np.empty_like(four[0].picture)
    boxes = []
    for index, part in enumerate(four):
        left, top = index % 2 * half_w, index // 2 * half_h
        for plane, small in zip(part.picture, picture, strict=True):
            small[top : top + half_h, left : left + half_w] = cv2.resize(
                plane, (half_w, half_h), interpolation=cv2.INTER_AREA
            )
        boxes.append(part.boxes_xyxy / 2 + np.array([left, top] * 2, np.float32))
    scores = np.concatenate([part.scores for part in four])
    return visible(Example(picture, np.concatenate(boxes), scores), np.concatenate(boxes))


def moved(example: Example, random: np.random.Generator) -> Example:
    """Zoom in or out, change the aspect a little, and shift."""
    _, height, width = example.picture.shape
    zoom, aspect = np.exp(random.uniform(-0.6, 0.6)), np.exp(random.uniform(-0.16, 0.16) / 2)
    scale = np.array([zoom * aspect, zoom / aspect])
    spare = np.array([width, height]) * (1 - scale)  # negative where the picture is cut
    shift = spare * random.random(2)
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    picture = np.stack(
        [
            cv2.warpAffine(
                plane,
                matrix,
                (width, height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=grey,
            )
            for plane, grey in zip(example.picture, PADDING, strict=True)
        ]
    )
    boxes = example.boxes_xyxy * np.tile(scale, 2) + np.tile(shift, 2)
    return visible(Example(picture, example.boxes_xyxy, example.scores), boxes.astype(np.float32))


def visible(example: Example, boxes_xyxy: F32) -> Example:
    """Clip boxes to the picture and drop what is nearly gone."""
    _, height, width = example.picture.shape
    limits = np.array([width, height] * 2, np.float32)
    clipped = np.minimum(np.maximum(boxes_xyxy, np.float32(0)), limits)
    sides, before = clipped[:, 2:] - clipped[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    shown = sides.prod(axis=1) >= _LEAST_VISIBLE * before.prod(axis=1)
    keep = (sides.min(axis=1, initial=np.inf) >= _SMALLEST_PX) & shown
    return Example(example.picture, clipped[keep], example.scores[keep])


def recolour(picture: U8, random: np.random.Generator) -> None:
    """Change brightness, contrast, saturation and hue in place."""
    gain, offset = random.uniform(0.65, 1.3), random.uniform(-20, 20)
    curve = (np.arange(256) - 16) * gain + 16 + offset
    picture[0] = cv2.LUT(picture[0], np.clip(curve, 0, 255).astype(np.uint8))
    saturation = 0.0 if random.random() < 0.08 else random.uniform(0.6, 1.4)
    angle = random.uniform(-0.25, 0.25)
    along, across = saturation * np.cos(angle), saturation * np.sin(angle)
    u, v = picture[1].copy(), picture[2].copy()
    picture[1] = cv2.addWeighted(u, along, v, -across, 128 * (1 - along + across))
    picture[2] = cv2.addWeighted(u, across, v, along, 128 * (1 - along - across))


def degrade(picture: U8, random: np.random.Generator) -> None:
    """Make the picture in place what a worse camera gives: blurred, coarse, compressed or noisy."""
    _, height, width = picture.shape
    way, strength = random.integers(4), random.random()
    noise = random.normal(0, 2 + 8 * strength, (height, width)) if way == 3 else None
    for plane in picture:
        if way == 0:
            plane[:] = cv2.GaussianBlur(plane, (0, 0), 0.5 + strength)
        elif way == 1:
            small = (int(width * (0.9 - strength / 2)), int(height * (0.9 - strength / 2)))
            coarse = cv2.resize(plane, small, interpolation=cv2.INTER_AREA)
            plane[:] = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        elif way == 2:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(15 + 50 * strength)]
            _, packed = cv2.imencode(".jpg", plane, quality)
            plane[:] = cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE)
    if noise is not None:
        picture[0] = np.clip(picture[0] + noise, 0, 255).astype(np.uint8)
