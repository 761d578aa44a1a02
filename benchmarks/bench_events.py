"""Measure how fast events get through the log and the socket of the publish process.

Regime: the real publish process, held to one core; a source of tracks (benchmarks/burst.py) gives
it frames of OBJECTS objects at a fixed rate, each of which makes 1 + OBJECTS events; one subscriber
with a plain socket; `replayed`: beside it somebody who asks for 20 pages of 1,000 old events a
second all the time.
Metric: milliseconds from the moment a frame is handed to publish to the arrival of each of its
events at the subscriber (p50, p95, p99 of a round; median over the rounds), the rate that arrives,
and publish's CPU time an event; every event is checked to arrive, in order, and to be in the log.
Ceiling: `no log`, the same process that only publishes, and `plain PUB`, a loop that does nothing
but send lines of the same size on a ZeroMQ PUB socket.
Command: python -m benchmarks.bench_events [--rates 5000 10000 20000] [--seconds 5] [--rounds 3]
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import zmq

from benchmarks import report
from benchmarks.burst import burst_graph
from streamer.config import EventsConfig
from streamer.eventlog import LogReader
from streamer.sequence import ReplayRequest
from streamer.supervisor import Supervisor

OBJECTS = 9
WAYS = ("log + PUB", "replayed", "no log", "plain PUB")
PAGES_PER_S = 20
LATE_MS = 10.0
"""What the 99th percentile must stay below."""
LINE_BYTES = 400
WARM_UP_S = 1.0
SILENT_MS = 30_000
_LAST = b"gate.track.ended"


class _Head(msgspec.Struct):
    seq: int
    time_utc: str


_head = msgspec.json.Decoder(_Head).decode


@dataclass
class Case:
    """What one way at one rate came to, over all rounds."""

    late_ms: list[dict[str, float | None]] = field(default_factory=list)
    """Percentiles, one of each a round: a neighbour who disturbs one round counts once."""
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    lost: int = 0
    unlogged: int = 0
    replayed: int = 0

    def late(self) -> dict[str, float | None]:
        """The median over the rounds of each percentile."""
        return {
            name: report.median([one[name] for one in self.late_ms if one[name] is not None], 3)
            for name in ("p50", "p95", "p99")
        }


def subscribe(address: str, pipe: Connection) -> None:
    """Receive until the stream has ended; runs in the subscriber's process."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.set(zmq.RCVHWM, 1_000_000)
    socket.connect(address)
    socket.subscribe(b"gate")
    pipe.send("ready")
    heard: list[tuple[int, bytes]] = []
    while True:
        if not socket.poll(SILENT_MS):
            raise TimeoutError(f"{len(heard)} events heard, and then none, not the last either")
        topic, line = socket.recv_multipart()
        if topic == _LAST:
            break
        heard.append((time.time_ns(), line))
    socket.close()
    context.term()
    late_ms, begin_ns, lost, last = [], heard[0][0], 0, 0
    for at_ns, line in heard:
        head = _head(line)
        lost += head.seq - last - 1 if last else 0
        last = head.seq
        if at_ns - begin_ns >= WARM_UP_S * 1e9:
            sent_s = dt.datetime.fromisoformat(head.time_utc.replace("Z", "+00:00")).timestamp()
            late_ms.append(at_ns / 1e6 - sent_s * 1e3)
    seconds = (heard[-1][0] - begin_ns) / 1e9
    pipe.send((late_ms, len(heard) / seconds, len(heard), lost))


def ask_again(address: str, pipe: Connection) -> None:
    """Ask for one page of events after the other; runs in a process of its own."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.LINGER, 0)
    socket.connect(address)
    lines, seq = 0, 1
    while not pipe.poll(1 / PAGES_PER_S):
        socket.send(msgspec.json.encode(ReplayRequest("gate", seq)))
        if socket.poll(2000):
            page = socket.recv_multipart()[1].splitlines()
            lines += len(page)
            seq = _head(page[-1]).seq + 1 if page else 1
    pipe.send(lines)
    socket.close()
    context.term()


def measure_publish(
    case: Case, folder: Path, rate: int, seconds: float, *, log: bool, replay: bool
) -> None:
    """One round of the publish process."""
    fps = round(rate / (1 + OBJECTS))
    source = f"burst?fps={fps}&objects={OBJECTS}&frames={round(fps * seconds)}&stay=0"
    path = folder / "events.db"
    address = f"ipc://{folder}/pub"
    events = EventsConfig(publish=address, log=str(path) if log else "off", updated_per_s=25)
    pipe, far = multiprocessing.Pipe()
    listener = multiprocessing.get_context("spawn").Process(target=subscribe, args=(address, far))
    listener.start()
    far.close()  # so that its end is seen
    assert pipe.recv() == "ready"
    asks, far_asks = multiprocessing.Pipe()
    asker = multiprocessing.get_context("spawn").Process(
        target=ask_again, args=(f"{address}.replay", far_asks)
    )
    watch = Watch()
    watch.start()
    if replay:
        asker.start()
    Supervisor(burst_graph({"gate": source}, events)).run()
    watch.done.set()
    watch.join()
    if replay:
        asks.send("enough")
        case.replayed += asks.recv()
        asker.join()
    late_ms, arrived_rate, count, lost = pipe.recv()
    listener.join()
    case.late_ms.append(report.percentiles(late_ms))
    case.rates.append(arrived_rate)
    case.cpu_us.append(watch.cpu_s / count * 1e6)
    case.lost += lost
    if log:
        reader = LogReader(path)
        case.unlogged += max(0, count + OBJECTS - reader.last_seq("gate"))
        reader.close()


class Watch(threading.Thread):
    """Holds the publish process to one core, and reads its CPU time from when it was ready."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.cpu_s = 0.0

    def run(self) -> None:
        """Look until done."""
        cores = sorted(os.sched_getaffinity(0))
        begun_s, publish = 0.0, 0
        while not self.done.wait(0.05):
            publish = publish or _publish()
            if not publish:
                continue
            try:
                os.sched_setaffinity(publish, cores[-1:])
                now_s = _cpu_s(publish)
            except (OSError, IndexError):
                continue
            begun_s = begun_s or now_s
            self.cpu_s = now_s - begun_s


def _publish() -> int:
    """Process number of our child that is publish; 0 if there is none yet."""
    for child in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for pid in child.read_text().split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if command[-2:-1] == [b"publish"]:
                return int(pid)
    return 0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def send_plainly(address: str, rate: int, seconds: float, pipe: Connection) -> None:
    """The peer: nothing but a PUB socket; runs in a process of its own, on one core."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.set(zmq.SNDHWM, 1_000_000)
    socket.bind(address)
    socket.recv()
    padding = "x" * LINE_BYTES
    count, begun, cpu_s = 0, time.monotonic(), time.process_time()
    while count < rate * seconds:
        due = int((time.monotonic() - begun) * rate)
        moment = dt.datetime.now(dt.timezone.utc).isoformat()
        while count < due:
            count += 1
            line = f'{{"seq":{count},"time_utc":"{moment}","padding":"{padding}"}}'.encode()
            socket.send_multipart([b"gate.track.updated", line])
        time.sleep(0.001)
    pipe.send((time.process_time() - cpu_s) / count * 1e6)
    socket.send_multipart([_LAST, b""])
    socket.close()
    context.term()


def measure_plain(case: Case, folder: Path, rate: int, seconds: float) -> None:
    """One round of the peer."""
    address = f"ipc://{folder}/pub"
    spawn = multiprocessing.get_context("spawn")
    (pipe, far), (cpu, far_cpu) = multiprocessing.Pipe(), multiprocessing.Pipe()
    sender = spawn.Process(target=send_plainly, args=(address, rate, seconds, far_cpu))
    listener = spawn.Process(target=subscribe, args=(address, far))
    sender.start()
    listener.start()
    far.close()
    assert pipe.recv() == "ready"
    case.cpu_us.append(cpu.recv())
    late_ms, arrived_rate, _, lost = pipe.recv()
    sender.join()
    listener.join()
    case.late_ms.append(report.percentiles(late_ms))
    case.rates.append(arrived_rate)
    case.lost += lost


def main() -> int:
    """Measure every way at every rate; returns the exit code."""
    options = parse()
    logging.basicConfig(level=logging.WARNING)
    cases = {(rate, way): Case() for rate in options.rates for way in WAYS}
    for _ in range(options.rounds):
        for (rate, way), case in cases.items():
            folder = Path(tempfile.mkdtemp(prefix="events", dir=options.folder))
            if way == "plain PUB":
                measure_plain(case, folder, rate, options.seconds + WARM_UP_S)
            else:
                seconds = options.seconds + WARM_UP_S
                measure_publish(
                    case, folder, rate, seconds, log=way != "no log", replay=way == "replayed"
                )
            shutil.rmtree(folder)
    results: dict[str, report.Value] = {}
    rows: list[list[report.Value]] = []
    for (rate, way), case in cases.items():
        late = case.late()
        results[f"{rate}/{way}"] = {
            "events_per_s": report.median(case.rates),
            "late_ms": late,
            "cpu_us_event": report.median(case.cpu_us),
            "lost": case.lost,
            "not_in_log": case.unlogged,
            "replayed": case.replayed,
        }
        rows.append([rate, way, report.median(case.rates), *late.values(),
                     report.median(case.cpu_us), case.lost, case.unlogged,
                     case.replayed])  # fmt: skip
    headers = ["events/s", "way", "arrived/s", "p50 ms", "p95", "p99", "CPU us", "lost",
               "unlogged", "replayed"]  # fmt: skip
    report.table(headers, rows)
    return report.finish(
        "events",
        configuration={"rates": options.rates, "rounds": options.rounds,
                       "seconds": options.seconds, "objects": OBJECTS, "niceness": os.nice(0)},
        results=results,
        gates=gates(cases),
        json_out=options.json_out,
    )  # fmt: skip


def gates(cases: dict[tuple[int, str], Case]) -> list[report.Gate]:
    """What is promised: early enough at the lowest rate, how far that goes, and none is missing."""
    ours = {rate: case for (rate, way), case in cases.items() if way == "log + PUB"}
    lowest = min(ours)
    kept = [
        rate
        for rate, case in ours.items()
        if (case.late()["p99"] or LATE_MS) < LATE_MS
        and (report.median(case.rates) or 0) > 0.99 * rate
    ]
    missing = sum(case.lost + case.unlogged for case in cases.values())
    return [
        report.Gate(f"p99 ms at {lowest}/s", ours[lowest].late()["p99"], LATE_MS, 5),
        report.Gate("events/s with p99 below 10 ms", max(kept, default=0), 5000, 20_000,
                    at_least=True),
        report.Gate("events lost or not in the log", missing, 0, 0),
    ]  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = report.parser(__doc__)
    parser.add_argument(
        "--rates", nargs="+", type=int, default=[5000, 10_000, 20_000], help="events/s"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of one round, after warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default a temporary")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
