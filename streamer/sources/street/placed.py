"""Put one figure into one picture: its corners in pixels, its box, and its mark in a map.

Boxes, maps and pixels all come from these corners.
"""

from __future__ import annotations

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
        """The smallest box around what is drawn, clipped to the picture, in 1/16 pixel.

        Rounded, so that the last bit of a sine does not make two machines differ.
        """
        starts = np.array([0, *self.figure.ends[:-1]])
        seen = [look is not None for look in self.figure.paints]
        grown = [
            self.line_px(look) / 2 if look and look.stroke_m else 0 for look in self.figure.paints
        ]
        half = np.array(grown)[:, None]
        low = (np.minimum.reduceat(self.corners, starts) - half)[seen].min(axis=0)
        high = (np.maximum.reduceat(self.corners, starts) + half)[seen].max(axis=0)
        x1, y1, x2, y2 = (round(c * ONE) / ONE for c in (*low.tolist(), *high.tolist()))
        return max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)

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
