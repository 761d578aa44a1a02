"""What every writer of pictures takes and tells; no library is imported here.

A canvas is drawn on and then written; what happened on the way comes back as notices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from streamer.planes import Planes
from streamer.sources.base import FrameTimes


@dataclass(frozen=True, slots=True)
class Canvas:
    """One picture to draw on; its planes are the encoder's own buffers where that is possible."""

    planes: Planes
    frame: object = None
    """The encoder's picture that the planes look into; None if write has to copy them."""


@dataclass(frozen=True, slots=True)
class SegmentStarted:
    """A new file was begun."""

    path: Path
    start_utc_ns: int
    """Wall clock of capture of its first frame, which is at media time 0 of the file."""


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
    """Frames changed their size and are letterboxed to that of the file from here on."""

    path: Path
    from_size: tuple[int, int]
    """Width and height of the frames."""
    to_size: tuple[int, int]
    """Width and height of the file."""


@dataclass(frozen=True, slots=True)
class TimelineJoined:
    """The media clock of the source restarted; the file goes on without a gap."""

    path: Path
    media_s: float
    """Where in the file the new timeline begins."""


Notice = (
    SegmentStarted
    | SegmentEnded
    | RecordingFailed
    | RecordingResumed
    | DiskLow
    | PictureResized
    | TimelineJoined
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
