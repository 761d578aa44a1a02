"""Decide which tracks have crossed which lines, each crossing once.

A track has crossed when it was surely on one side (beyond the margin, or for settle_s), is surely
on the other, and the way it took there went between the ends of the line. Where a line asks for a
surface, only those count that are on it then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamer.analytics.footing import Footing, Surfaces
from streamer.analytics.geometry import F64, Anchors, Mask
from streamer.analytics.geometry import Lines as Segments
from streamer.analytics.rows import Rows
from streamer.analytics.zones import SLACK_S, Pairs, pairs_of
from streamer.view import LineConfig


class Lines:
    """The lines of one camera at one picture size."""

    def __init__(self, lines: Sequence[LineConfig], classes: Mask, width: int, height: int) -> None:
        """Lay them out; classes: (C, L) bool, which classes count on which line."""
        self._segments = Segments([line.ends for line in lines], width, height)
        self._anchors = Anchors([line.anchor for line in lines])
        self._footing = Footing(lines, width, height)
        self._classes = classes
        self._margin = np.array([line.margin for line in lines])
        self._settle_s = np.array([line.settle_s for line in lines]) - SLACK_S
        self._once = np.array([line.once for line in lines], np.bool_)

    def move(
        self,
        rows: Rows,
        sizes_px: F64,
        confirmed: Mask,
        time_s: float,
        surfaces: Surfaces | None = None,
    ) -> Pairs:
        """Take in where the tracks are now; the pairs that have crossed.

        rows["line_right"] says to which side, rows["line_crossed_s"] when they were on the line.
        """
        points = self._anchors.points(rows["box"])
        self._footing.update(rows["line_on"], points, rows["box"], surfaces)
        beside, along = self._segments.beside(points)
        raw, fresh = beside >= 0, rows["fresh"]
        rows["line_raw"][fresh] = raw[fresh]
        changed = raw != rows["line_raw"]
        if changed.any():
            self._note_change(rows, pairs_of(changed), beside, along, time_s)
        rows["line_run_s"][changed | fresh[:, None]] = time_s
        rows["line_raw"], rows["line_beside"], rows["line_along"] = raw, beside, along
        unknown = ~rows["line_known"]
        over = (raw != rows["line_right"]) & ~unknown & confirmed[:, None]
        if not (over | unknown).any():
            return pairs_of(over)
        sure = np.abs(beside) >= self._margin * sizes_px[:, None]
        sure |= time_s - rows["line_run_s"] >= self._settle_s
        over &= sure
        rows["line_known"] |= sure
        decided = over | (unknown & sure)
        rows["line_right"][decided] = raw[decided]
        between = (rows["line_crossed_at"] >= 0) & (rows["line_crossed_at"] <= 1)
        over &= between & self._classes[rows["class"]] & rows["line_on"]
        over &= ~(self._once & np.where(raw, rows["line_was_in"], rows["line_was_out"]))
        rows["line_was_in"] |= over & raw
        rows["line_was_out"] |= over & ~raw
        return pairs_of(over)

    @staticmethod
    def _note_change(rows: Rows, where: Pairs, beside: F64, along: F64, time_s: float) -> None:
        """Where and when the straight way from the last place met the line."""
        before, last_s = rows["line_beside"][where], rows["seen_s"][where[0]]
        part = before / (before - beside[where])
        start = rows["line_along"][where]
        rows["line_crossed_at"][where] = start + part * (along[where] - start)
        rows["line_crossed_s"][where] = last_s + part * (time_s - last_s)
