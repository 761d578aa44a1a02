"""Put one figure into one picture: its corners in pixels, its box, and its mark in a map.

Boxes, maps and pixels all come from these corners.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.sources.street.camera import F64, View
from streamer.sources.street.shapes import Figure, Paint

I32 = NDArray[np.int32]
Map = TypeVar("Map", NDArray[np.uint8], NDArray[np.int32])
Box = tuple[float, float, float, float]
Corner = tuple[float, float]

BITS = 4
"""Fractional bits of the corners that are drawn and of the boxes that are published."""
ONE = 1 << BITS


@dataclass(frozen=True, slots=True)
class Placed:
    """A figure as it stands in one picture."""

    figure: Figure
    corners: F64
    """(n, 2) pixels; pixel k covers [k, k+1)."""
    stroke_px: float
    """Pixels of a line that is one metre wide."""
    z_m: float
    label: int
    identity: int
    """0 for scenery."""

    @classmethod
    def at(
        cls,
        view: View,
        offset: tuple[int, int],
        figure: Figure,
        z_m: float,
        label: int,
        identity: int,
    ) -> Placed:
        """Project a figure."""
        corners = view.project(figure.points, offset)
        return cls(figure, corners, view.focal_px / z_m, z_m, label, identity)

    def is_between(self, low_px: int, high_px: int) -> bool:
        """True if any of it is in these columns."""
        columns = self.corners[:, 0]
        return bool(columns.max() > low_px and columns.min() < high_px)

    def box_xyxy(self, width: int, height: int) -> Box:
        """The smallest box around what is drawn of it in the picture, in 1/16 pixel.

        Rounded, so that the last bit of a sine does not make two machines differ.
        """
        is_inside = bool((self.corners >= 0).all() and (self.corners <= (width, height)).all())
        seen, start = [], 0
        for end, look in zip(self.figure.ends, self.figure.paints, strict=True):
            if look is not None:
                outline = self.corners[start:end]
                outline = outline if is_inside else _clipped(outline, width, height)
                seen.append((outline, self.line_px(look) / 2 if look.stroke_m else 0.0))
            start = end
        drawn = np.concatenate([outline for outline, _ in seen])
        if not len(drawn):
            return 0.0, 0.0, 0.0, 0.0
        half = np.repeat([px for _, px in seen], [len(outline) for outline, _ in seen])[:, None]
        low, high = (drawn - half).min(axis=0).tolist(), (drawn + half).max(axis=0).tolist()
        x1, y1, x2, y2 = (round(c * ONE) / ONE for c in (*low, *high))
        return max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)

    def around(self, target: Map) -> Map:
        """The part of a map that stamp may have drawn on."""
        width_px = 2 + int(self.stroke_px * 0.1)
        x1, y1 = np.maximum(0, self.corners.min(axis=0).astype(int) - width_px).tolist()
        x2, y2 = np.maximum(0, self.corners.max(axis=0).astype(int) + 1 + width_px).tolist()
        return target[y1:y2, x1:x2]

    def line_px(self, look: Paint) -> int:
        """Width of a line in whole pixels."""
        return max(1, round(look.stroke_m * self.stroke_px))

    def fixed(self) -> I32:
        """The corners in 1/16 pixel."""
        out: I32 = np.rint(self.corners * ONE).astype(np.int32)
        return out

    def stamp(self, target: Map, value: int) -> None:
        """Draw it in one value, without soft edges."""
        corners = self.fixed() - ONE // 2
        start = 0
        for end, look in zip(self.figure.ends, self.figure.paints, strict=True):
            if look is not None and look.stroke_m:
                line = [corners[start:end]]
                cv2.polylines(target, line, True, (value,), self.line_px(look), cv2.LINE_8, BITS)
            elif look is not None:
                cv2.fillConvexPoly(target, corners[start:end], (value,), cv2.LINE_8, BITS)
            start = end


def _clipped(outline: F64, width: int, height: int) -> F64:
    """Cut an outline (n, 2) at the four edges of the picture; nothing may be left of it."""
    corners = [(x, y) for x, y in outline.tolist()]
    for axis, sign, edge in ((0, 1, 0), (0, -1, -width), (1, 1, 0), (1, -1, -height)):
        sides = zip(corners, corners[1:] + corners[:1], strict=True)
        corners = [corner for a, b in sides for corner in _cut(a, b, axis, sign, edge)]
    return np.array(corners, np.float64).reshape(-1, 2)


def _cut(a: Corner, b: Corner, axis: int, sign: int, edge: int) -> Iterator[Corner]:
    """Give a, if it is on the inner side of an edge, and where the side from a to b crosses it."""
    depth_a, depth_b = a[axis] * sign - edge, b[axis] * sign - edge
    if depth_a >= 0:
        yield a
    if (depth_a >= 0) != (depth_b >= 0):
        part = depth_a / (depth_a - depth_b)
        yield a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part
