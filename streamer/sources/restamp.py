"""Turn the times of several connections to one source into one media clock that only rises.

Knows no source and reads no clock; one per source, in the thread that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from streamer.planes import Planes
from streamer.sources.base import FrameTimes, SourceFrame, SourceInfo
from streamer.sources.mediaclock import FPS_ASSUMED, NS


@dataclass(frozen=True, slots=True)
class RestampedFrame:
    """A frame of another source with other times."""

    frame: SourceFrame
    times: FrameTimes

    @property
    def width(self) -> int:
        """Luma samples in a row."""
        return self.frame.width

    @property
    def height(self) -> int:
        """Luma rows."""
        return self.frame.height

    def write_to(self, planes: Planes) -> None:
        """Write the picture into planes of exactly this frame's size."""
        self.frame.write_to(planes)


class Splice:
    """Joins the connections of one source: time goes on by what passed between them.

    The first connection keeps its own PTS and gives the time base. A later one is shifted: after
    the last frame before it by the time that passed (live) or by one frame (a file that is
    repeated); its first frame is flagged as a discontinuity.
    """

    def __init__(self) -> None:
        self._time_base: Fraction | None = None
        self._last: FrameTimes | None = None
        self._offset = 0
        self._joint = False
        self._live = False
        self._frame_s = 1 / FPS_ASSUMED

    def connect(self, info: SourceInfo) -> None:
        """Say that the frames from here on come from a new connection."""
        self._joint = self._last is not None
        self._live = info.live
        fps = Fraction(info.fps_declared).limit_denominator(100_000) if info.fps_declared else None
        self._frame_s = 1 / (fps or FPS_ASSUMED)

    def restamp(self, times: FrameTimes) -> FrameTimes:
        """Give the times of the next frame on the common clock."""
        if self._time_base is None:
            self._time_base = times.time_base
        pts = times.pts
        if times.time_base != self._time_base:
            pts = round(pts * times.time_base / self._time_base)
        last = self._last
        if self._joint and last is not None:
            self._offset = last.pts + self._gap(last, times) - pts
        pts += self._offset
        if last is not None:
            pts = max(pts, last.pts + 1)  # a finer time base may round two frames into one
        self._last = replace(
            times,
            pts=pts,
            time_base=self._time_base,
            discontinuity=times.discontinuity or self._joint,
        )
        self._joint = False
        return self._last

    def _gap(self, last: FrameTimes, times: FrameTimes) -> int:
        passed_s = Fraction(times.receive_ns - last.receive_ns, NS) if self._live else Fraction(0)
        return max(1, round(max(passed_s, self._frame_s) / last.time_base))
