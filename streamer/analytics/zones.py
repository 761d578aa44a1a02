"""Decide which tracks are inside which zones, without flicker at the borders.

A visit lasts from the first frame inside to the first of those outside that are sure: beyond the
margin, or for settle_s. Only confirmed tracks of the zone's classes enter. Where a zone asks for a
surface, who is on another is outside; over the border of a surface only settle_s makes sure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamer.analytics.footing import Footing, Surfaces
from streamer.analytics.geometry import F64, I64, Anchors, Mask, Polygons
from streamer.analytics.rows import Rows
from streamer.view import ZoneConfig

SLACK_S = 1e-6
"""Times are sums of frame durations: a tenth of a second is rarely 0.1 exactly."""
Pairs = tuple[I64, I64]
"""Rows and zones (or lines) that something is true of."""


class Zones:
    """The zones of one camera at one picture size."""

    def __init__(self, zones: Sequence[ZoneConfig], classes: Mask, width: int, height: int) -> None:
        """Lay them out; classes: (C, Z) bool, which classes count in which zone."""
        self._polygons = Polygons([zone.polygon for zone in zones], width, height)
        self._anchors = Anchors([zone.anchor for zone in zones])
        self._footing = Footing(zones, width, height)
        self._classes = classes
        self._margin = np.array([zone.margin for zone in zones])
        self._settle_s = np.array([zone.settle_s for zone in zones]) - SLACK_S

    def move(
        self,
        rows: Rows,
        sizes_px: F64,
        confirmed: Mask,
        time_s: float,
        surfaces: Surfaces | None = None,
    ) -> tuple[F64, Pairs, Pairs]:
        """Take in where the tracks are now.

        Returns:
            Their anchors, (N, Z, 2) px, and the pairs that have entered and that have left.
        """
        points = self._anchors.points(rows["box"])
        within = self._polygons.inside(points)
        self._footing.update(rows["on"], points, rows["box"], surfaces)
        raw = within & rows["on"]
        run_s, edge_s, inside = rows["run_s"], rows["edge_s"], rows["inside"]
        fresh = rows["fresh"]
        rows["appeared"][fresh] = raw[fresh]
        run_s[(raw != rows["raw"]) | fresh[:, None]] = time_s
        rows["raw"] = raw
        approaches = raw & ~inside
        edge_s[approaches & np.isnan(edge_s)] = time_s
        counts = self._classes[rows["class"]] & confirmed[:, None]
        leaves = inside & ~raw
        withdraws = ~raw & (edge_s == edge_s)
        open_rows, open_zones = pairs_of((approaches & counts) | leaves | withdraws)
        sure = np.zeros(raw.shape, np.bool_)
        sure[open_rows, open_zones] = self._sure(
            points, sizes_px, time_s - run_s, within & self._footing.asked, open_rows, open_zones
        )
        edge_s[withdraws & sure] = np.nan
        rows["appeared"][withdraws & sure] = False
        entered, left = pairs_of(approaches & counts & sure), pairs_of(leaves & sure)
        rows["entered_s"][entered] = edge_s[entered]
        edge_s[entered] = np.nan
        inside[entered] = True
        return points, entered, left

    def _sure(
        self, points: F64, sizes_px: F64, since_s: F64, by_surface: Mask, rows: I64, zones: I64
    ) -> Mask:
        """Which pairs are where they are without doubt; by_surface: a border in px says nothing."""
        settled = since_s[rows, zones] >= self._settle_s[zones]
        margin_px = self._margin[zones] * sizes_px[rows]
        doubtful = np.flatnonzero(~settled & ~by_surface[rows, zones])
        if len(doubtful):
            r, z = rows[doubtful], zones[doubtful]
            far = self._polygons.distance(points[r, z], z) >= margin_px[doubtful]
            settled[doubtful] = far
        return np.asarray(settled)


def pairs_of(true: Mask) -> Pairs:
    """Where a table of rows and zones is true."""
    rows, zones = true.nonzero()
    return rows, zones


def forget_visit(rows: Rows, pairs: Pairs, left_s: F64) -> F64:
    """End visits: their time goes to the past, and their limits no longer matter.

    Returns:
        How long each has lasted, s.
    """
    dwell_s = np.asarray(left_s - rows["entered_s"][pairs])
    rows["past_s"][pairs] += dwell_s
    rows["inside"][pairs] = rows["appeared"][pairs] = False
    for name in ("entered_s", "stopped_s", "edge_s"):
        rows[name][pairs] = np.nan
    for name in ("dwell_due_s", "loiter_due_s", "limit_kmh"):
        rows[name][pairs] = np.inf
    return dwell_s
