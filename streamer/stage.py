"""The loop that every stage process runs: control, queues, ticks, beats, and a clean end.

Started as `python -m streamer.stage NAME` with a StageStart on standard input. Knows no pixel, no
network and no file; what a stage does is in streamer/stages/*.py, which this loads by dotted name.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import logging
import math
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import msgspec
import zmq

from engines.errors import EngineMismatch, EngineUnavailable, ModelError
from streamer.config import Config
from streamer.errors import MessageError, StreamerError
from streamer.graph import StageSpec
from streamer.histogram import Histogram
from streamer.ledger import Ledger
from streamer.messages import (
    Beat,
    Body,
    ControlMessage,
    Ended,
    EndOfStream,
    Hello,
    Notice,
    PeerDown,
    PeerUp,
    PoolGrant,
    Ready,
    Skipped,
    Value,
    decode_supervisor,
    encode,
)
from streamer.queues import LAST_WORDS_MS, Inbox, Outbox, Received, make_socket

log = logging.getLogger(__name__)

BEAT_S = 0.5
ITEMS_A_TURN = 16
DROPS_TOLD_S = 1.0
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_ABOUT_CAMERA = (Skipped, EndOfStream)


class StageStart(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a stage process is told at its start, through its standard input."""

    spec: StageSpec
    config: Config
    live: dict[str, bool]
    run: str
    """Identity of this run, part of every event's id."""
    incarnation: int
    """How many processes have been this stage before."""
    supervisor_pid: int
    control: str
    """Endpoint of the supervisor."""
    ledger_fd: int


class Stage:
    """Base of all stages; one object a process, used by its main thread alone.

    A subclass overrides the `on_` methods and `finished`; it never blocks in them for longer than a
    beat. Work that blocks (reading a source) runs in a thread that calls `wake`.
    """

    def __init__(self, start: StageStart) -> None:
        self.start = start
        self.spec = start.spec
        self.config = start.config
        self.name = start.spec.name
        self.camera = start.spec.camera
        self.counters: Counter[str] = Counter()
        self.dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._drops_told: Counter[tuple[str, str]] = Counter()
        self._tell_drops_at = 0.0
        self.latency: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.stopping = False
        self.error: StreamerError | None = None
        """What kept this stage from its work, if anything; it ends without being restarted."""
        self.tick_at = float("inf")
        """When on_tick is wanted next, on time.monotonic()."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._control = make_socket(self._context, zmq.DEALER)
        self._control.set(zmq.IDENTITY, f"{self.name}#{start.incarnation}".encode())
        self._control.set(zmq.LINGER, LAST_WORDS_MS)
        self._control.connect(start.control)
        self.outbox = Outbox(
            self._context,
            f"ipc://@{start.run}.{self.name}.{start.incarnation}",
            start.spec.consumers,
            on_drop=self.on_drop,
            on_hello=self.on_hello,
        )
        self.inbox = Inbox(self._context, self.name, start.incarnation, start.spec.producers)
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = zmq.Poller()
        self._producers: dict[zmq.Socket[bytes], str] = {}

    # What a subclass says.

    def on_open(self) -> None:
        """Load what is slow to load; the stage is ready after this."""

    def on_item(self, item: Received) -> None:
        """One item came; call self.inbox.done for it sooner or later."""

    def on_hello(self, hello: Hello) -> None:
        """A consumer came, or its successor."""

    def on_drop(self, consumer: str, body: Body, cause: str) -> None:
        """An item for this consumer will never arrive."""
        del consumer  # the cause begins with its name
        if isinstance(body, EndOfStream):
            return  # no frame; who has ended does not need it
        camera = body.camera if isinstance(body, _ABOUT_CAMERA) else body.info.camera
        self.dropped[camera][cause] += 1

    def on_peer_down(self, down: PeerDown) -> None:
        """A producer or consumer died."""

    def on_grant(self, grant: PoolGrant) -> None:
        """The supervisor answers a PoolRequest."""

    def on_notice(self, notice: Notice) -> None:
        """Something happened that is an event (publish only)."""

    def on_wake(self) -> None:
        """A thread of ours has called `wake`."""

    def on_tick(self) -> None:
        """The time tick_at has come; set it anew."""

    def on_stop(self, *, drain: bool) -> None:
        """The supervisor wants us to end: with `drain` by ending the stream, else at once."""
        self.stopping = self.stopping or not drain

    def finished(self) -> bool:
        """True when there is no more work and never will be."""
        return self.stopping

    def on_close(self) -> None:
        """Close files and engines; what is said by `notice` here still arrives."""

    # What a subclass uses.

    def say(self, message: ControlMessage) -> None:
        """Tell the supervisor something."""
        self._control.send(encode(message), zmq.NOBLOCK)

    def notice(self, kind: str, camera: str, **fields: Value) -> None:
        """Report what happened as an event, now."""
        self.say(Notice(kind, camera, fields, time.time_ns()))

    def forward(self, item: Received, body: Body, *, to: Sequence[str] | None = None) -> None:
        """Send what was made of an item on, and give the item back once it has left.

        So what waits here is bounded by the credits that we grant.
        """
        consumers = self.outbox.consumers if to is None else to
        waiting = len(consumers)

        def left() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0:
                self.inbox.done(item.producer, item.number)

        for consumer in consumers:
            self.outbox.send(consumer, body, then=left)

    def make_socket(self, kind: int) -> zmq.Socket[bytes]:
        """A socket of this process's context, for a stage that talks to the outside."""
        return make_socket(self._context, kind)

    def wake(self) -> None:
        """Have on_wake called soon, from any thread."""
        os.eventfd_write(self._wakeup, 1)

    def ledger(self) -> Ledger:
        """This stage's counters that outlive it."""
        return Ledger(self.start.supervisor_pid, self.start.ledger_fd)

    # The loop.

    def run(self) -> None:
        """Work until finished; returns when everything is closed and said."""
        for source in (self._wakeup, self._control, self.outbox.socket):
            self._poller.register(source, zmq.POLLIN)
        self.on_open()
        self.say(Ready(self.outbox.endpoint))
        beat_at = 0.0
        while not self._done():
            now = time.monotonic()
            if now >= beat_at:
                self._beat()
                beat_at = now + BEAT_S
            if now >= self.tick_at:
                self.tick_at = float("inf")
                self.on_tick()
            self._turn(max(0.0, min(beat_at, self.tick_at) - time.monotonic()))
        self.on_close()
        self._tell_drops_at = 0.0
        self._beat()

    def close(self) -> None:
        """Let go of all sockets, after the last words are sent."""
        self.inbox.close()
        self.outbox.close()
        self._control.close()
        self._context.term()

    def _done(self) -> bool:
        return self.stopping or (self.finished() and self.outbox.unfinished == 0)

    def _turn(self, timeout_s: float) -> None:
        """Wait for whatever comes first, and handle all that came."""
        for source, _ in self._poller.poll(math.ceil(timeout_s * 1000)):
            if source is self._control:
                self._hear()
            elif source is self.outbox.socket:
                self.outbox.receive()
            elif source == self._wakeup:
                os.eventfd_read(self._wakeup)
                self.on_wake()
            elif source in self._producers:
                self._take(self._producers[source])

    def _take(self, producer: str, most: float = ITEMS_A_TURN) -> None:
        """Handle what has come, but let the loop turn: each item given back brings the next."""
        taken = 0
        while taken < most and (item := self.inbox.receive(producer)) is not None:
            taken += 1
            self.on_item(item)

    def _hear(self) -> None:
        while True:
            try:
                message = decode_supervisor(self._control.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            except MessageError as error:
                log.warning("%s", error)
                continue
            if isinstance(message, PeerUp):
                self._connect(message)
            elif isinstance(message, PeerDown):
                self._peer_down(message)
            elif isinstance(message, PoolGrant):
                self.on_grant(message)
            elif isinstance(message, Notice):
                self.on_notice(message)
            else:
                self.on_stop(drain=message.drain)

    def _connect(self, peer: PeerUp) -> None:
        self._disconnect(peer.stage)
        socket = self.inbox.connect(peer.stage, peer.endpoint)
        self._producers[socket] = peer.stage
        self._poller.register(socket, zmq.POLLIN)

    def _disconnect(self, producer: str) -> None:
        socket = self.inbox.sockets.get(producer)
        if socket is not None:
            self._poller.unregister(socket)
            del self._producers[socket]
            self.inbox.disconnect(producer)

    def _peer_down(self, peer: PeerDown) -> None:
        if peer.stage in self.spec.consumers:
            self.outbox.receive()  # what it gave back before it died
            self.outbox.lost(peer.stage, final=peer.final)
        if peer.stage in self.spec.producers:
            # What it had sent before it died is still good.
            self._take(peer.stage, most=float("inf"))
            self._disconnect(peer.stage)
        self.on_peer_down(peer)

    def _tell_drops(self) -> None:
        for camera, causes in self.dropped.items():
            for cause, total in causes.items():
                count = total - self._drops_told[camera, cause]
                if count:
                    self._drops_told[camera, cause] = total
                    self.notice("frames.dropped", camera, cause=cause, count=count, total=total)

    def _beat(self) -> None:
        if time.monotonic() >= self._tell_drops_at:
            self._tell_drops_at = time.monotonic() + DROPS_TOLD_S
            self._tell_drops()
        for consumer, edge in self.outbox.statistics().items():
            self.counters[f"pending.{consumer}"] = edge.pending
            self.counters[f"in_flight.{consumer}"] = edge.in_flight
        self.say(
            Beat(
                dict(self.counters),
                {camera: dict(causes) for camera, causes in self.dropped.items()},
                {camera: dict(times.buckets) for camera, times in self.latency.items()},
            )
        )


def prepare_process(name: str, supervisor_pid: int) -> None:
    """Name this process, have it die with its supervisor, and log to standard error."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor_pid:
        os._exit(1)  # it died before we asked to die with it
    libc.prctl(_PR_SET_NAME, f"st:{name}"[:15].encode(), 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the supervisor's
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format=f"%(levelname)s {name}: %(message)s")


def main() -> int:
    """Run one stage process; returns its exit code."""
    start = msgspec.json.decode(sys.stdin.buffer.read(), type=StageStart)
    prepare_process(start.spec.name, start.supervisor_pid)
    os.nice(start.spec.niceness)
    make: Callable[[StageStart], Stage] = importlib.import_module(start.spec.module).make
    stage = make(start)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: stage.on_stop(drain=False))
    try:
        stage.run()
        if stage.error is not None:
            raise stage.error
        stage.say(Ended())
    except (StreamerError, ModelError, EngineUnavailable, EngineMismatch) as error:
        # What another try can't mend: the supervisor must not restart us for it.
        kind = type(error).__name__
        stage.say(Ended(str(error), kind, getattr(error, "reason", kind)))
    stage.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
