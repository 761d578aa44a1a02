"""Write one file for the whole run, whatever sizes and media clocks its frames have (`--out FILE`).

Frames of another size are letterboxed to that of the first where the file can't follow. A media
clock that restarts goes on one frame period after the last. One per run; not thread-safe.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from streamer.errors import ConfigError, SinkError
from streamer.overlay import letterbox
from streamer.planes import Planes
from streamer.sinks.base import (
    Canvas,
    CodecChanged,
    Notice,
    PictureFile,
    PictureResized,
    SegmentStarted,
    TimelineJoined,
    segment_ended,
)
from streamer.sinks.encoder import TIME_BASE, WriterOptions
from streamer.sinks.files import open_file
from streamer.sinks.mp4 import blank_canvas
from streamer.sources.base import FrameTimes


def check_output(
    path: Path, *, overwrite: bool, suffix: str = ".mp4", inputs: tuple[Path, ...] = ()
) -> None:
    """Refuse a path that would lose something.

    Only a regular file is ever replaced, only on request, and never one that is read in this run.

    Raises:
        ConfigError: the name does not end as it must, or what is there must stay.
    """
    if path.is_dir():
        raise ConfigError(
            f"{path}: this is a folder; name a file in it, such as {path / f'out{suffix}'}"
        )
    if path.suffix.lower() != suffix:
        raise ConfigError(
            f"{path}: an output file must end in {suffix}; use {path.with_suffix(suffix)}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigError(f"{path}: this is no regular file; name another one")
    if any(source.exists() and path.samefile(source) for source in inputs):
        raise ConfigError(f"{path}: this is also the input; write to another file")
    if not overwrite:
        raise ConfigError(f"{path}: this file exists; name another one, or allow overwriting")


def part_path(path: Path, part: int) -> Path:
    """Name the file of a stage's n-th incarnation, so that a restart keeps what there is."""
    if part == 1:
        return path
    numbers = itertools.count(part)
    names = (path.with_name(f"{path.stem}.part{number}{path.suffix}") for number in numbers)
    return next(name for name in names if not name.exists())


class SingleFile:
    """Writes one file; it is made at the first frame, whose size it takes."""

    def __init__(
        self,
        path: Path,
        options: WriterOptions,
        *,
        overwrite: bool = False,
        inputs: tuple[Path, ...] = (),
        part: int = 1,
    ) -> None:
        """Check the path; nothing is written yet.

        Args:
            path: of the file, ending in .mp4, or in .lvc for the learned codec.
            options: of the encoder.
            overwrite: True replaces a regular file; anything else is always refused.
            inputs: files that are read in this run and never replaced.
            part: which incarnation of the stage this is; from 2 on the file is NAME.partN.mp4, with
                the next number that is free.

        Raises:
            ConfigError: the path or an option can't be used.
        """
        options.check()
        self.path = part_path(path, part)
        check_output(self.path, overwrite=overwrite, suffix=options.suffix, inputs=inputs)
        self._options, self._overwrite = options, overwrite
        self._writer: PictureFile | None = None
        self._ending: list[tuple[PictureFile, int]] = []
        """Files that are being finished, with the wall clock of their first frames."""
        self._closed = self._resting = False
        self._start_utc_ns = 0
        self._source_size = (0, 0)
        self._offset = 0  # from the source's media time to the file's, both in TIME_BASE
        self._last = -1
        self._period = round(1 / options.rate / TIME_BASE)

    def blank(self, width: int, height: int) -> Canvas:
        """Give a canvas of this size with undefined content, to be filled, drawn on and written."""
        if self._writer is None or (width, height) == (self._writer.width, self._writer.height):
            return blank_canvas(width, height)
        return Canvas(Planes.empty(width, height))

    def write(self, canvas: Canvas, times: FrameTimes) -> list[Notice]:
        """Encode a canvas, letterboxed if need be; it must not be drawn on any more.

        Raises:
            SinkError: encoder or disk failed; what was flushed plays.
        """
        if self._closed:
            raise SinkError(f"{self.path}: this file was closed")
        notices: list[Notice] = []
        writer = self._writer
        if self._resting:
            return notices
        if writer is None:
            writer = self._writer = self._begin(canvas, times)
            notices.append(_started(writer, times))
        elif writer.is_behind:
            writer = self._writer = self._relieve(writer, canvas, times, notices)
        if writer is None:
            self._resting = True
            return notices
        canvas = self._fit(canvas, writer, notices)
        writer.write(canvas, self._map(times, notices))
        return notices

    def close(self) -> list[Notice]:
        """Finish the file; safe to call twice and after an error.

        Raises:
            SinkError: the rest could not be written, told for the first time.
        """
        if self._closed:
            return []
        self._closed = True
        if self._writer is not None:
            self._ending.append((self._writer, self._start_utc_ns))
        for file, _ in self._ending:
            file.close()
        return [segment_ended(file, start_utc_ns) for file, start_utc_ns in self._ending]

    def _relieve(
        self, writer: PictureFile, canvas: Canvas, times: FrameTimes, notices: list[Notice]
    ) -> PictureFile | None:
        """Let H.264 go on in a file beside, which surely keeps up, if it is not written anyhow."""
        writer.finish()
        self._ending.append((writer, self._start_utc_ns))
        if self._options.learned is not None and not self._options.learned.relieved:
            text = "the learned codec can't keep up; its file ends here"
            notices.append(CodecChanged(writer.path, text))
            return None
        self._options = replace(self._options, codec="h264", learned=None)
        path = self.path.with_suffix(".mp4")
        self.path = part_path(path, 2) if path.exists() else path
        text = f"the learned codec can't keep up; H.264 goes on in {self.path.name}"
        notices.append(CodecChanged(writer.path, text))
        self._last = -1
        relief = self._begin(canvas, times)
        notices.append(_started(relief, times))
        return relief

    def _begin(self, canvas: Canvas, times: FrameTimes) -> PictureFile:
        width, height = canvas.planes.width, canvas.planes.height
        self._source_size = (width, height)
        self._start_utc_ns = times.capture_ns
        self._offset = -round(times.pts * times.time_base / TIME_BASE)
        return open_file(
            self.path,
            self._options,
            width=width,
            height=height,
            start_utc_ns=times.capture_ns,
            overwrite=self._overwrite,
        )

    def _fit(self, canvas: Canvas, writer: PictureFile, notices: list[Notice]) -> Canvas:
        """Letterbox a canvas that the file can't take; say so when the size changes."""
        size = (canvas.planes.width, canvas.planes.height)
        recorded = writer.recorded_size(*size)
        if size != self._source_size:
            self._source_size = size
            to_size, letterboxed = recorded or writer.size, recorded is None
            notices.append(PictureResized(self.path, size, to_size, letterboxed=letterboxed))
        if recorded is not None:
            return canvas
        fitted = writer.blank()
        letterbox(canvas.planes, fitted.planes)
        return fitted

    def _map(self, times: FrameTimes, notices: list[Notice]) -> FrameTimes:
        """Give the frame its media time in the file."""
        source = round(times.pts * times.time_base / TIME_BASE)
        now = source + self._offset
        if self._last >= 0 and (times.discontinuity or now <= self._last):
            now = self._last + self._period
            self._offset = now - source
            notices.append(TimelineJoined(self.path, float(now * TIME_BASE)))
        elif self._last >= 0:
            self._period = now - self._last
        self._last = now
        return replace(times, pts=now, time_base=TIME_BASE)


def _started(file: PictureFile, times: FrameTimes) -> SegmentStarted:
    return SegmentStarted(file.path, times.capture_ns, file.codec, file.size)
