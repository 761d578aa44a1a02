"""Make parts of a picture unrecognisable, in place, before it is written; runs in encode.

Knows no messages and no classes: it takes boxes and polygons. What is concealed is gone from the
planes; no later step can bring it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.planes import U8, Planes

_CELLS_ACROSS = 4
"""What is left of the shorter side of the largest box: too little for a face."""
_CELLS_HIGH = 30
"""What is left of the height of a picture without large boxes."""
_BLACK = (16, 128, 128)


def conceal(
    planes: Planes,
    boxes_xyxy: NDArray[np.float32],
    polygons_xy: Sequence[NDArray[np.float32]] = (),
    *,
    how: Literal["blur", "fill"] = "blur",
) -> None:
    """Blur or blacken boxes and polygons.

    Args:
        planes: of the picture.
        boxes_xyxy: (N, 4) px; they are widened to whole chroma samples.
        polygons_xy: (K, 2) px each, of any orientation.
        how: "blur" leaves a few soft cells, "fill" nothing.
    """
    mask = _mask(planes, boxes_xyxy, polygons_xy)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    part = mask[top:bottom, left:right]
    luma = planes.y[2 * top : 2 * bottom, 2 * left : 2 * right]
    luma_part = cv2.resize(
        part, (luma.shape[1], luma.shape[0]), interpolation=cv2.INTER_NEAREST_EXACT
    )
    cell_px = _cell_px(planes, boxes_xyxy)
    chroma = [plane[top:bottom, left:right] for plane in (planes.u, planes.v)]
    for plane, where, cell, black in zip(
        (luma, *chroma), (luma_part, part, part), (cell_px, cell_px // 2, cell_px // 2), _BLACK,
        strict=True,
    ):  # fmt: skip
        if how == "fill":
            plane[where > 0] = black
        else:
            cv2.copyTo(_blurred(plane, cell), where, plane)


def _mask(
    planes: Planes, boxes_xyxy: NDArray[np.float32], polygons_xy: Sequence[NDArray[np.float32]]
) -> U8:
    """What is to be concealed, in chroma samples: 255 inside."""
    height, width = planes.u.shape
    mask = np.zeros((height, width), np.uint8)
    boxes = boxes_xyxy[np.isfinite(boxes_xyxy).all(axis=1)] / 2
    edges = np.clip(boxes, 0, (width, height, width, height))
    edges[:, 2:] = np.ceil(edges[:, 2:])
    for x1, y1, x2, y2 in edges.astype(int).tolist():
        mask[y1:y2, x1:x2] = 255
    if len(polygons_xy):
        corners = [np.rint(polygon / 2).astype(np.int32) for polygon in polygons_xy]
        for polygon in corners:
            cv2.fillPoly(mask, [polygon], 255)
    return mask


def _cell_px(planes: Planes, boxes_xyxy: NDArray[np.float32]) -> int:
    """Side of what becomes one cell: a power of two, so that it rarely changes between frames."""
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    largest = float(np.min(sides, axis=1).max(initial=0.0)) if len(sides) else 0.0
    wanted = max(planes.height / _CELLS_HIGH, largest / _CELLS_ACROSS, 4.0)
    return 1 << int(np.ceil(np.log2(min(wanted, planes.height))))


def _blurred(plane: U8, cell_px: int) -> U8:
    height, width = plane.shape
    cells = (max(1, width // max(1, cell_px)), max(1, height // max(1, cell_px)))
    small = cv2.resize(plane, cells, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
