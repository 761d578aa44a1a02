"""Measure what a broker costs that is away for ten minutes, and how fast a bridge catches up.

Regime: a real mosquitto, a real redis-server (every append on the disk before it answers) and a web
server in Python, each alone on this machine. A bridge delivers; its server ends; 200 events a
second for ten minutes go into the log, in compressed time; the server is there again.
Metric: events lost and out of order per camera (both must be 0), events delivered twice, events a
second while catching up, processor time of the bridge's process for each event.
Ceiling: the server: mosquitto with QoS 1, Redis with appendfsync always, one request of 100 events.
Command: python -m benchmarks.bench_bridges [--minutes 10] [--rate 200] [--kinds mqtt redis webhook]
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report

sys.path.insert(0, str(report.ROOT / "tests"))  # the brokers that the tests start

from brokers import HookServer, Mosquitto, RedisServer, Server

from streamer.eventlog import Cursor, Entry, EventLog, LogReader

CAMERAS = tuple(f"camera{number}" for number in range(8))
WARM_UP = 2000
_PUMP = """
import json, sys, threading, time
from pathlib import Path
from streamer.bridges.backoff import Backoff
from streamer.bridges.parked import ParkingLot
from streamer.bridges.pump import Pump
from streamer.bridges.wanted import is_wanted
from streamer.configfile import build_config
from streamer.eventlog import Cursor, LogReader
from streamer.stages.bridge import make_target
path, last = Path(sys.argv[1]), int(sys.argv[3])
config = build_config(json.loads(sys.argv[2]))
cursor = Cursor(path, "bridge.b")
pump = Pump("b", reader=LogReader(path), cursor=cursor, target=make_target(config, "b"),
    wanted=is_wanted(config, "b"), parking=ParkingLot(path.with_name("parked")),
    backoff=Backoff(1.0), tell=lambda kind, fields: print(kind, flush=True))
thread = threading.Thread(target=pump.run)
thread.start()
while pump.rowid < last:
    time.sleep(0.01)
pump.stop()
thread.join()
print(json.dumps({"cpu_s": time.process_time(), "parked": pump.parked}), flush=True)
"""


def entries(begin: int, end: int) -> list[Entry]:
    """Events of all cameras in turn, as long as those of tracks are."""
    made = []
    for number in range(begin, end):
        camera, seq = CAMERAS[number % len(CAMERAS)], number // len(CAMERAS) + 1
        event = {
            "type": "track.updated", "schema": 1, "id": f"bench-{camera}-{seq}", "seq": seq,
            "camera": camera, "time_utc": "2026-11-21T10:15:30.123456Z", "pts_s": seq / 25,
            "frame": seq, "track_id": seq % 50, "class": "person", "score": 0.875,
            "box_xyxy_px": [412.25, 310.5, 460.75, 432.0],
            "box_xyxy_rel": [0.32207, 0.43125, 0.35996, 0.6],
        }  # fmt: skip
        made.append(Entry(camera, seq, "track.updated", time.time_ns(), json.dumps(event).encode()))
    return made


def server_of(kind: str, folder: Path) -> tuple[Server, dict[str, Any]]:
    """A server, and how a bridge finds it."""
    server: Mosquitto | RedisServer | HookServer
    if kind == "mqtt":
        server = Mosquitto(folder)
        return server, {"kind": kind, "address": server.address}
    if kind == "redis":
        server = RedisServer(folder)
        return server, {"kind": kind, "address": server.address, "max_len": 10**6}
    server = HookServer(folder)
    return server, {"kind": kind, "address": server.address, "batch": 100}


def measure(kind: str, events: int, folder: Path) -> dict[str, float]:
    """One server that goes away."""
    server, section = server_of(kind, folder)
    log = EventLog(folder / "events.db")
    last = WARM_UP + events
    Cursor(folder / "events.db", "bridge.b").advance(0)
    config = {
        "cameras": dict(zip(CAMERAS, CAMERAS, strict=True)),
        "bridges": {"b": {**section, "retry_s": 1.0}},
    }
    with server:
        if isinstance(server, Mosquitto):
            server.subscribe()
        append(log, entries(0, WARM_UP))
        bridge = subprocess.Popen(
            [sys.executable, "-c", _PUMP, str(folder / "events.db"), json.dumps(config), str(last)],
            cwd=report.ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert bridge.stdout
        try:
            wait_for_row(folder, WARM_UP)
            if isinstance(server, Mosquitto):
                server.unsubscribe()
                server.stop(signal.SIGTERM)  # it keeps sessions over a clean end alone
            else:
                server.stop(signal.SIGKILL)
            append(log, entries(WARM_UP, last))
            while bridge.stdout.readline() != "bridge.down\n":
                pass
            server.start()
            if isinstance(server, Mosquitto):
                server.subscribe()
            begin_s = time.monotonic()
            wait_for_row(folder, last)
            took_s = time.monotonic() - begin_s
            figures = json.loads(bridge.stdout.read().splitlines()[-1])
        finally:
            bridge.kill()
            bridge.communicate()
        received = wait_received(server, last)
    log.close()
    return {
        "events": last,
        **check(received, last),
        "parked": figures["parked"],
        "catch_up_per_s": round(events / took_s),
        "cpu_us_per_event": round(figures["cpu_s"] / last * 1e6, 1),
    }


def append(log: EventLog, made: Sequence[Entry]) -> None:
    """As publish does: a batch at a time."""
    for begin in range(0, len(made), 200):
        log.append(made[begin : begin + 200])


def wait_for_row(folder: Path, rowid: int, timeout_s: float = 600.0) -> None:
    """Wait until the bridge has come so far."""
    deadline = time.monotonic() + timeout_s
    while (Cursor(folder / "events.db", "bridge.b").rowid or 0) < rowid:
        if time.monotonic() > deadline:
            at = Cursor(folder / "events.db", "bridge.b").rowid
            newest = LogReader(folder / "events.db").last_rowid()
            raise TimeoutError(f"the bridge is at row {at} of {newest}, not at {rowid}")
        time.sleep(0.02)


def wait_received(server: Server, events: int, timeout_s: float = 60.0) -> dict[str, list[str]]:
    """What has arrived, once it is all there or the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        received = server.received()
        if sum(len(set(ids)) for ids in received.values()) >= events:
            return received
        if time.monotonic() > deadline:
            return received
        time.sleep(1.0)


def check(received: Mapping[str, Sequence[str]], events: int) -> dict[str, int]:
    """Count what is wrong."""
    lost = disordered = twice = 0
    for number, camera in enumerate(CAMERAS):
        count = len(range(number, events, len(CAMERAS)))
        expected = [f"bench-{camera}-{seq}" for seq in range(1, count + 1)]
        ids = received.get(camera, [])
        first = list(dict.fromkeys(ids))
        lost += len(set(expected) - set(first))
        twice += len(ids) - len(first)
        in_order = sorted(first, key=seq_of)
        disordered += sum(one != other for one, other in zip(first, in_order, strict=True))
    return {"lost": lost, "disordered": disordered, "twice": twice}


def seq_of(identity: str) -> int:
    """Number in an id."""
    return int(identity.rpartition("-")[2])


def main() -> int:
    """Measure each kind; the exit code is 1 if an event was lost."""
    options = parse()
    events = round(options.minutes * 60 * options.rate)
    results: dict[str, dict[str, float]] = {}
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            results[kind] = measure(kind, events, Path(folder))
    columns = list(next(iter(results.values())))
    report.table(
        ["bridge", *columns],
        [[kind, *(figures[column] for column in columns)] for kind, figures in results.items()],
    )
    gates = [
        gate
        for kind, figures in results.items()
        for gate in (
            report.Gate(f"{kind}: events lost", figures["lost"], 0, 0),
            report.Gate(f"{kind}: events out of order", figures["disordered"], 0, 0),
        )
    ]
    return report.finish(
        "bridges",
        configuration={"minutes": options.minutes, "rate": options.rate, "cameras": len(CAMERAS)},
        results=results,
        gates=gates,
        json_out=options.json_out,
        enforce=True,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = report.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long the server is away")
    parser.add_argument("--rate", type=float, default=200, help="events a second")
    parser.add_argument("--kinds", nargs="+", default=["mqtt", "redis", "webhook"])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
