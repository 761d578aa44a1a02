"""Turn the detections of each frame into tracks with identities; runs in the track process.

Knows no pixel, no queue and no process. One Tracker per camera; not thread-safe. Time is media
time: the frame rate may vary, frames may be missing, and all lifetimes are seconds.
Sources: Bewley et al., SORT (2016); Zhang et al., ByteTrack (2022); Cao et al., OC-SORT (2023);
Aharon et al., BoT-SORT (2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.errors import ConfigError
from streamer.tracking import kalman
from streamer.tracking.association import REFUSED, assign, iou
from streamer.tracking.classes import ClassGroups
from streamer.tracking.detections import (
    CONFIRMED,
    F64,
    I64,
    LOST,
    TENTATIVE,
    Detections,
    Mask,
    Tracks,
)
from streamer.tracking.options import TrackerOptions, named_options

Rows = NDArray[np.void]

NOISE = kalman.Noise(
    measured=np.array([0.05, 0.05, 0.05, 0.05]),
    drift=np.array([0.25, 0.25, 0.25, 0.25]),
    agility=np.array([1.0, 1.0, 1.0, 1.0]),
    first_velocity=np.array([2.0, 2.0, 2.0, 2.0]),
)


def _row(votes: int, embedding: int) -> np.dtype[np.void]:
    """One track. The belief is that of seen_s, so that any later time is one prediction away."""
    whole = [(name, np.int64) for name in ("id", "group", "hits", "detection")]
    real = [(name, np.float64) for name in ("born_s", "seen_s", "score")]
    four = [(name, np.float64, 4) for name in ("pos", "vel", "var", "cov", "var_vel", "box")]
    wide = [("votes", np.float64, (votes,)), ("looks", np.float32, (embedding,))]
    return np.dtype([*whole, *real, *four, *wide, ("state", np.int8)])


def _belief(rows: Rows) -> kalman.Belief:
    return kalman.Belief(*(rows[name] for name in ("pos", "vel", "var", "cov", "var_vel")))


def _store(rows: Rows, where: I64 | slice, belief: kalman.Belief) -> None:
    for name in ("pos", "vel", "var", "cov", "var_vel"):
        rows[name][where] = getattr(belief, name)


@dataclass(slots=True)
class _Seen:
    """The usable detections of one frame; row is their place in what the caller gave."""

    row: I64
    boxes: F64
    scores: F64
    group: I64
    place: I64
    looks: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.row)


class Tracker:
    """Follows the objects of one camera."""

    def __init__(self, options: TrackerOptions | None = None, *, first_id: int = 1) -> None:
        """Start with no track.

        Args:
            options: what to do; ByteTrack's settings unless told otherwise.
            first_id: of the first track; a restarted process goes on after its last one.
        """
        if first_id < 0:
            raise ConfigError(f"tracker.first_id: must be 0 or more, got {first_id}")
        self.options = options or TrackerOptions()
        self.next_id = first_id
        self.refused = 0
        """Detections so far that had no finite score, no finite corner or no area."""
        self._classes = ClassGroups(self.options.class_groups)
        self._rows: Rows = np.empty(0, _row(self._classes.width, self.options.embedding_size))
        self._time_s = -math.inf

    def reset(self) -> I64:
        """End every track, as for another scene, and say which; ids go on."""
        ended: I64 = self._rows["id"].copy()
        self._rows = self._rows[:0]
        self._time_s = -math.inf
        return ended

    def update(self, detections: Detections, time_s: float) -> Tracks:
        """Take one frame in.

        Args:
            detections: of this frame; a row that Detections.usable() refuses is left out.
            time_s: media time of the frame; one before the last frame's ends every track.

        Returns:
            All live tracks, also tentative and lost ones.

        Raises:
            ValueError: time_s is not finite, or the embeddings have not the configured length.
        """
        if not math.isfinite(time_s):
            raise ValueError(f"time_s must be finite, got {time_s}")
        ended = [self.reset()] if time_s < self._time_s else []
        self._time_s = time_s
        ended.append(self._keep(time_s - self._rows["seen_s"] <= self.options.lost_s))
        if detections.motion is not None and self.options.camera_motion:
            self._move(detections.motion)
        seen = self._select(detections)
        rows = self._rows
        rows["detection"] = -1
        scale = kalman.scales(rows["box"])
        unseen_s = time_s - rows["seen_s"]
        predicted = kalman.predict(_belief(rows), unseen_s[:, None], scale, NOISE)
        tracks, columns = self._associate(kalman.to_xyxy(predicted.pos), seen)
        self._extend(tracks, columns, seen, predicted)
        ended.append(self._fade(time_s))
        self._begin(np.delete(np.arange(len(seen)), columns), seen)
        return self._report(np.concatenate(ended))

    def _select(self, detections: Detections) -> _Seen:
        """Leave out what is unusable, or too unsure to mean anything."""
        usable = detections.usable()
        self.refused += len(usable) - int(np.count_nonzero(usable))
        row = np.flatnonzero(usable & (detections.scores >= self.options.low_score))
        group, place = self._classes.locate(detections.classes[row])
        size = self.options.embedding_size
        looks = np.empty((len(row), size), np.float32)
        if size and detections.embeddings is not None:
            if detections.embeddings.shape[1] != size:
                raise ValueError(
                    f"embeddings must be (N, {size}) as tracker.embedding_size says, "
                    f"got {detections.embeddings.shape}"
                )
            looks = detections.embeddings[row]
            looks = looks / np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-12)
        elif size:
            looks[:] = 0.0
        boxes = kalman.to_cxcywh(detections.boxes_xyxy[row].astype(np.float64))
        return _Seen(row, boxes, detections.scores[row].astype(np.float64), group, place, looks)

    def _associate(self, predicted_xyxy: F64, seen: _Seen) -> tuple[I64, I64]:
        """Pair tracks with detections, the sure ones first."""
        options, rows = self.options, self._rows
        seen_xyxy = kalman.to_xyxy(seen.boxes)
        foreign = rows["group"][:, None] != seen.group
        overlap = iou(predicted_xyxy, seen_xyxy)
        overlap[foreign] = 0.0
        high = seen.scores >= options.high_score
        free_track, free_seen = rows["state"] >= 0, np.ones(len(seen), bool)
        pairs: list[tuple[I64, I64]] = []

        def pair(tracks: Mask, columns: Mask, cost: F64, limit: float) -> None:
            t, c = np.flatnonzero(tracks & free_track), np.flatnonzero(columns & free_seen)
            if not len(t) or not len(c):
                return
            rows_of, columns_of = assign(cost[np.ix_(t, c)], limit)
            t, c = t[rows_of], c[columns_of]
            free_track[t] = False
            free_seen[c] = False
            pairs.append((t, c))

        known = rows["state"] != TENTATIVE
        fused = overlap * seen.scores if options.fuse_score else overlap
        cost = 1.0 - fused
        if options.momentum:
            cost -= options.momentum * self._course(seen) * (overlap > 0)
        if options.embedding_size:
            cost = np.minimum(cost, self._looks_cost(seen, overlap))
            cost[foreign] = REFUSED
        pair(known, high, cost, 1.0 - options.match_iou)
        in_sight = rows["state"] == CONFIRMED
        pair(in_sight, ~high, 1.0 - overlap, 1.0 - options.low_iou)
        if options.recover:
            again = iou(kalman.to_xyxy(rows["box"]), seen_xyxy)
            again[foreign] = 0.0
            pair(known, high, 1.0 - again, 1.0 - options.match_iou)
        pair(~known, high, 1.0 - fused, 1.0 - options.tentative_iou)
        if not pairs:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate([t for t, _ in pairs]), np.concatenate([c for _, c in pairs])

    def _course(self, seen: _Seen) -> F64:
        """(N, M) 1 where a detection lies straight ahead of a track, -1 straight behind."""
        way = seen.boxes[None, :, :2] - self._rows["box"][:, None, :2]
        course = self._rows["vel"][:, None, :2]
        length = np.hypot(way[..., 0], way[..., 1]) * np.hypot(course[..., 0], course[..., 1])
        angle = np.arccos(np.clip((way * course).sum(axis=2) / np.maximum(length, 1e-9), -1, 1))
        return np.asarray((1.0 - angle * (2 / math.pi)) * seen.scores)

    def _looks_cost(self, seen: _Seen, overlap: F64) -> F64:
        """(N, M) half the cosine distance where a pair is near and alike, else refused."""
        distance = 1.0 - self._rows["looks"].astype(np.float64) @ seen.looks.T
        alike = (distance < self.options.appearance_distance) & (overlap > 0)
        return np.where(alike, distance * 0.5, REFUSED)

    def _extend(self, tracks: I64, columns: I64, seen: _Seen, predicted: kalman.Belief) -> None:
        """Give matched tracks their detection."""
        rows, boxes, scores = self._rows, seen.boxes[columns], seen.scores[columns]
        before = kalman.Belief(
            *(getattr(predicted, name)[tracks] for name in ("pos", "vel", "var", "cov", "var_vel"))
        )
        noise = (NOISE.measured * kalman.scales(boxes)) ** 2
        if self.options.score_noise:
            noise *= np.maximum(1.0 - scores, 0.05)[:, None]
        _store(rows, tracks, kalman.correct(before, boxes, noise))
        rows["box"][tracks] = boxes
        rows["seen_s"][tracks] = self._time_s
        rows["score"][tracks] = scores
        rows["detection"][tracks] = seen.row[columns]
        rows["hits"][tracks] += 1
        rows["votes"][tracks, seen.place[columns]] += scores
        if self.options.embedding_size:
            looks = 0.9 * rows["looks"][tracks] + 0.1 * seen.looks[columns]
            length = np.linalg.norm(looks, axis=1, keepdims=True)
            rows["looks"][tracks] = looks / np.maximum(length, 1e-12)
        old_enough = (rows["hits"][tracks] >= self.options.confirm_hits) & (
            self._time_s - rows["born_s"][tracks] >= self.options.confirm_s
        )
        rows["state"][tracks[old_enough | (rows["state"][tracks] != TENTATIVE)]] = CONFIRMED

    def _fade(self, time_s: float) -> I64:
        """Lose the unmatched tracks, and end those that never were confirmed; return the ended."""
        rows, options = self._rows, self.options
        unseen_s = time_s - rows["seen_s"]
        missed = rows["detection"] < 0
        tentative = rows["state"] == TENTATIVE
        rows["state"][missed & ~tentative & (unseen_s > options.coast_s)] = LOST
        return self._keep(~(missed & tentative & (unseen_s > options.tentative_s)))

    def _keep(self, alive: Mask) -> I64:
        """Forget the other tracks and return their ids."""
        ended: I64 = self._rows["id"][~alive]
        if len(ended):
            self._rows = self._rows[alive]
        return ended

    def _begin(self, free: I64, seen: _Seen) -> None:
        """Begin a track at each sure detection that no track took."""
        free = free[seen.scores[free] >= max(self.options.birth_score, self.options.high_score)]
        if not len(free):
            return
        new = np.zeros(len(free), self._rows.dtype)
        new["id"] = np.arange(self.next_id, self.next_id + len(free))
        self.next_id += len(free)
        _store(new, slice(None), kalman.begin(seen.boxes[free], NOISE))
        new["box"] = seen.boxes[free]
        new["score"] = seen.scores[free]
        new["group"] = seen.group[free]
        new["looks"] = seen.looks[free]
        new["detection"] = seen.row[free]
        new["born_s"] = new["seen_s"] = self._time_s
        new["hits"] = 1
        new["votes"][np.arange(len(free)), seen.place[free]] = seen.scores[free]
        instant = self.options.confirm_hits == 1 and self.options.confirm_s == 0
        new["state"] = CONFIRMED if instant else TENTATIVE
        self._rows = np.concatenate([self._rows, new])

    def _move(self, motion: F64) -> None:
        """Carry what was seen before into this frame's coordinates."""
        rows = self._rows
        _store(rows, slice(None), kalman.move(_belief(rows), motion))
        rows["box"] = kalman.move_boxes(rows["box"], motion)

    def _report(self, ended: I64) -> Tracks:
        rows = self._rows
        dt_s = (self._time_s - rows["seen_s"])[:, None]
        boxes = kalman.to_xyxy(rows["pos"] + rows["vel"] * dt_s)
        return Tracks(
            ids=rows["id"].copy(),
            classes=self._classes.winners(rows["group"], rows["votes"]),
            scores=rows["score"].astype(np.float32),
            boxes_xyxy=boxes.astype(np.float32),
            velocities_px_s=rows["vel"][:, :2].astype(np.float32),
            state=rows["state"].copy(),
            age_s=self._time_s - rows["born_s"],
            hits=rows["hits"].copy(),
            detection=rows["detection"].copy(),
            ended=ended,
        )


def make_tracker(name: str = "default", *, first_id: int = 1, **options: object) -> Tracker:
    """Make a tracker by name ("default", "sort", "bytetrack", "ocsort", "botsort").

    Args:
        name: which settings to start from.
        first_id: id of the first track.
        options: fields of TrackerOptions to change.

    Raises:
        ConfigError: no such tracker or option, or a value out of range.
    """
    return Tracker(named_options(name, options), first_id=first_id)
