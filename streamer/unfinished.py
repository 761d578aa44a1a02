"""Keep what has begun and not ended, so that the successor of a process that died ends it.

It lies in counters that somebody else owns (a Ledger); one writer. Knows no event.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from streamer.ledger import COUNTERS

_CAMERA = 2
"""Counters of each camera: the frame after the last one that was answered, and its media time."""
MOST_CAMERAS = 512
_FIRST = _CAMERA * MOST_CAMERAS
_ENTRY = 3
MOST = (COUNTERS - _FIRST) // _ENTRY
"""More at once are not kept, and have no end if the process dies."""
_BITS = 20


class Counters(Protocol):
    """4096 integers of 64 bits, all 0 at first."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Left:
    """Something that a predecessor did not end."""

    who: int
    """Track id, or 0."""
    what: int
    """Place of its class or rule, below 2 to the 20."""
    since_ns: int
    last_ns: int
    """Media time of the last frame that the predecessor has answered."""


class Unfinished:
    """What goes on at some cameras; those beyond MOST_CAMERAS are not kept."""

    def __init__(self, counters: Counters, cameras: Sequence[str]) -> None:
        self._counters = counters
        self._cameras = {name: place for place, name in enumerate(cameras[:MOST_CAMERAS])}
        self._left: dict[str, list[Left]] = {}
        for camera, left in self._read(cameras):
            self._left.setdefault(camera, []).append(left)
        self._free = list(range(_FIRST + (MOST - 1) * _ENTRY, _FIRST - 1, -_ENTRY))
        self._places: dict[tuple[str, int, int], int] = {}
        self._answered = {name: counters[_CAMERA * at] for name, at in self._cameras.items()}
        for place in self._free:
            counters[place] = 0

    def begin(self, camera: str, who: int, what: int, since_ns: int) -> None:
        """Something has begun."""
        if camera not in self._cameras or not self._free:
            return
        place = self._places[camera, who, what] = self._free.pop()
        self._counters[place + 1] = who
        self._counters[place + 2] = since_ns
        # Last: now it is valid.
        self._counters[place] = ((self._cameras[camera] + 1) << _BITS) | what

    def end(self, camera: str, who: int, what: int) -> None:
        """It is over."""
        place = self._places.pop((camera, who, what), None)
        if place is not None:
            self._counters[place] = 0
            self._free.append(place)

    def answer(self, camera: str, seq: int, time_ns: int) -> list[Left]:
        """A frame is answered.

        Returns:
            What our predecessor left, once: with the first frame that it has not answered, for
            what is said again of others is not heard.
        """
        if camera not in self._cameras:
            return []
        if seq < self._answered[camera]:
            return []
        at = _CAMERA * self._cameras[camera]
        self._counters[at + 1] = time_ns
        self._counters[at] = seq + 1
        return self._left.pop(camera, [])

    def drop(self, camera: str) -> list[Left]:
        """A camera has ended; what our predecessor left there, if nobody was told."""
        return self._left.pop(camera, [])

    def _read(self, cameras: Sequence[str]) -> Iterator[tuple[str, Left]]:
        counters = self._counters
        for place in range(_FIRST, _FIRST + MOST * _ENTRY, _ENTRY):
            if counters[place]:
                at, what = (counters[place] >> _BITS) - 1, counters[place] & ((1 << _BITS) - 1)
                last_ns = counters[_CAMERA * at + 1]
                left = Left(counters[place + 1], what, counters[place + 2], last_ns)
                yield cameras[at], left
