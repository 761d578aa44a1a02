"""Record one camera for ever, as files of a minute named by the UTC time of their first frame.

Files are cut by media time, where the media clock restarts, and where the picture changes its size
and the file can't follow. A full disk stops the recording, not the caller: frames are counted as
lost until there is room again. One per camera; not thread-safe.

    FOLDER/gate/2026-11-21/gate_20261121T101530.123Z.mp4
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from streamer.errors import ConfigError, SinkError
from streamer.sinks.base import (
    Canvas,
    CodecChanged,
    DiskLow,
    Notice,
    PictureFile,
    PictureResized,
    RecordingFailed,
    RecordingResumed,
    SegmentStarted,
    segment_ended,
)
from streamer.sinks.encoder import WriterOptions
from streamer.sinks.files import open_file
from streamer.sinks.fragments import sink_error
from streamer.sinks.mp4 import blank_canvas
from streamer.sources.base import FrameTimes

_CAMERA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RELIEVED_S, RELIEVED_MOST_S = 300.0, 3600.0
"""How long H.264 stands in for a codec that can't keep up."""
_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


def segment_path(folder: Path, camera: str, start_utc_ns: int, suffix: str = ".mp4") -> Path:
    """Name a segment by camera and time: sorted by name is sorted by time."""
    seconds, rest_ns = divmod(start_utc_ns, 10**9)
    start = datetime.fromtimestamp(seconds, timezone.utc)
    stamp = f"{start:%Y%m%dT%H%M%S}.{rest_ns // 10**6:03d}Z"
    return folder / camera / f"{start:%Y-%m-%d}" / f"{camera}_{stamp}{suffix}"


class SegmentRecorder:
    """Writes segments; a write never raises for the disk, it tells in its notices."""

    def __init__(
        self,
        folder: Path,
        camera: str,
        options: WriterOptions,
        *,
        segment_s: float = 60.0,
        min_free_mb: int = 200,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check folder, name and free space, and make the camera's folder.

        Args:
            folder: of all recordings; made if it is not there.
            camera: name; letters, digits, dot, dash and underscore.
            options: of the encoder.
            segment_s: media time after which the next frame begins a new file.
            min_free_mb: no segment is begun with less free space, so that the machine stays usable.
            clock: monotonic seconds, for the backoff after errors.

        Raises:
            ConfigError: a name or number can't be used.
            SinkError: the folder can't be made or written, or the disk is too full.
        """
        options.check()
        if not _CAMERA.fullmatch(camera):
            raise ConfigError(
                f"camera must be letters, digits, dots, dashes and underscores, got {camera!r}; "
                "it names a folder"
            )
        if not segment_s > 0:
            raise ConfigError(f"segment_s must be above 0, got {segment_s}; 60 is usual")
        self.folder, self.camera = folder, camera
        self.frames_lost = 0
        self._options, self._segment_s, self._min_free_mb = options, segment_s, min_free_mb
        self._clock = clock
        self._writer: PictureFile | None = None
        self._first: FrameTimes | None = None
        self._newest: FrameTimes | None = None
        self._source_size = (0, 0)
        self._failures = 0  # in a row; told at the first
        self._retry_at_s = 0.0
        self._lost_now = 0
        self._told_low = self._closed = False
        self._ending: list[tuple[PictureFile, FrameTimes]] = []
        """Files that are still being written in the background."""
        self._plain_until_s = 0.0
        self._fell_behind = 0
        try:
            (folder / camera).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise sink_error(folder / camera, error) from error
        if not os.access(folder / camera, os.W_OK | os.X_OK):
            raise sink_error(folder / camera, PermissionError(errno.EACCES, "not writable"))
        self._check_space()

    def blank(self, width: int, height: int) -> Canvas:
        """Give a canvas of this size with undefined content, to be filled, drawn on and written."""
        return blank_canvas(width, height)

    def write(self, canvas: Canvas, times: FrameTimes) -> list[Notice]:
        """Encode a canvas into the segment that is due; it must not be drawn on any more.

        Raises:
            SinkError: the recorder was closed; what goes wrong on the disk is told in notices.
            ConfigError: the encoder refuses pictures of this size.
        """
        if self._closed:
            raise SinkError(f"{self.folder / self.camera}: this recorder was closed")
        notices: list[Notice] = []
        self._tell_ended(notices)
        if self._writer is not None and self._writer.is_behind:
            self._relieve(self._writer, notices)
            self._end(notices)
        if self._writer is not None and self._must_cut(canvas, times):
            self._end(notices)
        if self._writer is None and self._rests():
            return notices
        if self._writer is None and self._clock() >= self._retry_at_s:
            self._begin(canvas, times, notices)
        if self._writer is None:
            self._lose(1)
            return notices
        try:
            self._tell_resized(self._writer, canvas, notices)
            self._writer.write(canvas, times)
            self._newest = times
        except SinkError as error:
            self._fail(self._writer.path, error, notices)
            self._end(notices)
        else:
            self._tell_resumed(self._writer, notices)
        return notices

    def close(self) -> list[Notice]:
        """Finish the last segment; safe to call twice."""
        self._closed = True
        notices: list[Notice] = []
        self._end(notices)
        self._tell_ended(notices, wait=True)
        return notices

    def _must_cut(self, canvas: Canvas, times: FrameTimes) -> bool:
        writer, first, newest = self._writer, self._first, self._newest
        if writer is None or first is None or newest is None:
            return False
        return (
            times.discontinuity
            or times.time_base != first.time_base
            or times.pts <= newest.pts
            or (times.pts - first.pts) * times.time_base >= self._segment_s
            or writer.recorded_size(canvas.planes.width, canvas.planes.height) is None
        )

    def _begin(self, canvas: Canvas, times: FrameTimes, notices: list[Notice]) -> None:
        options = self._options_now()
        path = segment_path(self.folder, self.camera, times.capture_ns, options.suffix)
        try:
            free_bytes = self._check_space()
            path.parent.mkdir(exist_ok=True, parents=True)
            self._writer = self._open(path, options, canvas, times)
        except SinkError as error:
            self._fail(path, error, notices)
            return
        except OSError as error:
            self._fail(path, sink_error(path, error), notices)
            return
        self._first = self._newest = times
        self._source_size = (canvas.planes.width, canvas.planes.height)
        self._tell_begun(self._writer, times, free_bytes, notices)

    def _options_now(self) -> WriterOptions:
        """What was asked for, or what surely keeps up."""
        if self._clock() >= self._plain_until_s:
            return self._options
        return replace(self._options, codec="h264", learned=None)

    def _relieve(self, writer: PictureFile, notices: list[Notice]) -> None:
        """Go on with H.264 for a while, longer after each time, if it is not written anyhow."""
        wait_s = min(RELIEVED_S * 2**self._fell_behind, RELIEVED_MOST_S)
        self._fell_behind += 1
        self._plain_until_s = self._clock() + wait_s
        how = "it rests" if self._rests() else "H.264 goes on"
        text = f"the learned codec can't keep up; {how} for {wait_s:.0f} s at least"
        notices.append(CodecChanged(writer.path, text))

    def _rests(self) -> bool:
        """True while nothing is written, since H.264 is written anyhow."""
        learned = self._options.learned
        return learned is not None and not learned.relieved and self._clock() < self._plain_until_s

    def _open(
        self, path: Path, options: WriterOptions, canvas: Canvas, times: FrameTimes
    ) -> PictureFile:
        """Make the segment's file under a name that is free."""
        stem, number = path.stem, 0
        while path.exists():
            number += 1
            path = path.with_name(f"{stem}_{number}{path.suffix}")
        return open_file(
            path,
            options,
            width=canvas.planes.width,
            height=canvas.planes.height,
            start_utc_ns=times.capture_ns,
            start_pts_s=times.pts * times.time_base,
        )

    def _tell_begun(
        self, file: PictureFile, times: FrameTimes, free_bytes: int, notices: list[Notice]
    ) -> None:
        notices.append(SegmentStarted(file.path, times.capture_ns, file.codec, file.size))
        low = free_bytes < 5 * self._min_free_mb * 10**6
        if low and not self._told_low:
            notices.append(DiskLow(self.folder, free_bytes))
        self._told_low = low

    def _tell_resized(self, writer: PictureFile, canvas: Canvas, notices: list[Notice]) -> None:
        """Tell a new size that the file follows."""
        size = (canvas.planes.width, canvas.planes.height)
        recorded = writer.recorded_size(*size)
        if size != self._source_size and recorded is not None:
            notices.append(PictureResized(writer.path, size, recorded, letterboxed=False))
        self._source_size = size

    def _tell_resumed(self, writer: PictureFile, notices: list[Notice]) -> None:
        """Tell the end of a failure, once something has reached the disk again."""
        if self._failures and writer.statistics.frames_flushed:
            notices.append(RecordingResumed(writer.path, frames_lost=self._lost_now))
            self._failures = self._lost_now = 0

    def _end(self, notices: list[Notice]) -> None:
        writer, first, self._writer = self._writer, self._first, None
        if writer is None or first is None:
            return
        with self._failing(writer, notices):
            writer.finish()
        self._ending.append((writer, first))
        self._tell_ended(notices)

    def _tell_ended(self, notices: list[Notice], *, wait: bool = False) -> None:
        """Tell of files that are whole by now."""
        for writer, first in list(self._ending):
            if not wait and not writer.ended:
                continue
            self._ending.remove((writer, first))
            with self._failing(writer, notices):
                writer.close()
            ended = segment_ended(writer, first.capture_ns)
            if not writer.finished:
                self._lose(writer.statistics.frames - ended.frames)
            notices.append(ended)
            if not ended.size_bytes:
                ended.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _failing(self, writer: PictureFile, notices: list[Notice]) -> Iterator[None]:
        """Tell what goes wrong at the end of a file."""
        try:
            yield
        except SinkError as error:
            self._fail(writer.path, error, notices)

    def _fail(self, path: Path, error: SinkError, notices: list[Notice]) -> None:
        """Tell the first failure of a row, and wait longer after each."""
        if not self._failures:
            notices.append(RecordingFailed(path, str(error)))
        self._retry_at_s = self._clock() + _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
        self._failures += 1

    def _lose(self, frames: int) -> None:
        self._lost_now += frames
        self.frames_lost += frames

    def _check_space(self) -> int:
        """Give the free bytes, if there are enough to begin a segment."""
        try:
            free_bytes = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise sink_error(self.folder, error) from error
        if free_bytes < self._min_free_mb * 10**6:
            raise SinkError(
                f"{self.folder}: {free_bytes // 10**6} MB are free, fewer than the "
                f"{self._min_free_mb} MB that recording leaves free; delete old recordings or "
                "record to another disk"
            )
        return free_bytes
