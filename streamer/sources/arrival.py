"""Turn a packet into the instants of its capture and arrival; in the decode process.

Knows no decoder. Also keeps count of how long a source sent packets but nothing to look at.
"""

from __future__ import annotations

import math
import struct
import time
from dataclasses import dataclass
from typing import Literal

import av

from streamer.sources.mediaclock import NS
from streamer.sources.options import SourceOptions

_PRODUCER_TIME = struct.Struct("<q")  # AVProducerReferenceTime: UTC in microseconds, then flags
_CLOCK_TOLERANCE_NS = 60 * NS  # a camera whose clock was never set is years off


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a packet was captured (wall clock) and read (monotonic)."""

    capture_ns: int
    receive_ns: int

    @classmethod
    def of(cls, packet: av.Packet, *, live: bool) -> Arrival:
        """Read both clocks now; a live sender's own clock is preferred where it is believable."""
        capture_ns = time.time_ns()
        said_ns = producer_time_ns(packet) if live else None
        if said_ns is not None and abs(said_ns - capture_ns) <= _CLOCK_TOLERANCE_NS:
            capture_ns = said_ns
        return cls(capture_ns, time.monotonic_ns())


def producer_time_ns(packet: av.Packet) -> int | None:
    """Wall clock of capture as the sender's RTCP reports give it; None before the first report."""
    try:
        if not packet.has_sidedata("prft"):
            return None
        data = bytes(packet.get_sidedata("prft"))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # a PyAV before 18 does not give it away
    return int(_PRODUCER_TIME.unpack_from(data)[0]) * 1000


class Patience:
    """Decides when a source that sends packets, but no good picture, is given up.

    Counted in packets, so that it is the same for each reading of a file; and for a live source
    also in time.
    """

    def __init__(self, options: SourceOptions, *, fps: float, live: bool) -> None:
        self.limit_packets = math.ceil(options.corrupt_after_s * fps)
        self._live = live
        self._limit_ns = round(options.first_frame_s * NS)
        self._later_limit_ns = round(options.read_s * NS)
        self._since_ns = time.monotonic_ns()
        self.packets = 0
        """Since the last good picture."""

    def packet(self) -> None:
        """A packet was given to the decoder."""
        self.packets += 1

    def picture(self) -> None:
        """A good picture came out."""
        self.packets = 0
        if self._live:
            self._since_ns, self._limit_ns = time.monotonic_ns(), self._later_limit_ns

    def verdict(self) -> Literal["corrupt", "stalled"] | None:
        """Say why enough is enough, or None if it is not."""
        if self.packets > self.limit_packets:
            return "corrupt"
        overdue = self._live and time.monotonic_ns() - self._since_ns > self._limit_ns
        return "stalled" if overdue else None
