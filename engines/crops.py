"""Turn boxes of frames into what a network says of each; cutting runs on one thread with OpenCV.

Each box is stretched to the network's size, with a margin of its surroundings. Knows no meaning of
what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import Engine
from engines.detectors.preprocess import to_bgr

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

_MUCH_SMALLER = 2.0  # beyond this linear interpolation would leave pixels out


@dataclass(frozen=True, slots=True)
class CropFormat:
    """What a network on crops wants to see.

    mean and scale: per channel, applied to 0..255 as (pixel - mean) * scale; only float32 inputs.
    """

    width: int
    height: int
    colour: Literal["yuv", "rgb", "bgr"] = "yuv"
    margin: float = 0.0
    """Surroundings on each side, as a part of the box's width and height."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Piece:
    """Boxes of one frame that are to be cut out."""

    planes: tuple[U8, U8, U8]
    boxes_xyxy: F32
    """(N, 4) px of the frame."""
    matrix: str = "bt601"


class CropNetwork:
    """An engine with one input of crops (N, 3, h, w) and one output (N, values)."""

    def __init__(self, engine: Engine, crop: CropFormat) -> None:
        self.engine = engine
        self.crop = crop
        self._input, self._output = engine.inputs[0], engine.outputs[0]

    @property
    def batch(self) -> int | None:
        """Crops that each call holds; None for any number."""
        return self._input.shape[0]

    def prepare(self, pieces: Sequence[Piece]) -> dict[str, NDArray[Any]]:
        """Cut all boxes of some frames into one fresh input, with zeros up to a fixed batch.

        Raises:
            ValueError: there are more boxes than the batch holds.
        """
        count = sum(len(piece.boxes_xyxy) for piece in pieces)
        if self.batch is not None and count > self.batch:
            raise ValueError(f"boxes must be at most {self.batch} a call, got {count}; send fewer")
        shape = (self.batch or count, 3, self.crop.height, self.crop.width)
        out = np.zeros(shape, self._input.dtype)
        start = 0
        for piece in pieces:
            end = start + len(piece.boxes_xyxy)
            fill_crops(
                piece.planes, piece.boxes_xyxy, self.crop, out[start:end], matrix=piece.matrix
            )
            start = end
        return {self._input.name: out}

    def read(self, outputs: Mapping[str, NDArray[Any]], count: int) -> F32:
        """What was said of the first `count` crops, (count, values)."""
        rows: F32 = outputs[self._output.name][:count].reshape(count, -1).astype(np.float32)
        return rows

    def look(self, pieces: Sequence[Piece]) -> F32:
        """Run once and wait."""
        count = sum(len(piece.boxes_xyxy) for piece in pieces)
        return self.read(self.engine.infer(self.prepare(pieces)), count)


def fill_crops(
    planes: tuple[U8, U8, U8],
    boxes_xyxy: F32,
    wanted: CropFormat,
    out: NDArray[Any],
    *,
    matrix: str = "bt601",
) -> None:
    """Cut the boxes of one frame.

    Args:
        planes: Y (H, W), U and V (half as large), uint8 of limited range.
        boxes_xyxy: (N, 4) px of the frame; what reaches out of it is cut off.
        wanted: size, colour and normalisation.
        out: (N, 3, h, w) uint8 or float32; overwritten.
        matrix: colour matrix of the planes, "bt601" or "bt709".
    """
    size = (wanted.width, wanted.height)
    for target, box in zip(out, _widened(boxes_xyxy, wanted.margin, planes[0].shape), strict=True):
        scaled = [_cut(planes[0], box, size)]
        scaled += [_cut(plane, box / 2, size) for plane in planes[1:]]
        if wanted.colour != "yuv":
            scaled = to_bgr(scaled, matrix)
        if wanted.colour == "rgb":
            scaled.reverse()
        for index, plane in enumerate(scaled):
            target[index] = plane
    if out.dtype != np.uint8:
        shape = (3, 1, 1)
        out -= np.array(wanted.mean, np.float32).reshape(shape)
        out *= np.array(wanted.scale, np.float32).reshape(shape)


def _widened(boxes_xyxy: F32, margin: float, shape: tuple[int, ...]) -> F32:
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    wide = np.hstack([boxes_xyxy[:, :2] - margin * sides, boxes_xyxy[:, 2:] + margin * sides])
    limits = np.array([shape[1], shape[0]] * 2, np.float32)
    return np.asarray(np.clip(wide, 0, limits), np.float32)


def _cut(plane: U8, box_xyxy: F32, size: tuple[int, int]) -> U8:
    """Scale one box of one plane; at least one pixel of the plane is seen."""
    height, width = plane.shape
    x1, y1 = min(int(box_xyxy[0]), width - 1), min(int(box_xyxy[1]), height - 1)
    x2 = min(max(round(float(box_xyxy[2])), x1 + 1), width)
    y2 = min(max(round(float(box_xyxy[3])), y1 + 1), height)
    shrinks = max((x2 - x1) / size[0], (y2 - y1) / size[1]) > _MUCH_SMALLER
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled: U8 = cv2.resize(plane[y1:y2, x1:x2], size, interpolation=how)
    return scaled
