"""Turn the detections of each frame into tracks with identities; runs in the track process.

Knows no pixel, no queue and no process. One Tracker per camera; not thread-safe. Time is media
time: the frame rate may vary, frames may be missing, and all lifetimes are seconds.
Sources: Bewley et al., SORT (2016); Zhang et al., ByteTrack (2022); Cao et al., OC-SORT (2023);
Aharon et al., BoT-SORT (2022).
"""

from __future__ import annotations

import math

import numpy as np

from streamer.errors import ConfigError
from streamer.tracking import kalman
from streamer.tracking.association import iou
from streamer.tracking.classes import ClassGroups
from streamer.tracking.detections import (
    CONFIRMED,
    F32,
    F64,
    I64,
    LOST,
    TENTATIVE,
    Detections,
    Mask,
    Tracks,
)
from streamer.tracking.learned import Births, BoxNoise, Returns
from streamer.tracking.match import Match
from streamer.tracking.options import TrackerOptions, named_options
from streamer.tracking.rows import Rows, Seen, belief, believe, empty, taken

NOISE = kalman.Noise(
    measured=np.full(4, 0.05),
    drift=np.full(4, 0.25),
    agility=np.array([1.0, 1.0, 0.0, 0.0]),
    first_velocity=np.array([2.0, 2.0, 0.0, 0.0]),
)
"""Sizes drift but have no velocity: extrapolated, a box would shrink to nothing or explode."""

_SETTLED_HITS = 5
"""Detections after which a track's velocity is worth a prediction."""
_SLACK_S = 1e-6
"""Times are sums of frame durations: a tenth of a second is rarely 0.1 exactly."""


class Tracker:
    """Follows the objects of one camera."""

    def __init__(self, options: TrackerOptions | None = None, *, first_id: int = 1) -> None:
        """Start with no track.

        Args:
            options: what to do; those of "default" are in make_tracker.
            first_id: of the first track; a restarted process goes on after its last one.
        """
        if first_id < 0:
            raise ConfigError(f"tracker.first_id: must be 0 or more, got {first_id}")
        self.options = options or TrackerOptions()
        self.next_id = first_id
        self.refused = 0
        """Detections so far that had no finite score, no finite corner or no area."""
        self._classes = ClassGroups(self.options.class_groups)
        self._rows: Rows = empty(self._classes.width, self.options.embedding_size)
        self._time_s = self._previous_s = -math.inf
        self._noise, self._returns, self._births = BoxNoise(), Returns(), Births()

    def reset(self) -> I64:
        """End every track, as for another scene, and say which.

        Ids go on, and so does what was learned of the detector.
        """
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
        seen = self._select(detections)
        ended = [self.reset()] if time_s < self._time_s else []
        self._previous_s, self._time_s = self._time_s, time_s
        ended.append(self._keep(time_s - self._rows["seen_s"] <= self.options.lost_s + _SLACK_S))
        if detections.motion is not None and self.options.camera_motion:
            self._move(detections.motion)
        predicted = self._predict()
        recent = self._previous_s - self._rows["seen_s"] <= self.options.low_s + _SLACK_S
        expected = kalman.to_xyxy(predicted.pos)
        tracks, columns = Match(self.options, self._rows, expected, recent, seen).pairs()
        self._rows["detection"] = -1
        self._extend(tracks, columns, seen, predicted)
        ended.append(self._fade())
        self._begin(np.delete(np.arange(len(seen)), columns), seen)
        return self._report(np.concatenate(ended))

    def _select(self, detections: Detections) -> Seen:
        """Leave out what is unusable, or too unsure to mean anything."""
        usable = detections.usable()
        self.refused += len(usable) - int(np.count_nonzero(usable))
        row = np.flatnonzero(usable & (detections.scores >= self.options.low_score))
        group, place = self._classes.locate(detections.classes[row])
        corners = detections.boxes_xyxy[row].astype(np.float64)
        return Seen(
            row,
            kalman.to_cxcywh(corners),
            corners,
            detections.scores[row].astype(np.float64),
            group,
            place,
            self._looks(detections, row),
        )

    def _looks(self, detections: Detections, row: I64) -> F32:
        """Embeddings of length 1; zeros, which are like nothing, where there are none."""
        size = self.options.embedding_size
        if not size or detections.embeddings is None:
            return np.zeros((len(row), size), np.float32)
        if detections.embeddings.shape[1] != size:
            raise ValueError(
                f"embeddings must be (N, {size}) as tracker.embedding_size says, "
                f"got {detections.embeddings.shape}"
            )
        return _unit(detections.embeddings[row])

    def _move(self, motion: F64) -> None:
        """Carry what was seen before into this frame's coordinates."""
        rows = self._rows
        believe(rows, slice(None), kalman.move(belief(rows), motion))
        rows["box"] = kalman.move_boxes(rows["box"], motion)

    def _predict(self) -> kalman.Belief:
        rows = self._rows
        unseen_s = (self._time_s - rows["seen_s"])[:, None]
        return kalman.predict(belief(rows), unseen_s, kalman.scales(rows["box"]), NOISE)

    def _extend(self, tracks: I64, columns: I64, seen: Seen, predicted: kalman.Belief) -> None:
        """Give matched tracks their detection."""
        if not len(tracks):
            return
        rows, boxes, scores = self._rows, seen.boxes_cxcywh[columns], seen.scores[columns]
        before, noise = taken(predicted, tracks), (NOISE.measured * kalman.scales(boxes)) ** 2
        if self.options.adapt_noise:
            noise *= self._noise.factor
        self._learn(tracks, boxes, before, noise)
        believe(rows, tracks, kalman.correct(before, boxes, noise))
        rows["box"][tracks] = boxes
        rows["seen_s"][tracks] = self._time_s
        rows["score"][tracks] = scores
        rows["detection"][tracks] = seen.row[columns]
        rows["hits"][tracks] += 1
        rows["votes"][tracks, seen.place[columns]] += scores
        if self.options.embedding_size:
            rows["looks"][tracks] = _unit(0.9 * rows["looks"][tracks] + 0.1 * seen.looks[columns])
        proven = (rows["hits"][tracks] >= self.options.confirm_hits) & (
            self._time_s - rows["born_s"][tracks] >= self.options.confirm_s - _SLACK_S
        )
        rows["state"][tracks[proven | (rows["state"][tracks] != TENTATIVE)]] = CONFIRMED

    def _learn(self, tracks: I64, boxes: F64, before: kalman.Belief, noise: F64) -> None:
        """Learn from the matches of this frame, before they change the tracks."""
        rows = self._rows
        hits, seen_s = rows["hits"][tracks], rows["seen_s"][tracks]
        self._births.confirmed(rows["first_score"][tracks[hits == 1]])
        settled, steady = hits >= _SETTLED_HITS, seen_s == self._previous_s
        missed = np.clip((boxes - before.pos) / np.sqrt(before.var + noise), -3.0, 3.0)
        both = settled & steady
        self._noise.observe(rows["missed"][tracks[both]], missed[both])
        rows["missed"][tracks] = missed
        back = settled & ~steady & (self._time_s - seen_s <= self.options.coast_s + _SLACK_S)
        if back.any():
            expected, found = kalman.to_xyxy(before.pos[back]), kalman.to_xyxy(boxes[back])
            right = int(np.count_nonzero(iou(expected, found).diagonal() >= 0.5))
            self._returns.observe(right, len(found) - right)

    def _fade(self) -> I64:
        """Lose the unmatched tracks, and end those that never were confirmed; return the ended."""
        rows, options = self._rows, self.options
        unseen_s = self._time_s - rows["seen_s"]
        unmatched, known = rows["detection"] < 0, rows["state"] != TENTATIVE
        settled = unmatched & known & (rows["hits"] >= _SETTLED_HITS)
        late = unseen_s > options.coast_s + _SLACK_S
        just = late & (self._previous_s - rows["seen_s"] <= options.coast_s + _SLACK_S)
        self._returns.observe(0, int(np.count_nonzero(settled & just)))
        coasts = settled & ~late & (self._returns.share >= options.coast_share)
        rows["state"][unmatched & known & ~coasts] = LOST
        return self._keep(~(unmatched & ~known & (unseen_s > options.tentative_s + _SLACK_S)))

    def _keep(self, alive: Mask) -> I64:
        """Forget the other tracks and return their ids."""
        ended: I64 = self._rows["id"][~alive]
        if len(ended):
            self._rows = self._rows[alive]
        return ended

    def _begin(self, free: I64, seen: Seen) -> None:
        """Begin a track at each sure detection that no track took."""
        free = free[seen.scores[free] >= max(self.options.birth_score, self.options.high_score)]
        if not len(free):
            return
        new, scores = np.zeros(len(free), self._rows.dtype), seen.scores[free]
        new["id"] = np.arange(self.next_id, self.next_id + len(free))
        self.next_id += len(free)
        believe(new, slice(None), kalman.begin(seen.boxes_cxcywh[free], NOISE))
        new["box"] = seen.boxes_cxcywh[free]
        new["score"] = new["first_score"] = scores
        new["group"] = seen.group[free]
        new["looks"] = seen.looks[free]
        new["detection"] = seen.row[free]
        new["born_s"] = new["seen_s"] = self._time_s
        new["hits"] = 1
        new["votes"][np.arange(len(free)), seen.place[free]] = scores
        at_once = self.options.confirm_hits == 1 and self.options.confirm_s == 0
        new["state"] = CONFIRMED if at_once else TENTATIVE
        new["preview"] = self._births.probability(scores) > self.options.preview_probability
        self._births.begun(scores)
        self._rows = np.concatenate([self._rows, new])

    def _report(self, ended: I64) -> Tracks:
        rows = self._rows
        unseen_s = (self._time_s - rows["seen_s"])[:, None]
        state = rows["state"].copy()
        preview = (state == TENTATIVE) & rows["preview"] & (rows["detection"] >= 0)
        return Tracks(
            ids=rows["id"].copy(),
            classes=self._classes.winners(rows["group"], rows["votes"]),
            scores=rows["score"].astype(np.float32),
            boxes_xyxy=kalman.to_xyxy(rows["pos"] + rows["vel"] * unseen_s).astype(np.float32),
            velocities_px_s=rows["vel"][:, :2].astype(np.float32),
            state=state,
            shown=np.asarray((state == CONFIRMED) | preview),
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


def _unit(vectors: F32) -> F32:
    """Vectors of length 1; zero stays zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)
