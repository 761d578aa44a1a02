"""Measure one hop of a frame between two processes, ours against ways to do it with ZeroMQ.

Regime: one producer, one consumer, CREDITS frames in flight; planar YUV 4:2:0 at four sizes. The
consumer of every way ends with the picture's planes at hand and reads none of them.
Metric: microseconds of wall time a frame at saturation (the cost in throughput; median of rounds in
which the ways take turns) and of CPU time in both processes; one-way latency with one frame every
5 ms (p50, p95, p99), from before the frame is handed over, copying included, to its planes.
Ceiling: `zmq 60 bytes`, a bare ipc hop of a message as large as our descriptor that nobody answers.
Command: python -m benchmarks.bench_transport [--rounds 5] [--frames 2000] [--idle 300]

    slot            ours: the frame lies in its slot of shared memory, a descriptor crosses
    slot + memcpy   the same for a producer that has to copy its picture into the slot first
    inline tcp      ours to another host: the planes follow the descriptor (here over loopback)
    zmq copy        ZeroMQ ipc, the picture copied into the message
    zmq no copy     ZeroMQ ipc with copy=False on both sides
    zmq 60 bytes    the floor
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
import zmq

from benchmarks import report
from streamer.frames import FramePool, PoolReader
from streamer.memory import allocate, slot_bytes
from streamer.messages import Frame, FrameInfo
from streamer.planes import Planes
from streamer.queues import EdgePolicy, Inbox, Outbox

SIZES = {"480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
WAYS = ("slot", "slot + memcpy", "inline tcp", "zmq copy", "zmq no copy", "zmq 60 bytes")
CREDITS = 16
IDLE_S = 0.005
WARM_UP = 50
_STAMP = struct.Struct("<q")
_FLOOR_BYTES = 60

Context = zmq.Context[zmq.Socket[bytes]]


class Sender(Protocol):
    """The producer's end of one way."""

    def send(self) -> None:
        """Hand one frame over; waits while CREDITS frames are in flight."""

    def close(self) -> None:
        """Let go of sockets and memory."""


class Receiver(Protocol):
    """The consumer's end of one way."""

    def receive(self) -> int:
        """Wait for a frame and its planes; returns when it was handed over, monotonic ns."""

    def close(self) -> None:
        """Let go of sockets and memory."""


class QueueSender:
    """Our Outbox, with the frame in a slot."""

    def __init__(
        self, way: str, width: int, height: int, *, on_endpoint: Callable[[str], None]
    ) -> None:
        self._context: Context = zmq.Context()
        self._outbox = Outbox(
            self._context,
            "tcp://127.0.0.1:*" if way == "inline tcp" else f"ipc://@{secrets.token_hex(8)}",
            {"consumer": EdgePolicy(policy="block")},
        )
        self._fd = allocate("pool", CREDITS * slot_bytes(width, height))
        self._pool = FramePool(
            os.getpid(), self._fd, epoch=1, slots=CREDITS, width=width, height=height
        )
        self._picture = picture(width, height) if way == "slot + memcpy" else None
        self._poller = zmq.Poller()
        self._poller.register(self._outbox.socket, zmq.POLLIN)
        self._seq = 0
        on_endpoint(self._outbox.endpoint)
        while not self._outbox.met("consumer"):
            self._poller.poll()
            self._outbox.receive()

    def send(self) -> None:
        while (lease := self._pool.acquire()) is None:  # as many slots as credits
            self._poller.poll()
            self._outbox.receive()
        info = FrameInfo(
            camera="gate",
            seq=self._seq,
            epoch=1,
            width=self._pool.width,
            height=self._pool.height,
            pts=self._seq * 3600,
            time_base=(1, 90000),
            capture_ns=time.time_ns(),
            receive_ns=time.monotonic_ns(),
        )
        self._seq += 1
        if self._picture is not None:
            lease.planes.copy_from(self._picture)
        self._outbox.send("consumer", lease.publish(info), lease=lease)
        lease.release()

    def close(self) -> None:
        self._outbox.close()
        self._context.term()
        os.close(self._fd)


class QueueReceiver:
    """Our Inbox, with the planes viewed where they are."""

    def __init__(self, endpoint: str) -> None:
        self._context: Context = zmq.Context()
        self._inbox = Inbox(self._context, "consumer", 0, {"producer": CREDITS})
        self._poller = zmq.Poller()
        self._poller.register(self._inbox.connect("producer", endpoint), zmq.POLLIN)
        self._reader = PoolReader(os.getppid())

    def receive(self) -> int:
        while (item := self._inbox.receive("producer")) is None:
            self._poller.poll()
        assert isinstance(item.body, Frame)
        planes = self._reader.planes(item.body, item.inline)
        assert planes.width == item.body.info.width
        self._inbox.done("producer", item.number)
        return item.body.info.receive_ns

    def close(self) -> None:
        self._inbox.close()
        self._context.term()


class PlainSender:
    """ZeroMQ as one would use it without anything of ours: PUSH, bounded by its high-water mark."""

    def __init__(
        self, way: str, width: int, height: int, *, on_endpoint: Callable[[str], None]
    ) -> None:
        self._context: Context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, CREDITS)
        self._socket.bind(f"ipc://@{secrets.token_hex(8)}")
        on_endpoint(self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        self._copy = way != "zmq no copy"
        self._data = (
            bytearray(_FLOOR_BYTES - _STAMP.size)
            if way == "zmq 60 bytes"
            else bytearray(np.random.default_rng(1).bytes(Planes.size_bytes(width, height)))
        )
        self._alone = way == "zmq 60 bytes"

    def send(self) -> None:
        stamp = _STAMP.pack(time.monotonic_ns())
        if self._alone:
            self._socket.send(stamp + self._data)
        else:
            self._socket.send(stamp, zmq.SNDMORE)
            self._socket.send(self._data, 0, copy=self._copy)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class PlainReceiver:
    """The other end of PlainSender."""

    def __init__(self, endpoint: str, way: str, width: int, height: int) -> None:
        self._context: Context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.set(zmq.RCVHWM, CREDITS)
        self._socket.connect(endpoint)
        self._copy = way != "zmq no copy"
        self._size = (width, height)

    def receive(self) -> int:
        stamp, *rest = self._socket.recv_multipart(0, self._copy)
        head = stamp if isinstance(stamp, bytes) else stamp.buffer
        for data in rest:
            Planes.from_buffer(data if isinstance(data, bytes) else data.buffer, *self._size)
        sent_ns: int = _STAMP.unpack_from(head)[0]
        return sent_ns

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def picture(width: int, height: int) -> Planes:
    """Noise of one size, in memory of this process."""
    data = np.random.default_rng(1).bytes(Planes.size_bytes(width, height))
    return Planes.from_buffer(data, width, height)


def consume(way: str, width: int, height: int, frames: int, idle: int, pipe: Connection) -> None:
    """Receive all frames of one case; runs in the consumer's process."""
    endpoint: str = pipe.recv()
    ours = not way.startswith("zmq")
    receiver: Receiver = (
        QueueReceiver(endpoint) if ours else PlainReceiver(endpoint, way, width, height)
    )
    for _ in range(WARM_UP):
        receiver.receive()
    pipe.send("warm")
    cpu_s = time.process_time()
    for _ in range(frames):
        receiver.receive()
    pipe.send((time.monotonic_ns(), time.process_time() - cpu_s))
    late_us = []
    for _ in range(idle):
        sent_ns = receiver.receive()
        late_us.append((time.monotonic_ns() - sent_ns) / 1e3)
    pipe.send(late_us)
    pipe.recv()
    receiver.close()


def measure(way: str, size: str, frames: int, idle: int) -> tuple[float, float, list[float]]:
    """Run one case: wall and CPU us a frame at saturation, and the idle latencies in us."""
    width, height = SIZES[size]
    pipe, far = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(
        target=consume, args=(way, width, height, frames, idle, far)
    )
    child.start()
    try:
        kind = PlainSender if way.startswith("zmq") else QueueSender
        sender: Sender = kind(way, width, height, on_endpoint=pipe.send)
        for _ in range(WARM_UP):
            sender.send()
        assert pipe.recv() == "warm"
        begin_ns, cpu_s = time.monotonic_ns(), time.process_time()
        for _ in range(frames):
            sender.send()
        cpu_s = time.process_time() - cpu_s
        end_ns, their_cpu_s = pipe.recv()
        for _ in range(idle):
            time.sleep(IDLE_S)
            sender.send()
        late_us = pipe.recv()
        pipe.send("done")
        sender.close()
        child.join(10)
    finally:
        child.kill()
        child.join()
    return (end_ns - begin_ns) / frames / 1e3, (cpu_s + their_cpu_s) / frames * 1e6, late_us


def main() -> int:
    """Measure every way at every size; returns the exit code."""
    options = parse()
    wall: dict[tuple[str, str], list[float]] = {}
    cpu: dict[tuple[str, str], list[float]] = {}
    late: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds):
        for size in options.sizes:
            for way in WAYS:
                # A copied 4K frame takes milliseconds; fewer of them say as much.
                frames = options.frames if way in ("slot", "zmq 60 bytes") else options.frames // 10
                one_us, cpu_us, late_us = measure(way, size, max(frames, 1), options.idle)
                wall.setdefault((size, way), []).append(one_us)
                cpu.setdefault((size, way), []).append(cpu_us)
                late.setdefault((size, way), []).extend(late_us)
    results: dict[str, report.Value] = {}
    rows: list[list[report.Value]] = []
    for key in wall:
        tail = report.percentiles(late[key])
        results["/".join(key)] = {
            "us_frame": report.median(wall[key]),
            "us_frame_rounds": [round(us, 2) for us in wall[key]],
            "cpu_us_frame": report.median(cpu[key]),
            "latency_us": tail,
        }
        rows.append([*key, report.median(wall[key]), report.median(cpu[key]), *tail.values()])
    headers = ["size", "way", "us/frame", "CPU us/frame", "idle p50 us", "p95", "p99"]
    report.table(headers, rows)
    gate_size = "1080p" if "1080p" in options.sizes else options.sizes[0]
    ours = (gate_size, "slot")
    return report.finish(
        "transport",
        configuration={
            "rounds": options.rounds,
            "frames": options.frames,
            "idle": options.idle,
            "credits": CREDITS,
        },
        results=results,
        gates=[
            report.Gate(f"{gate_size} slot us/frame", report.median(wall[ours]), 60, 30),
            report.Gate(
                f"{gate_size} slot idle latency p50 us",
                report.percentiles(late[ours])["p50"], 150, 100,
            ),
        ],
        json_out=options.json_out,
    )  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=2000, help="in one round")
    parser.add_argument("--idle", type=int, default=300, help="frames one by one, in one round")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
