"""Find what is remarkable about the visits of this frame: long, fast, the wrong way, at a stand.

Each is told once a visit (loitering once a track). Only tracks that are seen now are looked at. A
visit carries its limits from its begin, and infinity once they were told: so one comparison for all
tracks and zones finds what is due.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamer.analytics.geometry import F64
from streamer.analytics.rows import Rows
from streamer.analytics.zones import SLACK_S, Pairs, pairs_of
from streamer.view import ZoneConfig

VEHICLES = ("car", "bus", "truck", "motorcycle")
_WRONG_WAY = 0.5
"""Way against the direction before it is told, in parts of the object's size."""


class VisitRules:
    """The limits of all zones, as arrays."""

    def __init__(self, zones: Sequence[ZoneConfig], class_names: Sequence[str]) -> None:
        def limits(name: str) -> F64:
            values = [getattr(zone, name) for zone in zones]
            return np.array([np.inf if value is None else value for value in values], np.float64)

        self._dwell_s = limits("dwell_s") - SLACK_S
        self._loitering_s = limits("loitering_s") - SLACK_S
        self._any_long = bool(np.isfinite([self._dwell_s, self._loitering_s]).any())
        self._any_limit = bool(np.isfinite(limits("speed_over_kmh")).any())
        self._stopped_s = limits("stopped_s") - SLACK_S
        self._speed_kmh = limits("speed_over_kmh")
        self._settle_s = limits("settle_s") - SLACK_S
        way = np.array([zone.direction or (0.0, 0.0) for zone in zones]).reshape(-1, 2)
        length = np.hypot(way[:, 0], way[:, 1])
        self._way = way / np.where(length > 0, length, 1.0)[:, None]
        self._vehicles = np.array([name in VEHICLES for name in class_names], np.bool_)
        self._has_way = length > 0
        self._any_way = bool(self._has_way.any())
        self.any_stops = bool(np.isfinite(self._stopped_s).any())

    def begin(self, rows: Rows, entered: Pairs) -> None:
        """Set the limits of visits that begin."""
        zones = entered[1]
        if not len(zones):
            return
        begun_s, past_s = rows["entered_s"][entered], rows["past_s"][entered]
        rows["dwell_due_s"][entered] = begun_s + self._dwell_s[zones]
        left_s = np.where(rows["loitered"][entered], np.inf, self._loitering_s[zones] - past_s)
        rows["loiter_due_s"][entered] = begun_s + left_s
        rows["limit_kmh"][entered] = self._speed_kmh[zones]
        rows["best"][entered] = -np.inf

    def dwelt(self, rows: Rows, time_s: float) -> Pairs:
        """Visits that have become long."""
        if not self._any_long:
            return _NOBODY
        return _due(rows["dwell_due_s"], time_s)

    def loitered(self, rows: Rows, time_s: float) -> Pairs:
        """Tracks whose visits together have become long."""
        if not self._any_long:
            return _NOBODY
        pairs = _due(rows["loiter_due_s"], time_s)
        rows["loitered"][pairs] = True
        return pairs

    def sped(self, rows: Rows, time_s: float) -> Pairs:
        """Visits of tracks that have been too fast for the zone's settle_s."""
        if not self._any_limit:
            return _NOBODY
        limits, fast_s = rows["limit_kmh"], rows["fast_s"]
        fast = rows["speed_kmh"][:, None] > limits
        fast_s[~fast] = np.inf
        if not fast.any():
            return _NOBODY
        fast_s[fast & np.isinf(fast_s)] = time_s
        pairs = pairs_of(time_s - fast_s >= self._settle_s)
        limits[pairs] = np.inf
        return pairs

    def wrong_way(self, rows: Rows, points: F64, sizes_px: F64) -> Pairs:
        """Visits of tracks that go against the zone's direction."""
        if not self._any_way:
            return _NOBODY
        progress = points[..., 0] * self._way[:, 0] + points[..., 1] * self._way[:, 1]
        best = rows["best"]
        np.maximum(best, progress, out=best)
        back = best - progress >= _WRONG_WAY * sizes_px[:, None]
        pairs = pairs_of(back & rows["inside"] & self._has_way)
        best[pairs] = np.nan  # which is never far back: once a visit
        return pairs

    def stopped(self, rows: Rows, time_s: float) -> tuple[Pairs, Pairs]:
        """Visits of vehicles that have come to a stand, and of those that drive on."""
        stands = (time_s - rows["still_s"])[:, None] >= self._stopped_s
        stands &= rows["inside"] & self._vehicles[rows["class"]][:, None]
        known = rows["stopped_s"] == rows["stopped_s"]
        begins, ends = pairs_of(stands & ~known), pairs_of(~stands & known)
        rows["stopped_s"][begins] = rows["still_s"][begins[0]]
        return begins, ends


_NOBODY: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64))


def _due(due_s: F64, time_s: float) -> Pairs:
    """Pairs whose time has come; it does not come again."""
    pairs = pairs_of(due_s <= time_s)
    due_s[pairs] = np.inf
    return pairs
