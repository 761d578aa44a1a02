"""Encode canvases into one fragmented MP4 that plays to its last half second when we are killed.

Knows one size and one rising media clock; see segments and single for what outlives those.
One per file; not thread-safe. Frames keep the differences of their PTS (variable frame rate).
"""

from __future__ import annotations

import contextlib
import time
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np

from streamer.errors import ConfigError, SinkError
from streamer.planes import U8, Planes
from streamer.sinks.base import Canvas, WriterStatistics
from streamer.sinks.encoder import TIME_BASE, WriterOptions, add_encoder
from streamer.sinks.fragments import FragmentFile, sink_error
from streamer.sources.base import FrameTimes

PART_S = 0.5  # longest fragment, so about what a kill costs


def blank_canvas(width: int, height: int) -> Canvas:
    """Make a canvas on a fresh encoder picture, padded to even sides as 4:2:0 coding wants."""
    frame = av.VideoFrame(width + width % 2, height + height % 2, "yuv420p")
    chroma = ((height + 1) // 2, (width + 1) // 2)
    return Canvas(
        Planes(
            _rows(frame, 0)[:height, :width],
            _rows(frame, 1)[: chroma[0], : chroma[1]],
            _rows(frame, 2)[: chroma[0], : chroma[1]],
        ),
        frame,
    )


def _rows(frame: av.VideoFrame, index: int) -> U8:
    plane = frame.planes[index]
    return cast(U8, np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size))


def _pad_to_even(frame: av.VideoFrame, planes: Planes) -> None:
    """Repeat the last column and row into the padding, where a side is odd."""
    luma = _rows(frame, 0)
    if planes.width % 2:
        luma[: planes.height, planes.width] = planes.y[:, -1]
    if planes.height % 2:
        luma[planes.height, : frame.width] = luma[planes.height - 1, : frame.width]


class Mp4Writer:
    """Writes one file. The picture is copied once, by you, into the canvas that blank gives.

    A picture with an odd side is padded by repeating its last column or row: no coding of 4:2:0
    knows odd sides, and nothing is lost this way. `finished` is True once close has written the
    whole file; after an error it stays False, and what was flushed before plays.
    """

    def __init__(
        self,
        path: Path,
        options: WriterOptions,
        *,
        width: int,
        height: int,
        start_utc_ns: int | None = None,
        start_pts_s: Fraction | None = None,
        overwrite: bool = False,
    ) -> None:
        """Open encoder and file.

        Args:
            path: of the file; its folder must exist.
            options: of the encoder.
            width: of the pictures, px.
            height: of the pictures, px.
            start_utc_ns: wall clock of the first frame, written into the file's metadata.
            start_pts_s: media time of the first frame in its source, so likewise.
            overwrite: True replaces an existing file.

        Raises:
            ConfigError: the encoder is missing or refuses these options; nothing was written.
            SinkError: the file can't be made.
        """
        options.check()
        self.path, self.width, self.height = path, width, height
        self.codec: str = options.codec
        self.size = (width, height)
        self.finished = False
        self._first_pts: int | None = None
        self._newest_pts: int | None = None
        self._last = 0  # media time of the newest frame, in TIME_BASE
        self._period = round(1 / options.rate / TIME_BASE)
        self._packets = self._end = 0  # given to the muxer
        self._frames = self._frames_flushed = self._end_flushed = self._encode_ns = 0
        self._broken = False
        self._file = FragmentFile()
        self._container = av.open(
            self._file, "w", format="mp4", options=_muxer_options(float(1 / options.rate))
        )
        if start_utc_ns is not None:
            self._container.metadata.update(_start_tags(start_utc_ns))
        if start_pts_s is not None:
            self._container.metadata["description"] = f"start_pts_s={float(start_pts_s):.9f}"
        self._stream = add_encoder(self._container, options, width + width % 2, height + height % 2)
        self._open(options, overwrite)

    def _open(self, options: WriterOptions, overwrite: bool) -> None:
        try:
            self._container.start_encoding()
            self._file.open(self.path, overwrite=overwrite)
        except av.FFmpegError as error:
            self._abandon()
            raise ConfigError(
                f"the encoder refuses {self.width}x{self.height} with {options}: {error}; "
                "try the default preset and a usual size"
            ) from error
        except OSError as error:
            self._abandon()
            raise sink_error(self.path, error) from error

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def statistics(self) -> WriterStatistics:
        """Count what was done so far."""
        return WriterStatistics(
            frames=self._frames,
            frames_flushed=self._frames_flushed,
            size_bytes=self._file.size_bytes,
            flushed_s=float(self._end_flushed * TIME_BASE),
            encode_ms=self._encode_ns / 1e6,
        )

    def recorded_size(self, width: int, height: int) -> tuple[int, int] | None:
        """See base.PictureFile; a file has one size."""
        return self.size if (width, height) == self.size else None

    def blank(self, width: int | None = None, height: int | None = None) -> Canvas:
        """Give a canvas of the file's size, or another, with undefined content."""
        return blank_canvas(width or self.width, height or self.height)

    def write(self, canvas: Canvas, times: FrameTimes) -> None:
        """Encode a canvas; it must not be drawn on any more.

        Raises:
            ValueError: its size is not the file's, or its PTS not behind the frame before.
            SinkError: encoder or disk failed, now or earlier; what was flushed plays.
        """
        if self._broken or self._file.closed:
            raise SinkError(f"{self.path}: this file was closed or broke off; begin another one")
        frame = self._coded(canvas)
        frame.pts, frame.time_base = self._advance(times), TIME_BASE
        self._frames += 1
        self._encode(frame)

    def close(self) -> None:
        """Write what the encoder holds back, and the index; safe to call twice and after an error.

        Raises:
            SinkError: the rest could not be written, told for the first time.
        """
        if self._file.closed:
            return
        try:
            if not self._broken:
                self._finish()
        finally:
            self._abandon()

    def finish(self) -> None:
        """As close; it does not take long."""
        self.close()

    @property
    def ended(self) -> bool:
        """True once nothing more will be written."""
        return self._file.closed

    @property
    def is_behind(self) -> bool:
        """Never: write encodes each frame at once."""
        return False

    def _coded(self, canvas: Canvas) -> av.VideoFrame:
        planes = canvas.planes
        if (planes.width, planes.height) != (self.width, self.height):
            raise ValueError(
                f"{self.path}: canvas must be {self.width}x{self.height}, "
                f"got {planes.width}x{planes.height}; begin another file or letterbox it"
            )
        if canvas.frame is None:
            canvas = self.blank()
            canvas.planes.copy_from(planes)
        _pad_to_even(canvas.frame, canvas.planes)
        return canvas.frame

    def _advance(self, times: FrameTimes) -> int:
        """Give the media time in the file, in TIME_BASE; times too close for it are kept apart."""
        if self._newest_pts is not None and times.pts <= self._newest_pts:
            raise ValueError(
                f"{self.path}: pts must rise, got {times.pts} after {self._newest_pts}; "
                "begin another file or add an offset"
            )
        if self._first_pts is None:
            self._first_pts = times.pts
        now = round((times.pts - self._first_pts) * times.time_base / TIME_BASE)
        if self._newest_pts is not None:
            now = max(now, self._last + 1)
            self._period = now - self._last
        self._newest_pts, self._last = times.pts, now
        return now

    def _encode(self, frame: av.VideoFrame | None) -> None:
        begin_ns = time.perf_counter_ns()
        try:
            for packet in self._stream.encode(frame):
                self._mux(packet)
        except av.FFmpegError as error:
            self._broken = True
            raise SinkError(f"{self.path}: the encoder failed: {error}; {self._saved()}") from error
        finally:
            self._encode_ns += time.perf_counter_ns() - begin_ns

    def _mux(self, packet: av.Packet) -> None:
        """Hand over a packet; the muxer writes the packets before it when their part is full."""
        if not packet.duration:
            packet.duration = self._period
        before, end = self._packets, self._end
        self._packets, self._end = before + 1, max(end, packet.pts + packet.duration)
        self._container.mux(packet)
        self._flush(before, end)

    def _finish(self) -> None:
        """Let encoder and muxer write the rest, and the index."""
        if self._frames:
            self._encode(None)
        self._container.close()
        self._flush(self._packets, self._end)
        try:
            self._file.close()
        except OSError as error:
            raise sink_error(self.path, error, saved=self._saved()) from error
        self.finished = True

    def _flush(self, packets: int, end: int) -> None:
        try:
            if self._file.flush():
                self._frames_flushed, self._end_flushed = packets, end
        except OSError as error:
            self._broken = True
            raise sink_error(self.path, error, saved=self._saved()) from error

    def _saved(self) -> str:
        return f"{float(self._end_flushed * TIME_BASE):.1f} s are saved and play"

    def _abandon(self) -> None:
        """Let go of encoder and file, whatever state they are in."""
        self._file.discard()
        with contextlib.suppress(av.FFmpegError):
            self._container.close()
        with contextlib.suppress(OSError):
            self._file.close()


def _muxer_options(period_s: float) -> dict[str, str]:
    return {
        # delay_moov keeps the first PTS at 0, also with B-frames
        "movflags": "empty_moov+default_base_moof+delay_moov",
        # the muxer closes a part once it is this long, so one frame later than it says
        "frag_duration": str(round(max(PART_S - period_s, period_s) * 1e6)),
        "flush_packets": "1",
        "video_track_timescale": str(TIME_BASE.denominator),
    }


def _start_tags(start_utc_ns: int) -> dict[str, str]:
    seconds, rest_ns = divmod(start_utc_ns, 10**9)
    stamp = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "creation_time": f"{stamp}.{rest_ns // 1000:06d}Z",  # MP4 keeps whole seconds of it
        "comment": f"start_utc={stamp}.{rest_ns:09d}Z",
    }
