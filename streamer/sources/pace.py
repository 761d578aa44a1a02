"""Turn a file into a camera: its frames come at media speed; runs in the decode process.

Knows no file format: it wraps any source. One thread reads; `close` may come from another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from streamer.sources.base import FrameTimes, Source, SourceFrame, SourceInfo
from streamer.sources.mediaclock import NS
from streamer.sources.restamp import RestampedFrame


class PacedSource:
    """A source whose frames are held back until their instant; late frames are not dropped.

    Captured and received are the instants at which a frame was due, as if a camera had sent it, so
    that a slow reader sees its own delay in the latency.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._closed = threading.Event()

    def open(self) -> SourceInfo:
        """Open the source; it is live from now on."""
        self._closed.clear()
        return replace(self._source.open(), live=True)

    def frames(self) -> Iterator[SourceFrame]:
        """Yield each frame when it is due, counted from the first."""
        first: FrameTimes | None = None
        start_ns, start_wall_ns = 0, 0
        for frame in self._source.frames():
            times = frame.times
            if first is None:
                first, start_ns, start_wall_ns = times, time.monotonic_ns(), time.time_ns()
            offset_ns = round((times.pts - first.pts) * times.time_base * NS)
            wait_ns = start_ns + offset_ns - time.monotonic_ns()
            if wait_ns > 0 and self._closed.wait(wait_ns / NS):
                return
            due = replace(
                times, capture_ns=start_wall_ns + offset_ns, receive_ns=start_ns + offset_ns
            )
            yield RestampedFrame(frame, due)

    def close(self) -> None:
        """Let go of the source, and end a wait."""
        self._closed.set()
        self._source.close()
