"""Events of what networks see beside boxes: actions, and surfaces of the scene."""

from __future__ import annotations

from typing import Literal

from streamer.event import Event


class _Action(Event, frozen=True, kw_only=True, rename={"class_name": "class"}):
    class_name: str
    """Of the recogniser, such as fight or wave."""
    track_id: int | None = None
    """Who acts; null where the whole picture does."""
    start_s: float
    """Media time at which it began."""


class ActionStarted(_Action, frozen=True, kw_only=True, tag="action.started"):
    """An action is surely going on; it began at start_s, a moment before this frame."""

    score: float


class ActionEnded(_Action, frozen=True, kw_only=True, tag="action.ended"):
    """An action is over; each one that has started ends, at the latest with its track or stream."""

    score: float | None
    """Its highest; null where what recognised it was started anew."""
    end_s: float
    """Media time at which it ended."""


class _Surface(Event, frozen=True, kw_only=True):
    name: str
    """Of the rule in segmenter.surfaces."""
    surface: str
    """Class of the segmenter, such as road."""


class SurfaceBlocked(_Surface, frozen=True, kw_only=True, tag="surface.blocked"):
    """Something stands on a surface, and has stood there for a while."""

    share: float
    """Part of where the surface usually is that is hidden now."""


class SurfaceCleared(_Surface, frozen=True, kw_only=True, tag="surface.cleared"):
    """A surface can be seen again, or nobody knows any more."""

    share: float | None
    """As in surface.blocked; null where lost."""
    reason: Literal["seen", "lost"] = "seen"
    """lost: the picture jumped or ended, the surface is no longer where it was for long, or what
    watched it was started anew."""


AnnotationEvent = ActionStarted | ActionEnded | SurfaceBlocked | SurfaceCleared
