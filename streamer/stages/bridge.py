"""Carry events from the log to one broker or server; runs in a bridge's process.

A thread pumps and may block on the network; the main thread beats and reports.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import closing

from streamer.bridges.backoff import Backoff
from streamer.bridges.parked import ParkingLot
from streamer.bridges.pump import Pump
from streamer.bridges.section import MqttConfig, RedisConfig
from streamer.bridges.target import Target
from streamer.bridges.wanted import is_wanted
from streamer.bridges.webhook import Webhook
from streamer.config import Config
from streamer.errors import ConfigError
from streamer.event import HOST
from streamer.eventlog import Cursor, LogReader, log_path
from streamer.messages import Fields, Notice
from streamer.stage import Stage, StageStart

_COUNT_S = 0.25
_BEGIN_S = 5.0
"""How far back a bridge looks that was never run before: the begin of this run."""


class Bridge(Stage):
    """One bridge."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        self._bridge = start.spec.name.partition(".")[2]
        path = log_path(start.config, start.live)
        assert path is not None, "the configuration has bridges, so it keeps a log"
        self._path = path
        self._said: deque[tuple[str, Fields]] = deque()
        self._failed: Exception | None = None
        self._pump: Pump | None = None
        self._thread = threading.Thread(target=self._work, name="pump", daemon=True)

    def on_open(self) -> None:
        """Begin to pump where the process before us was."""
        cursor = Cursor(self._path, self.name)
        if cursor.rowid is None:
            with closing(LogReader(self._path)) as reader:
                cursor.advance(reader.rowid_before(time.time_ns() - round(_BEGIN_S * 1e9)))
        bridge = self.config.bridges[self._bridge]
        self._pump = Pump(
            self._bridge,
            reader=LogReader(self._path),
            cursor=cursor,
            target=make_target(self.config, self._bridge),
            wanted=is_wanted(self.config, self._bridge),
            tell=self._tell,
            parking=ParkingLot(
                self._path.with_name(f"{self._path.name}.parked.{self._bridge}.jsonl")
            ),
            backoff=Backoff(bridge.retry_s),
        )
        self._thread.start()
        self.tick_at = time.monotonic()

    def on_wake(self) -> None:
        """Report what the thread says."""
        if self._failed is not None:
            raise self._failed
        while self._said:
            kind, fields = self._said.popleft()
            self.say(Notice(kind, HOST, fields, time.time_ns()))

    def on_tick(self) -> None:
        """Count."""
        assert self._pump is not None
        self.counters["backlog"] = self._pump.backlog
        self.counters["delivered"] = self._pump.delivered
        self.counters["parked"] = self._pump.parked
        self.counters["down"] = int(bool(self._pump.down))
        self.tick_at = time.monotonic() + _COUNT_S

    def on_stop(self, *, drain: bool) -> None:
        """End, with `drain` after what is in the log, if the other side takes it."""
        super().on_stop(drain=drain)
        if self._pump is not None:
            self._pump.drain() if drain else self._pump.stop()

    def finished(self) -> bool:
        """The thread is through."""
        return self.stopping or not self._thread.is_alive()

    def on_close(self) -> None:
        """Report the last counts."""
        self.on_wake()
        self.on_tick()

    def _tell(self, kind: str, fields: Fields) -> None:
        self._said.append((kind, fields))
        self.wake()

    def _work(self) -> None:
        assert self._pump is not None
        try:
            self._pump.run()
        except Exception as error:  # noqa: BLE001 - the thread's outermost frame; main raises it
            self._failed = error
        self.wake()


def make_target(config: Config, name: str) -> Target:
    """The other side of a bridge.

    Raises:
        ConfigError: the protocol's library is missing, or the address can't be used.
    """
    bridge = config.bridges[name]
    try:
        if isinstance(bridge, MqttConfig):
            from streamer.bridges.mqtt import Mqtt  # only where it is used: an optional library

            return Mqtt(bridge, name, config.cameras)
        if isinstance(bridge, RedisConfig):
            from streamer.bridges.redis_stream import RedisStream

            return RedisStream(bridge)
    except ImportError as error:
        raise ConfigError(
            f"bridges.{name}: the library {error.name!r} is missing; "
            "install it with: pip install 'streamer[bridges]'"
        ) from error
    return Webhook(bridge)


make = Bridge
