"""Tint what lies inside of an outline on YUV planes, in place."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.planes import U8, Planes

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_SHIFT = 3  # fractional bits of corners
_FAR_PX = 1e5


def fill(planes: Planes, parts: Sequence[F32], colour: tuple[int, ...], opacity: float) -> None:
    """Blend a colour into one object.

    Luma is blended half as much as chroma, so that what is under the colour can still be seen.

    Args:
        planes: of the picture.
        parts: polygons (P, 2) of x and y in px; nothing is drawn where one is not finite or far
            off, and what lies outside of the picture is left out.
        colour: Y, U, V.
        opacity: 0 is clear, 1 opaque.
    """
    points = [part.astype(np.float64) for part in parts]
    near = all((np.abs(part) < _FAR_PX).all() for part in points)  # False for NaN too
    if not points or not near:
        return
    _tint(planes.y, points, colour[0], opacity / 2)
    halves = [part / 2 for part in points]
    _tint(planes.u, halves, colour[1], opacity)
    _tint(planes.v, halves, colour[2], opacity)


def _tint(plane: U8, parts: Sequence[F64], value: int, opacity: float) -> None:
    corners = np.concatenate(parts)
    size = plane.shape[::-1]
    left, top = np.clip(np.floor(corners.min(axis=0)), 0, size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, size).astype(int).tolist()
    under = plane[top:bottom, left:right]
    if not under.size:
        return
    inside = np.zeros(under.shape, np.uint8)
    placed = [np.rint((part - (left, top)) * (1 << _SHIFT)).astype(np.int32) for part in parts]
    cv2.fillPoly(inside, placed, 255, cv2.LINE_8, _SHIFT)
    cv2.copyTo(cv2.addWeighted(under, 1 - opacity, under, 0.0, opacity * value), inside, under)
