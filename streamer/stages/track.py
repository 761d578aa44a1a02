"""Turn one camera's detections into tracks with identities; runs in the track process."""

from __future__ import annotations

import numpy as np

from streamer.messages import Detections, EndOfStream, PeerDown, Tracks
from streamer.queues import Received
from streamer.stage import Stage, StageStart
from streamer.tracking import Detections as Boxes
from streamer.tracking import Tracker, make_tracker

CONFUSABLE = (("car", "bus", "truck"), ("bicycle", "motorcycle"))
"""Classes that detectors mix up, so that one object may change between them."""
_LAST_ID = 0
"""Place of the highest track id in the ledger."""


class Track(Stage):
    """Feeds one tracker; its ids go on after a restart, its tracks do not."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        self._ids = self.ledger()
        self._tracker: Tracker | None = None
        self._size = (0, 0)
        self._last_seq = -1
        self._ended = False

    def on_item(self, item: Received) -> None:
        """Track one frame, or pass on that there is none."""
        body = item.body
        if isinstance(body, EndOfStream):
            self._ended = True
            self.forward(item, body)
        elif not isinstance(body, Detections) or body.info.seq <= self._last_seq:
            self.inbox.done(item.producer, item.number)  # delivered twice after a crash
        else:
            self._last_seq = body.info.seq
            self.forward(item, _nothing(body) if body.skipped else self._track(body))

    def on_peer_down(self, down: PeerDown) -> None:
        """Without inference there will be no more detections."""
        if down.final and down.stage == "infer" and not self._ended:
            self._ended = True
            for consumer in self.outbox.consumers:
                self.outbox.send(consumer, EndOfStream(self.camera))

    def finished(self) -> bool:
        """All detections are tracked."""
        return self.stopping or self._ended

    def _track(self, found: Detections) -> Tracks:
        tracker = self._tracker_for(found)
        ended: list[int] = []
        if (found.info.width, found.info.height) != self._size:
            self._size = (found.info.width, found.info.height)
            ended = tracker.reset().tolist()
        boxes = Boxes(
            np.frombuffer(found.boxes, np.float32).reshape(-1, 4),
            np.frombuffer(found.scores, np.float32),
            np.frombuffer(found.classes, np.int16).astype(np.int64),
        )
        tracks = tracker.update(boxes, float(found.info.pts_s))
        self.counters["frames"] += 1
        if len(tracks):
            self._ids[_LAST_ID] = max(self._ids[_LAST_ID], int(tracks.ids.max()))
        shown = tracks.confirmed
        return Tracks(
            found.info,
            found,
            tracks.ids[shown].tobytes(),
            tracks.boxes_xyxy[shown].astype(np.float32).tobytes(),
            tracks.velocities_px_s[shown].astype(np.float32).tobytes(),
            tracks.scores[shown].astype(np.float32).tobytes(),
            tracks.classes[shown].astype(np.int16).tobytes(),
            (*ended, *tracks.ended.tolist()),
        )

    def _tracker_for(self, found: Detections) -> Tracker:
        if self._tracker is None:
            names = found.class_names
            groups = tuple(
                tuple(names.index(name) for name in group if name in names) for group in CONFUSABLE
            )
            self._tracker = make_tracker(
                self.config.tracker.name,
                first_id=self._ids[_LAST_ID] + 1,
                class_groups=tuple(group for group in groups if len(group) > 1),
            )
        return self._tracker


def _nothing(found: Detections) -> Tracks:
    return Tracks(found.info, found, b"", b"", b"", b"", b"")


make = Track
