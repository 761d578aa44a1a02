"""Measure how fast tracks are on the ground, and since when they stand.

A speed is the slope of a straight line through the last places of the lower edge's middle, in
metres, the older the less of weight. A box that the picture's border cuts says nothing of it.
"""

from __future__ import annotations

import numpy as np

from streamer.analytics.geometry import F64, Anchors, Ground
from streamer.analytics.rows import Rows

_MEMORY_S = 0.4
"""A place weighs 1/e of what it did so long ago."""
_LEAST_S = 0.5
"""A speed is told when it was measured for so long."""
_BORDER_PX = 2.0
_STILL = 0.15
"""A track stands while its middle stays so near to where it stopped, in parts of its size."""
_MS_TO_KMH = 3.6
_FEET = Anchors(["bottom"])
_WEIGHT, _TIME, _TIME2, _PLACE, _MOMENT = 0, 1, 2, slice(3, 5), slice(5, 7)
"""Places in sums: of weights, times, squared times, places, and times times places."""


def measure_speed(rows: Rows, ground: Ground, width: int, height: int, time_s: float) -> None:
    """Bring rows["speed_kmh"] up to date; NaN where it is unknown."""
    box, sums, began_s = rows["box"], rows["sums"], rows["ground_s"]
    places = ground.metres(_FEET.points(box)[:, 0])
    cut = (box[:, 0] <= _BORDER_PX) | (box[:, 2] >= width - _BORDER_PX)
    cut |= box[:, 3] >= height - _BORDER_PX
    usable = (places[:, 0] == places[:, 0]) & ~cut
    goes_on = usable & (began_s == began_s)
    began_s[~goes_on] = np.where(usable[~goes_on], time_s, np.nan)
    sums[~goes_on] = 0.0
    _shift(sums, np.where(goes_on, time_s - rows["seen_s"], 0.0))
    sums[:, _WEIGHT] += usable
    sums[:, _PLACE] += np.where(usable[:, None], places, 0.0)
    weight, time, time2 = sums[:, _WEIGHT], sums[:, _TIME], sums[:, _TIME2]
    spread = weight * time2 - time**2
    known = usable & (time_s - began_s >= _LEAST_S) & (spread > 1e-9)
    slope = weight[:, None] * sums[:, _MOMENT] - time[:, None] * sums[:, _PLACE]
    slope /= np.where(known, spread, 1.0)[:, None]
    speed = np.hypot(slope[:, 0], slope[:, 1]) * _MS_TO_KMH
    rows["speed_kmh"] = np.where(known, speed, np.nan)


def _shift(sums: F64, past_s: F64) -> None:
    """Count times from now on instead of from past_s ago, and let the old weigh less."""
    weight, time = sums[:, _WEIGHT].copy(), sums[:, _TIME].copy()
    sums[:, _TIME2] += past_s * (past_s * weight - 2 * time)
    sums[:, _MOMENT] -= past_s[:, None] * sums[:, _PLACE]
    sums[:, _TIME] -= past_s * weight
    sums *= np.exp(-past_s / _MEMORY_S)[:, None]


def measure_still(rows: Rows, sizes_px: F64, time_s: float) -> None:
    """Bring rows["still_s"] up to date: since when a track has not moved."""
    box = rows["box"]
    middle = (box[:, :2] + box[:, 2:]) / 2
    way = middle - rows["still_at"]
    moved = rows["fresh"] | (np.hypot(way[:, 0], way[:, 1]) > _STILL * sizes_px)
    rows["still_at"][moved] = middle[moved]
    rows["still_s"][moved] = time_s
