"""Turn the PTS that a stream says into PTS that only rise; runs in the thread of its source.

Knows no library and reads no clock: arrival times are given to it. One per opened stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

NS = 1_000_000_000
FPS_ASSUMED = Fraction(25)


@dataclass(slots=True)
class ClockStatistics:
    """What had to be done to the PTS of a stream."""

    synthesised: int = 0
    """Frames without a PTS; they got the one before plus a frame's duration."""
    repaired: int = 0
    """Frames whose PTS did not rise, by less than a jump; they were moved a tick."""
    discontinuities: int = 0
    """Jumps and restarts; the clock went on without them."""


class MediaClock:
    """The media time of one stream, monotonic whatever the stream says.

    A jump is a step back by more than `max_back_s`, or a step forward by more than `max_jump_s`
    beyond what is to be expected: in a file a frame's duration, in a live stream the time that
    passed. It moves all later frames, and is flagged. Smaller steps back are only straightened.
    """

    def __init__(
        self,
        time_base: Fraction,
        *,
        fps: Fraction | None,
        live: bool,
        max_jump_s: float = 10.0,
        max_back_s: float = 0.5,
    ) -> None:
        self.statistics = ClockStatistics()
        self.time_base = time_base
        self._frame_ticks = max(1, round(1 / ((fps or FPS_ASSUMED) * time_base)))
        self._live = live
        self._max_jump_ticks = self._ticks(max_jump_s)
        self._max_back_ticks = self._ticks(max_back_s)
        self._offset = 0
        self._last: int | None = None
        self._last_arrival_ns = 0

    def stamp(self, pts: int | None, *, arrival_ns: int) -> tuple[int, bool]:
        """Give the next frame in presentation order its PTS.

        Args:
            pts: what the stream says, in units of time_base; None if it says nothing.
            arrival_ns: monotonic clock at which the frame's packet was read.

        Returns:
            The PTS, larger than all before it, and whether the clock jumped here.
        """
        last = self._last
        if last is None:
            self.statistics.synthesised += pts is None
            stamped, jumped = (pts or 0), False
        else:
            stamped, jumped = self._next(pts, last, self._expected_step(arrival_ns))
        self._last, self._last_arrival_ns = stamped, arrival_ns
        return stamped, jumped

    def _next(self, pts: int | None, last: int, expected_step: int) -> tuple[int, bool]:
        if pts is None:
            self.statistics.synthesised += 1
            return last + self._frame_ticks, False
        step = pts + self._offset - last
        if step < -self._max_back_ticks or step - expected_step > self._max_jump_ticks:
            self._offset += expected_step - step
            self.statistics.discontinuities += 1
            return last + expected_step, True
        if step <= 0:
            self.statistics.repaired += 1
            return last + 1, False
        return last + step, False

    def _expected_step(self, arrival_ns: int) -> int:
        if not self._live:
            return self._frame_ticks
        elapsed = Fraction(arrival_ns - self._last_arrival_ns, NS) / self.time_base
        return max(self._frame_ticks, round(elapsed))

    def _ticks(self, seconds: float) -> int:
        return max(self._frame_ticks, round(Fraction(seconds) / self.time_base))
