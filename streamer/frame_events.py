"""Turn the tracks of one camera's frames into events; runs in the publish process.

Knows no socket and no file. What events look like is in events.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.events import (
    AnyEvent,
    Box,
    Detection,
    Numbering,
    Object,
    Polygons,
    TrackEnded,
    TrackStarted,
    TrackUpdated,
    utc,
)
from streamer.messages import FrameInfo, Happening, Tracks
from streamer.outlines import Outline, of_objects, of_tracks


class _Known(msgspec.Struct):
    """What is remembered of a track between its start and its end."""

    started_ns: int
    seen_ns: int
    told_ns: int
    """Media times of its start, its last sight and its last event."""
    class_name: str
    score: float
    box: Box
    outline: Polygons


class _Stamp(TypedDict):
    id: str
    seq: int
    camera: str
    time_utc: str
    pts_s: float
    frame: int


class _TrackFields(_Stamp):
    track_id: int
    class_name: str
    score: float
    box_xyxy_px: Box
    box_xyxy_rel: Box
    outline_px: Polygons


class FrameEvents:
    """Turns the tracks of one camera's frames into events, in order.

    Args:
        numbering: of the camera.
        score: detections below are no events (a tracker may use them all the same).
        updated_per_s: track.updated events a second of media time and track, at the most.
    """

    def __init__(self, numbering: Numbering, *, score: float, updated_per_s: float) -> None:
        self._numbering = numbering
        self._score = score
        self._period_ns = int(1e9 / updated_per_s) if updated_per_s else None
        self._known: dict[int, _Known] = {}

    def events(self, message: Tracks) -> Iterator[AnyEvent]:
        """All events of one frame.

        They are the detection, the tracks that start and go on, what happened in zones and on
        lines, and the tracks that end: a track's events lie between its start and its end.
        """
        info = message.info
        objects = self._objects(message)
        if objects:
            yield Detection(objects=objects, **self._stamp(info))
        names = message.detections.class_names
        boxes = np.frombuffer(message.boxes, np.float32).reshape(-1, 4)
        columns = zip(
            np.frombuffer(message.ids, np.int64).tolist(),
            np.frombuffer(message.classes, np.int16).tolist(),
            np.frombuffer(message.scores, np.float32).tolist(),
            _rounded(boxes, 2),
            map(_polygons, of_tracks(message)),
            strict=True,
        )
        for track_id, index, score, box, outline in columns:
            yield from self._seen(info, track_id, names[index], round(score, 4), box, outline)
        yield from self.happened(info, message.happenings)
        for track_id in message.ended:
            yield from self._gone(info, track_id)

    def end(self, info: FrameInfo, happenings: Sequence[Happening] = ()) -> Iterator[AnyEvent]:
        """The stream is over after this frame, and so are all visits and tracks."""
        yield from self.happened(info, happenings)
        for track_id in list(self._known):
            yield from self._gone(info, track_id)

    def happened(self, info: FrameInfo, happenings: Sequence[Happening]) -> Iterator[AnyEvent]:
        """The events that other stages saw in this frame."""
        for happening in happenings:
            yield msgspec.convert(
                {"type": happening.kind, **self._stamp(info), **happening.fields}, AnyEvent
            )

    def _seen(
        self,
        info: FrameInfo,
        track_id: int,
        class_name: str,
        score: float,
        box: Box,
        outline: Polygons,
    ) -> Iterator[AnyEvent]:
        now_ns = info.pts_ns
        known = self._known.get(track_id)
        if known is None:
            self._known[track_id] = _Known(now_ns, now_ns, now_ns, class_name, score, box, outline)
            yield TrackStarted(**self._track(info, track_id))
            return
        known.seen_ns, known.class_name, known.score, known.box = now_ns, class_name, score, box
        known.outline = outline
        if self._period_ns is not None and now_ns - known.told_ns >= self._period_ns:
            known.told_ns = now_ns
            yield TrackUpdated(**self._track(info, track_id))

    def _gone(self, info: FrameInfo, track_id: int) -> Iterator[AnyEvent]:
        if track_id in self._known:
            fields = self._track(info, track_id)
            known = self._known.pop(track_id)
            duration_s = round((known.seen_ns - known.started_ns) / 1e9, 6)
            yield TrackEnded(duration_s=duration_s, **fields)

    def _objects(self, message: Tracks) -> list[Object]:
        found = message.detections
        scores = np.frombuffer(found.scores, np.float32)
        keep = scores >= self._score
        boxes = np.frombuffer(found.boxes, np.float32).reshape(-1, 4)[keep]
        size = np.array([message.info.width, message.info.height] * 2, np.float32)
        columns = zip(
            np.frombuffer(found.classes, np.int16)[keep].tolist(),
            scores[keep].tolist(),
            _rounded(boxes, 2),
            _rounded(boxes / size, 5),
            map(_polygons, compress(of_objects(found), keep)),
            strict=True,
        )
        return [
            Object(found.class_names[index], round(score, 4), box, relative, outline)
            for index, score, box, relative, outline in columns
        ]

    def _track(self, info: FrameInfo, track_id: int) -> _TrackFields:
        known = self._known[track_id]
        size = (info.width, info.height) * 2
        relative = tuple(
            round(side / whole, 5) for side, whole in zip(known.box, size, strict=True)
        )
        return {
            **self._stamp(info),
            "track_id": track_id,
            "class_name": known.class_name,
            "score": known.score,
            "box_xyxy_px": known.box,
            "box_xyxy_rel": (relative[0], relative[1], relative[2], relative[3]),
            "outline_px": known.outline,
        }

    def _stamp(self, info: FrameInfo) -> _Stamp:
        seq, identity = self._numbering.next()
        return {
            "id": identity,
            "seq": seq,
            "camera": info.camera,
            "time_utc": utc(info.capture_ns),
            "pts_s": round(info.pts_ns / 1e9, 6),
            "frame": info.seq,
        }


def _rounded(boxes: NDArray[np.float32], digits: int) -> list[Box]:
    return [tuple(box) for box in np.round(boxes.astype(np.float64), digits).tolist()]


def _polygons(outline: Outline) -> Polygons:
    """As COCO writes them."""
    if not outline:
        return msgspec.UNSET
    return [np.round(part.astype(np.float64), 1).ravel().tolist() for part in outline]
