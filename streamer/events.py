"""Events as users get them: one flat JSON object each, with a published schema.

Knows no socket, no file and no pixel, and imports next to nothing, so that a subscriber can use it.
`streamer schema` prints what this module declares.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import Annotated

import msgspec

from streamer.annotation_events import AnnotationEvent
from streamer.bridge_events import BridgeEvent
from streamer.event import HOST as HOST
from streamer.event import Box as Box
from streamer.event import Event as Event
from streamer.log_events import LogEvent
from streamer.messages import Notice
from streamer.rule_events import RuleEvent
from streamer.view_events import ViewEvent

Polygons = (
    Annotated[
        list[list[float]],
        msgspec.Meta(
            description="Outline of the object as COCO writes polygons: for each of its parts "
            "x, y, x, y, ... in px. Only of detectors that give masks."
        ),
    ]
    | msgspec.UnsetType
)


class Object(msgspec.Struct, frozen=True, rename={"class_name": "class"}):
    """One detected object."""

    class_name: str
    score: float
    box_xyxy_px: Box
    box_xyxy_rel: Box
    """The same in parts of the frame's width and height."""
    outline_px: Polygons = msgspec.UNSET


class Detection(Event, frozen=True, kw_only=True, tag="detection"):
    """The objects of one frame; frames without objects have no such event."""

    objects: list[Object]


class _Track(Event, frozen=True, kw_only=True, rename={"class_name": "class"}):
    track_id: int
    """Unique per camera for the whole run."""
    class_name: str
    score: float
    box_xyxy_px: Box
    box_xyxy_rel: Box
    outline_px: Polygons = msgspec.UNSET
    """Absent too where the object was not seen in this frame."""


class TrackStarted(_Track, frozen=True, kw_only=True, tag="track.started"):
    """An object was confirmed."""


class TrackUpdated(_Track, frozen=True, kw_only=True, tag="track.updated"):
    """A confirmed object, a few times a second."""


class TrackEnded(_Track, frozen=True, kw_only=True, tag="track.ended"):
    """An object is gone; boxes and score are its last."""

    duration_s: float
    """Media time from its start to its last sight."""


class StreamUp(Event, frozen=True, kw_only=True, tag="stream.up"):
    """A source delivers frames."""

    reason: str
    width: int
    height: int
    fps: float | None
    codec: str


class StreamDown(Event, frozen=True, kw_only=True, tag="stream.down"):
    """A source delivers no frames."""

    reason: str
    """"ended", "not_found", "auth", "timeout", "refused", "tls", "codec", "corrupt", "stalled",
    "stopped", or "io"."""
    message: str
    retry_in_s: float | None
    """When it is tried again; null for never."""


class StreamDamaged(Event, frozen=True, kw_only=True, tag="stream.damaged"):
    """Pictures of a source could not be shown; counts since the last such event."""

    corrupt_frames: int
    """That did not decode, or came out damaged."""
    skipped_frames: int
    """That came before the first key frame, as happens when a stream is joined."""


class RecordingStarted(Event, frozen=True, kw_only=True, tag="recording.started"):
    """A file was begun."""

    path: str
    codec: str
    width: int
    height: int
    """Of the pictures in it; the learned codec may record smaller ones than the source's."""


class RecordingSegment(Event, frozen=True, kw_only=True, tag="recording.segment"):
    """A file was closed and plays."""

    path: str
    start_utc: str
    duration_s: float
    frames: int
    size_bytes: int
    finished: bool
    """False if writing broke off; the file still plays for duration_s."""


class RecordingEnded(Event, frozen=True, kw_only=True, tag="recording.ended"):
    """Nothing more is recorded of this camera."""

    frames: int


class RecordingFailed(Event, frozen=True, kw_only=True, tag="recording.failed"):
    """Writing broke off; it goes on by itself where it can."""

    path: str
    message: str


class RecordingResumed(Event, frozen=True, kw_only=True, tag="recording.resumed"):
    """Writing goes on."""

    path: str
    frames_lost: int


class RecordingChanged(Event, frozen=True, kw_only=True, tag="recording.changed"):
    """A file goes on over a change of its source."""

    path: str
    message: str


class StageRestarted(Event, frozen=True, kw_only=True, tag="stage.restarted"):
    """A process of the pipeline died and its successor works."""

    stage: str
    cause: str
    down_s: float | None = None
    lost_from: int | None = None
    """publish only: first sequence number that may not have been delivered; null for none."""
    lost_to: int | None = None


class StageFailed(Event, frozen=True, kw_only=True, tag="stage.failed"):
    """A process of the pipeline was given up; the others go on."""

    stage: str
    reason: str


class FramesDropped(Event, frozen=True, kw_only=True, tag="frames.dropped"):
    """Frames did not reach a consumer; at most one such event a second and cause."""

    cause: str
    count: int
    """Since the last such event of this cause."""
    total: int


class Heartbeat(Event, frozen=True, kw_only=True, tag="heartbeat"):
    """The pipeline is alive.

    It has no number of its own and is in no log: its `seq` is the last one of the host's events.
    """

    uptime_s: float
    events: int
    cameras: tuple[str, ...] = ()
    last_seqs: tuple[int, ...] = ()
    """The last number that each of these cameras has sent, so that a gap at the end is seen."""
    logged: int | None = None
    """Number of the newest row of the log; null without one."""
    replay: str | None = None
    """Where what was missed can be asked for; null for nowhere."""


AnyEvent = (
    Detection
    | TrackStarted
    | TrackUpdated
    | TrackEnded
    | StreamUp
    | StreamDown
    | StreamDamaged
    | RecordingStarted
    | RecordingSegment
    | RecordingEnded
    | RecordingFailed
    | RecordingResumed
    | RecordingChanged
    | StageRestarted
    | StageFailed
    | FramesDropped
    | Heartbeat
    | LogEvent
    | ViewEvent
    | AnnotationEvent
    | RuleEvent
    | BridgeEvent
)

_encoder = msgspec.json.Encoder()
encode_event = _encoder.encode
decode_event = msgspec.json.Decoder(AnyEvent).decode


def schema() -> dict[str, object]:
    """The JSON schema of every event."""
    return msgspec.json.schema(AnyEvent)


@functools.lru_cache(maxsize=64)  # the events of a frame share their time
def utc(time_ns: int) -> str:
    """Wall clock in ISO 8601 with microseconds."""
    moment = dt.datetime.fromtimestamp(time_ns // 10**9, dt.timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9 // 1000:06d}Z"


class Numbering:
    """Gives the events of one camera their numbers and ids; the caller keeps `last` safe."""

    def __init__(self, run: str, camera: str, last: int) -> None:
        self.last = last
        self._run = run
        self._camera = camera

    def next(self) -> tuple[int, str]:
        """The next sequence number and id."""
        self.last += 1
        return self.last, f"{self._run}-{self._camera or 'host'}-{self.last}"


def event_of_notice(notice: Notice, numbering: Numbering) -> AnyEvent:
    """Make the event that a stage or the supervisor asked for."""
    seq, identity = numbering.next()
    event: AnyEvent = msgspec.convert(
        {
            "type": notice.kind,
            "id": identity,
            "seq": seq,
            "camera": notice.camera,
            "time_utc": utc(notice.capture_ns),
            "frame": notice.frame,
            "pts_s": notice.pts_s,
            **notice.fields,
        },
        AnyEvent,
    )
    return event
