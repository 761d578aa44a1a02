"""Start the stages of a graph, watch them, restart them, and stop them; runs in the main process.

Imports no stage and no heavy library. Single-threaded: one loop over the control socket, the
processes' sentinels and their logs. Who is started: `streamer.graph`. What they do:
`streamer/stages/*.py`. How they are told: `streamer.messages`.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from streamer.child import Child
from streamer.errors import MessageError, OutOfMemory, StageFailed
from streamer.graph import Graph, StageSpec
from streamer.ledger import make_ledger
from streamer.memory import allocate
from streamer.messages import (
    Beat,
    ControlMessage,
    Ended,
    Notice,
    PeerDown,
    PeerUp,
    PoolGrant,
    PoolRequest,
    Ready,
    Stop,
    SupervisorMessage,
    decode_control,
    encode,
)
from streamer.overtime import Overtime
from streamer.queues import LAST_WORDS_MS, make_socket
from streamer.sources.redact import redact
from streamer.stage import StageStart
from streamer.summary import Summary, Tally

log = logging.getLogger(__name__)
stage_log = logging.getLogger("streamer.stages")

TICK_S = 0.1
BACKOFF_S = (0.05, 5.0)
"""First and longest wait before a restart; it doubles in between."""
NOTICES_KEPT = 10_000
POOLS_KEPT = 2


@dataclass
class _Seat:
    """One stage of the graph over all its incarnations."""

    spec: StageSpec
    ledger_fd: int
    child: Child | None = None
    incarnation: int = 0
    spawn_at: float | None = 0.0
    """When the next incarnation is due; None while one runs or none will come."""
    died_at: float = 0.0
    exitcode: int | None = None
    deaths: deque[float] = field(default_factory=deque)
    over: bool = False
    """It ended or failed; it will not be started again."""
    error: str = ""
    kind: str = ""

    @property
    def ready(self) -> bool:
        return self.child is not None and self.child.ready


@dataclass(frozen=True)
class Outcome:
    """How a run went."""

    summary: Summary
    errors: tuple[StageFailed, ...]
    """Stages that could not do their work, with the reason."""
    killed: bool = False
    """Stopped at once, on a second request."""


class Supervisor:
    """One run of a graph.

    Args:
        graph: what to run.
        on_status: called about once a second with the figures so far.
    """

    def __init__(self, graph: Graph, *, on_status: Callable[[Summary], None] | None = None) -> None:
        self._graph = graph
        self._config = graph.config.supervisor
        self._on_status = on_status or (lambda _summary: None)
        self.run_id = secrets.token_hex(4)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._control = make_socket(self._context, zmq.ROUTER)
        self._endpoint = f"ipc://@{self.run_id}.supervisor"
        self._control.bind(self._endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._control, zmq.POLLIN)
        self._seats = {spec.name: _Seat(spec, make_ledger(spec.name)) for spec in graph.stages}
        self._tally = Tally(list(graph.config.cameras))
        self._pools: dict[str, deque[int]] = {}
        self._epochs = 0
        self._notices: deque[Notice] = deque(maxlen=NOTICES_KEPT)
        self._stop_begun_at: float | None = None
        self._rung = 0
        self._stop_requests = 0

    def request_stop(self) -> None:
        """Ask for a clean end; asked twice, everything is killed. Safe in a signal handler."""
        self._stop_requests += 1

    def run(self) -> Outcome:
        """Run the graph until its sources end, it is stopped, or nothing of it is left.

        Returns:
            Figures and failures; all processes are gone, all memory is freed.
        """
        duration_s, live = self._graph.config.duration_s, any(self._graph.live.values())
        overtime = Overtime(duration_s, live=live, now_s=time.monotonic())
        status_at = time.monotonic() + 1.0
        looked_at = time.monotonic()
        try:
            while not all(seat.over for seat in self._seats.values()):
                self._turn()
                now = time.monotonic()
                if now - looked_at > 1.0:
                    self._forgive(now - looked_at)
                looked_at = now
                if self._stop_requests > 1:
                    return Outcome(self._tally.summary(), (), killed=True)
                if self._stop_requests and self._stop_begun_at is None:
                    self._begin_stop()
                self._watch(now)
                if now >= status_at:
                    status_at = now + 1.0
                    so_far = self._tally.summary()
                    self._on_status(so_far)
                    if overtime.is_over(so_far.frames_in, now) and self._stop_begun_at is None:
                        self._begin_stop()
        finally:
            self._close()
        errors = tuple(
            StageFailed(seat.error, stage=name, exitcode=seat.exitcode, kind=seat.kind)
            for name, seat in self._seats.items()
            if seat.error
        )
        return Outcome(self._tally.summary(), errors)

    # One turn of the loop.

    def _turn(self) -> None:
        for source, _ in self._poller.poll(int(TICK_S * 1000)):
            if source is self._control:
                self._hear()
                continue
            for name, seat in self._seats.items():
                if seat.child is None:
                    continue
                if source == seat.child.log_fd:
                    self._relay_log(seat.child)
                elif source == seat.child.pidfd:
                    self._died(name, seat)

    def _watch(self, now: float) -> None:
        """Everything that happens because time goes by."""
        for name, seat in self._seats.items():
            if seat.child is None and seat.spawn_at is not None and now >= seat.spawn_at:
                self._spawn(seat)
            elif seat.child is not None and self._stop_begun_at is None:
                self._check_alive(name, seat.child, now)
        if self._stop_begun_at is not None:
            self._climb(now - self._stop_begun_at)
        for name, seat in self._seats.items():
            if seat.spec.after and all(self._seats[other].over for other in seat.spec.after):
                self._send(name, Stop(drain=name != "publish"))

    def _check_alive(self, name: str, child: Child, now: float) -> None:
        silent_s = now - child.heard_at
        limit_s = self._config.beat_s if child.ready else self._config.ready_s
        if silent_s > limit_s and not child.ended:
            what = "no sign of life" if child.ready else "not ready"
            log.error("%s: %s for %.1f s; killed, to be replaced", name, what, silent_s)
            child.heard_at = now
            child.signal(signal.SIGKILL)

    def _forgive(self, gap_s: float) -> None:
        """We were suspended ourselves: nobody else is late for that."""
        log.warning("the supervisor was held up for %.1f s", gap_s)
        for seat in self._seats.values():
            if seat.child is not None:
                seat.child.heard_at = time.monotonic()
        if self._stop_begun_at is not None:
            self._stop_begun_at += gap_s

    # Birth and death.

    def _spawn(self, seat: _Seat) -> None:
        start = StageStart(
            spec=seat.spec,
            config=self._graph.config,
            live=self._graph.live,
            run=self.run_id,
            incarnation=seat.incarnation,
            supervisor_pid=os.getpid(),
            control=self._endpoint,
            ledger_fd=seat.ledger_fd,
        )
        seat.spawn_at = None
        seat.incarnation += 1
        seat.child = Child(seat.spec, start)
        self._poller.register(seat.child.pidfd, zmq.POLLIN)
        self._poller.register(seat.child.log_fd, zmq.POLLIN)

    def _died(self, name: str, seat: _Seat) -> None:
        child = seat.child
        assert child is not None
        seat.exitcode = child.exitcode()
        self._hear_last_words(child, seat.exitcode)
        self._relay_log(child)
        self._poller.unregister(child.pidfd)
        self._poller.unregister(child.log_fd)
        child.close()
        seat.child = None
        seat.died_at = time.monotonic()
        self._tally.bury(name)
        if child.ended or self._stop_begun_at is not None:
            seat.over = True
        else:
            self._plan_restart(name, seat)
        self._tell_neighbours(name, child.incarnation, final=seat.over)

    def _hear_last_words(self, child: Child, exitcode: int) -> None:
        """What it said before it ended may be on its way still; nobody exits with 0 unsaid."""
        self._hear()
        patience = time.monotonic() + LAST_WORDS_MS / 1000
        while exitcode == 0 and not child.ended and time.monotonic() < patience:
            self._control.poll(20)
            self._hear()

    def _plan_restart(self, name: str, seat: _Seat) -> None:
        now = seat.died_at
        seat.deaths.append(now)
        while seat.deaths and now - seat.deaths[0] > self._config.window_s:
            seat.deaths.popleft()
        if len(seat.deaths) > self._config.restarts:
            seat.over = True
            seat.error = (
                f"{name}: died {len(seat.deaths)} times within {self._config.window_s:g} s, "
                f"last {_cause(seat.exitcode)}; given up, see the log lines of {name} above"
            )
            log.error("%s", seat.error)
            self._notice("stage.failed", seat.spec.camera, stage=name, reason=_cause(seat.exitcode))
            return
        wait_s = min(BACKOFF_S[1], BACKOFF_S[0] * 2 ** (len(seat.deaths) - 1))
        seat.spawn_at = now + wait_s
        self._tally.restarts[name] += 1
        log.warning("%s: %s; restart in %.2f s", name, _cause(seat.exitcode), wait_s)

    def _tell_neighbours(self, name: str, incarnation: int, *, final: bool) -> None:
        for other in self._graph.neighbours(name):
            self._send(other, PeerDown(name, incarnation, final))

    # What stages say.

    def _hear(self) -> None:
        while True:
            try:
                identity, data = self._control.recv_multipart(zmq.NOBLOCK)
                message = decode_control(data)
            except zmq.Again:
                return
            except (MessageError, ValueError) as error:
                log.warning("%s", error)
                continue
            name, _, incarnation = identity.decode(errors="replace").rpartition("#")
            seat = self._seats.get(name)
            if seat and seat.child and str(seat.child.incarnation) == incarnation:
                self._answer(name, seat, seat.child, message)

    def _answer(self, name: str, seat: _Seat, child: Child, message: ControlMessage) -> None:
        child.heard_at = time.monotonic()
        if isinstance(message, Beat):
            self._tally.beat(name, message)
        elif isinstance(message, Ready):
            self._ready(name, seat, child, message)
        elif isinstance(message, Notice):
            self._forward(message)
        elif isinstance(message, PoolRequest):
            self._send(name, self._make_pool(message))
        else:
            self._ended(name, seat, child, message)

    def _ready(self, name: str, seat: _Seat, child: Child, ready: Ready) -> None:
        child.endpoint = ready.endpoint
        for consumer in seat.spec.consumers:
            self._introduce(name, to=consumer)
            if (other := self._seats[consumer]).over:  # nobody will take what it sends there
                self._send(name, PeerDown(consumer, other.incarnation, final=True))
        for producer in seat.spec.producers:
            self._introduce(producer, to=name)
        if child.incarnation:
            self._notice(
                "stage.restarted",
                seat.spec.camera,
                stage=name,
                cause=_cause(seat.exitcode),
                down_s=round(time.monotonic() - seat.died_at, 3),
            )
        if name == "publish":
            while self._notices and self._send("publish", self._notices[0]):
                self._notices.popleft()

    def _introduce(self, producer: str, *, to: str) -> None:
        seat = self._seats[producer]
        if seat.child is not None and seat.child.ready:
            self._send(to, PeerUp(producer, seat.child.incarnation, seat.child.endpoint))
        elif seat.over:
            self._send(to, PeerDown(producer, seat.incarnation, final=True))

    def _ended(self, name: str, seat: _Seat, child: Child, ended: Ended) -> None:
        child.ended = True
        seat.error, seat.kind = ended.error, ended.kind
        if ended.error and not child.ready and self._stop_begun_at is None:
            self._begin_stop()  # what can't even begin was asked for wrongly
        if ended.error:
            if not self._stop_begun_at and self._others_work(name):
                log.error("%s: %s; the rest goes on", name, ended.error)
            self._notice("stage.failed", seat.spec.camera, stage=name, reason=ended.reason)

    def _others_work(self, name: str) -> bool:
        """True if another source is still being read."""
        return any(
            not seat.over and other != name
            for other, seat in self._seats.items()
            if not seat.spec.producers and not seat.spec.after
        )

    def _make_pool(self, request: PoolRequest) -> PoolGrant:
        camera = request.camera
        size = self._graph.pool_bytes(camera, request.width, request.height)
        pools = self._pools.setdefault(camera, deque())
        while len(pools) >= POOLS_KEPT:
            os.close(pools.popleft())
        try:
            pools.append(allocate(f"pool:{camera}", size))
        except OutOfMemory as error:
            return PoolGrant(-1, 0, str(error))
        self._epochs += 1
        return PoolGrant(pools[-1], self._epochs)

    # What stages are told.

    def _send(self, name: str, message: SupervisorMessage) -> bool:
        seat = self._seats[name]
        if seat.child is None or not seat.child.ready or seat.child.ended:
            return False
        identity = f"{name}#{seat.child.incarnation}".encode()
        try:
            self._control.send_multipart([identity, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:
            return False  # it is dead; its sentinel says so in a moment
        return True

    def _notice(self, kind: str, camera: str, **fields: str | int | float | None) -> None:
        self._forward(Notice(kind, camera, dict(fields), time.time_ns()))

    def _forward(self, notice: Notice) -> None:
        if self._notices or not self._send("publish", notice):
            self._notices.append(notice)

    def _relay_log(self, child: Child) -> None:
        for line in child.log_lines():
            level, _, text = line.partition(" ")
            number = logging.getLevelName(level)
            if isinstance(number, int):
                stage_log.log(number, "%s", redact(text))
            else:
                stage_log.error("%s: %s", child.spec.name, redact(line))

    # The end.

    def _begin_stop(self) -> None:
        """First rung of the ladder: no more restarts, and sources end their streams."""
        log.info("stopping; ask again to stop at once, without finishing the files")
        self._stop_begun_at = time.monotonic()
        for name, seat in self._seats.items():
            if seat.child is None:
                seat.over = True
                self._tell_neighbours(name, seat.incarnation, final=True)
            elif not seat.child.ready:
                seat.child.signal(signal.SIGKILL)
        for name, seat in self._seats.items():
            if not seat.spec.producers and not seat.spec.after:
                self._send(name, Stop(drain=True))

    def _climb(self, elapsed_s: float) -> None:
        """The further rungs: stop at once, SIGTERM, SIGKILL."""
        rungs = (
            (0.40, lambda name, _child: self._send(name, Stop())),
            (0.70, lambda _name, child: child.signal(signal.SIGTERM)),
            (0.85, lambda _name, child: child.signal(signal.SIGKILL)),
        )
        while self._rung < len(rungs) and elapsed_s >= rungs[self._rung][0] * self._config.stop_s:
            for name, seat in self._seats.items():
                if seat.child is not None:
                    rungs[self._rung][1](name, seat.child)
            self._rung += 1

    def _close(self) -> None:
        for seat in self._seats.values():
            if seat.child is not None:
                seat.child.signal(signal.SIGKILL)
                seat.child.exitcode()
                self._relay_log(seat.child)
                seat.child.close()
                seat.child = None
            os.close(seat.ledger_fd)
        for pools in self._pools.values():
            for fd in pools:
                os.close(fd)
        self._control.close()
        self._context.term()


def _cause(exitcode: int | None) -> str:
    """An exit code as people say it."""
    if exitcode is None:
        return "never started"
    if exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"
