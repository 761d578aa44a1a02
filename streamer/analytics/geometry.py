"""Where points lie: in polygons, beside lines, on the ground; arrays in, arrays out.

Points come in px, for only there are distances the same in all directions. Knows no track and no
time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.view import Anchor, CalibrationConfig, Point

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

_ANCHORS: dict[Anchor, tuple[float, float]] = {
    "bottom": (0.5, 1.0),
    "center": (0.5, 0.5),
    "top": (0.5, 0.0),
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
}


class Anchors:
    """Which point of a box stands for it, for each of K zones or lines."""

    def __init__(self, names: Sequence[Anchor]) -> None:
        kinds = names[:1] if len(set(names)) == 1 else names
        self._parts = np.array([_ANCHORS[name] for name in kinds], np.float64)
        self._count = len(names)

    def points(self, boxes_xyxy: F64) -> F64:
        """(N, 4) -> (N, K, 2); not to be written to."""
        corner, opposite = boxes_xyxy[:, None, :2], boxes_xyxy[:, None, 2:]
        points = corner + (opposite - corner) * self._parts
        return np.broadcast_to(points, (len(boxes_xyxy), self._count, 2))


class Polygons:
    """Z polygons, each padded to the same number of edges with edges of no length."""

    def __init__(self, polygons: Sequence[Sequence[Point]], width: int, height: int) -> None:
        longest = max(len(polygon) for polygon in polygons)
        corners = np.array(
            [[*polygon, *[polygon[0]] * (longest - len(polygon))] for polygon in polygons]
        ) * (width, height)
        self._begin = corners
        self._along = np.roll(corners, -1, axis=1) - corners
        self._end_y = corners[..., 1] + self._along[..., 1]
        level = self._along[..., 1] == 0
        self._slope = np.where(level, 0.0, self._along[..., 0]) / np.where(
            level, 1.0, self._along[..., 1]
        )
        self._length2 = np.maximum((self._along**2).sum(axis=2), 1e-12)

    def inside(self, points: F64) -> Mask:
        """True where the k-th point lies in the k-th polygon: (N, Z, 2) -> (N, Z); even-odd."""
        x, y = points[..., 0, None], points[..., 1, None]
        begin_x, begin_y = self._begin[..., 0], self._begin[..., 1]
        spans = (begin_y > y) != (self._end_y > y)
        spans &= x < begin_x + (y - begin_y) * self._slope
        return np.asarray(np.logical_xor.reduce(spans, axis=2))

    def distance(self, points: F64, polygon: I64) -> F64:
        """How far each point is from the border of one polygon: (K, 2), (K,) -> (K,) px."""
        along, way = self._along[polygon], points[:, None] - self._begin[polygon]
        part = np.einsum("kex,kex->ke", way, along) / self._length2[polygon]
        way -= np.minimum(np.maximum(part, 0.0), 1.0)[..., None] * along
        return np.asarray(np.sqrt(np.einsum("kex,kex->ke", way, way).min(axis=1)))


class Lines:
    """L line segments."""

    def __init__(self, ends: Sequence[tuple[Point, Point]], width: int, height: int) -> None:
        points = np.array(ends, np.float64).reshape(-1, 2, 2) * (width, height)
        self._begin = points[:, 0]
        self._along = points[:, 1] - points[:, 0]
        self._length = np.hypot(self._along[:, 0], self._along[:, 1])

    def beside(self, points: F64) -> tuple[F64, F64]:
        """Where the k-th point lies by the k-th line: (N, L, 2) -> (N, L) twice.

        Returns:
            px to the right of one who walks along it (negative to the left), and how far along:
            0 at its begin, 1 at its end.
        """
        way, along = points - self._begin, self._along
        across = along[:, 0] * way[..., 1] - along[:, 1] * way[..., 0]
        ahead = along[:, 0] * way[..., 0] + along[:, 1] * way[..., 1]
        return across / self._length, ahead / self._length**2


class Ground:
    """Takes points of the picture to the ground by the homography of four points."""

    def __init__(self, calibration: CalibrationConfig, width: int, height: int) -> None:
        picture = np.array(calibration.picture) * (width, height)
        rows, sides = [], []
        for (x, y), (east, north) in zip(picture, calibration.ground_m, strict=True):
            rows.append([x, y, 1, 0, 0, 0, -x * east, -y * east])
            rows.append([0, 0, 0, x, y, 1, -x * north, -y * north])
            sides += [east, north]
        matrix = np.append(np.linalg.solve(np.array(rows), np.array(sides)), 1.0).reshape(3, 3)
        depth = float(np.append(picture[0], 1.0) @ matrix[2])
        self._matrix = matrix if depth > 0 else -matrix
        self._least = 1e-3 * abs(depth)

    def metres(self, points: F64) -> F64:
        """(N, 2) px -> (N, 2) m; NaN at the horizon and above it."""
        lifted = points @ self._matrix[:, :2].T + self._matrix[:, 2]
        depth = lifted[:, 2:]
        depth[depth < self._least] = np.nan
        return np.asarray(lifted[:, :2] / depth)
