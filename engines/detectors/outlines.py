"""Turn the mask of each object into its outline, polygons in px; runs on one thread with OpenCV.

A mask is a coarse grid over the object's box, so an outline of a few dozen points loses nothing of
it, and is a hundredth of the pixels that it encloses. Knows no network and no frame.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Outline = tuple[F32, ...]
"""The parts of one object, the largest first; each is (P, 2) x and y in px, not closed."""

MOST_POINTS = 64
"""Of one part; what is finer is drawn coarser."""
MOST_PARTS = 4

_SURE = 127  # of 255: a point is of the object from a chance of one half on
_FINER = 8  # points in a cell of the grid, along each side
_CLOSE = 1.0  # so many of them an outline may be off
_SMALLEST = _FINER**2  # of their area, one cell


def outlines(masks: F32, boxes_xyxy: F32, size: tuple[int, int]) -> tuple[Outline, ...]:
    """Trace the objects of one frame.

    Args:
        masks: (N, h, w) chance of each cell of a grid over the box to be of the object.
        boxes_xyxy: (N, 4) px of the frame, the whole boxes, also where they leave it.
        size: width and height of the frame; what lies outside is cut off.

    Returns:
        N outlines. An object that is unlikely everywhere has one of no parts; holes are filled.
    """
    limits = np.array(size, np.float32)
    return tuple(
        tuple(np.clip(part, 0, limits) for part in _traced(mask, box))
        for mask, box in zip(masks, boxes_xyxy, strict=True)
    )


def _traced(mask: F32, box_xyxy: F32) -> list[F32]:
    """Trace one object in a finer grid, with an empty cell around it so that it always ends."""
    height, width = mask.shape
    chances = np.zeros((height + 2, width + 2), np.uint8)
    chances[1:-1, 1:-1] = np.rint(np.clip(mask, 0, 1) * 255)
    fine = cv2.resize(chances, None, fx=_FINER, fy=_FINER, interpolation=cv2.INTER_LINEAR)
    _, inside = cv2.threshold(fine, _SURE, 255, cv2.THRESH_BINARY)
    parts, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    by_size = sorted(parts, key=cv2.contourArea, reverse=True)[:MOST_PARTS]
    cell = (box_xyxy[2:] - box_xyxy[:2]) / np.array([width, height], np.float32)
    return [
        ((_simple(part) + np.float32(0.5)) / _FINER - 1) * cell + box_xyxy[:2]
        for part in by_size
        if cv2.contourArea(part) >= _SMALLEST
    ]


def _simple(part: NDArray[np.int32]) -> F32:
    """Leave out points that lie close to the line between their neighbours."""
    close = _CLOSE
    points = cv2.approxPolyDP(part, close, True)
    while len(points) > MOST_POINTS:
        close *= 1.5
        points = cv2.approxPolyDP(part, close, True)
    return np.asarray(points.reshape(-1, 2), np.float32)
