"""What must outlive the process that counts: totals, conditions and open visits, as integers.

They lie in counters that somebody else owns (a Ledger); one writer. A total is advanced before its
event is sent. A frame that is handed out again after a crash is not counted again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from streamer.view import MOST

FIRST = 1
"""The first counter that is used here; those before it are the caller's."""
_NEXT_SEQ, _LAST_NS = FIRST, FIRST + 1
_CROSSED = 8
_ENTERED = _CROSSED + 2 * MOST
_CONDITIONS = _ENTERED + MOST
_VISITS = 512
_VISIT = 4
MOST_VISITS = (4096 - _VISITS) // _VISIT
"""More visits at once are counted, but have no zone.leave if the process dies."""
_BITS = 15
_UNIT = (1 << _BITS) - 1

RelativeBox = tuple[float, float, float, float]


class Counters(Protocol):
    """4096 integers of 64 bits, all 0 at first."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Visit:
    """A visit that was open when the process before this one died."""

    track_id: int
    zone: int
    class_index: int
    entered_ns: int
    left_ns: int
    """Media time of the last frame that it was counted in."""
    box_rel: RelativeBox


class Totals:
    """Counts for the whole run; zones and lines go by their place in the configuration."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._counting = True
        self.next_seq = counters[_NEXT_SEQ]
        """The first frame that no predecessor has counted."""
        self.left_over = tuple(self._read())
        """Visits of a predecessor that died."""
        self._free = list(range(_VISITS + (MOST_VISITS - 1) * _VISIT, _VISITS - 1, -_VISIT))
        self._places: dict[tuple[int, int], int] = {}
        for place in self._free:
            counters[place] = 0

    def begin(self, seq: int) -> None:
        """A frame is looked at; it counts if none of our predecessors has counted it."""
        self._counting = seq >= self._counters[_NEXT_SEQ]

    def end(self, seq: int, time_ns: int) -> None:
        """A frame is counted."""
        self._counters[_NEXT_SEQ] = max(self._counters[_NEXT_SEQ], seq + 1)
        self._counters[_LAST_NS] = time_ns

    def crossed(self, line: int, *, inward: bool) -> tuple[int, int]:
        """Count a crossing; all in and all out."""
        self._add(_CROSSED + 2 * line + (0 if inward else 1))
        return self.crossings(line)

    def crossings(self, line: int) -> tuple[int, int]:
        """All in and all out."""
        return self._counters[_CROSSED + 2 * line], self._counters[_CROSSED + 2 * line + 1]

    def entered(self, zone: int, *, known: bool) -> int:
        """Count a visit, unless it is a known one that goes on; all visits."""
        if not known:
            self._add(_ENTERED + zone)
        return self._counters[_ENTERED + zone]

    def conditions(self, zone: int) -> int:
        """Which conditions of a zone hold, as bits."""
        return self._counters[_CONDITIONS + zone]

    def set_conditions(self, zone: int, bits: int) -> None:
        """Keep which conditions of a zone hold."""
        self._counters[_CONDITIONS + zone] = bits

    def open(
        self, track_id: int, zone: int, class_index: int, entered_ns: int, box: RelativeBox
    ) -> None:
        """Keep a visit until it is closed."""
        if not self._free:
            return
        place = self._places[track_id, zone] = self._free.pop()
        packed = 0
        for side in box:
            packed = packed << _BITS | round(min(max(side, 0.0), 1.0) * _UNIT)
        self._counters[place + 1] = class_index << 8 | zone
        self._counters[place + 2] = entered_ns
        self._counters[place + 3] = packed
        self._counters[place] = track_id + 1  # last: now it is valid

    def close(self, track_id: int, zone: int) -> None:
        """A visit is over."""
        place = self._places.pop((track_id, zone), None)
        if place is not None:
            self._counters[place] = 0
            self._free.append(place)

    def _add(self, place: int) -> None:
        if self._counting:
            self._counters[place] += 1

    def _read(self) -> Iterator[Visit]:
        counters = self._counters
        for place in range(_VISITS, _VISITS + MOST_VISITS * _VISIT, _VISIT):
            if counters[place]:
                what, packed = counters[place + 1], counters[place + 3]
                x1, y1, x2, y2 = (
                    (packed >> _BITS * shift & _UNIT) / _UNIT for shift in (3, 2, 1, 0)
                )
                yield Visit(
                    counters[place] - 1, what & 0xFF, what >> 8, counters[place + 2],
                    counters[_LAST_NS], (x1, y1, x2, y2),
                )  # fmt: skip
