"""Subscribe to the events of a pipeline and miss nothing; imports zmq and msgspec alone.

    for event in subscribe("tcp://127.0.0.1:5560"):
        print(event.camera, event)

Connections come back by themselves. What was missed meanwhile shows as a gap in the numbers, is
fetched from the pipeline's log and delivered in its place; what comes twice is dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import zmq

from streamer.errors import ConfigError
from streamer.events import AnyEvent, decode_event
from streamer.sequence import Follower, ReplayAnswer, ReplayRequest

log = logging.getLogger(__name__)

_QUEUED = 100_000
"""Events that wait while we are busy, or while others are fetched; what is lost is fetched, too."""
_LOOK_S = 0.2
_PATIENCE_S = 5.0
"""How long a gap waits for the heartbeat that says where to ask."""
_ANSWER_S = 2.0
_TRIES = 3
_QUIET_S = 30.0
"""After an address that does not answer: gaps are not asked for."""
_EVERYWHERE = ("0.0.0.0", "*", "[::]")  # noqa: S104 - compared, not bound
_decode_answer = msgspec.json.Decoder(ReplayAnswer).decode
_encode = msgspec.json.Encoder().encode


class _Wait(NamedTuple):
    """Go on when the socket can be read, or after a while."""

    socket: zmq.Socket[bytes]
    timeout_s: float


_Steps = Generator[_Wait | bytes, None, None]


class _Counts:
    """What both kinds of subscription say of themselves."""

    def __init__(self, follower: Follower, steps: _Steps) -> None:
        self._follower = follower
        self._steps = steps
        next(steps)  # connects; from here on the end of `steps` closes the connections

    @property
    def position(self) -> dict[str, int]:
        """By camera, the number of the event that comes next; give it to `since` to go on there."""
        return self._follower.position

    @property
    def missed(self) -> int:
        """Events that are gone for good: there is no log, or it does not reach back so far."""
        return self._follower.missed

    @property
    def replayed(self) -> int:
        """Events that were fetched from the log."""
        return self._follower.replayed

    @property
    def duplicates(self) -> int:
        """Events that came again and were dropped."""
        return self._follower.duplicates

    def close(self) -> None:
        """Close the connections; the last reference does that, too."""
        self._steps.close()


class Subscription(_Counts, Iterator[AnyEvent]):
    """Events one by one; made by `subscribe`, for one thread."""

    def __next__(self) -> AnyEvent:
        for line in self.lines():
            event = _event(line)
            if event is not None:
                return event
        raise StopIteration

    def lines(self) -> Iterator[bytes]:
        """The events as they came: JSON, without line ends."""
        for step in self._steps:
            if isinstance(step, bytes):
                yield step
            else:
                step.socket.poll(int(step.timeout_s * 1000))

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSubscription(_Counts, AsyncIterator[AnyEvent]):
    """Events one by one; made by `subscribe_async`, for one event loop."""

    async def __anext__(self) -> AnyEvent:
        import zmq.asyncio  # most subscribers need no event loop

        for step in self._steps:
            if isinstance(step, bytes):
                event = _event(step)
                if event is not None:
                    return event
            else:
                poller = zmq.asyncio.Poller()
                poller.register(step.socket, zmq.POLLIN)
                await poller.poll(int(step.timeout_s * 1000))
        raise StopAsyncIteration

    async def __aenter__(self) -> AsyncSubscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def subscribe(
    address: str,
    *,
    camera: str | None = None,
    kind: str | None = None,
    since: Mapping[str, int] | None = None,
    replay: str | None = None,
    silent_s: float | None = None,
) -> Subscription:
    """Connect, and give events as they come.

    Args:
        address: that the pipeline publishes on, such as "tcp://127.0.0.1:5560".
        camera: only events of this camera; None for all, "" for those of the host.
        kind: only events whose type begins with this, such as "track".
        since: by camera, the number to begin with, such as an earlier subscription's `position`;
            other cameras begin now.
        replay: where to ask for what was missed; None for where the pipeline says.
        silent_s: end after so many seconds without an event; None never ends.

    Raises:
        ConfigError: the address can't be used.
    """
    follower = Follower(camera=camera, kind=kind, since=since)
    return Subscription(follower, _follow(address, follower, camera, replay, silent_s))


def subscribe_async(
    address: str,
    *,
    camera: str | None = None,
    kind: str | None = None,
    since: Mapping[str, int] | None = None,
    replay: str | None = None,
    silent_s: float | None = None,
) -> AsyncSubscription:
    """The same for `async for`; arguments as for subscribe."""
    follower = Follower(camera=camera, kind=kind, since=since)
    return AsyncSubscription(follower, _follow(address, follower, camera, replay, silent_s))


def _follow(
    address: str,
    follower: Follower,
    camera: str | None,
    replay: str | None,
    silent_s: float | None,
) -> _Steps:
    """All that a subscription does, but for waiting."""
    link = _Link(address, replay)
    try:
        link.listen(camera)
        yield _Wait(link.events, 0)
        heard_at = gap_at = time.monotonic()
        while silent_s is None or time.monotonic() - heard_at < silent_s:
            request = follower.wanted()
            if request is None:
                gap_at = time.monotonic()
            elif link.may_ask(follower):
                yield from _close_gap(link, follower, request)
                continue
            elif follower.beaten or time.monotonic() - gap_at > _PATIENCE_S:
                yield from follower.give_up(request)
                continue
            line = link.receive()
            if line is None:
                yield _Wait(link.events, min(_LOOK_S, silent_s or _LOOK_S))
                continue
            for event in _taken(follower, line):
                heard_at = time.monotonic()
                yield event
    finally:
        link.close()


def _taken(follower: Follower, line: bytes) -> Iterator[bytes]:
    try:
        yield from follower.take(line)
    except msgspec.MsgspecError as error:
        log.warning("what is no event was passed over: %s", error)


def _close_gap(link: _Link, follower: Follower, request: ReplayRequest) -> _Steps:
    """Fetch what is missing, or find that it is gone."""
    answered = yield from _ask(link, request)
    if answered is None:
        yield from follower.give_up(request)
    else:
        yield from follower.answer(request, *answered)


def _ask(
    link: _Link, request: ReplayRequest
) -> Generator[_Wait | bytes, None, tuple[ReplayAnswer, Sequence[bytes]] | None]:
    for _ in range(_TRIES):
        socket = link.asking()
        socket.send(_encode(request))
        deadline = time.monotonic() + _ANSWER_S
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                head, lines = socket.recv_multipart(zmq.NOBLOCK)
                answer = _decode_answer(head)
            except zmq.Again:
                yield _Wait(socket, left_s)
                continue
            except (ValueError, msgspec.MsgspecError) as error:
                log.warning("what is no answer was passed over: %s", error)
                continue
            if answer.error:
                log.warning("%s", answer.error)
                return None
            return answer, lines.split(b"\n") if lines else []
        link.hang_up()  # so that a late answer is not taken for that of the next request
    log.warning("%s does not answer; missed events are not asked for now", link.replay)
    link.quiet_until = time.monotonic() + _QUIET_S
    return None


class _Link:
    """The sockets of a subscription.

    Args:
        address: that the pipeline publishes on.
        replay: where to ask for events; None for where heartbeats say.
    """

    def __init__(self, address: str, replay: str | None) -> None:
        self._address = address
        self._given = replay
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.events = self._context.socket(zmq.SUB)
        self._asking: zmq.Socket[bytes] | None = None
        self.replay = replay or ""
        self.quiet_until = 0.0

    def listen(self, camera: str | None) -> None:
        """Connect, and subscribe to what is needed: heartbeats in any case."""
        self._connect(self.events, self._address)
        for topic in [""] if camera is None else [f"{camera}.", ".heartbeat"]:
            self.events.subscribe(topic)

    def receive(self) -> bytes | None:
        """The next event, or None if there is none now."""
        try:
            return self.events.recv_multipart(zmq.NOBLOCK)[-1]
        except zmq.Again:
            return None

    def may_ask(self, follower: Follower) -> bool:
        """True if there is somebody to ask."""
        told = self._given or _reachable(follower.replay or "", self._address)
        if told != self.replay:
            self.hang_up()
            self.replay, self.quiet_until = told, 0.0
        return bool(told) and time.monotonic() >= self.quiet_until

    def asking(self) -> zmq.Socket[bytes]:
        """The connection to the replay service."""
        if self._asking is None:
            self._asking = self._context.socket(zmq.DEALER)
            self._connect(self._asking, self.replay)
        return self._asking

    def hang_up(self) -> None:
        """Forget that connection."""
        if self._asking is not None:
            self._asking.close()
            self._asking = None

    def close(self) -> None:
        """Close everything."""
        self.hang_up()
        self.events.close()
        self._context.term()

    def _connect(self, socket: zmq.Socket[bytes], address: str) -> None:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, _QUEUED)
        socket.set(zmq.IPV6, "[" in address)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise ConfigError(
                f"{address}: {error}; give the address that the pipeline publishes on, such as "
                "tcp://127.0.0.1:5560"
            ) from error


def _reachable(told: str, address: str) -> str:
    """Where a service that listens everywhere can be reached: on the host that we know."""
    scheme, _, rest = told.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or host not in _EVERYWHERE:
        return told
    return f"{address.rpartition(':')[0]}:{port}"


def _event(line: bytes) -> AnyEvent | None:
    try:
        event: AnyEvent = decode_event(line)
        return event
    except msgspec.MsgspecError as error:
        log.warning("an event of another version was passed over: %s", error)
        return None
