"""The events about bridges themselves, as users get them; what bridges are is in bridges/."""

from __future__ import annotations

from streamer.event import Event


class _OfBridge(Event, frozen=True, kw_only=True):
    bridge: str
    """Name in the configuration."""
    backlog: int
    """Events in the log that it has not delivered yet."""


class BridgeUp(_OfBridge, frozen=True, kw_only=True, tag="bridge.up"):
    """The other side takes events."""

    down_s: float = 0.0
    """For how long it did not."""


class BridgeDown(_OfBridge, frozen=True, kw_only=True, tag="bridge.down"):
    """The other side takes no events; they wait in the log. Told again each minute."""

    message: str
    retry_in_s: float
    down_s: float = 0.0


class BridgeParked(_OfBridge, frozen=True, kw_only=True, tag="bridge.parked"):
    """The other side refused events for good; they are in a file, and the others go on."""

    message: str
    count: int
    first_id: str
    last_id: str
    path: str


BridgeEvent = BridgeUp | BridgeDown | BridgeParked
