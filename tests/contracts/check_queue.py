"""What every queue between stages must do, whatever transport is behind its endpoint."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import pytest
import zmq
from samples import info_of, word_of

import streamer.queues
from streamer.errors import QueueClosed
from streamer.frames import FramePool, Lease, PoolReader
from streamer.memory import allocate, slot_bytes
from streamer.messages import (
    MAX_MESSAGE_BYTES,
    Body,
    Done,
    EndOfStream,
    Frame,
    Hello,
    Item,
    Skipped,
    encode,
)
from streamer.queues import EdgePolicy, Inbox, Outbox, Received, make_socket

WIDTH, HEIGHT = 34, 18
DEADLINE_S = 40.0
BLOCK = EdgePolicy(policy="block")
NEWEST = EdgePolicy(policy="drop_oldest", size=2)
VOLATILE = EdgePolicy(policy="block", redeliver=False)
_FENCE = Skipped("", 0, "fence")


class Wire:
    """Producers and consumers of one test, with every socket on record."""

    def __init__(self, endpoint: str, sockets: list[zmq.Socket[bytes]]) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets = sockets
        self._endpoint = endpoint
        self._queues: list[Outbox | Inbox] = []
        self.drops: list[tuple[str, int, str]] = []
        """Consumer, frame number and cause of everything that on_drop was told; -1 for the end."""
        self.hellos: list[Hello] = []

    @property
    def remote(self) -> bool:
        return self._endpoint.startswith("tcp://")

    def outbox(self, **edges: EdgePolicy) -> Outbox:
        outbox = Outbox(
            self.context,
            self._endpoint.replace("NAME", uuid.uuid4().hex),
            edges,
            on_drop=self._on_drop,
            on_hello=self.hellos.append,
        )
        self._queues.append(outbox)
        return outbox

    def inbox(
        self, outbox: Outbox, name: str, *, grants: int = 2, incarnation: int = 0, seen: int = -1
    ) -> Inbox:
        """A consumer whose Hello has arrived; `seen` is the first frame that it has not seen."""
        inbox = Inbox(self.context, name, incarnation, {"decode": grants})
        self._queues.append(inbox)
        inbox.next_seq["decode"] = seen
        heard = len(self.hellos)
        inbox.connect("decode", outbox.endpoint)
        hear(outbox, lambda: len(self.hellos) > heard)
        return inbox

    def stranger(self, outbox: Outbox, identity: str) -> zmq.Socket[bytes]:
        """A bare socket that can say anything."""
        socket = make_socket(self.context, zmq.DEALER)
        self.sockets.append(socket)
        socket.set(zmq.IDENTITY, identity.encode())
        socket.connect(outbox.endpoint)
        return socket

    def close(self) -> None:
        for queue in self._queues:
            queue.close()

    def _on_drop(self, consumer: str, body: Body, cause: str) -> None:
        self.drops.append((consumer, seq_of(body), cause))


class Pool:
    """A real pool of slots, each painted with the number of its frame."""

    def __init__(self, slots: int) -> None:
        self.fd = allocate("pool:test", slots * slot_bytes(WIDTH, HEIGHT))
        self.frames = FramePool(
            os.getpid(), self.fd, epoch=1, slots=slots, width=WIDTH, height=HEIGHT
        )

    def frame(self, seq: int) -> tuple[Frame, Lease]:
        """A frame in a slot; its caller holds the lease."""
        lease = self.frames.acquire()
        assert lease is not None
        lease.planes.fill(seq % 256, 255 - seq % 256, seq % 7)
        return lease.publish(info_of(seq, width=WIDTH, height=HEIGHT)), lease

    def send(self, outbox: Outbox, consumer: str, seq: int) -> Lease:
        """Send a frame, and leave its lease to the queue."""
        frame, lease = self.frame(seq)
        outbox.send(consumer, frame, lease=lease)
        lease.release()
        return lease


def seq_of(body: Body) -> int:
    """Number of a frame; -1 for the end of the stream."""
    if isinstance(body, EndOfStream):
        return -1
    return body.seq if isinstance(body, Skipped) else body.info.seq


def hear(outbox: Outbox, until: Callable[[], bool]) -> None:
    """Let a producer listen until something holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not until():
        left_s = deadline - time.monotonic()
        assert left_s > 0, "the producer did not hear what it should"
        outbox.socket.poll(int(left_s * 1000))
        outbox.receive()


def hear_all(outbox: Outbox, inbox: Inbox) -> None:
    """Let a producer hear everything that a consumer has said so far; all of it is well formed."""
    before = outbox.malformed
    inbox.sockets["decode"].send(b"fence")
    hear(outbox, lambda: outbox.malformed > before)
    outbox.malformed = before


def take(inbox: Inbox) -> Received:
    """The next item, which must come."""
    deadline = time.monotonic() + DEADLINE_S
    while (item := inbox.receive("decode")) is None:
        left_s = deadline - time.monotonic()
        assert left_s > 0, "the consumer did not get what it should"
        inbox.sockets["decode"].poll(int(left_s * 1000))
    return item


def take_all(outbox: Outbox, name: str, inbox: Inbox) -> list[Received]:
    """Everything that is on its way to a consumer now."""
    outbox.tell(name, _FENCE)
    items = []
    while (item := take(inbox)).body != _FENCE:
        items.append(item)
    return items


def seqs(items: list[Received]) -> list[int]:
    """Frame numbers of items."""
    return [seq_of(item.body) for item in items]


def give_back(outbox: Outbox, inbox: Inbox, *items: Received) -> None:
    """Say Done for items, and have it heard."""
    for item in items:
        inbox.done("decode", item.number)
    hear_all(outbox, inbox)


class QueueContract:
    """The contract; a subclass gives `endpoint`, where NAME stands for something unique."""

    endpoint: str

    @pytest.fixture
    def wire(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
        """Contexts and sockets that must all be closed when the queues are."""
        sockets: list[zmq.Socket[bytes]] = []

        def record(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
            sockets.append(make_socket(context, kind))
            return sockets[-1]

        monkeypatch.setattr(streamer.queues, "make_socket", record)
        wire = Wire(self.endpoint, sockets)
        yield wire
        for socket in sockets:
            if not socket.closed and socket.get(zmq.IDENTITY).startswith(b"stranger"):
                socket.close()
        wire.close()
        assert all(socket.closed for socket in sockets)
        wire.context.term()

    @pytest.fixture
    def pool(self) -> Iterator[Pool]:
        """A pool of six slots, all of which must be free at the end."""
        pool = Pool(6)
        yield pool
        assert sorted(pool.frames.free) == list(range(6))
        os.close(pool.fd)

    # Order, credits, policies.

    def test_items_come_in_order_and_never_more_than_the_credits(self, wire: Wire) -> None:
        outbox = wire.outbox(encode=BLOCK)
        inbox = wire.inbox(outbox, "encode", grants=3)
        for seq in range(20):
            outbox.send("encode", word_of(seq))
        assert outbox.pending("encode") == 17
        got: list[int] = []
        while len(got) < 20:
            flying = take_all(outbox, "encode", inbox)
            assert len(flying) == min(3, 20 - len(got))
            got += seqs(flying)
            give_back(outbox, inbox, *flying)
        assert got == list(range(20))
        assert outbox.unfinished == 0
        assert wire.drops == []

    def test_block_waits_for_a_consumer_that_is_not_there_yet(self, wire: Wire) -> None:
        outbox = wire.outbox(encode=BLOCK)
        for seq in range(100):
            outbox.send("encode", word_of(seq))
        assert not outbox.met("encode")
        inbox = wire.inbox(outbox, "encode", grants=100)
        assert outbox.met("encode")
        assert seqs(take_all(outbox, "encode", inbox)) == list(range(100))
        assert wire.drops == []

    def test_drop_oldest_keeps_the_newest_for_a_busy_consumer(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(infer=NEWEST)
        inbox = wire.inbox(outbox, "infer", grants=1)
        for seq in range(8):
            pool.send(outbox, "infer", seq)
            assert pool.frames.used <= 3  # one in flight, two that wait
        assert wire.drops == [("infer", seq, "infer_busy") for seq in range(1, 6)]
        assert outbox.statistics()["infer"].dropped == {"infer_busy": 5}
        first = take(inbox)
        give_back(outbox, inbox, first)
        second = take(inbox)
        give_back(outbox, inbox, second)
        third = take(inbox)
        give_back(outbox, inbox, third)
        assert seqs([first, second, third]) == [0, 6, 7]

    def test_drop_oldest_says_when_the_consumer_is_away(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(**{"encode.gate": NEWEST})
        for seq in range(3):
            pool.send(outbox, "encode.gate", seq)
        inbox = wire.inbox(outbox, "encode.gate", grants=2)
        assert seqs(take_all(outbox, "encode.gate", inbox)) == [1, 2]
        inbox.close()
        outbox.lost("encode.gate")
        pool.send(outbox, "encode.gate", 3)
        assert wire.drops == [("encode.gate", 0, "encode_down"), ("encode.gate", 1, "encode_down")]
        outbox.lost("encode.gate", final=True)

    def test_what_a_dead_consumer_held_counts_against_the_size(self, wire: Wire) -> None:
        outbox = wire.outbox(track=NEWEST)
        wire.inbox(outbox, "track", grants=3).close()
        for seq in range(5):
            outbox.send("track", word_of(seq))
        outbox.lost("track")
        assert outbox.pending("track") == 2
        successor = wire.inbox(outbox, "track", grants=9, incarnation=1)
        assert seqs(take_all(outbox, "track", successor)) == [3, 4]
        assert wire.drops == [("track", seq, "track_down") for seq in range(3)]

    @pytest.mark.parametrize("policy", [BLOCK, NEWEST, VOLATILE])
    def test_the_end_of_a_stream_is_never_dropped(self, wire: Wire, policy: EdgePolicy) -> None:
        outbox = wire.outbox(encode=policy)
        outbox.send("encode", EndOfStream("gate"))
        for seq in range(5):
            outbox.send("encode", word_of(seq))
        first = wire.inbox(outbox, "encode", grants=1)
        assert take(first).body == EndOfStream("gate")
        first.close()
        outbox.lost("encode")
        second = wire.inbox(outbox, "encode", grants=9, incarnation=1)
        assert take(second).body == EndOfStream("gate")
        assert all(seq != -1 for _, seq, _ in wire.drops)
        outbox.lost("encode", final=True)
        assert ("encode", -1, "encode_failed") in wire.drops

    def test_tell_takes_no_credit_and_keeps_its_place(self, wire: Wire) -> None:
        outbox = wire.outbox(encode=BLOCK)
        outbox.tell("encode", _FENCE)  # lost: nobody is there
        inbox = wire.inbox(outbox, "encode", grants=1)
        outbox.send("encode", word_of(0))
        outbox.send("encode", word_of(1))
        for seq in range(5):
            outbox.tell("encode", Skipped("gate", seq, "busy"))
        frame, *words = take_all(outbox, "encode", inbox)
        assert seq_of(frame.body) == 0
        assert [word.body for word in words] == [Skipped("gate", n, "busy") for n in range(5)]
        give_back(outbox, inbox, *words)  # nothing to give back
        assert outbox.statistics()["encode"][:4] == (1, 0, 1, 1)

    def test_words_to_a_consumer_that_hangs_do_not_cut_it_off(self, wire: Wire) -> None:
        outbox = wire.outbox(encode=BLOCK)
        inbox = wire.inbox(outbox, "encode", grants=1)
        outbox.send("encode", word_of(0))
        for _ in range(20_000):
            outbox.tell("encode", Skipped("gate", 0, "busy"))
        give_back(outbox, inbox, take(inbox))
        assert outbox.statistics()["encode"].done == 1
        while take(inbox).body != _FENCE:
            outbox.tell("encode", _FENCE)
        outbox.send("encode", word_of(1))
        item = take(inbox)
        while item.body == _FENCE:
            item = take(inbox)
        give_back(outbox, inbox, item)
        assert outbox.statistics()["encode"].done == 2

    # Slots.

    def test_done_gives_back_credit_and_slot(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(encode=BLOCK)
        inbox = wire.inbox(outbox, "encode", grants=2)
        for seq in range(4):
            pool.send(outbox, "encode", seq)
        assert pool.frames.used == 4
        one, two = take_all(outbox, "encode", inbox)
        give_back(outbox, inbox, two)  # the order is the consumer's
        assert (pool.frames.used, outbox.pending("encode")) == (3, 1)
        give_back(outbox, inbox, one, take(inbox))
        give_back(outbox, inbox, take(inbox))
        assert pool.frames.used == 0

    def test_done_said_twice_counts_once(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(encode=BLOCK)
        inbox = wire.inbox(outbox, "encode", grants=1)
        pool.send(outbox, "encode", 0)
        item = take(inbox)
        inbox.done("decode", item.number)
        inbox.done("decode", item.number)
        hear(outbox, lambda: outbox.malformed == 1)
        pool.send(outbox, "encode", 1)
        pool.send(outbox, "encode", 2)
        assert outbox.statistics()["encode"].in_flight == 1
        outbox.lost("encode", final=True)

    def test_pixels_reach_the_consumer(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(encode=BLOCK)
        inbox = wire.inbox(outbox, "encode")
        frame, lease = pool.frame(77)
        sent = lease.planes.y.copy(), lease.planes.u.copy(), lease.planes.v.copy()
        outbox.send("encode", frame, lease=lease)
        lease.release()
        item = take(inbox)
        assert isinstance(item.body, Frame)
        assert (item.inline is not None) == wire.remote
        assert item.body.pool_fd == (-1 if wire.remote else pool.fd)
        got = PoolReader(os.getpid()).planes(item.body, item.inline)
        for ours, theirs in zip(sent, (got.y, got.u, got.v), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        give_back(outbox, inbox, item)

    def test_a_hung_consumer_holds_no_more_than_its_credits(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(infer=EdgePolicy(policy="drop_oldest", size=1), encode=BLOCK)
        wire.inbox(outbox, "infer", grants=2)  # never gives anything back
        encode = wire.inbox(outbox, "encode", grants=2)
        for seq in range(30):
            frame, lease = pool.frame(seq)
            outbox.send("infer", frame, lease=lease)
            outbox.send("encode", frame, lease=lease)
            lease.release()
            item = take(encode)
            assert seq_of(item.body) == seq
            give_back(outbox, encode, item)
            assert pool.frames.used <= 3
        assert outbox.statistics()["infer"].in_flight == 2
        outbox.lost("infer", final=True)

    # Then.

    def test_then_is_called_once_when_the_item_leaves(self, wire: Wire) -> None:
        outbox = wire.outbox(encode=BLOCK)
        left: list[int] = []
        for seq in range(2):
            outbox.send("encode", word_of(seq), then=lambda seq=seq: left.append(seq))
        assert left == []
        first = wire.inbox(outbox, "encode", grants=1)
        assert left == [0]
        give_back(outbox, first, take(first))
        assert left == [0, 1]
        outbox.lost("encode")
        second = wire.inbox(outbox, "encode", grants=1, incarnation=1)
        assert seq_of(take(second).body) == 1
        outbox.lost("encode", final=True)
        assert left == [0, 1]

    def test_then_is_called_once_for_what_never_leaves(self, wire: Wire) -> None:
        outbox = wire.outbox(infer=NEWEST)
        left: list[int] = []
        for seq in range(4):
            outbox.send("infer", word_of(seq), then=lambda seq=seq: left.append(seq))
        assert left == [0, 1]
        outbox.lost("infer", final=True)
        assert left == [0, 1, 2, 3]
        outbox.send("infer", word_of(4), then=lambda: left.append(4))
        assert left == [0, 1, 2, 3, 4]

    # Deaths.

    def test_a_successor_gets_what_was_held_first_and_in_order(
        self, wire: Wire, pool: Pool
    ) -> None:
        outbox = wire.outbox(encode=BLOCK)
        first = wire.inbox(outbox, "encode", grants=3)
        for seq in range(5):
            pool.send(outbox, "encode", seq)
        held = take_all(outbox, "encode", first)
        give_back(outbox, first, held[1])  # frame 1 is finished, 0 and 2 are not
        first.close()
        outbox.lost("encode")
        assert pool.frames.used == 4
        pool.send(outbox, "encode", 5)
        second = wire.inbox(outbox, "encode", grants=9, incarnation=1)
        items = take_all(outbox, "encode", second)
        assert seqs(items) == [0, 2, 3, 4, 5]
        give_back(outbox, second, *items)
        assert wire.drops == []

    def test_without_redelivery_what_was_held_is_dropped(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(encode=VOLATILE)
        first = wire.inbox(outbox, "encode", grants=2)
        for seq in range(3):
            pool.send(outbox, "encode", seq)
        first.close()
        outbox.lost("encode")
        assert wire.drops == [("encode", 0, "encode_died"), ("encode", 1, "encode_died")]
        assert pool.frames.used == 1
        second = wire.inbox(outbox, "encode", incarnation=1)
        items = take_all(outbox, "encode", second)
        assert seqs(items) == [2]
        give_back(outbox, second, *items)

    def test_a_new_hello_is_enough_to_take_back_what_was_held(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(encode=BLOCK)
        wire.inbox(outbox, "encode", grants=2)
        pool.send(outbox, "encode", 0)
        second = wire.inbox(outbox, "encode", grants=2, incarnation=1)
        item = take(second)
        assert seq_of(item.body) == 0
        give_back(outbox, second, item)

    def test_final_drops_everything_now_and_later(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(encode=BLOCK)
        inbox = wire.inbox(outbox, "encode", grants=1)
        for seq in range(3):
            pool.send(outbox, "encode", seq)
        inbox.close()
        outbox.lost("encode", final=True)
        assert pool.frames.used == 0
        pool.send(outbox, "encode", 3)
        outbox.send("encode", EndOfStream("gate"))
        assert wire.drops == [("encode", seq, "encode_failed") for seq in (0, 1, 2, 3, -1)]
        assert outbox.unfinished == 0
        late = Inbox(wire.context, "encode", 7, {"decode": 1})
        late.connect("decode", outbox.endpoint)
        hear(outbox, lambda: outbox.malformed == 1)  # it was given up; nothing is sent to it
        late.close()

    def test_a_consumer_that_never_came_can_be_final(self, wire: Wire) -> None:
        outbox = wire.outbox(encode=BLOCK)
        outbox.lost("encode", final=True)
        outbox.lost("nobody", final=True)  # not ours: the supervisor tells all neighbours
        assert outbox.met("encode")

    def test_an_older_incarnation_is_not_heard(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(encode=BLOCK)
        old = wire.inbox(outbox, "encode", grants=2)
        pool.send(outbox, "encode", 0)
        old_item = take(old)
        new = wire.inbox(outbox, "encode", grants=2, incarnation=1)
        new_item = take(new)
        give_back(outbox, old, old_item)
        assert pool.frames.used == 1
        old.sockets["decode"].send(encode(Hello("encode", 0, 9)))
        hear(outbox, lambda: outbox.malformed == 1)
        assert len(wire.hellos) == 2
        give_back(outbox, new, new_item)
        assert outbox.statistics()["encode"].done == 1

    def test_a_later_connection_of_one_process_replaces_the_earlier(
        self, wire: Wire, pool: Pool
    ) -> None:
        outbox = wire.outbox(encode=BLOCK)
        inbox = wire.inbox(outbox, "encode", grants=2)
        pool.send(outbox, "encode", 0)
        earlier = take(inbox)
        inbox.connect("decode", outbox.endpoint)
        hear(outbox, lambda: len(wire.hellos) == 2)
        later = take(inbox)
        assert later.body == earlier.body
        give_back(outbox, inbox, earlier)
        assert pool.frames.used == 1
        give_back(outbox, inbox, later)

    def test_nothing_is_given_back_to_a_producer_that_did_not_send_it(
        self, wire: Wire, pool: Pool
    ) -> None:
        dead, successor = wire.outbox(encode=BLOCK), wire.outbox(encode=BLOCK)
        inbox = wire.inbox(dead, "encode", grants=1)
        dead.send("encode", word_of(0))
        held = take(inbox)
        dead.close()
        inbox.connect("decode", successor.endpoint)
        hear(successor, lambda: len(wire.hellos) == 2)
        pool.send(successor, "encode", 0)
        again = take(inbox)
        give_back(successor, inbox, held)
        assert pool.frames.used == 1
        give_back(successor, inbox, again)
        inbox.disconnect("decode")
        inbox.done("decode", again.number)  # nobody is there to be told

    def test_hello_skips_what_was_seen(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(encode=BLOCK)
        left: list[int] = []
        for seq in range(5):
            frame, lease = pool.frame(seq)
            outbox.send("encode", frame, lease=lease, then=lambda seq=seq: left.append(seq))
            lease.release()
        outbox.send("encode", EndOfStream("gate"))
        inbox = wire.inbox(outbox, "encode", grants=9, seen=3)
        assert left == [0, 1, 2, 3, 4]
        assert pool.frames.used == 2
        items = take_all(outbox, "encode", inbox)
        assert seqs(items) == [3, 4, -1]
        assert wire.hellos[-1].next_seq == 3
        give_back(outbox, inbox, *items)

    # Strangers.

    def test_bad_bytes_are_counted_and_harmless(self, wire: Wire) -> None:
        outbox = wire.outbox(encode=BLOCK)
        inbox = wire.inbox(outbox, "encode")
        bad = [
            b"",
            b"\xc1",
            b"\x00" * 100,
            b"\xff" * (MAX_MESSAGE_BYTES + 1),
            encode(Item(1, EndOfStream("gate"))),
            encode(Hello("encode", 5, 0)),
            encode(Hello("encode", 5, -1)),
            encode(Done(999)),
        ]
        for data in bad:
            inbox.sockets["decode"].send(data)
        inbox.sockets["decode"].send_multipart([b"two", b"parts"])
        hear(outbox, lambda: outbox.malformed == len(bad) + 1)
        outbox.send("encode", word_of(0))
        give_back(outbox, inbox, take(inbox))

    def test_a_consumer_survives_bad_bytes(self, wire: Wire) -> None:
        outbox = wire.outbox(encode=BLOCK)
        inbox = wire.inbox(outbox, "encode")
        identity = inbox.sockets["decode"].get(zmq.IDENTITY)
        for data in (b"", b"\xc1", b"\xff" * (MAX_MESSAGE_BYTES + 1), encode(Done(1))):
            outbox.socket.send_multipart([identity, data])
        outbox.send("encode", word_of(0))
        assert seq_of(take(inbox).body) == 0
        assert inbox.malformed == 4
        assert inbox.receive("nobody") is None

    @pytest.mark.parametrize("identity", ["stranger", "stranger#x.y", "stranger#0.1"])
    def test_strangers_get_nothing(self, wire: Wire, identity: str) -> None:
        outbox = wire.outbox(encode=BLOCK)
        stranger = wire.stranger(outbox, identity)
        stranger.send(encode(Hello("encode", 0, 5)))  # in another's name
        stranger.send(encode(Hello("stranger", 0, 5)))
        stranger.send(encode(Done(1)))
        stranger.send(b"fence")
        hear(outbox, lambda: outbox.malformed == 3)
        assert wire.hellos == []
        assert not outbox.met("encode")
        with pytest.raises(KeyError, match="stranger"):
            outbox.send("stranger", word_of(0))

    # Figures and the end.

    def test_statistics_add_up(self, wire: Wire) -> None:
        outbox = wire.outbox(infer=NEWEST, encode=BLOCK)
        assert outbox.consumers == ["infer", "encode"]
        inbox = wire.inbox(outbox, "infer", grants=2)
        for seq in range(6):
            outbox.send("infer", word_of(seq))
        give_back(outbox, inbox, take(inbox))
        infer = outbox.statistics()["infer"]
        assert (infer.sent, infer.done, infer.in_flight, infer.pending) == (3, 1, 2, 1)
        assert infer.peak_pending == 2
        assert infer.dropped == {"infer_busy": 2}
        assert infer.sent + infer.pending + sum(infer.dropped.values()) == 6
        assert outbox.statistics()["encode"] == (0, 0, 0, 0, 0, {})
        assert outbox.unfinished == 3

    def test_close_releases_and_can_be_repeated(self, wire: Wire, pool: Pool) -> None:
        outbox = wire.outbox(encode=BLOCK)
        inbox = wire.inbox(outbox, "encode", grants=1)
        for seq in range(3):
            pool.send(outbox, "encode", seq)
        for _ in range(2):
            outbox.close()
            inbox.close()
        assert pool.frames.used == 0
        with pytest.raises(QueueClosed, match="send to encode: this outbox was closed"):
            outbox.send("encode", word_of(3))
        with pytest.raises(QueueClosed, match="send to encode: this outbox was closed"):
            outbox.tell("encode", _FENCE)
        assert inbox.receive("decode") is None

    # Anything at all.

    @pytest.mark.parametrize("seed", range(4))
    def test_every_slot_is_free_or_held_by_those_who_have_it(self, wire: Wire, seed: int) -> None:
        Schedule(wire, seed).run()


class Schedule:
    """Random sends, returns, deaths and births of two consumers, with the invariants in between."""

    CREDITS: ClassVar = {"infer": 2, "encode": 3}
    SLOTS = 7

    def __init__(self, wire: Wire, seed: int) -> None:
        self._random = random.Random(seed)
        self._wire = wire
        self._pool = Pool(self.SLOTS)
        self._reader = PoolReader(os.getpid())
        self._outbox = wire.outbox(
            infer=EdgePolicy(policy="drop_oldest", size=1, redeliver=seed % 2 == 0),
            encode=EdgePolicy(policy="block", redeliver=seed % 3 == 0),
        )
        self._inboxes: dict[str, Inbox] = {}
        self._held: dict[str, list[Received]] = {"infer": [], "encode": []}
        self._next_incarnation = 0
        self._leases: list[Lease] = []
        self._seq = 0
        self._sent: dict[str, int] = {"infer": 0, "encode": 0}

    def run(self) -> None:
        """200 random steps, then everyone finishes."""
        acts = [self._send] * 5 + [self._take] * 5 + [self._return] * 4 + [self._kill, self._join]
        for _ in range(200):
            self._random.choice(acts)(self._random.choice(["infer", "encode"]))
            self._outbox.receive()
            self._check()
        self._finish()

    def _send(self, _: str) -> None:
        if not self._pool.frames.free or self._outbox.pending("encode") > 1:
            return
        frame, lease = self._pool.frame(self._seq)
        self._leases.append(lease)
        for name in self.CREDITS:
            self._outbox.send(name, frame, lease=lease)
            self._sent[name] += 1
        lease.release()
        self._seq += 1

    def _take(self, name: str) -> None:
        inbox = self._inboxes.get(name)
        if inbox is not None:
            hear_all(self._outbox, inbox)
            if self._outbox.statistics()[name].in_flight > len(self._held[name]):
                item = take(inbox)
                self._verify(item)
                self._held[name].append(item)

    def _return(self, name: str) -> None:
        if self._held[name]:
            item = self._held[name].pop(self._random.randrange(len(self._held[name])))
            self._verify(item)  # nobody has written into it meanwhile
            self._inboxes[name].done("decode", item.number)

    def _kill(self, name: str) -> None:
        inbox = self._inboxes.pop(name, None)
        if inbox is not None:
            inbox.close()
            self._held[name].clear()
            if self._random.random() < 0.8:
                self._outbox.lost(name)

    def _join(self, name: str) -> None:
        if name not in self._inboxes:
            self._next_incarnation += 1
            self._inboxes[name] = self._wire.inbox(
                self._outbox, name, grants=self.CREDITS[name], incarnation=self._next_incarnation
            )

    def _verify(self, item: Received) -> None:
        assert isinstance(item.body, Frame)
        planes = self._reader.planes(item.body, item.inline)
        assert (planes.y == item.body.info.seq % 256).all()

    def _check(self) -> None:
        held = [lease for lease in self._leases if lease.holders]
        slots = [lease.slot for lease in held]
        assert sorted([*slots, *self._pool.frames.free]) == list(range(self.SLOTS))
        statistics = self._outbox.statistics()
        assert sum(lease.holders for lease in held) == self._outbox.unfinished
        for name, grants in self.CREDITS.items():
            edge = statistics[name]
            assert edge.in_flight <= grants
            assert len(self._held[name]) <= grants
        assert statistics["infer"].pending <= 1

    def _finish(self) -> None:
        for name in self.CREDITS:
            self._join(name)
        while self._outbox.unfinished:
            for name in self.CREDITS:
                self._take(name)
                self._return(name)
            self._check()
        assert self._pool.frames.used == 0
        for name, edge in self._outbox.statistics().items():
            assert edge.done + sum(edge.dropped.values()) == self._sent[name]
        os.close(self._pool.fd)
