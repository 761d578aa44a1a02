"""Every message that crosses between processes, and its form on the wire (msgpack with a tag).

No pixels here: a frame's planes lie in a slot of shared memory (frames.py) or follow the message as
a second part. Tags carry a version; a peer of another version is told apart, never misread.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from streamer.errors import MessageError

MAX_MESSAGE_BYTES = 4_000_000
"""Larger words are refused before they are parsed; 10,000 boxes are 0.4 MB."""


Value = str | int | float | bool | tuple[float, ...] | None
Fields = dict[str, Value]
"""What an event says beside what all events say."""


class FrameInfo(msgspec.Struct, frozen=True, array_like=True):
    """What every stage knows of one frame."""

    camera: str
    seq: int
    """Frame number, unique and rising per camera for the whole run, also across restarts."""
    epoch: int
    """Rises when the geometry changes or decoding starts anew; nothing is compared across it."""
    width: Annotated[int, Meta(ge=1)]
    height: Annotated[int, Meta(ge=1)]
    pts: int
    """Media time in units of time_base; rises strictly within a run."""
    time_base: tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=1)]]
    """Numerator and denominator, in seconds."""
    capture_ns: int
    """Wall clock of capture, ns since 1970 UTC."""
    receive_ns: int
    """Monotonic clock of arrival; latencies are measured from here."""
    discontinuity: bool = False
    """The media clock jumped between the frame before and this one."""
    matrix: Literal["bt601", "bt709"] = "bt601"
    fps: float = 0.0
    """As the source declares it; 0 if it doesn't."""

    @property
    def pts_s(self) -> Fraction:
        """Media time in seconds, exact."""
        return self.pts * Fraction(*self.time_base)

    @property
    def pts_ns(self) -> int:
        """Media time in nanoseconds, rounded down, at any distance from 0."""
        numerator, denominator = self.time_base
        return self.pts * numerator * 1_000_000_000 // denominator


class Frame(msgspec.Struct, frozen=True, array_like=True, tag="frame/1"):
    """decode -> infer, encode: one frame lies in a slot."""

    info: FrameInfo
    pool_fd: int
    """Descriptor number of the pool in the supervisor's table; -1 if the planes follow inline."""
    slot: Annotated[int, Meta(ge=0)]
    generation: int
    """What the slot's header must say while this descriptor is valid."""


class Detections(msgspec.Struct, frozen=True, array_like=True, tag="detections/1"):
    """infer -> track: what was found in one frame. Arrays are little-endian bytes."""

    info: FrameInfo
    boxes: bytes
    """(N, 4) float32 xyxy px of the frame."""
    scores: bytes
    """(N,) float32."""
    classes: bytes
    """(N,) int16, index into class_names."""
    class_names: tuple[str, ...]
    skipped: str = ""
    """Why there is no result for this frame; empty if there is."""
    motion: bytes = b""
    """(2, 3) float32 affine, px of the frame before -> px of this one; empty if unknown."""
    embeddings: bytes = b""
    """(N, D) float16 appearance of each box; empty if it is not asked for."""
    labels: tuple[str, ...] = ()
    """What a second-stage classifier says of each box; empty if there is none."""
    outlines: tuple[tuple[bytes, ...], ...] = ()
    """N times the parts of an object, each (P, 2) float32 px; empty if the network has no masks."""


class Happening(msgspec.Struct, frozen=True, array_like=True):
    """An event of one frame, beside those that follow from its boxes and tracks."""

    kind: str
    """The event's type."""
    fields: Fields


class Readings(msgspec.Struct, frozen=True, array_like=True):
    """What the analytics have counted up to one frame, in the configuration's order; is drawn."""

    occupancy: tuple[int, ...]
    """Objects in each zone."""
    alarms: tuple[bool, ...]
    """Each zone: something is wrong there."""
    counts: tuple[tuple[int, int], ...]
    """Each line: crossings in and out."""
    speeds_kmh: bytes = b""
    """(M,) float32, NaN where unknown; empty without a calibration."""


class Tracks(msgspec.Struct, frozen=True, array_like=True, tag="tracks/1"):
    """track -> encode, publish: who is where in one frame."""

    info: FrameInfo
    detections: Detections
    ids: bytes
    """(M,) int64, confirmed tracks only."""
    boxes: bytes
    """(M, 4) float32 xyxy px."""
    velocities: bytes
    """(M, 2) float32, px/s of the box's centre."""
    scores: bytes
    """(M,) float32."""
    classes: bytes
    """(M,) int16."""
    ended: tuple[int, ...] = ()
    """Tracks that left with this frame."""
    happenings: tuple[Happening, ...] = ()
    """What the analytics saw in this frame: zones entered, lines crossed."""
    labels: tuple[str, ...] = ()
    """M texts: what a second-stage classifier said last of each; empty if there is none."""
    readings: Readings | None = None
    """None for a camera without zones, lines and calibration, or if this frame was skipped."""
    rows: bytes = b""
    """(M,) int32: which detection each track is in this frame, -1 for none; empty if there are no
    outlines."""


class LabelMap(msgspec.Struct, frozen=True, array_like=True):
    """Which class each part of a picture is of, at a reduced size."""

    width: Annotated[int, Meta(ge=1)]
    height: Annotated[int, Meta(ge=1)]
    coded: bytes
    """(height, width) uint8 labels, coded by engines/cascade/labelcode.py."""
    class_names: tuple[str, ...]
    shares: tuple[float, ...]
    """Part of the picture that each class covers."""


class Annotation(msgspec.Struct, frozen=True, array_like=True, tag="annotation/1"):
    """act, segment -> encode, publish: what else is known of one frame."""

    info: FrameInfo
    happenings: tuple[Happening, ...] = ()
    captions: tuple[tuple[int, str], ...] = ()
    """Track id (0 for the whole picture) and what is written beside it from this frame on."""
    label_map: LabelMap | None = None
    skipped: str = ""
    """Why there is no result for this frame; empty if there is."""


class Skipped(msgspec.Struct, frozen=True, array_like=True, tag="skipped/1"):
    """decode -> encode: this frame has no annotation of this kind and never will have."""

    camera: str
    seq: int
    cause: str
    stage: str = "infer"
    """Which stage will not see the frame."""


class EndOfStream(msgspec.Struct, frozen=True, array_like=True, tag="end/1"):
    """The camera has no more frames; the last message of its kind on every edge."""

    camera: str
    happenings: tuple[Happening, ...] = ()
    """What follows from the end: visits to zones are over."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello/1"):
    """consumer -> producer: I am here and can take this many messages at once."""

    consumer: str
    incarnation: int
    credits: Annotated[int, Meta(ge=1)]
    next_seq: int = -1
    """The first frame that this consumer has not seen yet; -1 if it is new."""
    inline: bool = False
    """Pixels must travel in the message: the consumer can't reach our memory."""


class Item(msgspec.Struct, frozen=True, array_like=True, tag="item/1"):
    """producer -> consumer: one message with its number on this edge."""

    number: Annotated[int, Meta(ge=0)]
    """From 1; 0 if it takes no credit and is not given back."""
    body: Frame | Detections | Tracks | Annotation | Skipped | EndOfStream


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done/1"):
    """consumer -> producer: I am through with this item; its slot and credit are yours again."""

    number: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready/1"):
    """stage -> supervisor: I can work, and this is where I can be reached."""

    endpoint: str


class Beat(msgspec.Struct, frozen=True, array_like=True, tag="beat/1"):
    """stage -> supervisor, twice a second from the main loop: I am alive; these are my counts."""

    counters: dict[str, int]
    dropped: dict[str, dict[str, int]]
    """By camera and cause."""
    latency: dict[str, dict[int, int]]
    """By camera: histogram of capture-to-event times (histogram.py)."""


class Notice(msgspec.Struct, frozen=True, array_like=True, tag="notice/1"):
    """stage -> supervisor -> publish: something happened that is an event for the user."""

    kind: str
    """The event's type."""
    camera: str
    fields: Fields
    capture_ns: int = 0
    """Wall clock of what happened; 0 for the time at which publish writes it."""
    frame: int | None = None
    pts_s: float | None = None


class PoolRequest(msgspec.Struct, frozen=True, array_like=True, tag="pool-request/1"):
    """decode -> supervisor: I need memory for frames of this size."""

    camera: str
    slots: int
    width: int
    height: int


class PoolGrant(msgspec.Struct, frozen=True, array_like=True, tag="pool-grant/1"):
    """supervisor -> decode: the pool, or why not."""

    pool_fd: int
    epoch: int
    error: str = ""


class PeerUp(msgspec.Struct, frozen=True, array_like=True, tag="peer-up/1"):
    """supervisor -> stage: this producer of yours is ready."""

    stage: str
    incarnation: int
    endpoint: str


class PeerDown(msgspec.Struct, frozen=True, array_like=True, tag="peer-down/1"):
    """supervisor -> stage: this neighbour died."""

    stage: str
    incarnation: int
    final: bool
    """No successor will come."""


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended/1"):
    """stage -> supervisor: my work is done, I exit next."""

    error: str = ""
    """What went wrong where the work could not be done at all."""
    kind: str = ""
    """Name of the error's class."""
    reason: str = ""
    """The error as one word, for the event."""


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="stop/1"):
    """supervisor -> stage: end. `drain` asks sources to end their streams in-band."""

    drain: bool = False


EdgeMessage = Hello | Item | Done
ControlMessage = Ready | Beat | Notice | PoolRequest | Ended
SupervisorMessage = PoolGrant | PeerUp | PeerDown | Notice | Stop
Body = Frame | Detections | Tracks | Annotation | Skipped | EndOfStream

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_edge: msgspec.msgpack.Decoder[EdgeMessage] = msgspec.msgpack.Decoder(EdgeMessage)
_control: msgspec.msgpack.Decoder[ControlMessage] = msgspec.msgpack.Decoder(ControlMessage)
_supervisor: msgspec.msgpack.Decoder[SupervisorMessage] = msgspec.msgpack.Decoder(SupervisorMessage)

Message = TypeVar("Message")


def _decode(
    decoder: msgspec.msgpack.Decoder[Message], data: bytes | memoryview, what: str
) -> Message:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(
            f"{what}: message of {len(data)} bytes is over {MAX_MESSAGE_BYTES}; ignored"
        )
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MessageError(f"{what}: not a message of this version ({error}); ignored") from error


def decode_edge(data: bytes | memoryview) -> EdgeMessage:
    """Parse what crosses a queue; MessageError if it is none of ours."""
    return _decode(_edge, data, "queue")


def decode_control(data: bytes | memoryview) -> ControlMessage:
    """Parse what a stage says to its supervisor; MessageError if it is none of ours."""
    return _decode(_control, data, "control")


def decode_supervisor(data: bytes | memoryview) -> SupervisorMessage:
    """Parse what the supervisor says to a stage; MessageError if it is none of ours."""
    return _decode(_supervisor, data, "supervisor")
