"""What every protocol of a bridge can do, and how it says that it could not.

Imports no protocol. One target a process, used by the thread that pumps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamer.errors import StreamerError
from streamer.eventlog import Row


class TargetDown(StreamerError):
    """The other side can't take events now; it is tried again.

    Attributes:
        done: of the events given to send, so many from the first are acknowledged.
        retry_in_s: what the other side asks for; None if it doesn't say.
    """

    def __init__(self, message: str, *, done: int = 0, retry_in_s: float | None = None) -> None:
        super().__init__(message)
        self.done = done
        self.retry_in_s = retry_in_s


class Refused(StreamerError):
    """The other side will never take this event; those behind it may be fine.

    Attributes:
        done: events before it that are acknowledged, so also its place.
    """

    def __init__(self, message: str, *, done: int) -> None:
        super().__init__(message)
        self.done = done


class Target(Protocol):
    """The other side of one bridge."""

    def open(self) -> None:
        """Connect, and say what must be said first.

        Raises:
            TargetDown: it can't be reached, or refuses us.
        """

    def send(self, rows: Sequence[Row]) -> None:
        """Deliver events in order; all are acknowledged when this returns.

        Raises:
            TargetDown: some are not; open before the next try.
            Refused: one of them never will be.
        """

    def check(self) -> None:
        """Called now and then while there is nothing to send.

        Raises:
            TargetDown: the connection is gone.
        """

    def close(self) -> None:
        """Let go of the connection; safe to call twice."""
