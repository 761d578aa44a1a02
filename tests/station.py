"""A publisher that a test plays by hand, with a real log, socket and replay service."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import zmq

from streamer.eventlog import Entry, EventLog
from streamer.events import (
    AnyEvent,
    Heartbeat,
    Numbering,
    StageFailed,
    TrackEnded,
    encode_event,
    utc,
)
from streamer.replay import ReplayService


class _Stamp(TypedDict):
    id: str
    seq: int
    camera: str
    time_utc: str


class Station:
    """Like publish, but it can forget to send, send twice, be silent, and come back.

    Args:
        folder: for its sockets and its log.
        run: identity of the run.
        logs: keeps a log and answers who asks again.
        log: where, if not in the folder.
    """

    def __init__(
        self, folder: Path, *, run: str = "run1", logs: bool = True, log: Path | None = None
    ) -> None:
        self.address = f"ipc://{folder}/pub"
        self._run = run
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.set(zmq.XPUB_VERBOSE, 1)
        self._socket.set(zmq.LINGER, 1000)
        self._socket.bind(self.address)
        self.log = EventLog(log or folder / "events.db") if logs else None
        self.replay: ReplayService | None = None
        self._replay_address = f"ipc://{folder}/replay"
        if self.log is not None:
            router = self._context.socket(zmq.ROUTER)
            router.bind(self._replay_address)
            self.replay = ReplayService(router, self.log.path)
            self.replay.start()
        self._numbers: dict[str, Numbering] = {}
        self._beats = 0
        self._closed = False

    def __enter__(self) -> Station:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Vanish, as a process that ends; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self.replay is not None:
            self.replay.close()
        if self.log is not None:
            self.log.close()
        self._socket.close()
        self._context.term()

    def wait_for_subscriber(self, turn: Callable[[], object] = lambda: None) -> None:
        """Until somebody has subscribed: before, everything that is sent is lost.

        Args:
            turn: lets the subscriber turn, which it must to subscribe again after a reconnect.
        """
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            turn()
            if self._socket.poll(20) and self._socket.recv().startswith(b"\1"):
                return
        raise AssertionError("nobody has subscribed")

    def make(self, camera: str = "gate") -> AnyEvent:
        """The next event of a camera, logged."""
        stamp = self._stamp(camera)
        event = StageFailed(stage="infer", reason=f"number {stamp['seq']}", **stamp)
        return self._logged(event)

    def make_track_ended(self, camera: str = "gate") -> AnyEvent:
        """The same, of a track."""
        box = (1.0, 2.0, 3.0, 4.0)
        event = TrackEnded(
            track_id=4, class_name="person", score=0.5, box_xyxy_px=box, box_xyxy_rel=box,
            duration_s=2.5, **self._stamp(camera),
        )  # fmt: skip
        return self._logged(event)

    def _stamp(self, camera: str) -> _Stamp:
        seq, identity = self._numbering(camera).next()
        return {"id": identity, "seq": seq, "camera": camera, "time_utc": utc(time.time_ns())}

    def _logged(self, event: AnyEvent) -> AnyEvent:
        if self.log is not None:
            kind = str(event.__struct_config__.tag)
            line = encode_event(event)
            self.log.append([Entry(event.camera, event.seq, kind, time.time_ns(), line)])
        return event

    def send(self, *events: AnyEvent) -> None:
        """Put events on the socket."""
        for event in events:
            topic = f"{event.camera}.{event.__struct_config__.tag}"
            self._socket.send_multipart([topic.encode(), encode_event(event)])

    def publish(self, count: int = 1, camera: str = "gate") -> list[AnyEvent]:
        """Make and send."""
        events = [self.make(camera) for _ in range(count)]
        self.send(*events)
        return events

    def beat(self) -> None:
        """A heartbeat that says what was made so far."""
        self._beats += 1
        beat = Heartbeat(
            id=f"{self._run}-beat-0.{self._beats}", seq=0, camera="", time_utc=utc(0),
            uptime_s=1.0, events=0,
            cameras=tuple(self._numbers),
            last_seqs=tuple(numbering.last for numbering in self._numbers.values()),
            logged=self.log.reader.last_rowid() if self.log is not None else None,
            replay=self._replay_address if self.replay is not None else None,
        )  # fmt: skip
        self.send(beat)

    def _numbering(self, camera: str) -> Numbering:
        if camera not in self._numbers:
            last = self.log.reader.last_seq(camera) if self.log is not None else 0
            self._numbers[camera] = Numbering(self._run, camera, last)
        return self._numbers[camera]
