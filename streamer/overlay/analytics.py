"""Draw the zones, lines, counts and speeds of one camera on YUV planes; runs in the encode process.

One per picture size; not thread-safe. Counts come with the tracks; without them the outlines are
drawn alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.config import CameraConfig
from streamer.messages import Tracks
from streamer.overlay.colours import ALERT, PALETTE, colour_of, yuv_from_rgb
from streamer.overlay.glyphs import Glyphs
from streamer.planes import Planes

_WHITE, _BLACK = (235, 128, 128), (16, 128, 128)
_SHIFT = 3  # fractional bits of corners
_ARROW = 0.05  # of the picture's height
Path = NDArray[np.float64]
F32 = NDArray[np.float32]
Colour = tuple[int, ...]


class ViewOverlay:
    """Draws what one camera's configuration declares."""

    def __init__(
        self, camera: CameraConfig, width: int, height: int, *, matrix: str = "bt601"
    ) -> None:
        """Lay out the shapes.

        Args:
            camera: with zones, lines and a calibration.
            width: of the pictures, px.
            height: of the pictures, px.
            matrix: colour matrix of the planes, "bt601" or "bt709".
        """
        self.width, self.height = width, height
        self._line_px = max(2, round(height / 720) * 2)
        self._glyphs = Glyphs(max(12, round(height / 72) * 2))
        colours = [tuple(colour) for colour in yuv_from_rgb(PALETTE, matrix).tolist()]
        self._palette: list[Colour] = colours
        self._alert: Colour = tuple(yuv_from_rgb(np.array([ALERT], np.uint8), matrix)[0].tolist())
        size = np.array([width, height], np.float64)
        self._zones = {name: np.array(zone.polygon) * size for name, zone in camera.zones.items()}
        self._lines = {name: np.array(line.ends) * size for name, line in camera.lines.items()}
        self._arrows = [_arrow(ends, _ARROW * height) for ends in self._lines.values()]

    def draw(self, planes: Planes, tracks: Tracks | None, boxes_xyxy: F32 | None = None) -> None:
        """Draw on one picture, after its boxes.

        Args:
            planes: of the picture.
            tracks: the newest that are known, or None.
            boxes_xyxy: (M, 4) px, where the tracks are drawn now; None if they are not, and then
                neither are speeds.
        """
        readings = tracks.readings if tracks is not None else None
        for place, (name, corners) in enumerate(self._zones.items()):
            alarm = readings is not None and readings.alarms[place]
            colour = self._alert if alarm else self._palette[place % len(self._palette)]
            self._path(planes, [corners], colour, closed=True)
            text = f"{name} {readings.occupancy[place]}" if readings else name
            self._tag(planes, corners[corners[:, 1].argmin()], text, colour)
        for place, (name, ends) in enumerate(self._lines.items()):
            colour = self._palette[(len(self._zones) + place) % len(self._palette)]
            self._path(planes, [ends, *self._arrows[place]], colour)
            counts = readings.counts[place] if readings else None
            text = f"{name} in {counts[0]} out {counts[1]}" if counts else name
            self._tag(planes, ends[ends[:, 1].argmin()], text, colour)
        if tracks is not None and readings is not None and boxes_xyxy is not None:
            speeds = np.frombuffer(readings.speeds_kmh, np.float32)
            self._speeds(planes, tracks, speeds, boxes_xyxy)

    def _speeds(self, planes: Planes, tracks: Tracks, speeds_kmh: F32, boxes_xyxy: F32) -> None:
        """Put the speed of each track below its box; without a calibration there is none."""
        ids = np.frombuffer(tracks.ids, np.int64).tolist()
        known = zip(ids, speeds_kmh.tolist(), boxes_xyxy.tolist(), strict=False)
        for track_id, speed, box in known:
            if math.isfinite(speed) and all(map(math.isfinite, box)):
                colour = self._palette[colour_of(track_id)]
                below = np.array([box[0], box[3] + self._glyphs.height_px])
                self._tag(planes, below, f"{speed:.0f} km/h", colour)

    def _path(
        self, planes: Planes, paths: Sequence[Path], colour: Colour, *, closed: bool = False
    ) -> None:
        points = [np.rint(path * (1 << _SHIFT)).astype(np.int32) for path in paths]
        width_px = self._line_px
        cv2.polylines(planes.y, points, closed, colour[0], width_px, cv2.LINE_8, _SHIFT)
        for plane, value in ((planes.u, colour[1]), (planes.v, colour[2])):
            # One more fractional bit makes the same numbers half as long.
            cv2.polylines(plane, points, closed, value, width_px // 2, cv2.LINE_8, _SHIFT + 1)

    def _tag(self, planes: Planes, at: Path, text: str, colour: Colour) -> None:
        """Write a text above a point, moved into the picture."""
        ink = _BLACK if colour[0] > 110 else _WHITE
        tile = self._glyphs.tile(text, ink, colour)
        height, width = tile[0].shape
        x = _even(float(at[0]), self.width - width)
        y = _even(float(at[1]) - height, self.height - height)
        for plane, picture, by in zip((planes.y, planes.u, planes.v), tile, (1, 2, 2), strict=True):
            target = plane[y // by :, x // by :][: picture.shape[0], : picture.shape[1]]
            target[:] = picture[: target.shape[0], : target.shape[1]]


def _even(place: float, most: int) -> int:
    return int(max(min(place, most), 0)) // 2 * 2


def _arrow(ends: Path, length_px: float) -> tuple[Path, Path]:
    """Shaft and head of an arrow from the middle of a line to its side that is "in"."""
    along = (ends[1] - ends[0]) / np.hypot(*(ends[1] - ends[0]))
    right = np.array([-along[1], along[0]])
    middle = ends.mean(axis=0)
    tip = middle + right * length_px
    wings = [tip - (right + turn * along) * length_px / 3 for turn in (1, -1)]
    return np.array([middle, tip]), np.array([wings[0], tip, wings[1]])
