"""Choose the quality of each frame so that a stream has the bitrate that was asked for; runtime.

Knows no codec: it is told what frames cost, and learns from that. One per stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from engines.codec.schedule import quality_offset

SLOPE = 0.045
"""Growth of the logarithm of a frame's bytes with one step of quality, until it is known better."""
SLOPE_RANGE = (0.02, 0.12)
HORIZON_S = 1.0
"""What was spent too much or too little is made good within this time."""
MOST_STEP = 6.0
"""Qualities that the stream moves by from one frame to the next, at the most."""
LEARNED = 0.3
"""Share of the newest frame in what is known of its kind."""


@dataclass(slots=True)
class _Kind:
    """What frames of one place in the schedule cost: ln bytes at quality 0."""

    level: float
    known: bool = False


class RateControl(Protocol):
    """Chooses qualities, and hears what they cost."""

    def next(self) -> int:
        """Quality of the next frame, without the offset of its place in the schedule."""

    def spent(
        self, position: int, quality: int, size_bytes: int, seconds: float, *, at_rest: bool = False
    ) -> None:
        """Learn what a frame has cost.

        Args:
            position: frames since the intra frame.
            quality: that it was coded with, its offset included.
            size_bytes: of its payload; 0 if it repeats the picture before.
            seconds: of media time since the frame before.
            at_rest: which offsets are in use, see schedule.quality_offset.
        """


class ConstantQuality:
    """The same quality whatever it costs."""

    def __init__(self, quality: int) -> None:
        self.quality = quality

    def next(self) -> int:
        """See RateControl."""
        return self.quality

    def spent(
        self, position: int, quality: int, size_bytes: int, seconds: float, *, at_rest: bool = False
    ) -> None:
        """See RateControl; nothing is learned."""


class TargetRate:
    """A bitrate, met over every few seconds; or, as a cap, a quality that it lets through.

    Args:
        kbps: thousand bits a second.
        period: frames between two intra frames.
        start: quality of the first frame, before anything is known.
        cap: True uses `start` wherever the rate allows it, and less where it does not.
        qualities: that the codec has.
    """

    def __init__(
        self, kbps: float, *, period: int, start: int, cap: bool = False, qualities: int = 64
    ) -> None:
        if not kbps > 0:
            raise ValueError(f"kbps must be above 0, got {kbps}")
        self._bytes_per_s = kbps * 125
        self._period = period
        self._most = start if cap else qualities - 1
        self._quality = float(start)
        self._slope = SLOPE
        self._kinds: dict[int, _Kind] = {}
        self._credit = 0.0
        self._at_rest = False
        self._seconds = 1 / 25
        self._last: dict[int, tuple[float, float]] = {}

    def next(self) -> int:
        """See RateControl."""
        if self._kinds:
            frame_bytes = (self._bytes_per_s + self._credit / HORIZON_S) * self._seconds
            wanted = self._solve(max(frame_bytes, 1.0))
            step = max(-MOST_STEP, min(MOST_STEP, wanted - self._quality))
            self._quality = max(-8.0, min(float(self._most), self._quality + step))
        return max(0, round(self._quality))

    def spent(
        self, position: int, quality: int, size_bytes: int, seconds: float, *, at_rest: bool = False
    ) -> None:
        """See RateControl."""
        self._at_rest = at_rest
        self._seconds = 0.9 * self._seconds + 0.1 * seconds if self._kinds else seconds
        limit = self._bytes_per_s * HORIZON_S
        self._credit += self._bytes_per_s * seconds - size_bytes
        self._credit = max(-limit, min(limit, self._credit))
        if not size_bytes:
            return  # a repetition says nothing of what a picture costs
        offset = quality_offset(position, at_rest=at_rest)
        cost = math.log(max(size_bytes, 1))
        self._learn_slope(offset, quality, cost)
        kind = self._kinds.setdefault(offset, _Kind(0.0))
        level = cost - self._slope * quality
        kind.level = level if not kind.known else (1 - LEARNED) * kind.level + LEARNED * level
        kind.known = True

    def _learn_slope(self, offset: int, quality: int, cost: float) -> None:
        """Two frames of one kind at different qualities show how fast the cost grows."""
        before = self._last.get(offset)
        self._last[offset] = (quality, cost)
        if before is None or abs(quality - before[0]) < 3:
            return
        seen = (cost - before[1]) / (quality - before[0])
        if SLOPE_RANGE[0] <= seen <= SLOPE_RANGE[1]:
            moved = 0.2 * (seen - self._slope)
            self._slope += moved
            for name, kind in self._kinds.items():
                kind.level -= moved * self._last[name][0]

    def _solve(self, frame_bytes: float) -> float:
        """Quality at which a frame of the period costs so much in the mean."""
        shares = self._shares()
        mean = sum(
            share * math.exp(self._kinds[offset].level + self._slope * offset)
            for offset, share in shares.items()
        )
        return math.log(frame_bytes / mean) / self._slope

    def _shares(self) -> dict[int, float]:
        """How often each known kind comes in a period; an unknown one counts as the nearest."""
        known = list(self._kinds)
        shares: dict[int, float] = dict.fromkeys(known, 0.0)
        for position in range(self._period):
            offset = quality_offset(position, at_rest=self._at_rest)
            nearest = min(known, key=lambda other: abs(other - offset))
            shares[nearest] += 1 / self._period
        return shares
