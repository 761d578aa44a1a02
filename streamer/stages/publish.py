"""Turn tracks and notices into numbered events in a log, on a socket and in a file; runs in the
publish process.

Events are collected until nothing more is waiting, then logged as one batch, then sent. So what was
sent can be asked for again (replay.py), whatever dies. Numbers go on from the log. Without a log, a
number is advanced in the supervisor's memory before its event is sent: after a crash the successor
says which numbers may not have been delivered, and none is given twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import zmq

from streamer.errors import ConfigError, SinkError
from streamer.eventfile import EventFile
from streamer.eventlog import Entry, EventLog, log_path
from streamer.events import (
    HOST,
    AnyEvent,
    Heartbeat,
    Numbering,
    StageRestarted,
    encode_event,
    event_of_notice,
    utc,
)
from streamer.frame_events import FrameEvents
from streamer.messages import Annotation, EndOfStream, Fields, FrameInfo, Notice, Tracks
from streamer.queues import Received
from streamer.replay import ReplayService, replay_address
from streamer.sequence import MAX_REQUEST_BYTES
from streamer.stage import Stage, StageStart

log = logging.getLogger(__name__)

_ADVANCED, _SENT, _PLACES = 0, 1, 2
"""Places in the ledger, by camera: last number given, last number sent. Behind those of all
cameras, by producer and camera: the frame after the last one whose events are safe."""
_BATCH = 512
"""Events after which they are logged without waiting for more."""
_MAINTAIN_S = 1.0
_QUEUED = 20_000
"""Events that wait for one slow subscriber at the most; what it loses, it can ask for."""
_LOG_RETRY_S = 1.0


class Publish(Stage):
    """Owns the event log, the event socket and the event file."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        self._ledger = self.ledger()
        cameras = [HOST, *start.config.cameras]
        self._index = {camera: _PLACES * i for i, camera in enumerate(cameras)}
        producers = ["track", *(name for name in start.spec.producers if "." not in name)]
        self._frame_index = {
            (producer, camera): (_PLACES + i) * len(cameras) + j
            for i, producer in enumerate(producers)
            for j, camera in enumerate(cameras)
        }
        self._numbering = {camera: Numbering(start.run, camera, 0) for camera in cameras}
        detector = start.config.detector
        self._frames = {
            camera: FrameEvents(
                self._numbering[camera],
                score=detector.score if detector else 0.0,
                updated_per_s=start.config.events.updated_per_s,
            )
            for camera in start.config.cameras
        }
        self._last_info: dict[str, FrameInfo] = {}
        self._annotated: dict[tuple[str, str], FrameInfo] = {}
        """The last frame that act or segment spoke of, by stage and camera."""
        self._started_at = time.monotonic()
        self._log: EventLog | None = None
        self._replay: ReplayService | None = None
        self._replay_address: str | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._file: EventFile | None = None
        self._batch: list[Entry] = []
        self._taken: list[Received] = []
        self._logged: int | None = None
        self._unlogged = 0
        self._retry_at = 0.0
        self._beats = 0
        self._beat_at = self._maintain_at = 0.0

    # What the loop calls.

    def on_open(self) -> None:
        """Open the outputs and go on where our predecessor, or the last run, has ended."""
        events = self.config.events
        path = log_path(self.config, self.start.live)
        if path is not None:
            self._log = EventLog(
                path, size_bytes=events.log_mb << 20, age_s=events.log_days * 86400
            )
            self._logged = self._log.reader.last_rowid()
        if events.publish:
            self._socket = self._bind(zmq.PUB, events.publish, "events.publish")
        address = replay_address(events.replay, events.publish)
        if path is not None and address is not None:
            socket = self._bind(zmq.ROUTER, address, "events.replay")
            self._replay_address = socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
            self._replay = ReplayService(socket, path)
            self._replay.start()
        if events.file:
            self._file = EventFile(Path(events.file))
        for camera, index in self._index.items():
            self._take_over(camera, index)
        self._tell_recovered()
        self.tick_at = time.monotonic()

    def on_item(self, item: Received) -> None:
        """Make the events of one frame."""
        body = item.body
        if isinstance(body, Tracks):
            if not self._written(item, body.info):
                self._last_info[body.info.camera] = body.info
                self._add(body.info.camera, self._frames[body.info.camera].events(body),
                          body.info.capture_ns)  # fmt: skip
        elif isinstance(body, Annotation):
            self._annotated[item.producer, body.info.camera] = body.info
            if not self._written(item, body.info):
                self._add(body.info.camera,
                          self._frames[body.info.camera].happened(body.info, body.happenings),
                          body.info.capture_ns)  # fmt: skip
        elif isinstance(body, EndOfStream) and item.producer == f"track.{body.camera}":
            info = self._last_info.get(body.camera)
            if info is not None:
                events = self._frames[body.camera].end(info, body.happenings)
                self._add(body.camera, events, info.capture_ns)
        elif isinstance(body, EndOfStream) and body.happenings:
            # Its last frame may have come before us.
            camera = body.camera
            info = self._annotated.get((item.producer, camera)) or self._last_info.get(camera)
            if info is not None:
                events = self._frames[body.camera].happened(info, body.happenings)
                self._add(body.camera, events, info.capture_ns)
        self._taken.append(item)
        if len(self._batch) >= _BATCH:
            self._flush()
        self.wake()

    def on_notice(self, notice: Notice) -> None:
        """Make the event that a stage or the supervisor asks for."""
        if not notice.capture_ns:
            notice = msgspec.structs.replace(notice, capture_ns=time.time_ns())
        event = event_of_notice(notice, self._numbering[notice.camera])
        self._add(notice.camera, [event], notice.capture_ns)
        self.wake()

    def on_wake(self) -> None:
        """Nothing more is waiting: log and send what has come."""
        self._flush()

    def on_tick(self) -> None:
        """Show that we are alive, and keep the log within its bounds."""
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + self.config.events.heartbeat_s
            self._flush()
            self._say_alive()
        if now >= self._maintain_at:
            self._maintain_at = now + _MAINTAIN_S
            self._maintain()
        self.tick_at = min(self._beat_at, self._maintain_at)

    def on_close(self) -> None:
        """Let what was sent reach the log, the file and the subscribers."""
        while self._batch or self._taken:
            self._flush()
        if self._replay is not None:
            self._replay.close()
        if self._log is not None:
            self._log.close()
        if self._socket is not None:
            self._socket.close(linger=300)
        if self._file is not None:
            self._file.close()

    # Collecting.

    def _written(self, item: Received, info: FrameInfo) -> bool:
        """True if our predecessor has done with this frame before it died."""
        return info.seq < self._ledger[self._frame_place(item.producer, info.camera)]

    def _frame_place(self, producer: str, camera: str) -> int:
        return self._frame_index[producer.partition(".")[0], camera]

    def _add(self, camera: str, events: Iterable[AnyEvent], time_ns: int) -> None:
        for event in events:
            kind = event.__struct_config__.tag
            assert isinstance(kind, str)
            self._batch.append(Entry(camera, event.seq, kind, time_ns, encode_event(event)))

    def _tell(self, kind: str, fields: Fields) -> None:
        self.on_notice(Notice(kind, HOST, fields))

    # Logging and sending.

    def _flush(self) -> None:
        """Log all that was collected, then send it, then give back what it was made of."""
        batch, self._batch = self._batch, []
        taken, self._taken = self._taken, []
        last = {entry.camera: entry.seq for entry in batch}
        if self._write_log(batch):
            self._mark(taken)  # should we die now, our successor sends what is in the log
        for camera, seq in last.items():
            self._ledger[self._index[camera] + _ADVANCED] = seq
        self._send([(entry.camera, entry.kind, entry.line) for entry in batch])
        for camera, seq in last.items():
            self._ledger[self._index[camera] + _SENT] = seq
        self._mark(taken)
        for item in taken:
            self._count(item)
            self.inbox.done(item.producer, item.number)

    def _mark(self, taken: list[Received]) -> None:
        """The events of these frames are safe."""
        for item in taken:
            if isinstance(item.body, Tracks | Annotation):
                info = item.body.info
                place = self._frame_place(item.producer, info.camera)
                self._ledger[place] = max(self._ledger[place], info.seq + 1)

    def _write_log(self, batch: list[Entry]) -> bool:
        """True if the batch is in the log now; where there is no room, that is told once."""
        if self._log is None or not batch:
            return False
        if self._unlogged and time.monotonic() < self._retry_at:
            self._unlogged += len(batch)
            return False
        path = str(self._log.path)
        try:
            self._logged = self._log.append(batch)
        except SinkError as error:
            self._retry_at = time.monotonic() + _LOG_RETRY_S
            if not self._unlogged:
                log.error("%s; events go on being sent, but can't be replayed", error)
                self._tell("log.failed", {"path": path, "message": str(error)})
            self._unlogged += len(batch)
            return False
        if self._unlogged:
            log.warning("%s: written again, %d events are not in it", path, self._unlogged)
            self._tell("log.resumed", {"path": path, "events_lost": self._unlogged})
            self._unlogged = 0
        self._tell_recovered()
        return True

    def _send(self, events: list[tuple[str, str, bytes]]) -> None:
        if self._socket is not None:
            for camera, kind, line in events:
                self._socket.send(f"{camera}.{kind}".encode(), zmq.SNDMORE)
                self._socket.send(line)
        if self._file is not None:
            self._file.append(b"".join([line + b"\n" for _, _, line in events]))
        self.counters["events"] += len(events)
        for camera, _, _ in events:
            self.counters[f"events.{camera}"] += 1

    def _count(self, item: Received) -> None:
        if isinstance(item.body, Tracks):
            info, now_ns = item.body.info, time.monotonic_ns()
            self.counters[f"frames.{info.camera}"] += 1
            self.counters[f"last_ns.{info.camera}"] = now_ns
            if not item.body.detections.skipped:
                self.latency[info.camera].add(now_ns - info.receive_ns)

    # What is said of ourselves.

    def _say_alive(self) -> None:
        self._beats += 1
        beat = Heartbeat(
            id=f"{self.start.run}-beat-{self.start.incarnation}.{self._beats}",
            seq=self._numbering[HOST].last,
            camera=HOST,
            time_utc=utc(time.time_ns()),
            uptime_s=round(time.monotonic() - self._started_at, 3),
            events=self.counters["events"],
            cameras=tuple(self._numbering),
            last_seqs=tuple(self._ledger[index + _SENT] for index in self._index.values()),
            logged=self._logged,
            replay=self._replay_address,
        )
        self._send([(HOST, "heartbeat", encode_event(beat))])

    def _maintain(self) -> None:
        if self._replay is not None and not self._replay.is_alive():
            raise RuntimeError("the replay service has ended")  # our successor has a new one
        if self._log is not None:
            for reader, lost in self._log.maintain().items():
                log.warning("%s: %d events were pruned before it read them", reader, lost)
                self._tell("log.pruned", {"reader": reader, "events_lost": lost})

    def _tell_recovered(self) -> None:
        saved = self._log.recovered if self._log is not None else None
        if self._log is not None and saved is not None:
            self._log.recovered = None
            self._tell(
                "log.recovered",
                {"path": str(self._log.path), "moved_to": str(saved.moved_to),
                 "message": saved.reason},
            )  # fmt: skip

    # Taking over.

    def _take_over(self, camera: str, index: int) -> None:
        """Go on with the numbers of the log and of our predecessor; send what it only logged."""
        logged = self._log.reader.last_seq(camera) if self._log is not None else 0
        numbering = self._numbering[camera]
        if not self.start.incarnation:
            numbering.last = self._ledger[index + _ADVANCED] = self._ledger[index + _SENT] = logged
            return
        sent, advanced = self._ledger[index + _SENT], self._ledger[index + _ADVANCED]
        self._send_logged(camera, sent + 1)
        numbering.last = max(advanced, logged)
        self._ledger[index + _ADVANCED] = self._ledger[index + _SENT] = numbering.last
        lost = advanced > max(sent, logged)
        seq, identity = numbering.next()
        time_ns = time.time_ns()
        restarted = StageRestarted(
            id=identity,
            seq=seq,
            camera=camera,
            time_utc=utc(time_ns),
            stage="publish",
            cause="died",
            lost_from=max(sent, logged) + 1 if lost else None,
            lost_to=advanced if lost else None,
        )
        self._add(camera, [restarted], time_ns)
        self.wake()

    def _send_logged(self, camera: str, seq: int) -> None:
        while self._log is not None:
            rows = self._log.reader.numbers(camera, from_seq=seq)
            if not rows:
                return
            self._send([(row.camera, row.kind, row.line) for row in rows])
            seq = rows[-1].seq + 1

    def _bind(self, kind: int, address: str, where: str) -> zmq.Socket[bytes]:
        socket = self.make_socket(kind)
        socket.set(zmq.SNDHWM, _QUEUED)
        socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        socket.set(zmq.IPV6, "[" in address)
        deadline = time.monotonic() + (2.0 if self.start.incarnation else 0.0)
        while True:
            try:
                socket.bind(address)
            except zmq.ZMQError as error:
                # The kernel may need a moment to take the port from our dead predecessor.
                if error.errno == zmq.EADDRINUSE and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                raise ConfigError(
                    f"{where}: can't bind {address}: {error}; choose a free port"
                ) from error
            return socket


make = Publish
