"""Keep what a broker should know at any time, beside events: who is online, how many are where.

Pure. Topics are below the root; values are what a client gets when it subscribes late.
"""

from __future__ import annotations

import msgspec

from streamer.eventlog import Row

HOST = "host"


class _Facts(msgspec.Struct):
    zone: str | None = None
    line: str | None = None
    occupancy: int | None = None
    total: int | None = None
    count_in: int | None = None
    count_out: int | None = None


class States:
    """The newest state of everything, by topic."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def update(self, row: Row) -> dict[str, bytes]:
        """What changes with an event."""
        changed = {
            topic: value
            for topic, value in _states_of(row).items()
            if self.values.get(topic) != value
        }
        self.values |= changed
        return changed


def availability(camera: str) -> str:
    """Topic that says "online" or "offline" of a camera."""
    return f"{camera}/availability"


def alarm(camera: str) -> str:
    """Topic of the last rule.fired event of a camera."""
    return f"{camera or HOST}/alarm"


def in_zone(camera: str, zone: str, what: str) -> str:
    """Topic of "occupancy" or "visits" of a zone."""
    return f"{camera}/zones/{zone}/{what}"


def over_line(camera: str, line: str, way: str) -> str:
    """Topic of the crossings "in" or "out" of a line."""
    return f"{camera}/lines/{line}/{way}"


def _states_of(row: Row) -> dict[str, bytes]:
    if row.kind in ("stream.up", "stream.down"):
        return {availability(row.camera): b"online" if row.kind == "stream.up" else b"offline"}
    if row.kind == "rule.fired":
        return {alarm(row.camera): row.line}
    if row.kind not in ("zone.enter", "zone.leave", "zone.occupancy", "line.crossed"):
        return {}
    facts = msgspec.json.decode(row.line, type=_Facts)
    values: dict[str, int | None] = {}
    if facts.zone is not None:
        values[in_zone(row.camera, facts.zone, "occupancy")] = facts.occupancy
        values[in_zone(row.camera, facts.zone, "visits")] = facts.total
    if facts.line is not None:
        values[over_line(row.camera, facts.line, "in")] = facts.count_in
        values[over_line(row.camera, facts.line, "out")] = facts.count_out
    return {topic: str(value).encode() for topic, value in values.items() if value is not None}
