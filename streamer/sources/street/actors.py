"""Everybody who moves: where an actor is at a time, what it does, and its figure.

Each is immutable, and all of it is a function of time; nothing is stepped.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, Protocol

from streamer.sources.street.camera import FIELD_M
from streamer.sources.street.cycles import bicycle, cyclist, motorcycle, motorcyclist
from streamer.sources.street.dice import Dice
from streamer.sources.street.models import CAR_COLOURS, MODELS
from streamer.sources.street.people import Look, Pose, person
from streamer.sources.street.shapes import Figure, Rgb
from streamer.sources.street.vehicles import vehicle

ActorClass = Literal["person", "bicycle", "car", "motorcycle", "bus", "truck"]
Action = Literal["walk", "run", "wave", "fall", "stand"]

_BLEND_S = 0.4
"""One gait or gesture passes into the next for so long after the begin of an episode."""
_MOST_EVENTS = 4
_MIXTURE: tuple[Action, ...] = (
    "wave",
    "wave",
    "wave",
    "run",
    "run",
    "run",
    "stand",
    "stand",
    "fall",
    "fall",
)


@dataclass(frozen=True, slots=True)
class Episode:
    """What a person does from begin_s on, until just before end_s."""

    action: Action
    begin_s: float
    end_s: float


class Actor(Protocol):
    """One person or vehicle, for as long as it is in the street."""

    @property
    def identity(self) -> int: ...

    @property
    def name(self) -> ActorClass: ...

    @property
    def label(self) -> int: ...

    @property
    def z_m(self) -> float: ...

    @property
    def born_s(self) -> float: ...

    @property
    def gone_s(self) -> float: ...

    @property
    def episodes(self) -> tuple[Episode, ...]: ...

    def figure(self, time_s: float) -> Figure: ...


def _entry_m(z_m: float, length_m: float) -> float:
    """How far from the middle an actor turns up, just out of sight."""
    return FIELD_M * z_m + length_m / 2 + 0.5


@dataclass(frozen=True, slots=True)
class Walker:
    """A person on foot."""

    identity: int
    z_m: float
    direction: int
    look: Look
    episodes: tuple[Episode, ...]
    way_m: tuple[float, ...]
    """How far from its entry it is when each episode begins."""
    speeds: tuple[float, ...]
    """The speed of each episode, reached after the blend."""
    name: ActorClass = "person"
    label: int = 9

    @classmethod
    def draw(cls, dice: Dice, identity: int, z_m: float, direction: int, born_s: float) -> Walker:
        """Choose a person and plan its way across the street."""
        look = Look.draw(dice)
        z_m += dice.between(-0.22, 0.22)
        pace, haste = dice.between(1.15, 1.65), dice.between(2.8, 3.6)
        end_m = 2 * _entry_m(z_m, 1.0)
        now_s, way, speed = born_s, 0.0, pace
        episodes: list[Episode] = []
        ways: list[float] = []
        speeds: list[float] = []
        while way < end_m:
            done = len(episodes) >= 2 * _MOST_EVENTS
            action: Action = dice.pick(_MIXTURE) if len(episodes) % 2 else "walk"
            new_speed = {"walk": pace, "run": haste}.get(action, 0.0)
            length_s = dice.between(3.0 if action == "fall" else 2.0, 6.0)
            if done:
                length_s = 1.0 + (end_m - way) / new_speed
            episodes.append(Episode(action, now_s, now_s + length_s))
            ways.append(way)
            speeds.append(new_speed)
            way += _gone_m(speed, new_speed, length_s)
            now_s, speed = now_s + length_s, new_speed
        return cls(identity, z_m, direction, look, tuple(episodes), tuple(ways), tuple(speeds))

    @property
    def born_s(self) -> float:
        """When it turns up, out of sight."""
        return self.episodes[0].begin_s

    @property
    def gone_s(self) -> float:
        """When it is out of sight again."""
        return self.episodes[-1].end_s

    def figure(self, time_s: float) -> Figure:
        """Draw it as it is at this time."""
        at = max(0, bisect_right(self.episodes, time_s, key=lambda episode: episode.begin_s) - 1)
        since_s = time_s - self.episodes[at].begin_s
        before = self.speeds[max(0, at - 1)]
        way = self.way_m[at] + _gone_m(before, self.speeds[at], since_s)
        pose = self._pose(at, since_s)
        if since_s < _BLEND_S and at:
            last = self.episodes[at - 1]
            earlier = self._pose(at - 1, time_s - last.begin_s)
            pose = earlier.mixed(pose, _ease(since_s / _BLEND_S))
        x_m = self.direction * (way - _entry_m(self.z_m, 1.0))
        return person(self.look, pose, self._phase(way), x_m, self.z_m)

    def _phase(self, way_m: float) -> float:
        stride_m = 0.87 * self.look.height_m
        return math.tau * way_m / stride_m + self.identity

    def _pose(self, at: int, since_s: float) -> Pose:
        episode = self.episodes[at]
        ahead = 0.3 if self.direction > 0 else math.pi - 0.3
        if episode.action == "walk":
            return Pose(ahead, swing=0.44, knee=0.1, kick=0.85, arms=0.5, elbow=0.3, lean=0.03)
        if episode.action == "run":
            return Pose(
                ahead, swing=0.8, knee=0.3, kick=1.45, arms=0.95, elbow=1.45, lean=0.2, bounce=0.045
            )
        sway = 0.02 * math.sin(1.7 * since_s)
        if episode.action == "stand":
            return Pose(math.pi / 2 - 0.35 * self.direction, elbow=0.22 + sway, lean=0.0)
        if episode.action == "wave":
            wag = 0.55 * math.sin(math.tau * 1.6 * since_s)
            return Pose(math.pi / 2 - 0.15 * self.direction, raised=1.0, wag=wag)
        down = _ease(since_s / 0.7) * _ease((episode.end_s - episode.begin_s - since_s) / 1.1)
        return Pose(
            ahead,
            swing=0.2 + 0.3 * down,
            knee=0.1 + 0.5 * down * (1 - down),
            arms=0.4,
            elbow=0.3 + 0.8 * down,
            lean=0.15 * down,
            tilt=self.direction * 1.48 * down,
        )


def _gone_m(before: float, speed: float, since_s: float) -> float:
    """Way made in an episode; the speed changes evenly during the blend."""
    if since_s < _BLEND_S:
        return before * since_s + (speed - before) * since_s * since_s / (2 * _BLEND_S)
    return speed * since_s - (speed - before) * _BLEND_S / 2


def _ease(part: float) -> float:
    """0 to 1 with level ends."""
    part = min(1.0, max(0.0, part))
    return part * part * (3 - 2 * part)


@dataclass(frozen=True, slots=True)
class Driver:
    """A car, truck or bus; parked if its speed is 0."""

    identity: int
    kind: str
    colour: Rgb
    z_m: float
    direction: int
    born_s: float
    speed: float
    parked_m: float = 0.0
    label: int = 8
    episodes: tuple[Episode, ...] = ()

    @classmethod
    def parked(
        cls, identity: int, kind: str, colour: Rgb, x_m: float, z_m: float, direction: int
    ) -> Driver:
        """A vehicle that has always been there."""
        return cls(identity, kind, colour, z_m, direction, -math.inf, 0.0, x_m)

    @property
    def name(self) -> ActorClass:
        """Its class, which several models share."""
        return MODELS[self.kind].name

    @property
    def gone_s(self) -> float:
        """When it is out of sight again."""
        if not self.speed:
            return math.inf
        return self.born_s + 2 * _entry_m(self.z_m, MODELS[self.kind].length_m) / self.speed

    def figure(self, time_s: float) -> Figure:
        """Draw it as it is at this time."""
        if not self.speed:
            return vehicle(self.kind, self.colour, self.direction, self.parked_m, self.z_m, 0.0)
        way = self.speed * (time_s - self.born_s)
        x_m = self.direction * (way - _entry_m(self.z_m, MODELS[self.kind].length_m))
        return vehicle(self.kind, self.colour, self.direction, x_m, self.z_m, way)


@dataclass(frozen=True, slots=True)
class Cyclist:
    """A bicycle or motorcycle, or the person on it: they are two actors that move as one."""

    identity: int
    name: ActorClass
    machine: str
    look: Look
    colour: Rgb
    z_m: float
    direction: int
    born_s: float
    speed: float
    label: int = 10
    episodes: tuple[Episode, ...] = ()

    @classmethod
    def pair(
        cls,
        dice: Dice,
        identity: int,
        machine: str,
        z_m: float,
        direction: int,
        born_s: float,
        speed: float,
    ) -> tuple[Cyclist, Cyclist]:
        """Choose a machine and its rider, who has the next identity."""
        look, colour = (
            Look.draw(dice, helmet=machine == "motorcycle" or dice.chance(0.5)),
            dice.pick(CAR_COLOURS),
        )
        name: ActorClass = "motorcycle" if machine == "motorcycle" else "bicycle"
        below = cls(identity, name, machine, look, colour, z_m, direction, born_s, speed)
        above = cls(
            identity + 1, "person", machine, look, colour, z_m - 0.01, direction, born_s, speed
        )
        return below, above

    @property
    def gone_s(self) -> float:
        """When it is out of sight again."""
        return self.born_s + 2 * _entry_m(self.z_m, 2.2) / self.speed

    def figure(self, time_s: float) -> Figure:
        """Draw it as it is at this time."""
        way = self.speed * (time_s - self.born_s)
        x_m = self.direction * (way - _entry_m(self.z_m, 2.2))
        if self.machine == "motorcycle":
            if self.name == "person":
                return motorcyclist(self.look, self.direction, x_m, self.z_m)
            return motorcycle(self.colour, self.direction, x_m, self.z_m)
        if self.name == "person":
            return cyclist(self.look, self.direction, x_m, self.z_m, way)
        return bicycle(self.colour, self.direction, x_m, self.z_m, way)
