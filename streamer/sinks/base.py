"""What every writer of pictures takes and tells; knows no encoder.

A canvas is drawn on and then written; what happened on the way comes back as notices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamer.planes import Planes
from streamer.sources.base import FrameTimes


@dataclass(frozen=True, slots=True)
class Canvas:
    """One picture to draw on; its planes are the encoder's own buffers where that is possible."""

    planes: Planes
    frame: object = None
    """The encoder's picture that the planes look into; None if write has to copy them."""
    objects_xyxy: NDArray[np.float32] | None = None
    """(N, 4) px: where things happen, for encoders that can spend more bits there."""


@dataclass(frozen=True, slots=True)
class SegmentStarted:
    """A new file was begun."""

    path: Path
    start_utc_ns: int
    """Wall clock of capture of its first frame, which is at media time 0 of the file."""
    codec: str
    size: tuple[int, int]
    """Width and height of its pictures."""


@dataclass(frozen=True, slots=True)
class SegmentEnded:
    """A file was closed."""

    path: Path
    start_utc_ns: int
    duration_s: float
    """Media time that can be played."""
    frames: int
    """Frames that are in the file."""
    size_bytes: int
    finished: bool
    """False if writing broke off; the file still plays for duration_s."""


@dataclass(frozen=True, slots=True)
class RecordingFailed:
    """Writing broke off; told once, until RecordingResumed."""

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class RecordingResumed:
    """Writing goes on after RecordingFailed."""

    path: Path
    frames_lost: int
    """Frames since the failure, and those before it that had not reached the disk."""


@dataclass(frozen=True, slots=True)
class DiskLow:
    """There is room to record, but not for long."""

    folder: Path
    free_bytes: int


@dataclass(frozen=True, slots=True)
class PictureResized:
    """Frames changed their size; the file goes on."""

    path: Path
    from_size: tuple[int, int]
    """Width and height of the frames."""
    to_size: tuple[int, int]
    """Width and height in the file from here on."""
    letterboxed: bool
    """True if they keep the size that the file began with, and have bars."""


@dataclass(frozen=True, slots=True)
class TimelineJoined:
    """The media clock of the source restarted; the file goes on without a gap."""

    path: Path
    media_s: float
    """Where in the file the new timeline begins."""


@dataclass(frozen=True, slots=True)
class CodecChanged:
    """The encoder that was asked for can't keep up; another one goes on in a file of its own."""

    path: Path
    """The file that ended."""
    message: str


Notice = (
    SegmentStarted
    | CodecChanged
    | SegmentEnded
    | RecordingFailed
    | RecordingResumed
    | DiskLow
    | PictureResized
    | TimelineJoined
)


@dataclass(frozen=True, slots=True)
class WriterStatistics:
    """What a writer has done so far."""

    frames: int
    """Frames taken."""
    frames_flushed: int
    """Frames that are in the file, whatever happens now."""
    size_bytes: int
    """Bytes in the file."""
    flushed_s: float
    """Media time up to which the file plays, whatever happens now."""
    encode_ms: float
    """Wall time spent in encoder and muxer, all frames together."""


class PictureFile(Protocol):
    """One file of one rising media clock; used by one thread."""

    path: Path
    width: int
    height: int
    """Of the first canvas, and those of its size."""
    codec: str
    size: tuple[int, int]
    """Width and height of their pictures in the file, which may be smaller."""
    finished: bool
    """True once the whole file is written."""

    @property
    def statistics(self) -> WriterStatistics:
        """What was done so far."""

    @property
    def ended(self) -> bool:
        """True once nothing more will be written, after finish or close."""

    @property
    def is_behind(self) -> bool:
        """True if frames come faster than they are encoded."""

    def recorded_size(self, width: int, height: int) -> tuple[int, int] | None:
        """Width and height in the file of canvases of this size; None if it can't take them."""

    def blank(self, width: int | None = None, height: int | None = None) -> Canvas:
        """Give a canvas of the file's size, or another, with undefined content."""

    def write(self, canvas: Canvas, times: FrameTimes) -> None:
        """Encode a canvas of a size that the file takes.

        Raises:
            SinkError: encoder or disk failed, now or earlier; what was flushed plays.
        """

    def finish(self) -> None:
        """Take no more frames; what is left is written in the background."""

    def close(self) -> None:
        """Finish and wait for the end; safe to call twice and after an error.

        Raises:
            SinkError: the rest could not be written, told for the first time.
        """


def segment_ended(file: PictureFile, start_utc_ns: int) -> SegmentEnded:
    """Tell what is in a closed file."""
    done = file.statistics
    return SegmentEnded(
        file.path,
        start_utc_ns,
        duration_s=done.flushed_s,
        frames=done.frames_flushed,
        size_bytes=done.size_bytes,
        finished=file.finished,
    )


class Recording(Protocol):
    """One recording of one camera; used by one thread."""

    def blank(self, width: int, height: int) -> Canvas:
        """Give a canvas of this size with undefined content, to be filled, drawn on and written."""

    def write(self, canvas: Canvas, times: FrameTimes) -> Sequence[Notice]:
        """Encode a canvas, once; it must not be drawn on any more.

        Raises:
            SinkError: the recording can't go on; what was flushed plays.
        """

    def close(self) -> Sequence[Notice]:
        """Finish the file; safe to call twice and after an error."""
