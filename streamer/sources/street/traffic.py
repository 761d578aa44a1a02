"""Decide who is in the street at any moment, as a pure function of the seed and the time.

Each lane's time is cut into equal slots and a slot sends at most one actor on its way, so any
moment can be asked for, in any order, and nothing is kept for longer than a crossing takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from streamer.sources.street.actors import Actor, Cyclist, Driver, Walker
from streamer.sources.street.dice import Dice
from streamer.sources.street.models import CAR_COLOURS, MODELS

_FIRST_SLOT = -64
"""Slots before time 0, so that the street is busy from the first frame on."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A path parallel to the picture, on which actors of one kind move one way."""

    kind: Literal["walk", "ride", "drive"]
    z_m: float
    direction: int
    slot_s: float
    speed: float
    """Metres a second of all vehicles, so that none runs into another; 0 where each has its own."""
    longest_s: float
    """No actor of this lane stays for longer."""


LANES: tuple[Lane, ...] = (
    Lane("walk", 7.5, 1, 8.0, 0.0, 80.0),
    Lane("walk", 8.05, -1, 8.5, 0.0, 80.0),
    Lane("walk", 8.6, 1, 10.0, 0.0, 80.0),
    Lane("walk", 20.9, -1, 17.0, 0.0, 110.0),
    Lane("walk", 21.7, 1, 15.0, 0.0, 110.0),
    Lane("walk", 22.6, -1, 18.0, 0.0, 110.0),
    Lane("walk", 23.6, 1, 20.0, 0.0, 110.0),
    Lane("ride", 10.1, 1, 7.0, 4.1, 12.0),
    Lane("drive", 12.7, 1, 4.2, 5.2, 10.0),
    Lane("drive", 16.2, -1, 3.6, 5.6, 12.0),
)
_PARKED = ((-11.5, "hatch", 1), (-1.0, "suv", -1), (9.8, "sedan", -1))
_PARKED_Z_M = 18.9
_DECK = (
    *("sedan", "sedan", "hatch", "hatch", "suv", "van", "truck", "bus", "motorcycle", "bicycle"),
    "",  # a gap
)
"""Each lane of vehicles is dealt these, shuffled, before any of them comes again."""
_EMPTY = 0.12
_DECK_STREAM = 100


class Traffic:
    """All actors of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._spawn = lru_cache(maxsize=384)(self._uncached_spawn)
        dice = Dice(seed, 1, 0)
        self._parked: tuple[Actor, ...] = tuple(
            Driver.parked(
                1 + i, kind, dice.pick(CAR_COLOURS), x + dice.between(-1, 1), _PARKED_Z_M, way
            )
            for i, (x, kind, way) in enumerate(_PARKED)
        )

    def actors(self, time_s: float) -> list[Actor]:
        """Give all actors that are on their way, also those not yet in the picture, by identity."""
        return self.between(time_s, time_s)

    def between(self, begin_s: float, end_s: float) -> list[Actor]:
        """Give all actors that are on their way at some time in [begin, end], by identity."""
        moving = (a for lane in range(len(LANES)) for a in self._on_lane(lane, begin_s, end_s))
        return [*self._parked, *sorted(moving, key=lambda actor: actor.identity)]

    def _on_lane(self, lane: int, begin_s: float, end_s: float) -> Iterator[Actor]:
        slot_s, longest_s = LANES[lane].slot_s, LANES[lane].longest_s
        first = max(_FIRST_SLOT, math.floor((begin_s - longest_s) / slot_s) - 1)
        for slot in range(first, math.floor(end_s / slot_s) + 1):
            for actor in self._spawn(lane, slot):
                if actor.born_s <= end_s and begin_s < actor.gone_s:
                    yield actor

    def _uncached_spawn(self, lane_index: int, slot: int) -> tuple[Actor, ...]:
        """Give the actors of one slot: none, one, or a machine and its rider."""
        lane = LANES[lane_index]
        number = slot - _FIRST_SLOT
        dice = Dice(self._seed, 2 + lane_index, number)
        is_empty = dice.chance(_EMPTY)
        kind = self._dealt(lane_index, number) if lane.kind == "drive" else "bicycle"
        if not kind or (is_empty and lane.kind != "drive"):
            return ()
        born_s = (slot + dice.between(0.0, 0.22 if lane.kind == "drive" else 0.7)) * lane.slot_s
        identity = 1 + len(_PARKED) + 2 * (number * len(LANES) + lane_index)
        if lane.kind == "walk":
            return (Walker.draw(dice, identity, lane.z_m, lane.direction, born_s),)
        if kind in MODELS:
            colour = dice.pick(MODELS[kind].colours)
            return (Driver(identity, kind, colour, lane.z_m, lane.direction, born_s, lane.speed),)
        return Cyclist.pair(dice, identity, kind, lane.z_m, lane.direction, born_s, lane.speed)

    def _dealt(self, lane: int, number: int) -> str:
        """The kind of vehicle in a slot of a lane, or none."""
        deal, card = divmod(number, len(_DECK))
        dice = Dice(self._seed, _DECK_STREAM + lane, deal)
        left = list(_DECK)
        for _ in range(card):
            left.remove(dice.pick(left))
        return dice.pick(left)
