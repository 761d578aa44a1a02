"""Turn one camera's detections into tracks and what they do; runs in the track process.

Where zones or lines count on some surfaces only, detections wait for what the segmenter says of
their frame.
"""

from __future__ import annotations

import time
from collections import deque

import msgspec
import numpy as np

from streamer.analytics import Analytics, Sight, Totals
from streamer.analytics.maps import Maps
from streamer.join import Join
from streamer.messages import Annotation, Detections, EndOfStream, Happening, PeerDown, Tracks
from streamer.queues import Received
from streamer.stage import Stage, StageStart
from streamer.tracking import Detections as Boxes
from streamer.tracking import Tracker, make_tracker
from streamer.tracking import Tracks as Live

SEGMENT = "segment"
MAP_S = 2.0
"""A label map holds for so long at the least, and for two of the segmenter's periods."""
_PATIENCE = 0.5
"""Live: of the time that encode waits for tracks, so much may be spent waiting for a map."""
CONFUSABLE = (("car", "bus", "truck"), ("bicycle", "motorcycle"))
"""Classes that detectors mix up, so that one object may change between them."""
_LAST_ID = 0
"""Place of the highest track id in the ledger; Totals uses those behind it."""
_OPTIONS = (
    *("high_score", "low_score", "birth_score", "match_iou", "confirm_hits", "lost_s"),
    *("camera_motion", "appearance_distance"),
)
"""Settings that the tracker's options have by the same name."""


class Track(Stage):
    """Feeds one tracker and one analytics.

    After a restart ids and counts go on; tracks do not.
    """

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        self._ledger = self.ledger()
        self._tracker: Tracker | None = None
        camera = start.config.cameras[self.camera]
        self._watches = bool(camera.zones or camera.lines or camera.calibration)
        live_s = _PATIENCE * start.config.encode.deadline_s
        kinds = [SEGMENT] if SEGMENT in start.spec.producers else []
        self._join: Join[Received, Annotation] = Join(
            kinds, live_s if start.live[self.camera] else None
        )
        segmenter = start.config.segmenter
        self._maps = Maps(max(MAP_S, 2 / segmenter.per_s) if segmenter else MAP_S)
        self._held: deque[tuple[int, Received]] = deque()
        """Words of the segmenter about frames to come; our successor would need them."""
        self._ending: Received | None = None
        self._totals = Totals(self._ledger)
        self._analytics: Analytics | None = None
        self._labels: dict[int, str] = {}
        self._size = (0, 0)
        self._last_seq = -1
        self._next_seq = 0
        """The first frame that was not tracked yet."""
        self._ended = False

    def on_item(self, item: Received) -> None:
        """Take in the detections of a frame, or what the segmenter says of one."""
        body = item.body
        if isinstance(body, Annotation):
            self._take_map(item, body)
        elif isinstance(body, EndOfStream) and item.producer == SEGMENT:
            self._join.no_more_results(SEGMENT, "ended")
            self.inbox.done(item.producer, item.number)
        elif isinstance(body, EndOfStream):
            self._ending = item
        elif not isinstance(body, Detections) or body.info.seq <= self._last_seq:
            self.inbox.done(item.producer, item.number)  # delivered twice after a crash
        else:
            self._last_seq = body.info.seq
            self._join.add(body.info.seq, item, time.monotonic())
        self.on_tick()

    def on_peer_down(self, down: PeerDown) -> None:
        """Without inference there will be no more detections."""
        if down.final and down.stage == "infer" and self._ending is None:
            self._ending = Received(down.stage, 0, EndOfStream(self.camera), None)
        elif down.final and down.stage == SEGMENT:
            self._join.no_more_results(SEGMENT, "failed")
        self.on_tick()

    def on_tick(self) -> None:
        """Track all frames that wait for nothing, or have waited long enough."""
        now = time.monotonic()
        while (joined := self._join.next(now)) is not None:
            found = joined.item.body
            assert isinstance(found, Detections)
            answer = _nothing(found) if found.skipped else self._track(found)
            self.forward(joined.item, answer)
            self._give_back(found.info.seq)
        if self._ending is not None and not self._ended and not len(self._join):
            self._ended = True
            self._give_back(None)
            self.forward(self._ending, self._end())
        self.tick_at = self._join.due_s

    def finished(self) -> bool:
        """All detections are tracked, and nobody says anything more about them."""
        return self.stopping or (self._ended and self._join.complete)

    def _take_map(self, item: Received, said: Annotation) -> None:
        seq = said.info.seq
        self._maps.add(said)
        self._join.annotate(SEGMENT, seq, said)
        if self._ended or seq < self._next_seq:
            self.inbox.done(item.producer, item.number)
        else:
            self._held.append((seq, item))

    def _give_back(self, seq: int | None) -> None:
        """What was said of frames up to this one (None: of any) is needed no more."""
        if seq is not None:
            self._next_seq = seq + 1
        while self._held and (seq is None or self._held[0][0] <= seq):
            _, item = self._held.popleft()
            self.inbox.done(item.producer, item.number)

    def _end(self) -> EndOfStream:
        happenings = self._analytics.end() if self._analytics else ()
        return EndOfStream(self.camera, tuple(happenings))

    def _track(self, found: Detections) -> Tracks:
        boxes = _boxes(found, looks=self.config.tracker.appearance)
        tracker, ended = self._tracker_for(found, boxes)
        tracks = tracker.update(boxes, float(found.info.pts_s))
        self.counters["frames"] += 1
        if len(tracks):
            self._ledger[_LAST_ID] = max(self._ledger[_LAST_ID], int(tracks.ids.max()))
        ended += tracks.ended.tolist()
        happenings = self._watch(found, boxes, tracks, ended) if self._watches else ()
        shown = tracks.confirmed
        return Tracks(
            found.info,
            found,
            tracks.ids[shown].tobytes(),
            tracks.boxes_xyxy[shown].astype(np.float32).tobytes(),
            tracks.velocities_px_s[shown].astype(np.float32).tobytes(),
            tracks.scores[shown].astype(np.float32).tobytes(),
            tracks.classes[shown].astype(np.int16).tobytes(),
            tuple(ended),
            tuple(happenings),
            self._labels_of(found, tracks, ended),
            self._analytics.readings(tracks.ids[shown]) if self._analytics else None,
            tracks.detection[shown].astype(np.int32).tobytes() if found.outlines else b"",
        )

    def _watch(
        self, found: Detections, boxes: Boxes, tracks: Live, ended: list[int]
    ) -> list[Happening]:
        """What the tracks that are seen in this frame do; a predicted box is no evidence."""
        if found.info.seq < self._totals.next_seq:
            return []  # handed out again after a crash: what our predecessor told of it stands
        if self._analytics is None:
            camera = self.config.cameras[self.camera]
            self._analytics = Analytics(self.camera, camera, found.class_names, self._totals)
        seen = tracks.detection >= 0
        sight = Sight(
            seq=found.info.seq,
            time_s=float(found.info.pts_s),
            width=found.info.width,
            height=found.info.height,
            ids=tracks.ids[seen],
            boxes_xyxy=boxes.boxes_xyxy[tracks.detection[seen]].astype(np.float64),
            classes=tracks.classes[seen],
            confirmed=tracks.confirmed[seen],
            ended=np.array(ended, np.int64),
            surfaces=self._maps.at(found.info),
        )
        return self._analytics.update(sight)

    def _labels_of(self, found: Detections, tracks: Live, ended: list[int]) -> tuple[str, ...]:
        """What was said last of each confirmed track; nothing if nobody says anything."""
        for track_id in ended:
            self._labels.pop(track_id, None)
        if found.labels:
            seen = tracks.detection >= 0
            rows = zip(tracks.ids[seen].tolist(), tracks.detection[seen].tolist(), strict=True)
            self._labels |= {track_id: found.labels[row] for track_id, row in rows
                             if found.labels[row]}  # fmt: skip
        if not self._labels:
            return ()
        confirmed = tracks.ids[tracks.confirmed].tolist()
        return tuple(self._labels.get(track_id, "") for track_id in confirmed)

    def _tracker_for(self, found: Detections, boxes: Boxes) -> tuple[Tracker, list[int]]:
        """The tracker, and tracks that end because the picture or the embeddings have changed."""
        size, looks = (found.info.width, found.info.height), _looks(boxes)
        tracker, ended = self._tracker, []
        if tracker is not None and size != self._size:
            ended = tracker.reset().tolist()
        self._size = size
        if tracker is not None and looks in (0, tracker.options.embedding_size):
            return tracker, ended
        if tracker is not None:
            ended += tracker.reset().tolist()
        self._tracker = self._make_tracker(found.class_names, looks)
        return self._tracker, ended

    def _make_tracker(self, names: tuple[str, ...], looks: int) -> Tracker:
        groups = (
            tuple(names.index(name) for name in group if name in names) for group in CONFUSABLE
        )
        settings = msgspec.structs.asdict(self.config.tracker)
        given = {key: settings[key] for key in _OPTIONS if settings[key] is not None}
        return make_tracker(
            self.config.tracker.name,
            first_id=self._ledger[_LAST_ID] + 1,
            class_groups=tuple(group for group in groups if len(group) > 1),
            embedding_size=looks,
            **given,
        )


def _boxes(found: Detections, *, looks: bool) -> Boxes:
    boxes = np.frombuffer(found.boxes, np.float32).reshape(-1, 4)
    motion, embeddings = None, None
    if found.motion:
        motion = np.frombuffer(found.motion, np.float32).reshape(2, 3).astype(np.float64)
    if found.embeddings and looks:
        vectors = np.frombuffer(found.embeddings, np.float16)
        embeddings = vectors.reshape(len(boxes), -1).astype(np.float32)
    return Boxes(
        boxes,
        np.frombuffer(found.scores, np.float32),
        np.frombuffer(found.classes, np.int16).astype(np.int64),
        motion,
        embeddings,
    )


def _looks(boxes: Boxes) -> int:
    """Length of the embeddings; 0 if there are none."""
    return 0 if boxes.embeddings is None else boxes.embeddings.shape[1]


def _nothing(found: Detections) -> Tracks:
    return Tracks(found.info, found, b"", b"", b"", b"", b"")


make = Track
