"""Decide which detection continues which track, surest first; changes neither.

Runs in the track process, once a frame. Knows no lifetimes and no filter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from streamer.tracking.association import REFUSED, assign, iou, rows_shared, widened
from streamer.tracking.detections import F64, I64, TENTATIVE, Mask
from streamer.tracking.kalman import to_xyxy
from streamer.tracking.options import TrackerOptions
from streamer.tracking.rows import NO_PAIRS, Rows, Seen


class Match:
    """The association of one frame; pairs() runs it."""

    def __init__(
        self, options: TrackerOptions, rows: Rows, predicted: F64, recent: Mask, seen: Seen
    ) -> None:
        """Prepare; predicted: (N, 4) boxes_xyxy of the rows now; recent: (N,) seen just before."""
        self._options, self._rows, self._seen = options, rows, seen
        self._predicted, self._recent = predicted, recent
        self._wide = predicted, seen.boxes_xyxy
        if options.buffer:
            self._wide = (
                widened(predicted, options.buffer),
                widened(seen.boxes_xyxy, options.buffer),
            )
        self._open_rows: Mask = np.ones(len(rows), bool)
        self._open_seen: Mask = np.ones(len(seen), bool)

    def pairs(self) -> tuple[I64, I64]:
        """Row and detection of each pair."""
        if not len(self._rows) or not len(self._seen):
            return NO_PAIRS
        options, state = self._options, self._rows["state"]
        sure = self._seen.scores >= options.high_score
        known = state != TENTATIVE
        found = [self._pair(known, sure, self._first_cost, options.match_iou)]
        if options.low_score < options.high_score:
            found.append(self._pair(known & self._recent, ~sure, self._plain_cost, options.low_iou))
        if options.recover:
            found.append(self._pair(known, sure, self._last_cost, options.match_iou))
        found.append(self._pair(~known, sure, self._fused_cost, options.tentative_iou))
        return np.concatenate([r for r, _ in found]), np.concatenate([c for _, c in found])

    def _pair(
        self, rows: Mask, seen: Mask, cost_of: Callable[[I64, I64], F64], least: float
    ) -> tuple[I64, I64]:
        """Pair what is still open of the rows and detections; least: overlap, 0..1."""
        r, c = np.flatnonzero(rows & self._open_rows), np.flatnonzero(seen & self._open_seen)
        if not len(r) or not len(c):
            return NO_PAIRS
        cost = cost_of(r, c)
        cost[self._rows["group"][r, None] != self._seen.group[c]] = REFUSED
        chosen_rows, chosen_seen = assign(cost, 1.0 - least)
        r, c = r[chosen_rows], c[chosen_seen]
        self._open_rows[r] = False
        self._open_seen[c] = False
        return r, c

    def _plain_cost(self, r: I64, c: I64) -> F64:
        return 1.0 - iou(self._predicted[r], self._seen.boxes_xyxy[c])

    def _last_cost(self, r: I64, c: I64) -> F64:
        """Against where the track was seen last (OC-SORT's recovery)."""
        return 1.0 - iou(to_xyxy(self._rows["box"][r]), self._seen.boxes_xyxy[c])

    def _fused_cost(self, r: I64, c: I64) -> F64:
        similarity = iou(self._wide[0][r], self._wide[1][c])
        if self._options.share_rows:
            similarity *= np.sqrt(rows_shared(self._predicted[r], self._seen.boxes_xyxy[c]))
        if self._options.fuse_score:
            similarity *= self._seen.scores[c]
        return np.subtract(1.0, similarity, out=similarity)

    def _first_cost(self, r: I64, c: I64) -> F64:
        cost = self._fused_cost(r, c)
        near = cost < 1.0
        if self._options.momentum:
            cost -= self._options.momentum * self._ahead(r, c) * near
        if self._options.embedding_size:
            distance = 1.0 - self._rows["looks"][r].astype(np.float64) @ self._seen.looks[c].T
            alike = near & (distance < self._options.appearance_distance)
            cost = np.where(alike, np.minimum(cost, distance * 0.5), cost)
        return cost

    def _ahead(self, r: I64, c: I64) -> F64:
        """1 where a detection lies straight ahead of a track, -1 straight behind, by its score."""
        way = self._seen.boxes_cxcywh[c, :2] - self._rows["box"][r, None, :2]
        course = self._rows["vel"][r, None, :2]
        length = np.hypot(way[..., 0], way[..., 1]) * np.hypot(course[..., 0], course[..., 1])
        cosine = (way * course).sum(axis=2) / np.maximum(length, 1e-9)
        angle = np.arccos(np.clip(cosine, -1.0, 1.0))
        return np.asarray((1.0 - angle * (2 / math.pi)) * self._seen.scores[c])
