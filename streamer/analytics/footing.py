"""Say, from a map of labels, which tracks stand on the surfaces that a zone or line asks for.

Who stands hides the ground: the label is sought straight below the anchor, from the lower edge of
the box on, behind whatever moves. Knows no queue and no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.analytics.geometry import F64, Mask
from streamer.view import LineConfig, ZoneConfig

U8 = NDArray[np.uint8]

_MOVERS = frozenset(
    {"person", "pedestrian", "rider", "bicyclist", "bicycle", "motorcycle", "car", "bus", "truck"}
)
"""Classes that stand on a surface and are none, unless somebody asks for them."""
_REACH = 0.1
"""How far below a box the ground is sought, in parts of its height,"""
_REACH_CELLS = 2.0
"""and at the least, in cells of the map, for a border is never sharper than that."""
_STEPS = np.linspace(0.0, 1.0, 5)


@dataclass(frozen=True, slots=True)
class Surfaces:
    """What is known of the scene below the objects of one frame."""

    labels: U8
    """(h, w), of the whole picture."""
    class_names: tuple[str, ...]


class Footing:
    """The surfaces that K zones, or K lines, of one camera ask for."""

    def __init__(self, borders: Sequence[ZoneConfig | LineConfig], width: int, height: int) -> None:
        self._wanted = [border.on for border in borders]
        self._size = (width, height)
        self.asked = np.array([bool(on) for on in self._wanted], np.bool_)
        """(K,) which of them ask at all."""
        self._names: tuple[str, ...] = ()
        self._counts: Mask = np.zeros((0, len(borders)), np.bool_)
        self._hides = self._counts

    def update(self, on: Mask, points: F64, boxes_xyxy: F64, surfaces: Surfaces | None) -> None:
        """Bring up to date who stands where they count; what can't be seen stays as it was.

        Args:
            on: (N, K), is written to; all False for tracks that were never seen.
            points: (N, K, 2) px, the anchors.
            boxes_xyxy: (N, 4) px.
            surfaces: None if nobody knows it.
        """
        on[:, ~self.asked] = True
        if surfaces is None or not self.asked.any():
            return
        if surfaces.class_names != self._names:
            self._learn(surfaces.class_names)
        labels = self._below(points[..., 0], boxes_xyxy, surfaces.labels)
        column = np.arange(labels.shape[1])[:, None]
        seen = ~self._hides[labels, column]
        first = np.take_along_axis(labels, seen.argmax(axis=2)[..., None], axis=2)
        known = seen.any(axis=2) & self.asked
        on[known] = self._counts[first, column][..., 0][known]

    def _below(self, x: F64, boxes_xyxy: F64, labels: U8) -> U8:
        """(N, K, steps) labels from the lower edge of each box downwards."""
        rows, columns = labels.shape
        width, height = self._size
        bottom = boxes_xyxy[:, 3:] * (rows / height)
        reach = _REACH * (bottom - boxes_xyxy[:, 1:2] * (rows / height))
        down = bottom + np.maximum(reach, _REACH_CELLS) * _STEPS
        at_y = np.clip(down.astype(np.int64), 0, rows - 1)
        at_x = np.clip((x * (columns / width)).astype(np.int64), 0, columns - 1)
        below: U8 = labels[at_y[:, None, :], at_x[:, :, None]]
        return below

    def _learn(self, names: tuple[str, ...]) -> None:
        self._names = names
        counts = [[name in on for on in self._wanted] for name in names]
        self._counts = np.array(counts, np.bool_).reshape(len(names), len(self._wanted))
        movers = np.array([name in _MOVERS for name in names], np.bool_)
        self._hides = movers[:, None] & ~self._counts
