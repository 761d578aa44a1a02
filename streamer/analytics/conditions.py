"""Follow what holds of a zone as a whole: more objects than its limits, or none for long.

A condition is told as it begins and as it ends. Time is media time; where that goes back, waiting
begins anew. Zones without limits cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from streamer.analytics.totals import Totals
from streamer.analytics.zones import SLACK_S
from streamer.messages import Fields, Happening
from streamer.view import ZoneConfig

OCCUPIED, CROWDED, ABSENT = 1, 2, 4


class Conditions:
    """The conditions of one zone; their bits live in Totals."""

    def __init__(self, place: int, name: str, zone: ZoneConfig, totals: Totals) -> None:
        self.place, self._name, self._zone, self._totals = place, name, zone, totals
        self._bits = totals.conditions(place)
        self._crowded_s: float | None = None
        self._absent_s: float | None = None
        limits = zone.occupancy_over, zone.crowding_over, zone.absence_s
        self.wanted = any(limit is not None for limit in limits)

    @property
    def any_hold(self) -> bool:
        """True while something is to be told of that zone."""
        return self._bits != 0

    def restart(self) -> None:
        """The media clock went back: nothing is known of before."""
        self._crowded_s = self._absent_s = None

    def check(self, occupancy: int, empty_s: float, time_s: float) -> Iterator[Happening]:
        """What begins and ends with this frame; empty_s: when the last visit ended, or NaN."""
        zone = self._zone
        if zone.occupancy_over is not None:
            many = occupancy > zone.occupancy_over
            yield from self._turn(
                OCCUPIED, "zone.occupancy", many,
                {"occupancy": occupancy, "limit": zone.occupancy_over},
            )  # fmt: skip
        if zone.crowding_over is not None:
            many = occupancy > zone.crowding_over
            began_s = time_s if self._crowded_s is None else self._crowded_s
            self._crowded_s = began_s if many else None
            yield from self._turn(
                CROWDED, "crowding", many and time_s - began_s >= zone.crowding_s - SLACK_S,
                {"occupancy": occupancy, "limit": zone.crowding_over,
                 "duration_s": round(time_s - began_s, 3)},
            )  # fmt: skip
        if zone.absence_s is not None:
            since_s = self._absent_s
            if since_s is None:
                since_s = empty_s if empty_s <= time_s else time_s
            self._absent_s = None if occupancy else since_s
            yield from self._turn(
                ABSENT, "absence", not occupancy and time_s - since_s >= zone.absence_s - SLACK_S,
                {"duration_s": round(time_s - since_s, 3)},
            )  # fmt: skip

    def _turn(self, bit: int, kind: str, holds: bool, fields: Fields) -> Iterator[Happening]:
        """Tell a condition that has changed."""
        if bool(self._bits & bit) != holds:
            self._bits ^= bit
            self._totals.set_conditions(self.place, self._bits)
            yield Happening(kind, {"zone": self._name, "active": holds, **fields})
