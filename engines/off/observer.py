"""Turn frames of many cameras, with or without their tracks, into actions that start and end.

Scope "frame" looks at the whole picture; scope "track" at the square around each person. Runs in
the infer process on one thread. It knows no queue: `gather` cuts what is needed out of a frame, so
that the frame may go; `judge` runs the network over what was gathered from any number of cameras.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.off.crops import Box, Picture, around, fill_crop, fill_frame
from engines.off.hysteresis import Change, Hysteresis, Thresholds
from engines.off.runtime import Memory, OffModel
from engines.off.sampler import Sampler
from engines.off.scheduler import FairTurns

U8 = NDArray[np.uint8]

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Track:
    """One tracked person in one frame."""

    track_id: int
    box_xyxy: Box


@dataclass(frozen=True, slots=True)
class ActionChange:
    """An action that started or ended; times are media times of its camera."""

    kind: Literal["started", "ended"]
    camera: str
    track_id: int | None
    """None in frame scope."""
    action: str
    score: float
    begin_ns: int
    end_ns: int | None
    """None for started."""


@dataclass(slots=True)
class Stream:
    """One scene or one person that is being watched."""

    camera: str
    track_id: int | None
    memory: Memory
    hysteresis: Hysteresis
    seen_ns: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    """The last ones, by class; empty before the window is filled enough."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture that was cut out for one stream at one time."""

    stream: Stream
    media_time_ns: int
    planes: U8
    """(3, h, w) uint8."""


@dataclass(frozen=True, slots=True)
class Options:
    """How actions are watched for."""

    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)
    """By class; classes that are not named have `default`."""
    default: Thresholds = field(default_factory=Thresholds)
    only: Sequence[str] | None = None
    """Classes that become events; None is all but the background."""
    crops_per_s: float = 64.0
    """Budget of track scope, over all cameras."""
    gap_s: float = 0.5
    """Silence of a camera or track after which its window begins anew."""
    least_fill: float = 0.5
    """Part of the window that must be there before its scores count."""


@dataclass(slots=True)
class _Camera:
    sampler: Sampler
    streams: dict[int | None, Stream] = field(default_factory=dict)


class Observer:
    """Watches any number of cameras with one recogniser."""

    def __init__(self, model: OffModel, options: Options | None = None) -> None:
        """Watch with these options.

        Raises:
            ValueError: a class that the network doesn't know, or a budget below one person.
        """
        self.model = model
        self.options = options = options or Options()
        signature = model.signature
        named = {*options.thresholds, *(options.only or ())}
        unknown = sorted(named - set(signature.classes))
        if unknown:
            raise ValueError(
                f"classes must be of {', '.join(signature.classes)}, got {', '.join(unknown)}; "
                "drop them, or choose a recogniser that knows them"
            )
        wanted = options.only or [c for c in signature.classes if c != signature.background]
        self._limits = {c: options.thresholds.get(c, options.default) for c in wanted}
        filled = round(options.least_fill * signature.window) + signature.lag
        self._least = max(signature.least, filled)
        self._cameras: dict[str, _Camera] = {}
        self._turns = FairTurns(options.crops_per_s, signature.rate)

    def observe(
        self,
        camera: str,
        media_time_ns: int,
        picture: Picture,
        tracks: Sequence[Track] = (),
        *,
        discontinuity: bool = False,
        now_ns: int | None = None,
    ) -> list[ActionChange]:
        """Look at one frame and judge it at once: `gather` and `judge` in one."""
        samples, ended = self.gather(
            camera, media_time_ns, picture, tracks, discontinuity=discontinuity, now_ns=now_ns
        )
        return ended + self.judge(samples)

    def gather(
        self,
        camera: str,
        media_time_ns: int,
        picture: Picture,
        tracks: Sequence[Track] = (),
        *,
        discontinuity: bool = False,
        now_ns: int | None = None,
    ) -> tuple[list[Sample], list[ActionChange]]:
        """Cut out of a frame what is to be judged; most frames are no samples and cost nothing.

        Args:
            camera: whose frame.
            media_time_ns: its time; frames of one camera come in order.
            picture: planes of limited range; of any size, also another than before.
            tracks: people in it; only looked at in track scope.
            discontinuity: the media clock jumped in front of this frame.
            now_ns: a clock that all cameras share, for fair turns; the media time if None.

        Returns:
            Samples for `judge`, and the ends of what was cut off by a gap or a lost track.
        """
        signature = self.model.signature
        known = self._cameras.setdefault(
            camera, _Camera(Sampler(signature.rate, self.options.gap_s))
        )
        take = known.sampler.take(media_time_ns, discontinuity=discontinuity)
        if take == "skip":
            return [], []
        ended = self._restart_all(known) if take == "restart" else []
        if signature.scope == "frame":
            wanted: dict[int | None, Box | None] = {None: None}
        else:
            boxes = {t.track_id: t.box_xyxy for t in tracks if _has_area(t.box_xyxy)}
            granted = self._turns.grant(camera, boxes, media_time_ns if now_ns is None else now_ns)
            wanted = {track_id: boxes[track_id] for track_id in sorted(granted)}
        ended += self._drop_lost(known, media_time_ns, {t.track_id for t in tracks})
        samples = []
        for track_id, box in wanted.items():
            stream = known.streams.get(track_id)
            if stream is None:
                stream = self._new_stream(camera, track_id)
                known.streams[track_id] = stream
            elif media_time_ns - stream.seen_ns > self.options.gap_s * _SECOND_NS:
                ended += _cut(stream)
            stream.seen_ns = media_time_ns
            planes = np.empty((3, signature.height, signature.width), np.uint8)
            if box is None:
                fill_frame(picture, planes)
            else:
                fill_crop(picture, around(box), planes)
            samples.append(Sample(stream, media_time_ns, planes))
        return samples, ended

    def judge(self, samples: Sequence[Sample]) -> list[ActionChange]:
        """Run the network over samples of any cameras, at most one of each stream."""
        if not samples:
            return []
        scored = self.model.step(
            np.stack([sample.planes for sample in samples]),
            [sample.stream.memory for sample in samples],
        )
        changes = []
        for sample, scores in zip(samples, scored, strict=True):
            stream = sample.stream
            if scores is None or stream.memory.samples < self._least:
                continue
            stream.scores = dict(zip(self.model.signature.classes, map(float, scores), strict=True))
            found = stream.hysteresis.update(sample.media_time_ns, stream.scores)
            changes += [_change(stream, each) for each in found]
        return changes

    def active(self, camera: str) -> dict[int | None, tuple[str, ...]]:
        """Actions that go on at a camera, by track (None for the scene): captions of an overlay."""
        known = self._cameras.get(camera)
        streams = known.streams if known else {}
        return {who: s.hysteresis.active for who, s in streams.items() if s.hysteresis.active}

    def streams(self, camera: str) -> list[Stream]:
        """Who is watched at a camera, with the last scores."""
        known = self._cameras.get(camera)
        return list(known.streams.values()) if known else []

    def drop(self, camera: str) -> list[ActionChange]:
        """Forget a camera; what went on there ends."""
        known = self._cameras.pop(camera, None)
        self._turns.drop(camera)
        return self._restart_all(known) if known else []

    def _new_stream(self, camera: str, track_id: int | None) -> Stream:
        return Stream(camera, track_id, self.model.memory(), Hysteresis(self._limits))

    def _restart_all(self, known: _Camera) -> list[ActionChange]:
        return [change for stream in known.streams.values() for change in _cut(stream)]

    def _drop_lost(
        self, known: _Camera, media_time_ns: int, present: set[int]
    ) -> list[ActionChange]:
        """Forget people who are gone, so that memory is bounded by who is in the pictures."""
        gone = [
            who
            for who, stream in known.streams.items()
            if who is not None
            and who not in present
            and media_time_ns - stream.seen_ns > self.options.gap_s * _SECOND_NS
        ]
        return [change for who in gone for change in _cut(known.streams.pop(who))]


def _cut(stream: Stream) -> list[ActionChange]:
    """End what goes on at the last sample that was seen, and forget the window."""
    stream.memory.restart()
    stream.scores = {}
    return [_change(stream, each) for each in stream.hysteresis.finish(stream.seen_ns)]


def _change(stream: Stream, change: Change) -> ActionChange:
    return ActionChange(
        change.kind,
        stream.camera,
        stream.track_id,
        change.action,
        change.score,
        change.begin_ns,
        change.end_ns,
    )


def _has_area(box_xyxy: Box) -> bool:
    return box_xyxy[2] > box_xyxy[0] and box_xyxy[3] > box_xyxy[1]
