"""Turn a file, stream or camera that libav can read into decoded frames; in the decode process.

Knows no queue, no retry and no URI syntax. One thread reads; `close` may come from another: it
takes effect at the next packet, or at the read deadline if the network is silent.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
from av.codec.hwaccel import HWAccel

from streamer.errors import SourceError
from streamer.sources.arrival import Arrival, Patience
from streamer.sources.base import FrameTimes, SourceInfo
from streamer.sources.fault import fault, libav_details
from streamer.sources.hardware import choose_hwaccel
from streamer.sources.mediaclock import FPS_ASSUMED, MediaClock
from streamer.sources.options import DecodeStatistics, SourceOptions
from streamer.sources.picture import PictureFrame, matrix_of
from streamer.sources.redact import redact

__all__ = ["ContainerSource", "Location", "SourceOptions"]

log = logging.getLogger(__name__)

_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC: the cover of a song is no video
_COPY_OPAQUE = 1 << 7  # AV_CODEC_FLAG_COPY_OPAQUE: what is hung on a packet comes with its frame
_MOST_UNREADABLE = 100  # damaged parts in a row that the demuxer may jump over


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
        container, stream = self.opened()
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
            raise self._broken("no picture in it could be decoded", "corrupt")

    def packets(self) -> Iterator[av.Packet]:
        """Yield the packets of the video as they are, for who wants to look at them undecoded."""
        return self._packets(*self.opened())

    def opened(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        """Give PyAV's own view of the open source."""
        if self._container is None:
            raise SourceError(f"{self._name}: it is not open; call open() first", reason="io")
        return self._container, _video_stream(self._container)

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
        accelerator = choose_hwaccel(self._options.hwaccel, self._name)
        if accelerator is not None:
            try:
                return self._connect_with(accelerator)
            except SourceError as error:
                log.warning("%s: no hardware decoding (%s); trying in software", self._name, error)
        return self._connect_with(None)

    def _connect_with(self, accelerator: HWAccel | None) -> av.container.InputContainer:
        location, options = self._location, self._options
        # PyAV applies the first deadline twice: to connecting, and to looking at the streams.
        open_s = options.open_s / 2
        began = time.monotonic()
        try:
            with libav_details():
                return av.open(
                    location.name,
                    format=location.format,
                    options=dict(location.demuxer_options),
                    timeout=(open_s, options.read_s) if location.remote else None,
                    hwaccel=accelerator,
                    metadata_errors="replace",
                )
        except (av.error.FFmpegError, RuntimeError) as error:
            raise self._fault("open", error, began, open_s) from None

    def _describe(self, container: av.container.InputContainer) -> SourceInfo:
        try:
            stream = _video_stream(container)
        except LookupError:
            kinds = ", ".join(sorted({s.type for s in container.streams}))
            if not kinds:
                raise self._broken("no stream in it; it is cut or damaged", "corrupt") from None
            raise self._broken(
                f"no video stream in it, only {kinds}; give one with video", "codec"
            ) from None
        context = stream.codec_context
        if context is None:
            raise SourceError(
                f"{self._name}: no decoder for its video in this build; re-encode as H.264",
                reason="codec",
                permanent=True,
            )
        if context.width < 1 or context.height < 1:
            raise self._broken(
                f"its {context.name} video says no picture size "
                f"({context.width}x{context.height}); it is damaged or has no key frame yet",
                "codec",
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

    def _good_pictures(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[tuple[av.VideoFrame, Arrival]]:
        fps = float(self._fps(stream) or FPS_ASSUMED)
        patience = Patience(self._options, fps=fps, live=self._live)
        keep_damaged = self._options.corrupt == "show"
        for packet in self._from_key_frame(self._packets(container, stream), patience):
            arrival = Arrival.of(packet, live=self._live)
            for picture in self._decode(packet, arrival):
                if picture.is_corrupt:
                    self.statistics.corrupt += 1
                    if not keep_damaged:
                        continue
                yield picture, picture.opaque or arrival
                if self._closed.is_set():
                    return
                patience.picture()  # only now, for the reader may have taken its time
            verdict = patience.verdict() if packet.size else None
            if verdict is not None:
                raise self._no_good_picture(verdict, patience.packets)

    def _from_key_frame(
        self, packets: Iterator[av.Packet], patience: Patience
    ) -> Iterator[av.Packet]:
        """Leave out the packets before the first key frame; an encoder may never mark one."""
        waiting = True
        for packet in packets:
            patience.packet()
            if waiting and packet.size:
                if not packet.is_keyframe and patience.packets < patience.limit_packets:
                    self.statistics.skipped += 1
                    continue
                waiting = False
                patience.packets = 0
            yield packet

    def _packets(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[av.Packet]:
        """Yield the packets, then the empty one that flushes the decoder."""
        packets = container.demux(stream)
        unreadable = 0
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                with self._in_libav:
                    packet = next(packets, None)
            except av.error.InvalidDataError as error:
                # The demuxer finds its way again behind a damaged part; but not for ever.
                self.statistics.corrupt += 1
                unreadable += 1
                if unreadable > _MOST_UNREADABLE:
                    raise self._fault("read", error, began, self._options.read_s) from None
                packets = container.demux(stream)
                continue
            except av.error.FFmpegError as error:
                raise self._fault("read", error, began, self._options.read_s) from None
            if packet is None:
                return
            if packet.size:
                unreadable = 0
                self.statistics.packets += 1
                self.statistics.bytes += packet.size
            elif self._live and time.monotonic() - began >= self._options.read_s:
                # Interrupted by its deadline, the RTSP demuxer may say that the stream has ended.
                raise self._fault("read", TimeoutError(), began, self._options.read_s)
            yield packet

    def _decode(self, packet: av.Packet, arrival: Arrival) -> list[av.VideoFrame]:
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

    def _no_good_picture(self, reason: str, packets: int) -> SourceError:
        seen = self.statistics
        return self._broken(
            f"no good picture in the last {packets} packets ({seen.corrupt} damaged, "
            f"{seen.skipped} before a key frame); check the line or the encoder",
            reason,
        )

    def _broken(self, what: str, reason: str) -> SourceError:
        return SourceError(
            f"{self._name}: {what}", reason=reason, permanent=not self._location.remote
        )

    def _fault(self, doing: str, error: Exception, began: float, deadline_s: float) -> SourceError:
        location = self._location
        overdue = location.remote and time.monotonic() - began >= deadline_s
        return fault(
            location.uri,
            doing,
            error,
            remote=location.remote,
            overdue_s=deadline_s if overdue else None,
        )

    def _close_container(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.close()


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    for stream in container.streams.video:
        if not stream.disposition.value & _ATTACHED_PICTURE:
            return stream
    raise LookupError("no video stream")
