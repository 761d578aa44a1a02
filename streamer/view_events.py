"""The events of zones and lines, as users get them; what they are declared by is in view.py.

Every zone.enter has its zone.leave. An event whose `active` is true has a later one of the same
type and subject whose `active` is false, or the stream ends. Times are media time.
"""

from __future__ import annotations

from typing import Literal

from streamer.event import Box, Event


class _OfTrack(Event, frozen=True, kw_only=True, rename={"class_name": "class"}):
    track_id: int
    """Unique per camera for the whole run."""
    class_name: str
    box_xyxy_px: Box
    """Where it was seen last."""
    box_xyxy_rel: Box


class _InZone(_OfTrack, frozen=True, kw_only=True):
    zone: str


class _OfZone(Event, frozen=True, kw_only=True):
    zone: str
    active: bool
    """True as it begins, False when it is over."""


class ZoneEnter(_InZone, frozen=True, kw_only=True, tag="zone.enter"):
    """An object's visit to a zone has begun."""

    entered_pts_s: float
    """When it was first seen inside; this event waits until that is sure."""
    appeared: bool
    """It was inside when it was first seen, and did not come over the border."""
    occupancy: int
    """Objects that are inside now."""
    total: int
    """Visits so far in the whole run."""


class ZoneLeave(_InZone, frozen=True, kw_only=True, tag="zone.leave"):
    """An object's visit to a zone is over."""

    reason: Literal["left", "lost", "ended", "restarted"]
    """left: over the border. lost: its track ended inside. ended: the stream did. restarted: what
    tracks it was started anew."""
    entered_pts_s: float
    dwell_s: float
    """From the first frame inside to the first outside, or to the last sight of it."""
    occupancy: int


class ZoneDwell(_InZone, frozen=True, kw_only=True, tag="zone.dwell"):
    """A visit has lasted for dwell_s; once a visit."""

    dwell_s: float


class Loitering(_InZone, frozen=True, kw_only=True, tag="loitering"):
    """All visits of an object together have lasted for loitering_s; once an object and zone."""

    total_s: float


class SpeedOver(_InZone, frozen=True, kw_only=True, tag="speed.over"):
    """An object in a zone is too fast; once a visit."""

    speed_kmh: float
    limit_kmh: float


class VehicleStopped(_InZone, frozen=True, kw_only=True, tag="vehicle.stopped"):
    """A vehicle stands in a zone, or drives on."""

    active: bool
    duration_s: float
    """For how long it has been standing."""


class DirectionWrong(_OfTrack, frozen=True, kw_only=True, tag="direction.wrong"):
    """An object goes the wrong way in a zone (once a visit) or over a line."""

    zone: str | None = None
    line: str | None = None


class LineCrossed(_OfTrack, frozen=True, kw_only=True, tag="line.crossed"):
    """An object has crossed a line."""

    line: str
    direction: Literal["in", "out"]
    """in: from the left of one who walks from the line's begin to its end."""
    crossed_pts_s: float
    """When it was on the line; this event waits until it is sure."""
    count_in: int
    count_out: int
    """Crossings so far in the whole run, with this one."""
    speed_kmh: float | None = None
    """If the camera is calibrated."""


class ZoneOccupancy(_OfZone, frozen=True, kw_only=True, tag="zone.occupancy"):
    """There are more objects in a zone than occupancy_over, or no longer."""

    occupancy: int
    limit: int


class Crowding(_OfZone, frozen=True, kw_only=True, tag="crowding"):
    """There have been more objects in a zone than crowding_over for crowding_s, or no longer."""

    occupancy: int
    limit: int
    duration_s: float
    """For how long there have been so many."""


class Absence(_OfZone, frozen=True, kw_only=True, tag="absence"):
    """There has been no object in a zone for absence_s, or there is one again."""

    duration_s: float


ViewEvent = (
    ZoneEnter
    | ZoneLeave
    | ZoneDwell
    | ZoneOccupancy
    | LineCrossed
    | SpeedOver
    | Loitering
    | Crowding
    | DirectionWrong
    | Absence
    | VehicleStopped
)
