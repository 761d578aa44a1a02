"""What all events carry; each kind of event is in events.py or view_events.py.

Knows no socket, no file and no pixel, and imports next to nothing.
"""

from __future__ import annotations

import msgspec

SCHEMA = 1
HOST = ""
"""The camera of events that are about no camera."""

Box = tuple[float, float, float, float]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all events carry."""

    schema: int = SCHEMA
    id: str
    """Unique; two events of one id are one event that was delivered twice."""
    seq: int
    """Counts the events of one camera, from 1, without gaps."""
    camera: str
    """Name in the configuration; empty for events of the host."""
    time_utc: str
    """Wall clock of capture (of the frame), or of what happened."""
    pts_s: float | None = None
    """Media time of the frame."""
    frame: int | None = None
    """Number of the frame."""
