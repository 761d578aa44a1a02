"""What a rule looks at in an event: a few fields of any type, read from its line in the log.

Pure; fields that no rule asks for are not even parsed.
"""

from __future__ import annotations

from datetime import datetime

import msgspec


class SeenObject(msgspec.Struct, frozen=True, rename={"class_name": "class"}):
    """One object of a detection event."""

    class_name: str


class Seen(msgspec.Struct, frozen=True, kw_only=True, rename={"class_name": "class"}):
    """An event as rules see it."""

    type: str
    id: str
    camera: str
    time_utc: str
    pts_s: float | None = None
    frame: int | None = None
    track_id: int | None = None
    zone: str | None = None
    line: str | None = None
    name: str | None = None
    class_name: str | None = None
    direction: str | None = None
    active: bool | None = None
    duration_s: float | None = None
    dwell_s: float | None = None
    total_s: float | None = None
    objects: list[SeenObject] = []
    stage: str = ""
    reason: str = ""
    rule: str = ""
    cause_id: str = ""
    what: str = ""

    @property
    def subject(self) -> tuple[str | int | None, ...]:
        """What it is about; equal in the events that begin and end something."""
        action = self.class_name if self.type.startswith("action.") else None
        return self.camera, self.zone, self.track_id, self.name, action

    @property
    def lasted_s(self) -> float:
        """For how long it has been so, as far as the event says."""
        return self.duration_s or self.dwell_s or self.total_s or 0.0

    @property
    def capture_ns(self) -> int:
        """Wall clock of what happened."""
        seconds, _, rest = self.time_utc.removesuffix("Z").partition(".")
        whole = int(datetime.fromisoformat(f"{seconds}+00:00").timestamp())
        return whole * 10**9 + int(f"{rest:0<9}"[:9])


read_seen = msgspec.json.Decoder(Seen).decode
