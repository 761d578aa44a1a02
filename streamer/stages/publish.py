"""Turn tracks and notices into numbered events on a socket and in a file; runs in the publish
process.

A number is advanced in the supervisor's memory before its event is written. So after a crash the
successor says which numbers may not have been delivered, and none is given twice.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

import zmq

from streamer.errors import ConfigError
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
from streamer.messages import EndOfStream, FrameInfo, Notice, Tracks
from streamer.queues import Received
from streamer.stage import Stage, StageStart

log = logging.getLogger(__name__)

_ADVANCED, _WRITTEN, _FRAME = range(3)
"""Places in the ledger, by camera: last number given, last number written, last frame written."""


class Publish(Stage):
    """Owns the event socket and the event file."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        self._ledger = self.ledger()
        self._index = {camera: 3 * i for i, camera in enumerate([HOST, *start.config.cameras])}
        self._numbering = {
            camera: Numbering(start.run, camera, self._ledger[index + _ADVANCED])
            for camera, index in self._index.items()
        }
        events = start.config.events
        detector = start.config.detector
        self._frames = {
            camera: FrameEvents(
                self._numbering[camera],
                score=detector.score if detector else 0.0,
                updated_per_s=events.updated_per_s,
            )
            for camera in start.config.cameras
        }
        self._last_info: dict[str, FrameInfo] = {}
        self._started_at = time.monotonic()
        self._socket: zmq.Socket[bytes] | None = None
        self._file: EventFile | None = None

    def on_open(self) -> None:
        """Open the outputs; after a crash, first say what may have been lost."""
        events = self.config.events
        if events.publish:
            self._socket = self._bind(events.publish)
        if events.file:
            self._file = EventFile(Path(events.file))
        if self.start.incarnation:
            for camera, index in self._index.items():
                self._tell_restart(camera, index)
        self.tick_at = time.monotonic()

    def on_item(self, item: Received) -> None:
        """Write the events of one frame."""
        body = item.body
        if isinstance(body, Tracks):
            self._write_frame(body)
        elif isinstance(body, EndOfStream) and body.camera in self._last_info:
            camera = body.camera
            self._write(camera, self._frames[camera].end(self._last_info[camera]))
        self.inbox.done(item.producer, item.number)

    def on_notice(self, notice: Notice) -> None:
        """Write the event that a stage or the supervisor asks for."""
        self._write(notice.camera, [event_of_notice(notice, self._numbering[notice.camera])])

    def on_tick(self) -> None:
        """Show that we are alive."""
        self.tick_at = time.monotonic() + self.config.events.heartbeat_s
        seq, identity = self._numbering[HOST].next()
        beat = Heartbeat(
            id=identity,
            seq=seq,
            camera=HOST,
            time_utc=utc(time.time_ns()),
            uptime_s=round(time.monotonic() - self._started_at, 3),
            events=self.counters["events"],
        )
        self._write(HOST, [beat])

    def on_close(self) -> None:
        """Let what was sent reach the subscribers."""
        if self._socket is not None:
            self._socket.close(linger=300)
        if self._file is not None:
            self._file.close()

    def _write_frame(self, tracks: Tracks) -> None:
        info = tracks.info
        index = self._index[info.camera]
        if info.seq < self._ledger[index + _FRAME]:
            return  # our predecessor wrote it before it died
        self._last_info[info.camera] = info
        self._write(info.camera, self._frames[info.camera].events(tracks))
        self._ledger[index + _FRAME] = info.seq + 1
        now_ns = time.monotonic_ns()
        self.counters[f"frames.{info.camera}"] += 1
        self.counters[f"last_ns.{info.camera}"] = now_ns
        if not tracks.detections.skipped:
            self.latency[info.camera].add(now_ns - info.receive_ns)

    def _write(self, camera: str, events: Iterable[AnyEvent]) -> None:
        index, numbering = self._index[camera], self._numbering[camera]
        lines = []
        for event in events:
            self._ledger[index + _ADVANCED] = numbering.last
            line = encode_event(event)
            lines.append(line + b"\n")
            if self._socket is not None:
                topic = f"{camera}.{event.__struct_config__.tag}".encode()
                self._socket.send_multipart([topic, line])
        if lines and self._file is not None:
            self._file.append(b"".join(lines))
        self._ledger[index + _WRITTEN] = numbering.last
        self.counters["events"] += len(lines)
        self.counters[f"events.{camera}"] += len(lines)

    def _tell_restart(self, camera: str, index: int) -> None:
        advanced, written = self._ledger[index + _ADVANCED], self._ledger[index + _WRITTEN]
        seq, identity = self._numbering[camera].next()
        restarted = StageRestarted(
            id=identity,
            seq=seq,
            camera=camera,
            time_utc=utc(time.time_ns()),
            stage="publish",
            cause="died",
            lost_from=written + 1 if advanced > written else None,
            lost_to=advanced if advanced > written else None,
        )
        self._write(camera, [restarted])

    def _bind(self, address: str) -> zmq.Socket[bytes]:
        socket = self.make_socket(zmq.PUB)
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
                    f"events.publish: can't bind {address}: {error}; choose a free port"
                ) from error
            return socket


class EventFile:
    """JSON lines, appended; a line is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._full = False
        self.lost_bytes = 0
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._size = os.fstat(self._fd).st_size
        except OSError as error:
            raise ConfigError(
                f"events.file: can't write {path}: {error.strerror}; choose another file"
            ) from error
        self._cut_half_line()

    def append(self, lines: bytes) -> None:
        """Write whole lines; where the disk is full they are lost, and that is logged once."""
        try:
            written = os.write(self._fd, lines)
            if written < len(lines):
                raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            self.lost_bytes += len(lines)
            if not self._full:
                log.error(
                    "%s: %s; events go on being published but are not in the file until there is "
                    "room", self._path, error.strerror,
                )  # fmt: skip
            self._full = True
            os.ftruncate(self._fd, self._size)
            return
        if self._full:
            self._full = False
            log.warning("%s: there is room again, %d bytes were lost", self._path, self.lost_bytes)
        self._size += len(lines)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _cut_half_line(self) -> None:
        """A writer that was killed may have left half a line."""
        if not self._path.is_file() or not self._size:
            return
        with self._path.open("rb") as reader:
            reader.seek(max(0, self._size - (1 << 20)))
            tail = reader.read()
        if not tail.endswith(b"\n"):
            self._size -= len(tail) - (tail.rfind(b"\n") + 1)
            os.ftruncate(self._fd, self._size)


make = Publish
