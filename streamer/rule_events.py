"""The events that rules make, as users get them; what they are declared by is in rules/section.py.

One firing is known by its rule and cause_id: after a crash a firing may be told twice, with these
equal.
"""

from __future__ import annotations

from typing import Literal

from streamer.event import Event


class _OfRule(Event, frozen=True, kw_only=True):
    rule: str
    """Name in the configuration."""
    cause_id: str
    """Identity of the event that made it fire."""
    severity: Literal["info", "warning", "alarm", "critical"]


class RuleFired(_OfRule, frozen=True, kw_only=True, tag="rule.fired"):
    """What a rule waits for has happened; times are those of its cause."""

    text: str
    cause_type: str
    count: int = 1
    """Events that it took."""
    zone: str | None = None
    line: str | None = None
    track_id: int | None = None


class _File(_OfRule, frozen=True, kw_only=True):
    path: str
    size_bytes: int


class ClipSaved(_File, frozen=True, kw_only=True, tag="clip.saved"):
    """A video of the moment was cut from the recording."""

    start_utc: str
    """Capture of its first frame: that of the key frame at or before what was asked for."""
    duration_s: float
    cause_s: float
    """Where in the clip the cause is."""
    frames: int
    complete: bool
    """False if the recording does not hold all of it."""


class SnapshotSaved(_File, frozen=True, kw_only=True, tag="snapshot.saved"):
    """A JPEG of the moment was taken from the recording."""

    frame_utc: str
    """Capture of its picture."""
    width: int
    height: int


class ClipFailed(_OfRule, frozen=True, kw_only=True, tag="clip.failed"):
    """A clip or snapshot could not be made."""

    what: Literal["clip", "snapshot"]
    message: str


RuleEvent = RuleFired | ClipSaved | SnapshotSaved | ClipFailed
