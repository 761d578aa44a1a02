"""What a user may set of a source, and what a source counts; imports no library of video."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from streamer.errors import ConfigError
from streamer.sources.mediaclock import ClockStatistics

_POSITIVE = ("open_s", "first_frame_s", "read_s", "corrupt_after_s", "max_jump_s", "fps")
_CHOICES = {"corrupt": ("drop", "show"), "transport": ("tcp", "udp")}
_MOST_THREADS = 64


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to open and decode a source; those in seconds are deadlines of network and camera."""

    open_s: float = 5.0
    """Longest wait: half of it for the connection, half for learning what is there."""
    first_frame_s: float = 5.0
    """Longest wait for the first picture; some cameras send a key frame only every ten seconds."""
    read_s: float = 3.0
    """Longest wait for the next packet, and for the next picture."""
    threads: int | Literal["auto"] = "auto"
    """Decoder threads; auto is one for a live source (more add delay), two for a file."""
    hwaccel: str = "none"
    """ "none", "auto", or a device such as "cuda" or "vaapi"; falls back with a warning."""
    corrupt: Literal["drop", "show"] = "drop"
    """What becomes of a picture that the decoder marks as damaged."""
    corrupt_after_s: float = 5.0
    """Media time without one good picture after which the source is given up as corrupt."""
    max_jump_s: float = 10.0
    """A step of the PTS beyond this is a discontinuity."""
    fps: float | None = None
    """Of image folders and of streams without timestamps; None is the stream's own, or 25."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How RTP travels."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"source options: {name} must be > 0, got {value!r}")
        if self.threads != "auto" and not 1 <= self.threads <= _MOST_THREADS:
            raise ConfigError(
                f"source options: threads must be 'auto' or 1..{_MOST_THREADS}, "
                f"got {self.threads!r}"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"source options: {name} must be {' or '.join(choices)}, "
                    f"got {getattr(self, name)!r}"
                )


@dataclass(slots=True)
class DecodeStatistics:
    """What was read and decoded since the source was opened."""

    packets: int = 0
    bytes: int = 0
    decoded: int = 0
    """Pictures delivered."""
    corrupt: int = 0
    """Packets that did not decode and pictures that are damaged, dropped or shown."""
    skipped: int = 0
    """Packets before the first key frame; nothing can be made of them."""
    clock: ClockStatistics = field(default_factory=ClockStatistics)
