"""The sheet on which the empty street is painted, in RGB and in labels at the same time.

LABELS are the eleven classes of CamVid in its order.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.sources.street.camera import F64, View
from streamer.sources.street.shapes import Rgb, upright

LABELS = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "vehicle", "pedestrian",
    "bicyclist",
)  # fmt: skip
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, VEHICLE, PEDESTRIAN, BICYCLIST = range(11)


class Canvas:
    """A picture larger than the view by the margin of the camera; colours are 0..255 RGB."""

    def __init__(self, view: View) -> None:
        self.view = view
        margin_x, margin_y = view.margin_px
        self.origin = (-margin_x, -margin_y)
        """Picture position of the canvas's first pixel, while the camera is at rest."""
        size = (view.height + 2 * margin_y, view.width + 2 * margin_x)
        self.rgb = np.zeros((*size, 3), np.uint8)
        self.labels: NDArray[np.uint8] = np.full(size, SKY, np.uint8)

    def fill(self, points: F64, rgb: Rgb, label: int | None = None) -> None:
        """Fill a convex outline (n, 3) of the street; without a label the one beneath stays."""
        at = np.rint((self.view.project(points, self.origin) - 0.5) * 16).astype(np.int32)
        cv2.fillConvexPoly(self.rgb, at, rgb, cv2.LINE_AA, 4)
        if label is not None:
            cv2.fillConvexPoly(self.labels, at, (label,), cv2.LINE_8, 4)

    def wall(self, outline: F64, z_m: float, rgb: Rgb, label: int | None = None) -> None:
        """Fill an upright convex outline (n, 2) that faces the camera."""
        self.fill(upright(outline, z_m), rgb, label)


def shade(rgb: Rgb, light: float) -> Rgb:
    """A colour under more or less light."""
    r, g, b = (min(255, max(0, round(c * light))) for c in rgb)
    return r, g, b
