"""Turn a file, stream or camera that libav can read into decoded frames; in the decode process.

Knows no queue, no retry and no URI syntax. One thread reads; `close` may come from another: it
takes effect at the next packet, or at the read deadline if the network is silent.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import av
import av.error

from streamer.errors import ConfigError, SourceError
from streamer.sources.base import FrameTimes, SourceInfo
from streamer.sources.fault import fault
from streamer.sources.hardware import choose_hwaccel
from streamer.sources.mediaclock import FPS_ASSUMED, NS, ClockStatistics, MediaClock
from streamer.sources.picture import PictureFrame, matrix_of
from streamer.sources.redact import redact

log = logging.getLogger(__name__)

_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC: the cover of a song is no video
_COPY_OPAQUE = 1 << 7  # AV_CODEC_FLAG_COPY_OPAQUE: what is hung on a packet comes with its frame
_LOW_DELAY = 1 << 19
_PRODUCER_TIME = struct.Struct("<q")  # AVProducerReferenceTime: UTC in microseconds, then flags
_CLOCK_TOLERANCE_NS = 60 * NS


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to open and decode a source."""

    open_s: float = 5.0
    """Deadline of connecting to a network source and learning what it is."""
    read_s: float = 3.0
    """Longest wait for a packet of a live source."""
    threads: int | Literal["auto"] = "auto"
    """Decoder threads; auto is one for a live source (more add delay), two for a file."""
    hwaccel: str = "none"
    """ "none", "auto", or a device such as "cuda" or "vaapi"; falls back with a warning."""
    corrupt: Literal["drop", "show"] = "drop"
    """What becomes of a picture that the decoder marks as damaged."""
    corrupt_after_s: float = 5.0
    """Media time without one good picture after which the source is given up as corrupt."""
    max_jump_s: float = 10.0
    """A step of the PTS beyond this is a discontinuity."""
    fps: float | None = None
    """Of image folders and of streams without timestamps; None is the stream's own, or 25."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How RTP travels."""

    def __post_init__(self) -> None:
        for name in ("open_s", "read_s", "corrupt_after_s", "max_jump_s", "fps"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"source options: {name} must be > 0, got {value!r}")
        if self.threads != "auto" and not 1 <= self.threads <= 64:
            raise ConfigError(
                f"source options: threads must be 'auto' or 1..64, got {self.threads!r}"
            )
        for name, choices in (("corrupt", ("drop", "show")), ("transport", ("tcp", "udp"))):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"source options: {name} must be one of {', '.join(choices)}, "
                    f"got {getattr(self, name)!r}"
                )


@dataclass(slots=True)
class DecodeStatistics:
    """What was read and decoded since the source was opened."""

    packets: int = 0
    bytes: int = 0
    decoded: int = 0
    """Pictures delivered."""
    corrupt: int = 0
    """Packets that did not decode and pictures that are damaged, dropped or shown."""
    skipped: int = 0
    """Packets before the first key frame; nothing can be made of them."""
    clock: ClockStatistics = field(default_factory=ClockStatistics)


@dataclass(frozen=True, slots=True)
class Location:
    """What libav is to open: its name there, the demuxer and the options; `uri` is for people."""

    uri: str
    name: str
    remote: bool
    """A network or a device: it gets deadlines, and what is wrong now may be right later."""
    live: bool | None
    """None: live unless it turns out to have an end."""
    format: str | None = None
    demuxer_options: tuple[tuple[str, str], ...] = ()


class ContainerSource:
    """One file, stream or camera, as PyAV reads it."""

    def __init__(self, location: Location, options: SourceOptions | None = None) -> None:
        self._location = location
        self._options = options or SourceOptions()
        self._container: av.container.InputContainer | None = None
        self._closed = threading.Event()
        self._in_libav = threading.Lock()
        self._live = bool(location.live)
        self.statistics = DecodeStatistics()

    def open(self) -> SourceInfo:
        """Connect, find the video stream and set up its decoder."""
        self._closed.clear()
        self.statistics = DecodeStatistics()
        with self._in_libav:
            container = self._connect()
            try:
                info = self._describe(container)
                self._prepare_decoder(container, live=info.live)
            except BaseException:
                container.close()
                raise
            self._container, self._live = container, info.live
        return info

    def frames(self) -> Iterator[PictureFrame]:
        """Yield the frames that decode, in order of presentation."""
        container = self._container
        if container is None:
            raise SourceError(
                f"{self._name}: read before it was opened; call open() first", reason="io"
            )
        stream = _video_stream(container)
        clock = MediaClock(
            stream.time_base,
            fps=self._fps(stream),
            live=self._live,
            max_jump_s=self._options.max_jump_s,
        )
        self.statistics.clock = clock.statistics
        try:
            for picture, arrival in self._good_pictures(container, stream):
                pts, jumped = clock.stamp(picture.pts, arrival_ns=arrival.receive_ns)
                self.statistics.decoded += 1
                yield PictureFrame(
                    picture,
                    FrameTimes(
                        pts, clock.time_base, arrival.capture_ns, arrival.receive_ns, jumped
                    ),
                )
        finally:
            if self._closed.is_set():
                self._close_container()
        if self.statistics.decoded == 0 and not self._closed.is_set():
            raise self._corrupt("no picture in it could be decoded")

    def close(self) -> None:
        """Let go of the source; a thread that is inside libav does so itself when it comes out."""
        self._closed.set()
        if self._in_libav.acquire(blocking=False):
            try:
                self._close_container()
            finally:
                self._in_libav.release()

    @property
    def _name(self) -> str:
        return redact(self._location.uri)

    def _connect(self) -> av.container.InputContainer:
        location, options = self._location, self._options
        # PyAV applies the first deadline twice: to connecting, and to looking at the streams.
        deadlines = (options.open_s / 2, options.read_s) if location.remote else None
        try:
            return av.open(
                location.name,
                format=location.format,
                options=dict(location.demuxer_options),
                timeout=deadlines,
                hwaccel=choose_hwaccel(options.hwaccel, self._name),
                metadata_errors="replace",
            )
        except (av.error.FFmpegError, OSError, RuntimeError, ValueError) as error:
            raise self._fault("open", error) from None

    def _describe(self, container: av.container.InputContainer) -> SourceInfo:
        try:
            stream = _video_stream(container)
        except LookupError:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise SourceError(
                f"{self._name}: no video stream in it, only {kinds}; give one with video",
                reason="codec",
                permanent=not self._location.remote,
            ) from None
        context = stream.codec_context
        if context is None:
            raise SourceError(
                f"{self._name}: no decoder for its video in this build; re-encode as H.264",
                reason="codec",
                permanent=True,
            )
        if context.width < 1 or context.height < 1:
            raise SourceError(
                f"{self._name}: its {context.name} video says no picture size "
                f"({context.width}x{context.height}); it is damaged or has no key frame yet",
                reason="codec",
                permanent=not self._location.remote,
            )
        live = self._location.live
        fps = stream.guessed_rate or stream.average_rate
        return SourceInfo(
            width=context.width,
            height=context.height,
            fps_declared=self._options.fps or (float(fps) if fps else None),
            codec=context.name,
            live=container.duration is None if live is None else live,
            frames_declared=stream.frames or None,
            matrix=matrix_of(context.colorspace, context.pix_fmt or "", context.height),
        )

    def _prepare_decoder(self, container: av.container.InputContainer, *, live: bool) -> None:
        stream = _video_stream(container)
        context = stream.codec_context
        threads = self._options.threads
        if threads == "auto":
            threads = 1 if live else min(2, os.cpu_count() or 1)
        context.thread_count = threads
        context.thread_type = "SLICE" if live else "AUTO"
        context.flags |= _COPY_OPAQUE
        # With low delay the decoder hands out B-frames in the wrong order.
        if live and not context.has_b_frames:
            context.flags |= _LOW_DELAY

    def _good_pictures(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[tuple[av.VideoFrame, _Arrival]]:
        patience = math.ceil(
            self._options.corrupt_after_s * float(self._fps(stream) or FPS_ASSUMED)
        )
        fruitless = 0  # packets since the last good picture
        waiting_for_key = True
        keep_damaged = self._options.corrupt == "show"
        for packet in self._packets(container, stream):
            if waiting_for_key and packet.size:
                if not packet.is_keyframe and fruitless < patience:
                    self.statistics.skipped += 1
                    fruitless += 1
                    continue
                waiting_for_key, fruitless = False, 0
            arrival = _Arrival.of(packet, live=self._live)
            fruitless += 1
            for picture in self._decode(packet, arrival):
                if picture.is_corrupt:
                    self.statistics.corrupt += 1
                    if not keep_damaged:
                        continue
                fruitless = 0
                yield picture, picture.opaque or arrival
                if self._closed.is_set():
                    return
            if fruitless > patience:
                raise self._corrupt(
                    f"{fruitless} packets without one good picture "
                    f"({self.statistics.corrupt} damaged); check the line or the encoder"
                )

    def _packets(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[av.Packet]:
        """Yield the packets, then the empty one that flushes the decoder."""
        packets = container.demux(stream)
        unreadable = 0
        while not self._closed.is_set():
            try:
                with self._in_libav:
                    packet = next(packets, None)
            except av.error.InvalidDataError as error:
                # The demuxer finds its way again behind a damaged part; but not for ever.
                self.statistics.corrupt += 1
                unreadable += 1
                if unreadable > 100:
                    raise self._fault("read", error) from None
                packets = container.demux(stream)
                continue
            except (av.error.FFmpegError, OSError) as error:
                raise self._fault("read", error) from None
            if packet is None:
                return
            if packet.size:
                unreadable = 0
                self.statistics.packets += 1
                self.statistics.bytes += packet.size
            yield packet

    def _decode(self, packet: av.Packet, arrival: _Arrival) -> list[av.VideoFrame]:
        packet.opaque = arrival
        try:
            with self._in_libav:
                pictures: list[av.VideoFrame] = packet.decode()
        except av.error.FFmpegError as error:
            self.statistics.corrupt += 1
            log.debug("%s: a packet did not decode: %s", self._name, error.strerror)
            return []
        return pictures

    def _fps(self, stream: av.VideoStream) -> Fraction | None:
        if self._options.fps is not None:
            return Fraction(self._options.fps).limit_denominator(100_000)
        rate: Fraction | None = stream.guessed_rate or stream.average_rate
        return rate or None

    def _corrupt(self, what: str) -> SourceError:
        return SourceError(
            f"{self._name}: {what}", reason="corrupt", permanent=not self._location.remote
        )

    def _fault(self, doing: str, error: Exception) -> SourceError:
        return fault(self._location.uri, doing, error, remote=self._location.remote)

    def _close_container(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.close()


@dataclass(frozen=True, slots=True)
class _Arrival:
    """When a packet was captured (wall clock) and read (monotonic)."""

    capture_ns: int
    receive_ns: int

    @classmethod
    def of(cls, packet: av.Packet, *, live: bool) -> _Arrival:
        now_ns = time.time_ns()
        stream_says_ns = _producer_time_ns(packet) if live else None
        if stream_says_ns is None or abs(stream_says_ns - now_ns) > _CLOCK_TOLERANCE_NS:
            stream_says_ns = now_ns  # no clock, or one that was never set
        return cls(stream_says_ns, time.monotonic_ns())


def _producer_time_ns(packet: av.Packet) -> int | None:
    """Wall clock of capture as the sender's RTCP reports give it, if there was one yet."""
    try:
        if not packet.has_sidedata("prft"):
            return None
        data = bytes(packet.get_sidedata("prft"))
    except (AttributeError, KeyError, ValueError):
        return None  # a PyAV that does not know it
    return int(_PRODUCER_TIME.unpack_from(data)[0]) * 1000


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    for stream in container.streams.video:
        if not int(stream.disposition) & _ATTACHED_PICTURE:
            return stream
    raise LookupError("no video stream")
