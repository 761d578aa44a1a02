"""Turn one video source into frames in shared slots; runs in the decode process.

A thread reads and writes the pictures into their slots; the main thread hands them on. After a
crash, frame numbers and media time go on: live from what the ledger says, offline from the first
frame that some consumer has not seen.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from dataclasses import replace
from fractions import Fraction

from streamer.errors import OutOfMemory, SourceError
from streamer.frames import FramePool, Lease
from streamer.graph import build_graph, decoder_threads
from streamer.messages import (
    Body,
    EndOfStream,
    Fields,
    Frame,
    FrameInfo,
    Hello,
    PeerDown,
    PoolGrant,
    PoolRequest,
    Skipped,
)
from streamer.sources.base import FrameTimes, Source, SourceInfo
from streamer.sources.options import DecodeStatistics, SourceOptions
from streamer.sources.reader import Down, Ended, Event, Failed, SourceReader, Up
from streamer.sources.redact import redact
from streamer.sources.restamp import RestampedFrame
from streamer.sources.scheme import is_live
from streamer.sources.uri import open_source
from streamer.stage import Stage, StageStart

log = logging.getLogger(__name__)

_SEQ, _PTS_NS, _CAPTURE_NS = range(3)
"""Places in the ledger: next frame number; media and wall time of the last frame."""
_CONSUMERS_S = (5.0, 1.0)
"""How long the first incarnation, and a later one, waits for its consumers before it reads."""
_DRAIN_S = 0.5
"""How long a source may take to notice that it was stopped."""
_GRANT_S = 5.0
_HANG_S = 5.0
"""How long a source may stay blocked after its own deadlines are over."""
_NS = 10**9


class Decode(Stage):
    """Reads one source."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        self._live = start.live[self.camera]
        self._camera = start.config.cameras[self.camera]
        self._ledger = self.ledger()
        self._source: Source | None = None
        self._reader = SourceReader(
            self._make_source,
            open_deadline_s=self._camera.open_s,
            first_frame_deadline_s=self._camera.first_frame_s,
            frame_deadline_s=self._camera.frame_s,
            reconnect=is_live(self._camera.source),
        )
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)
        self._out: deque[tuple[Lease, FrameInfo] | Event | PoolRequest | Exception | None] = deque()
        """What the thread has for us, in order; None is the end."""
        self._grants: queue.SimpleQueue[PoolGrant] = queue.SimpleQueue()
        self._halt = threading.Event()
        self._wanted_from = dict.fromkeys(start.spec.consumers, 0)
        """First frame that each consumer has not seen yet."""
        self._pool: FramePool | None = None
        self._info: SourceInfo | None = None
        self._first_pts: Fraction | None = None
        self._shift: int | None = None
        self._damage = (0, 0)
        self._begin_at = time.monotonic() + _CONSUMERS_S[min(start.incarnation, 1)]
        self._ended = False
        self._stalled_since = time.monotonic()
        self._drain_at = float("inf")

    def on_open(self) -> None:
        """Have the source read once there is somebody to read it for, or it is time."""
        self.tick_at = self._begin_at if self.spec.consumers else time.monotonic()

    def on_hello(self, hello: Hello) -> None:
        """Begin when all consumers are there; a new one gets what its predecessor missed."""
        if hello.next_seq >= 0:
            self._wanted_from[hello.consumer] = hello.next_seq
        others_met = all(
            self.outbox.met(name) for name in self.outbox.consumers if name != hello.consumer
        )
        if others_met:
            self._begin()

    def on_peer_down(self, down: PeerDown) -> None:
        """Nobody waits for a consumer that will never come."""
        if down.final and all(self.outbox.met(name) for name in self.outbox.consumers):
            self._begin()

    def on_grant(self, grant: PoolGrant) -> None:
        """Hand the answer to the thread that waits for it."""
        self._grants.put(grant)

    def on_drop(self, consumer: str, body: Body, cause: str) -> None:
        """Say at once that there will be no annotation, so that nobody waits for it."""
        super().on_drop(consumer, body, cause)
        writer = f"encode.{self.camera}"
        if isinstance(body, Frame) and consumer != writer and writer in self.outbox.consumers:
            self.outbox.tell(writer, Skipped(self.camera, body.info.seq, cause, consumer))

    def on_stop(self, *, drain: bool) -> None:
        """End the stream; a source that doesn't notice is left behind."""
        super().on_stop(drain=drain)
        self._halt.set()
        self._reader.stop()
        self._drain_at = time.monotonic() + _DRAIN_S
        self.tick_at = min(self.tick_at, self._drain_at)

    def on_tick(self) -> None:
        """Begin late, end a stream that hangs, and report damage."""
        now = time.monotonic()
        if now >= self._begin_at or not self.spec.consumers:
            self._begin()
        if now >= self._drain_at:
            self._end("stopped", "the run was stopped")
        self._tell_damage()
        self._refuse_to_hang(now)
        self.tick_at = min(now + 1.0, self._drain_at if not self._ended else float("inf"))

    def on_wake(self) -> None:
        """Hand on what the thread has read."""
        while self._out:
            thing = self._out.popleft()
            if thing is None:
                self._end("stopped", "the run was stopped")
            elif isinstance(thing, tuple):
                self._hand_on(*thing)
            elif isinstance(thing, PoolRequest):
                self.say(thing)
            elif isinstance(thing, Exception):
                raise thing
            else:
                self._tell(thing)

    def finished(self) -> bool:
        """The stream has ended and everybody was told."""
        return self.stopping or self._ended

    # The main thread.

    def _refuse_to_hang(self, now: float) -> None:
        """A library that ignores its own deadlines is left by leaving the process."""
        if self._reader.state != "stalled" or not is_live(self._camera.source):
            self._stalled_since = now
        elif now - self._stalled_since > _HANG_S and not self._ended:
            raise RuntimeError(f"{self.camera}: the source hangs and can't be interrupted")

    def _begin(self) -> None:
        if not self._thread.is_alive() and not self._ended:
            self._begin_at = float("inf")
            self._thread.start()

    def _hand_on(self, lease: Lease, info: FrameInfo) -> None:
        if self._ended:
            lease.release()
            return
        self.counters["frames"] += 1
        if self.counters["frames"] == 1:
            self.counters["first_ns"] = time.monotonic_ns()
        self._ledger[_PTS_NS] = int(info.pts_s * _NS)
        self._ledger[_CAPTURE_NS] = info.capture_ns
        frame = lease.publish(info)
        for consumer in self.outbox.consumers:
            if info.seq >= self._wanted_from[consumer]:
                self.outbox.send(consumer, frame, lease=lease)
        lease.release()

    def _tell(self, event: Event) -> None:
        if isinstance(event, Up):
            info = event.info
            self.notice(
                "stream.up",
                self.camera,
                reason="opened" if event.connection == 1 else "reconnected",
                width=info.width,
                height=info.height,
                fps=info.fps_declared,
                codec=info.codec,
            )
        elif isinstance(event, Down):
            log.warning("%s: %s; next try in %.1f s", self.camera, event.message, event.retry_in_s)
            self._tell_down(event.reason, event.message, event.retry_in_s)
        elif isinstance(event, Ended):
            self._end("ended", "the file is over")
        elif isinstance(event, Failed):
            self._end(event.reason, event.message)
            self.error = SourceError(event.message, reason=event.reason, permanent=True)

    def _tell_down(self, reason: str, message: str, retry_in_s: float | None = None) -> None:
        self.notice(
            "stream.down",
            self.camera,
            reason=reason,
            message=redact(message),
            retry_in_s=retry_in_s,
        )

    def _end(self, reason: str, message: str) -> None:
        if self._ended:
            return
        self._ended = True
        self._tell_damage()
        self._tell_down(reason, message)
        for consumer in self.outbox.consumers:
            self.outbox.send(consumer, EndOfStream(self.camera))

    def _tell_damage(self) -> None:
        counts = getattr(self._source, "statistics", None)
        if not isinstance(counts, DecodeStatistics):
            return
        known, self._damage = self._damage, (counts.corrupt, counts.skipped)
        if known[0] > counts.corrupt or known[1] > counts.skipped:
            known = (0, 0)  # another connection counts anew
        corrupt, skipped = counts.corrupt - known[0], counts.skipped - known[1]
        if corrupt or skipped:
            self.dropped[self.camera]["corrupt"] += corrupt + skipped
            fields: Fields = {"corrupt_frames": corrupt, "skipped_frames": skipped}
            self.notice("stream.damaged", self.camera, **fields)

    # The reading thread.

    def _make_source(self) -> Source:
        options = SourceOptions(
            open_s=self._camera.open_s,
            first_frame_s=self._camera.first_frame_s,
            read_s=self._camera.frame_s,
            hwaccel=self._camera.hwaccel,
            threads=1 if self._live else decoder_threads(self.config),
        )
        self._source = open_source(self._camera.source, paced=self._live, options=options)
        return self._source

    def _read(self) -> None:
        if self._live or not self.start.incarnation:
            self._seq = self._skip_to = self._ledger[_SEQ] if self._live else 0
        else:
            self._seq, self._skip_to = 0, min(self._wanted_from.values(), default=0)
        try:
            for event in self._reader.events():
                if isinstance(event, Up):
                    self._info = event.info
                if not isinstance(event, RestampedFrame):
                    self._pass(event)
                elif not self._store(event):
                    break
        except Exception as error:  # noqa: BLE001 - the thread's outermost frame; main raises it
            self._pass(error)
        else:
            self._pass(None)

    def _pass(
        self, thing: tuple[Lease, FrameInfo] | Event | PoolRequest | Exception | None
    ) -> None:
        self._out.append(thing)
        self.wake()

    def _store(self, frame: RestampedFrame) -> bool:
        """Write one frame into a slot; False if no more are wanted."""
        times = self._after_restart(frame.times) if self._live else frame.times
        pts_s = times.pts * times.time_base
        if self._first_pts is None:
            self._first_pts = pts_s
        duration_s = self.config.duration_s
        if self._halt.is_set() or (duration_s and pts_s - self._first_pts >= duration_s):
            return False
        seq, self._seq = self._seq, self._seq + 1
        if seq < self._skip_to:
            return True
        self._ledger[_SEQ] = self._seq
        pool = self._pool_for(frame.width, frame.height)
        lease = pool.acquire(wait=None if self._live else lambda: not self._halt.is_set())
        if lease is None:
            self.dropped[self.camera]["no_slot"] += 1
            return not self._halt.is_set()
        frame.write_to(lease.planes)
        self._pass((lease, self._describe(frame, times, seq, pool.epoch)))
        return True

    def _describe(
        self, frame: RestampedFrame, times: FrameTimes, seq: int, epoch: int
    ) -> FrameInfo:
        assert self._info is not None
        return FrameInfo(
            camera=self.camera,
            seq=seq,
            epoch=epoch,
            width=frame.width,
            height=frame.height,
            pts=times.pts,
            time_base=(times.time_base.numerator, times.time_base.denominator),
            capture_ns=times.capture_ns,
            receive_ns=times.receive_ns,
            discontinuity=times.discontinuity,
            matrix=self._info.matrix,
            fps=self._info.fps_declared or 0.0,
        )

    def _after_restart(self, times: FrameTimes) -> FrameTimes:
        """Media time goes on from the last frame of the process before us."""
        if not self.start.incarnation or not self._ledger[_CAPTURE_NS]:
            return times
        first = self._shift is None
        if self._shift is None:
            gap_ns = max(1, times.capture_ns - self._ledger[_CAPTURE_NS])
            due_s = Fraction(self._ledger[_PTS_NS] + gap_ns, _NS)
            self._shift = -(-due_s // times.time_base) - times.pts
        return replace(
            times, pts=times.pts + self._shift, discontinuity=first or times.discontinuity
        )

    def _pool_for(self, width: int, height: int) -> FramePool:
        pool = self._pool
        if pool is not None and (pool.width, pool.height) == (width, height):
            return pool
        slots = build_graph(self.config, self.start.live).slots(self.camera)
        self._pass(PoolRequest(self.camera, slots, width, height))
        grant = self._grants.get(timeout=_GRANT_S)
        if grant.error:
            raise OutOfMemory(grant.error)
        self._pool = FramePool(
            self.start.supervisor_pid,
            grant.pool_fd,
            epoch=grant.epoch,
            slots=slots,
            width=width,
            height=height,
        )
        return self._pool


make = Decode
