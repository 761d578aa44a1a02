"""What every source of frames looks like; no library is imported here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

from streamer.planes import Planes


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """When a frame happened, on the three clocks that are never mixed."""

    pts: int
    """Media time in units of time_base, as the stream says it (repaired where it says nonsense)."""
    time_base: Fraction
    """Seconds in one unit of pts."""
    capture_ns: int
    """Wall clock of capture, ns since 1970 UTC; from the stream where it knows, else of arrival."""
    receive_ns: int
    """Monotonic clock at which the frame's packet was read (for the synthetic scene: was due)."""
    discontinuity: bool = False
    """True if the media clock jumped between the frame before and this one."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source after it was opened."""

    width: int
    height: int
    fps_declared: float | None
    codec: str
    live: bool
    """True for a camera or stream that goes on whether we read it or not."""
    frames_declared: int | None = None
    matrix: Literal["bt601", "bt709"] = "bt601"
    """Colour matrix of the planes."""


class SourceFrame(Protocol):
    """One decoded frame, not yet in its slot."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def times(self) -> FrameTimes: ...

    def write_to(self, planes: Planes) -> None:
        """Write the picture into planes of exactly this frame's size."""


class Source(Protocol):
    """One source of frames; used by one thread, but close may come from another."""

    def open(self) -> SourceInfo:
        """Connect, and say what is there.

        Raises:
            SourceError: with its reason; `permanent` when another try can't help.
        """

    def frames(self) -> Iterator[SourceFrame]:
        """Yield frames in order of presentation until the source ends; a frame is valid until
        the next is asked for.

        Raises:
            SourceError: the source broke ("stalled", "corrupt", "io"); open it again.
        """

    def close(self) -> None:
        """Let go of the source; safe to call twice."""
