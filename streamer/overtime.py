"""Tell when a run of a given duration should have ended by itself; runs in the main process.

Media time ends a run, and only frames tell media time. Knows no stage and no clock but the one that
it is given.
"""

from __future__ import annotations

PATIENCE_S = 30.0
"""After the duration, and after the last frame of a file."""


class Overtime:
    """The clock beside media time: for cameras that give no frames, and files that get stuck.

    A file that is slow to read, or whose frames are slow to look at, is not late.

    Args:
        duration_s: of the run in media time; None for no end.
        live: a camera is among the sources, and cameras keep to the clock.
        now_s: monotonic time at the start.
    """

    def __init__(self, duration_s: float | None, *, live: bool, now_s: float) -> None:
        self._due_s = now_s + duration_s if duration_s else float("inf")
        self._live = live
        self._frames = 0
        self._moved_s = now_s

    def is_over(self, frames: int, now_s: float) -> bool:
        """True if nothing but the clock can end this run.

        Args:
            frames: that all sources have given so far.
            now_s: monotonic time.
        """
        if frames > self._frames and not self._live:
            self._frames, self._moved_s = frames, now_s
        return now_s > max(self._due_s, self._moved_s) + PATIENCE_S
