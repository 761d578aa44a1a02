"""Draw boxes, tags, trails and captions on YUV planes, in place; sizes follow the picture's height.

Knows no messages and no tracker: it takes arrays and texts. Everything is clipped at the borders.
One per picture size; not thread-safe, for it remembers the words it drew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from streamer.overlay.colours import ALERT, PALETTE, yuv_from_rgb
from streamer.overlay.fill import fill
from streamer.overlay.glyphs import Glyphs, Tile
from streamer.planes import U8, Planes

_WHITE, _BLACK = (235, 128, 128), (16, 128, 128)
_SHIFT = 3  # fractional bits of the ends of lines
_FAR_PX = 1e5


class Overlay:
    """Draws on pictures of one size.

    A colour is a place in PALETTE, counted round: colour_of(track_id), or a class number.
    """

    def __init__(self, width: int, height: int, *, matrix: str = "bt601") -> None:
        """Draw the characters for this size.

        Args:
            width: of the pictures, px.
            height: of the pictures, px.
            matrix: colour matrix of the planes, "bt601" or "bt709".
        """
        self.width, self.height = width, height
        self.line_px = max(2, round(height / 720) * 2)
        self._tags = Glyphs(max(12, round(height / 72) * 2))
        self._captions = Glyphs(max(14, round(height / 52) * 2))
        self._colours = [tuple(c) for c in yuv_from_rgb(PALETTE, matrix).tolist()]
        self._alert = tuple(yuv_from_rgb(np.array([ALERT], np.uint8), matrix)[0].tolist())

    def boxes(
        self,
        planes: Planes,
        boxes_xyxy: NDArray[np.float32],
        colours: Sequence[int],
        labels: Sequence[str] | None = None,
        *,
        corners: bool = False,
    ) -> None:
        """Draw boxes, and then their tags over all of them.

        Args:
            planes: of the picture.
            boxes_xyxy: (N, 4) px; those that are not finite or have no area are left out.
            colours: N places in the palette.
            labels: N texts for the tags; an empty one gives no tag.
            corners: True draws only the corners, for boxes that were predicted, not seen.
        """
        shown = self._clip(boxes_xyxy)
        palette, count = self._colours, len(self._colours)
        outline = _corners if corners else _frame
        for index, box in shown:
            outline(planes, box, palette[colours[index] % count], self.line_px)
        if labels is None:
            return
        for index, box in shown:
            if labels[index]:
                colour = palette[colours[index] % count]
                ink = _BLACK if colour[0] > 110 else _WHITE
                self._tag(planes, box, self._tags.tile(labels[index], ink, colour))

    def outlines(
        self,
        planes: Planes,
        outlines: Iterable[Sequence[NDArray[np.float32]]],
        colours: Iterable[int],
        *,
        opacity: float = 0.45,
    ) -> None:
        """Tint objects, for what comes over them to be seen: boxes and tags.

        Args:
            planes: of the picture.
            outlines: the polygons of each object, (P, 2) px; of none for an unknown one.
            colours: one place in the palette for each object.
            opacity: of the colours, 0..1.
        """
        for parts, colour in zip(outlines, colours, strict=True):
            fill(planes, parts, self._colours[colour % len(self._colours)], opacity)

    def trails(
        self, planes: Planes, lines: Iterable[NDArray[np.float32]], colours: Iterable[int]
    ) -> None:
        """Draw the way that tracks came.

        Args:
            planes: of the picture.
            lines: one (N, 2) array of x and y in px for each track, oldest first;
                points that are not finite or far off are left out.
            colours: one place in the palette for each track.
        """
        for points, colour in zip(lines, colours, strict=True):
            y, u, v = self._colours[colour % len(self._colours)]
            path = [(_near(points) * (1 << _SHIFT)).astype(np.int32)]
            half_px = self.line_px // 2
            cv2.polylines(planes.y, path, False, y, self.line_px, cv2.LINE_8, _SHIFT)
            cv2.polylines(planes.u, path, False, u, half_px, cv2.LINE_8, _SHIFT + 1)
            cv2.polylines(planes.v, path, False, v, half_px, cv2.LINE_8, _SHIFT + 1)

    def caption(
        self, planes: Planes, left: str, right: str = "", *, line: int = 0, alert: bool = False
    ) -> None:
        """Draw a dark bar along the upper edge, with text at both ends.

        Args:
            planes: of the picture.
            left: text, such as camera and time.
            right: text, such as counters; left out where the two would meet.
            line: which line from above, 0 the first.
            alert: True makes the bar red.
        """
        height = self._captions.height_px
        top = line * height
        if top + height > self.height:
            return
        colour, opacity = (self._alert, 0.9) if alert else (_BLACK, 0.65)
        _blend(planes, top, top + height, colour, opacity)
        text = self._captions.alpha(left)
        room = self.width - text.shape[1]
        _light(planes, text, 0, top)
        if right:
            text = self._captions.alpha(right)
            if text.shape[1] <= room:
                _light(planes, text, (self.width - text.shape[1]) // 2 * 2, top)

    def _clip(self, boxes_xyxy: NDArray[np.float32]) -> list[tuple[int, tuple[int, ...]]]:
        """Give the number and whole even corners of each box that can be seen.

        Corners beyond a border stay beyond it, so that their edges are not drawn.
        """
        boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
        outside = 2 * self.line_px
        limits = np.array([self.width, self.height] * 2) + outside
        with np.errstate(invalid="ignore"):
            even = np.floor(np.clip(boxes, -outside, limits) / 2 + 0.5) * 2
            even[:, 2:] = np.maximum(even[:, 2:], even[:, :2] + 2 * self.line_px)
            good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        good &= (even[:, 2:] > 0).all(axis=1) & (even[:, 0] < self.width)
        good &= even[:, 1] < self.height
        numbers = np.flatnonzero(good)
        corners = even[numbers].astype(np.int64).tolist()
        return [(n, tuple(c)) for n, c in zip(numbers.tolist(), corners, strict=True)]

    def _tag(self, planes: Planes, box: tuple[int, ...], tile: Tile) -> None:
        """Put a tag on the upper edge of a box, moved into the picture where it would leave it."""
        height, width = tile[0].shape
        x = max(min(box[0], (self.width - width) // 2 * 2), 0)
        y = box[1] - height if box[1] >= height else max(box[1], 0)
        _paste(planes, tile, x, min(y, max((self.height - height) // 2 * 2, 0)))


def _near(points: NDArray[np.float32]) -> NDArray[np.float32]:
    far = np.abs(points)
    if len(points) and far.max() < _FAR_PX:  # False for NaN too
        return points
    kept: NDArray[np.float32] = points[(far < _FAR_PX).all(axis=1)]
    return kept


def _frame(planes: Planes, box: tuple[int, ...], colour: tuple[int, ...], line_px: int) -> None:
    """Draw the edges of a box, inside of it."""
    x1, y1, x2, y2 = box
    for inset in range(line_px):
        corner, opposite = (x1 + inset, y1 + inset), (x2 - 1 - inset, y2 - 1 - inset)
        cv2.rectangle(planes.y, corner, opposite, colour[0])
    for inset in range(line_px // 2):
        corner = (x1 // 2 + inset, y1 // 2 + inset)
        opposite = (x2 // 2 - 1 - inset, y2 // 2 - 1 - inset)
        cv2.rectangle(planes.u, corner, opposite, colour[1])
        cv2.rectangle(planes.v, corner, opposite, colour[2])


def _corners(planes: Planes, box: tuple[int, ...], colour: tuple[int, ...], line_px: int) -> None:
    """Draw the four corners of a box, each as long as a quarter of its side."""
    for plane, value, by in zip((planes.y, planes.u, planes.v), colour, (1, 2, 2), strict=True):
        for inset in range(line_px // by):
            x1, y1, x2, y2 = (number // by for number in box)
            reach_x, reach_y = (x2 - x1) // 4, (y2 - y1) // 4
            x1, y1, x2, y2 = x1 + inset, y1 + inset, x2 - 1 - inset, y2 - 1 - inset
            ends = ((x1, y1, 1, 1), (x2, y1, -1, 1), (x1, y2, 1, -1), (x2, y2, -1, -1))
            paths = [
                np.array([(x + right * reach_x, y), (x, y), (x, y + down * reach_y)], np.int32)
                for x, y, right, down in ends
            ]
            cv2.polylines(plane, paths, False, value)


def _paste(planes: Planes, tile: Tile, x: int, y: int) -> None:
    for plane, picture, by in zip((planes.y, planes.u, planes.v), tile, (1, 2, 2), strict=True):
        target = plane[y // by : y // by + picture.shape[0], x // by : x // by + picture.shape[1]]
        target[:] = picture[: target.shape[0], : target.shape[1]]


def _blend(planes: Planes, top: int, bottom: int, colour: tuple[int, ...], opacity: float) -> None:
    """Blend the rows of a bar with a colour."""
    for plane, value, by in zip((planes.y, planes.u, planes.v), colour, (1, 2, 2), strict=True):
        rows = plane[top // by : bottom // by]
        cv2.addWeighted(rows, 1 - opacity, rows, 0.0, opacity * value, rows)


def _light(planes: Planes, alpha: U8, x: int, y: int) -> None:
    """Put white text on a dark bar: nothing there is lighter than the text."""
    rows = planes.y[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    np.maximum(rows, cv2.min(alpha[:, : rows.shape[1]], _WHITE[0]), out=rows)
