"""Queues between stages: one Outbox a producer, one Inbox a consumer, over ipc:// or tcp://.

A consumer grants credits; every item takes one, and Done gives it back together with the slot. So
what is in flight is bounded in items, and in bytes by the slots. What happens to an item that finds
no credit is the sender's policy, decided before anything is leased to the consumer:

    block         it waits, in order, and is never dropped; the producer sees `pending` and stops
    drop_oldest   the newest `size` items wait; an older one is dropped, counted with its cause

Knows no process and no pixel. Each object belongs to one thread.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import zmq

from streamer.errors import MessageError, PeerLost, QueueClosed
from streamer.messages import Body, Done, EndOfStream, Frame, Hello, Item, decode_edge, encode

if TYPE_CHECKING:
    from streamer.frames import Lease

LAST_WORDS_MS = 500
"""How long what was said before a close may take to leave."""
_NUMBERS = 1 << 40
"""More items than one connection carries in a lifetime."""
MAX_ITEM_BYTES = 256 << 20
"""Larger parts are refused by the socket itself; one 8K frame that travels inline is 50 MB."""


class EdgePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a producer does with items that a consumer can't take at once."""

    policy: Literal["block", "drop_oldest"]
    size: int = 1
    """drop_oldest: items that wait at the most."""
    redeliver: bool = True
    """Items that a dead consumer held go to its successor; else they are dropped, and counted."""


class Statistics(NamedTuple):
    """Counts of one edge since it was made."""

    sent: int
    done: int
    in_flight: int
    pending: int
    peak_pending: int
    dropped: dict[str, int]


def make_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    """Make a socket that can't fill memory, can't hold up an exit, and is closed to other users."""
    socket = context.socket(kind)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, 4096)
    socket.set(zmq.RCVHWM, 4096)
    socket.set(zmq.MAXMSGSIZE, MAX_ITEM_BYTES)
    socket.set(zmq.IPC_FILTER_UID, os.getuid())
    if kind == zmq.ROUTER:
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.ROUTER_HANDOVER, 1)
    return socket


@dataclass(slots=True, eq=False)
class _Parcel:
    """One item between `send` and Done."""

    number: int
    body: Body
    lease: Lease | None
    then: Callable[[], None] | None

    def sent(self) -> None:
        if self.then is not None:
            then, self.then = self.then, None
            then()

    def release(self) -> None:
        if self.lease is not None:
            self.lease.release()
            self.lease = None


@dataclass(slots=True)
class _Edge:
    """One consumer as its producer sees it. Invariant: pending is empty or credits is 0 or lost."""

    policy: EdgePolicy
    identity: bytes = b""
    turn: tuple[int, int] = (-1, -1)
    """Incarnation and connection that said Hello last."""
    credits: int = 0
    inline: bool = False
    gone: bool = False
    """No successor will come: everything for it is dropped."""
    ever: bool = False
    """A consumer has said Hello since the producer began."""
    number: int = 0
    sent: int = 0
    done: int = 0
    peak_pending: int = 0
    pending: deque[_Parcel] = field(default_factory=deque)
    flying: dict[int, _Parcel] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def waits(self, parcel: _Parcel) -> bool:
        """True if this item of a dead consumer is for its successor."""
        return self.policy.redeliver or isinstance(parcel.body, EndOfStream)


OnDrop = Callable[[str, Body, str], None]
OnHello = Callable[[Hello], None]


class Outbox:
    """All edges out of one producer, on one socket.

    Args:
        context: of this process.
        endpoint: to bind: "ipc://@name" (no file is left behind) or "tcp://127.0.0.1:*".
        edges: policy by consumer name.
        on_drop: called with (consumer, body, cause) for everything that will never arrive.
        on_hello: called when a consumer came or came back, before anything is sent to it.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        edges: Mapping[str, EdgePolicy],
        *,
        on_drop: OnDrop | None = None,
        on_hello: OnHello | None = None,
    ) -> None:
        self.socket = make_socket(context, zmq.ROUTER)
        self.socket.bind(endpoint)
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._edges = {name: _Edge(policy) for name, policy in edges.items()}
        self._on_drop = on_drop or (lambda _consumer, _body, _cause: None)
        self._on_hello = on_hello or (lambda _hello: None)
        self.malformed = 0

    def send(
        self,
        consumer: str,
        body: Body,
        *,
        lease: Lease | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Hand an item to one consumer, under its policy; never blocks.

        Args:
            consumer: a name given at construction.
            body: the message; for a Frame also its lease, which is held until Done.
            lease: of the frame's slot.
            then: called once the item has left under a credit, or was dropped.

        Raises:
            QueueClosed: after close.
        """
        edge = self._open_edge(consumer)
        edge.number += 1
        parcel = _Parcel(edge.number, body, lease, then)
        if edge.gone:
            self._drop(consumer, edge, parcel, "failed", held=False)
            return
        if lease is not None:
            lease.hold()
        edge.pending.append(parcel)
        self._flush(consumer, edge)
        self._trim(consumer, edge)
        edge.peak_pending = max(edge.peak_pending, len(edge.pending))

    def tell(self, consumer: str, body: Body) -> None:
        """Send a word that takes no credit and needs no answer; lost if the consumer is away.

        Raises:
            QueueClosed: after close.
        """
        edge = self._open_edge(consumer)
        if edge.identity:
            self._transmit(consumer, edge, [encode(Item(0, body))])

    def receive(self) -> None:
        """Take in all that consumers have said; call when the socket is readable."""
        while True:
            try:
                identity, data = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            except ValueError:
                self.malformed += 1
                continue
            try:
                message = decode_edge(data)
            except MessageError:
                self.malformed += 1
                continue
            if isinstance(message, Hello):
                self._hello(identity, message)
            elif isinstance(message, Done):
                self._done(identity, message)
            else:
                self.malformed += 1

    def lost(self, consumer: str, *, final: bool = False) -> None:
        """The supervisor says that this consumer died: take back what it held.

        With policy `redeliver` its items wait for the successor, unless `final`; the end of a
        stream waits in any case.
        """
        edge = self._edges.get(consumer)
        if edge is None:
            return
        edge.identity = b""
        edge.credits = 0
        edge.gone = edge.gone or final
        returned = list(edge.flying.values())
        edge.flying.clear()
        if final:
            returned += edge.pending
            edge.pending.clear()
        keep = [parcel for parcel in returned if not final and edge.waits(parcel)]
        edge.pending.extendleft(reversed(keep))
        for parcel in returned:
            if parcel not in keep:
                self._drop(consumer, edge, parcel, "failed" if final else "died")
        self._trim(consumer, edge)

    def pending(self, consumer: str) -> int:
        """Items that wait for a credit."""
        return len(self._edges[consumer].pending)

    @property
    def unfinished(self) -> int:
        """Items that no consumer has given back yet."""
        return sum(len(edge.pending) + len(edge.flying) for edge in self._edges.values())

    @property
    def consumers(self) -> list[str]:
        """Names of all consumers."""
        return list(self._edges)

    def met(self, consumer: str) -> bool:
        """True once this consumer has said Hello or is known never to come."""
        edge = self._edges[consumer]
        return edge.ever or edge.gone

    def statistics(self) -> dict[str, Statistics]:
        """Counts by consumer."""
        return {
            name: Statistics(
                edge.sent, edge.done, len(edge.flying), len(edge.pending), edge.peak_pending,
                dict(edge.dropped),
            )
            for name, edge in self._edges.items()
        }  # fmt: skip

    def close(self) -> None:
        """Close the socket and release every lease; safe to call twice."""
        for edge in self._edges.values():
            for parcel in [*edge.pending, *edge.flying.values()]:
                parcel.release()
            edge.pending.clear()
            edge.flying.clear()
        self.socket.close()

    def _open_edge(self, consumer: str) -> _Edge:
        if self.socket.closed:
            raise QueueClosed(f"send to {consumer}: this outbox was closed")
        return self._edges[consumer]

    def _hello(self, identity: bytes, hello: Hello) -> None:
        name, turn = _who(identity)
        edge = self._edges.get(hello.consumer)
        if edge is None or edge.gone or name != hello.consumer or turn <= edge.turn:
            self.malformed += 1  # a stranger, one that was given up, or an older connection
            return
        self.lost(hello.consumer)  # what an older connection held, if the supervisor was slower
        edge.ever = True
        self._on_hello(hello)
        seen = [
            parcel
            for parcel in edge.pending
            if isinstance(parcel.body, Frame) and parcel.body.info.seq < hello.next_seq
        ]
        for parcel in seen:
            edge.pending.remove(parcel)
            parcel.sent()
            parcel.release()
        edge.identity, edge.turn = identity, turn
        edge.credits, edge.inline = hello.credits, hello.inline
        self._flush(hello.consumer, edge)

    def _done(self, identity: bytes, done: Done) -> None:
        consumer = _who(identity)[0]
        edge = self._edges.get(consumer)
        if edge is None or edge.identity != identity:
            return  # an older incarnation
        parcel = edge.flying.pop(done.number, None)
        if parcel is None:
            self.malformed += 1
            return
        parcel.release()
        edge.done += 1
        edge.credits += 1
        self._flush(consumer, edge)

    def _flush(self, consumer: str, edge: _Edge) -> None:
        while edge.credits > 0 and edge.pending and edge.identity:
            parcel = edge.pending[0]
            if not self._transmit(consumer, edge, _parts(parcel, inline=edge.inline)):
                return
            edge.pending.popleft()
            edge.credits -= 1
            edge.sent += 1
            edge.flying[parcel.number] = parcel
            parcel.sent()

    def _transmit(self, consumer: str, edge: _Edge, parts: list[bytes | memoryview]) -> bool:
        try:
            self.socket.send(edge.identity, zmq.NOBLOCK | zmq.SNDMORE)
            for part in parts[:-1]:
                self.socket.send(part, zmq.NOBLOCK | zmq.SNDMORE)
            self.socket.send(parts[-1], zmq.NOBLOCK)
        except zmq.Again:
            return False  # it hangs behind more words than fit; the supervisor sees that, too
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise PeerLost(f"send to {consumer}: {error}") from error
            edge.identity = b""  # it died; the supervisor or a new Hello says what next
            return False
        return True

    def _trim(self, consumer: str, edge: _Edge) -> None:
        """drop_oldest: let the newest `size` items wait; the end of a stream is never dropped."""
        excess = len(edge.pending) - edge.policy.size
        if edge.policy.policy == "block" or excess <= 0:
            return
        frames = (parcel for parcel in edge.pending if not isinstance(parcel.body, EndOfStream))
        for parcel in list(islice(frames, excess)):
            edge.pending.remove(parcel)
            self._drop(consumer, edge, parcel, "busy" if edge.identity else "down")

    def _drop(
        self, consumer: str, edge: _Edge, parcel: _Parcel, why: str, *, held: bool = True
    ) -> None:
        cause = f"{consumer.partition('.')[0]}_{why}"
        edge.dropped[cause] += 1
        parcel.sent()
        if held:
            parcel.release()
        self._on_drop(consumer, parcel.body, cause)


def _who(identity: bytes) -> tuple[str, tuple[int, int]]:
    """Name, incarnation and connection, as an Inbox gives them; no name for a stranger."""
    name, _, turn = identity.decode(errors="replace").rpartition("#")
    incarnation, _, connection = turn.partition(".")
    if not (incarnation.isdecimal() and connection.isdecimal()):
        return "", (0, 0)
    return name, (int(incarnation), int(connection))


def _parts(parcel: _Parcel, *, inline: bool) -> list[bytes | memoryview]:
    """An item on the wire, followed by its pixels where the consumer can't reach our memory."""
    body = parcel.body
    if not inline or not isinstance(body, Frame):
        return [encode(Item(parcel.number, body))]
    assert parcel.lease is not None
    body = msgspec.structs.replace(body, pool_fd=-1)
    return [encode(Item(parcel.number, body)), parcel.lease.pixels]


class Received(NamedTuple):
    """One item as its consumer sees it."""

    producer: str
    number: int
    """For Inbox.done; 0 if nothing need be given back."""
    body: Body
    inline: memoryview | None
    """The pixels, where they travelled with the message."""


class Inbox:
    """All edges into one consumer, one socket a producer.

    Args:
        context: of this process.
        name: of this stage.
        incarnation: of this process; peers tell us from our predecessor by it.
        credits: items at once, by producer name.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        name: str,
        incarnation: int,
        credits: Mapping[str, int],  # noqa: A002 - the field's word; the builtin is for the prompt
    ) -> None:
        self._context = context
        self._name = name
        self._incarnation = incarnation
        self._credits = dict(credits)
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        self.next_seq: dict[str, int] = {}
        """First frame not seen yet, by producer; the stage keeps it, Hello carries it."""
        self.malformed = 0
        self._connections = 0
        self._connection: dict[str, int] = {}
        """By producer: which of our connections leads to it."""
        self._remote: set[str] = set()

    def connect(self, producer: str, endpoint: str) -> zmq.Socket[bytes]:
        """Meet a producer, or its successor; the connection to its predecessor is closed."""
        self.disconnect(producer)
        self._connections += 1
        self._connection[producer] = self._connections
        socket = make_socket(self._context, zmq.DEALER)
        socket.set(zmq.IDENTITY, f"{self._name}#{self._incarnation}.{self._connections}".encode())
        socket.set(zmq.RECONNECT_IVL, 50)
        socket.connect(endpoint)
        remote = endpoint.startswith("tcp://")
        (self._remote.add if remote else self._remote.discard)(producer)
        hello = Hello(
            self._name,
            self._incarnation,
            self._credits[producer],
            self.next_seq.get(producer, -1),
            inline=remote,
        )
        socket.send(encode(hello))
        self.sockets[producer] = socket
        return socket

    def disconnect(self, producer: str) -> None:
        """Forget a producer; what it had sent and was not received is gone."""
        socket = self.sockets.pop(producer, None)
        if socket is not None:
            socket.close()

    def receive(self, producer: str) -> Received | None:
        """Take the next item of one producer, or None if there is none now."""
        socket = self.sockets.get(producer)
        while socket is not None:
            inline = None
            try:
                data = socket.recv(zmq.NOBLOCK)
                if producer in self._remote and socket.get(zmq.RCVMORE):
                    inline = socket.recv(zmq.NOBLOCK, copy=False).buffer
            except zmq.Again:
                return None
            try:
                item = decode_edge(data)
            except MessageError:
                self.malformed += 1
                continue
            if isinstance(item, Item):
                number = item.number and self._connection[producer] * _NUMBERS + item.number
                return Received(producer, number, item.body, inline)
            self.malformed += 1
        return None

    def done(self, producer: str, number: int) -> None:
        """Give an item back: its slot may be overwritten from now on.

        Nothing is said to a producer's successor about what it did not send.
        """
        socket = self.sockets.get(producer)
        connection, number = divmod(number, _NUMBERS)
        if socket is not None and number and connection == self._connection[producer]:
            socket.send(encode(Done(number)), zmq.NOBLOCK)

    def close(self) -> None:
        """Close all connections, after what was given back has left; safe to call twice."""
        for socket in self.sockets.values():
            socket.set(zmq.LINGER, LAST_WORDS_MS)
        for producer in list(self.sockets):
            self.disconnect(producer)
