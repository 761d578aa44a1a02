"""Carry events from the log to one target, in order, and lose none; runs in a bridge's thread.

Knows no protocol. The cursor moves only over what the target has acknowledged, so a target that is
away for an hour, or a process that dies, costs delay and perhaps a second delivery of a few events,
which carry the same id.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from streamer.bridges.backoff import Backoff
from streamer.bridges.parked import ParkingLot
from streamer.bridges.target import Refused, Target, TargetDown
from streamer.errors import SinkError
from streamer.eventlog import Cursor, LogReader, Row
from streamer.messages import Fields

log = logging.getLogger(__name__)

ROWS = 200
"""Of the log that are read, and sent, at once."""
_LOOK_S = 0.25
"""How long to wait for the log before the connection is looked at."""
_TELL_S = 60.0
"""How often it is told that a target is still away."""
_PARKED_TELL_S = 1.0
_LONGEST_WAIT_S = 3600.0

Tell = Callable[[str, Fields], None]


class _Named(msgspec.Struct):
    id: str


class Pump:
    """One bridge's way from the log to its target.

    Args:
        name: of the bridge.
        reader: of the log; the pump's own.
        cursor: how far it has come; `rowid` must be set.
        target: where events go.
        wanted: which events go there.
        tell: reports an event about the bridge.
        parking: keeps what is refused.
        backoff: waits between tries.

    Attributes:
        backlog: events in the log that it has not come to yet.
        delivered: events that were acknowledged.
        down: why the target takes no events now; empty if it does.
    """

    def __init__(
        self,
        name: str,
        *,
        reader: LogReader,
        cursor: Cursor,
        target: Target,
        wanted: Callable[[Row], bool],
        tell: Tell,
        parking: ParkingLot,
        backoff: Backoff,
    ) -> None:
        self._name = name
        self._reader = reader
        self._cursor = cursor
        self._target = target
        self._wanted = wanted
        self._tell = tell
        self._parking = parking
        self._backoff = backoff
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._draining = False
        self._opened = self._told_up = False
        self._down_since = self._down_told_at = 0.0
        self._parked: list[str] = []
        self._parked_why = ""
        self._parked_told_at = float("-inf")
        self._saved_at = 0.0
        self.rowid = cursor.rowid or 0
        self.backlog = self.delivered = self.parked = 0
        self.down = ""

    def run(self) -> None:
        """Pump until stopped, or until drained."""
        try:
            while not self._stop.is_set() and self._turn():
                pass
        finally:
            self._tell_parked(now=float("inf"))
            self._save()
            self._target.close()
            self._reader.close()

    def drain(self) -> None:
        """Deliver what is in the log, if the target takes it, and end."""
        self._draining = True
        self._hurry.set()

    def stop(self) -> None:
        """End after what is being done now."""
        self._stop.set()
        self._hurry.set()

    def _turn(self) -> bool:
        """Deliver the next rows, or wait for them; False if all is done."""
        last_try = self._draining
        try:
            rows = self._reader.read(self.rowid, limit=ROWS)
            self._count()
        except SinkError as error:
            log.warning("%s", error)
            self._hurry.wait(1.0)  # publish begins another log
            return not last_try
        try:
            if not self._opened:
                self._target.open()
                self._opened = True
            if rows:
                self._deliver(rows)
            else:
                self._target.check()
        except TargetDown as error:
            return self._wait_out(error) and not last_try
        self._tell_up()
        self._tell_parked(time.monotonic())
        if not rows:
            if last_try:
                return False
            self._wait_for_rows()
        return True

    def _count(self) -> None:
        self.backlog = max(0, self._reader.last_rowid() - self.rowid)

    def _wait_for_rows(self) -> None:
        try:
            self._reader.wait(self.rowid, _LOOK_S)
        except SinkError:
            self._hurry.wait(_LOOK_S)  # the next turn reads, and says what is wrong

    def _deliver(self, rows: Sequence[Row]) -> None:
        wanted = [row for row in rows if self._wanted(row)]
        try:
            if wanted:
                self._target.send(wanted)
        except TargetDown as error:
            self._passed(wanted[error.done].rowid - 1, error.done)
            raise
        except Refused as error:
            refused = wanted[error.done]
            self._park(refused, error)
            self._passed(refused.rowid, error.done)
        else:
            self._passed(rows[-1].rowid, len(wanted))

    def _passed(self, rowid: int, delivered: int) -> None:
        """All rows up to this one are done with."""
        self.rowid = max(self.rowid, rowid)
        self.delivered += delivered
        if delivered or time.monotonic() - self._saved_at > 1.0:
            self._save()

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self._cursor.rowid == self.rowid:
            return
        try:
            self._cursor.advance(self.rowid)
        except OSError as error:
            log.warning("bridge %s: its cursor can't be written: %s", self._name, error)

    # The target comes and goes.

    def _wait_out(self, error: TargetDown) -> bool:
        """Wait before the next try; False if there is none."""
        self._target.close()
        self._opened = False
        wait_s = min(max(self._backoff.next_s(), error.retry_in_s or 0.0), _LONGEST_WAIT_S)
        now = time.monotonic()
        if not self.down:
            self._down_since, self._down_told_at = now, float("-inf")
        self.down = str(error)
        if now - self._down_told_at >= _TELL_S:
            self._down_told_at = now
            with contextlib.suppress(SinkError):  # the next turn says what is wrong with the log
                self._count()
            log.warning("bridge %s: %s; %d events wait", self._name, error, self.backlog)
            fields: Fields = {
                "bridge": self._name,
                "message": self.down,
                "backlog": self.backlog,
                "retry_in_s": round(wait_s, 3),
                "down_s": round(now - self._down_since, 3),
            }
            self._tell("bridge.down", fields)
        self._hurry.wait(wait_s)
        return not self._stop.is_set()

    def _tell_up(self) -> None:
        self._backoff.reset()
        if self._told_up and not self.down:
            return
        down_s = time.monotonic() - self._down_since if self.down else 0.0
        self._told_up, self.down = True, ""
        fields: Fields = {
            "bridge": self._name, "backlog": self.backlog, "down_s": round(down_s, 3),
        }  # fmt: skip
        self._tell("bridge.up", fields)

    # What is refused.

    def _park(self, row: Row, error: Refused) -> None:
        self.parked += 1
        self._parked.append(msgspec.json.decode(row.line, type=_Named).id)
        self._parked_why = str(error)
        try:
            self._parking.add(row.line)
        except OSError as failed:
            self._parked_why += f"; and they can't be kept: {failed}"

    def _tell_parked(self, now: float) -> None:
        """At most once a second, for all that were parked since."""
        if not self._parked or now - self._parked_told_at < _PARKED_TELL_S:
            return
        self._parked_told_at = now
        fields: Fields = {
            "bridge": self._name,
            "message": self._parked_why,
            "count": len(self._parked),
            "first_id": self._parked[0],
            "last_id": self._parked[-1],
            "path": str(self._parking.path),
            "backlog": self.backlog,
        }
        log.warning(
            "bridge %s: %d events parked: %s", self._name, len(self._parked), self._parked_why
        )
        self._parked.clear()
        self._tell("bridge.parked", fields)
