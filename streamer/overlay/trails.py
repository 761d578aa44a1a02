"""Remember where tracks were, to draw the way they came; knows no tracker, only ids and boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FAR_PX = 1e5


class Trails:
    """The last feet of each track: the middle of the lower edge of its box."""

    def __init__(self, length: int = 32, keep: int = 15) -> None:
        """Start empty.

        Args:
            length: points remembered of a track.
            keep: updates after which an unseen track is forgotten.
        """
        self._length, self._keep = length, keep
        self._points: dict[int, NDArray[np.float32]] = {}  # (length, 2), the newest last
        self._counts: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._now = 0

    def update(self, ids: NDArray[np.int64], boxes_xyxy: NDArray[np.float32]) -> None:
        """Add the boxes of one frame, (N, 4) in px; those far off or not finite are left out."""
        self._now += 1
        boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
        feet = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]], axis=1)
        good = (np.abs(feet) < _FAR_PX).all(axis=1)  # False for NaN too
        for track_id, foot in zip(np.asarray(ids)[good].tolist(), feet[good], strict=True):
            points = self._points.get(track_id)
            if points is None:
                points = self._points[track_id] = np.empty((self._length, 2), np.float32)
            points[:-1] = points[1:]
            points[-1] = foot
            self._counts[track_id] = min(self._counts.get(track_id, 0) + 1, self._length)
            self._seen[track_id] = self._now
        for track_id in [i for i, seen in self._seen.items() if self._now - seen > self._keep]:
            del self._seen[track_id], self._points[track_id], self._counts[track_id]

    def lines(self) -> dict[int, NDArray[np.float32]]:
        """Give each track of the newest frame its points, (N, 2) x and y in px, oldest first.

        They are views, and change with the next update.
        """
        return {
            track_id: self._points[track_id][-self._counts[track_id] :]
            for track_id, seen in self._seen.items()
            if seen == self._now and self._counts[track_id] > 1
        }
