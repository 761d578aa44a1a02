"""The events of the durable log itself, as users get them; what writes it is in eventlog/."""

from __future__ import annotations

from streamer.event import Event


class LogRecovered(Event, frozen=True, kw_only=True, tag="log.recovered"):
    """The log was damaged; it was moved aside and a new one begun. Numbers go on where they could
    be read."""

    path: str
    moved_to: str
    message: str


class LogFailed(Event, frozen=True, kw_only=True, tag="log.failed"):
    """The log can't be written. Events go on being sent, but can't be replayed."""

    path: str
    message: str


class LogResumed(Event, frozen=True, kw_only=True, tag="log.resumed"):
    """The log is written again."""

    path: str
    events_lost: int
    """Events that were sent but are not in the log."""


class LogPruned(Event, frozen=True, kw_only=True, tag="log.pruned"):
    """Events were pruned from the log before one of its readers had come to them."""

    reader: str
    events_lost: int


LogEvent = LogRecovered | LogFailed | LogResumed | LogPruned
