"""Turn scores over time into actions that start and end, each one once; knows no network.

One per stream (a camera's scene, or one track); not thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When an action counts."""

    on: float = 0.6
    """Score from which it may start."""
    off: float = 0.4
    """Score below which it may end."""
    least_s: float = 0.25
    """How long it must stay over `on` to start, and below `off` to end."""

    def __post_init__(self) -> None:
        if not (0 < self.off <= self.on < 1 and self.least_s >= 0):
            raise ValueError(
                "thresholds must be 0 < off <= on < 1 and least_s 0 or more, "
                f"got on {self.on}, off {self.off}, least_s {self.least_s}"
            )


@dataclass(frozen=True, slots=True)
class Change:
    """An action that started or ended."""

    kind: Literal["started", "ended"]
    action: str
    score: float
    """Of the moment for started, the highest one for ended."""
    begin_ns: int
    """Media time at which the score first crossed `on`."""
    end_ns: int | None
    """Media time at which it first fell below `off`; None for started."""


@dataclass(slots=True)
class _Going:
    """One class: whether it goes on, and since when the other seems true."""

    active: bool = False
    begin_ns: int = 0
    peak: float = 0.0
    doubt_ns: int | None = None


class Hysteresis:
    """Follows the scores of all classes of one stream."""

    def __init__(self, actions: Mapping[str, Thresholds]) -> None:
        """Follow these classes; others are never an event."""
        self._actions = dict(actions)
        self._going = {action: _Going() for action in actions}

    @property
    def active(self) -> tuple[str, ...]:
        """Actions that go on, as they would be shown."""
        return tuple(action for action, going in self._going.items() if going.active)

    def update(self, time_ns: int, scores: Mapping[str, float]) -> list[Change]:
        """Take the scores of one moment, later than the last; endings come before beginnings."""
        changes = []
        for action, limits in self._actions.items():
            going, score = self._going[action], scores[action]
            counts = going.active or going.doubt_ns is not None
            going.peak = max(going.peak, score) if counts else score
            crossed = score < limits.off if going.active else score >= limits.on
            if not crossed:
                going.doubt_ns = None
                continue
            if going.doubt_ns is None:
                going.doubt_ns = time_ns
            if time_ns - going.doubt_ns < limits.least_s * _SECOND_NS:
                continue
            changes.append(self._turn(action, going, score))
        return sorted(changes, key=lambda change: change.kind)

    def finish(self, time_ns: int) -> list[Change]:
        """End all that goes on, because the stream ended or was cut."""
        changes = []
        for action, going in self._going.items():
            if going.active:
                going.doubt_ns = time_ns if going.doubt_ns is None else going.doubt_ns
                changes.append(self._turn(action, going, going.peak))
            going.doubt_ns, going.peak = None, 0.0
        return changes

    def _turn(self, action: str, going: _Going, score: float) -> Change:
        """Switch one class at the time at which it was first in doubt."""
        assert going.doubt_ns is not None
        at_ns, going.doubt_ns = going.doubt_ns, None
        going.active = not going.active
        if going.active:
            going.begin_ns = at_ns
            return Change("started", action, score, at_ns, None)
        return Change("ended", action, going.peak, going.begin_ns, at_ns)
