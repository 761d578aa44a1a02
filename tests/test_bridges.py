"""Bridges to a real broker, a real Redis and a real web server, each killed in the middle."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from brokers import HookServer, Mosquitto, RedisServer, Server, program
from pipeline import ROOT, wait_for

from benchmarks.bench_bridges import CAMERAS as BENCH_CAMERAS
from benchmarks.bench_bridges import check
from streamer.bridges.backoff import Backoff
from streamer.bridges.parked import ParkingLot
from streamer.bridges.pump import Pump
from streamer.bridges.target import TargetDown
from streamer.bridges.wanted import is_wanted
from streamer.bridges.webhook import sign
from streamer.config import Config
from streamer.configfile import build_config
from streamer.errors import ConfigError
from streamer.eventlog import Cursor, Entry, EventLog, LogReader
from streamer.graph import build_graph
from streamer.messages import Fields
from streamer.stage import StageStart
from streamer.stages.bridge import Bridge, make_target

CAMERAS = ("gate", "yard", "")
NS = 10**9
SCENE = {
    "cameras": {
        "gate": {
            "source": "a.mp4",
            "zones": {"door": {"polygon": [[0, 0], [1, 0], [1, 1]]}},
            "lines": {"exit": {"ends": [[0, 0], [1, 1]]}},
        },
        "yard": "b.mp4",
    }
}


def entry(number: int, **fields: object) -> Entry:
    """The n-th event of a log, of one camera after the other."""
    camera, seq = CAMERAS[number % 3], number // 3 + 1
    kind = str(fields.pop("type", "track.updated"))
    line = {"type": kind, "id": f"r-{camera or 'host'}-{seq}", "seq": seq, "camera": camera}
    return Entry(camera, seq, kind, number * NS, msgspec.json.encode(line | fields))


@dataclass
class Running:
    """A bridge in a thread, as its process runs it."""

    pump: Pump
    thread: threading.Thread
    told: list[tuple[str, Fields]]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]

    def end(self) -> None:
        self.pump.drain()
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()


class Bench:
    """A log, and bridges that read it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.db"
        self.log = EventLog(self.path)
        self.count = 0
        self.running: list[Running] = []

    def write(self, count: int) -> None:
        self.append([entry(number) for number in range(self.count, self.count + count)])

    def append(self, entries: list[Entry]) -> None:
        for begin in range(0, len(entries), 100):
            self.log.append(entries[begin : begin + 100])
        self.count += len(entries)

    def config(self, **bridge: object) -> Config:
        return build_config({**SCENE, "bridges": {"b": {"retry_s": 0.2, "timeout_s": 5, **bridge}}})

    def bridge(self, config: Config) -> Running:
        told: list[tuple[str, Fields]] = []
        cursor = Cursor(self.path, "bridge.b")
        if cursor.rowid is None:
            cursor.advance(0)
        pump = Pump(
            "b", reader=LogReader(self.path), cursor=cursor, target=make_target(config, "b"),
            wanted=is_wanted(config, "b"), tell=lambda kind, fields: told.append((kind, fields)),
            parking=ParkingLot(self.path.with_name("parked.jsonl")), backoff=Backoff(0.2),
        )  # fmt: skip
        thread = threading.Thread(target=pump.run)
        thread.start()
        self.running.append(Running(pump, thread, told))
        return self.running[-1]

    def expected(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {camera: [] for camera in CAMERAS}
        for number in range(self.count):
            camera, seq = CAMERAS[number % 3], number // 3 + 1
            found[camera].append(f"r-{camera or 'host'}-{seq}")
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for each in made.running:
        each.pump.stop()
        each.thread.join(timeout=30)
        assert not each.thread.is_alive()
    made.log.close()


def once(ids: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without what was delivered twice."""
    return {camera: list(dict.fromkeys(ids[camera])) for camera in ids}


def make_mosquitto(folder: Path) -> tuple[Server, dict[str, object]]:
    server = Mosquitto(folder)
    return server, {"kind": "mqtt", "address": server.address}


def make_redis(folder: Path) -> tuple[Server, dict[str, object]]:
    server = RedisServer(folder)
    return server, {"kind": "redis", "address": server.address}


def make_hook(folder: Path) -> tuple[Server, dict[str, object]]:
    server = HookServer(folder)
    return server, {"kind": "webhook", "address": server.address, "batch": 50}


MAKERS = {"mqtt": make_mosquitto, "redis": make_redis, "webhook": make_hook}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_broker_that_goes_away_costs_delay_and_no_event(
    tmp_path: Path, bench: Bench, kind: str
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server, section = MAKERS[kind](folder)
    with server:
        if isinstance(server, Mosquitto):
            server.subscribe()
        bench.write(1500)
        bridge = bench.bridge(bench.config(**section))
        wait_for(lambda: bridge.pump.delivered > 0, "the first events")
        # A broker keeps a session over a clean end alone; the others have it on the disk.
        if isinstance(server, Mosquitto):
            server.stop(signal.SIGTERM)
            server.unsubscribe()
        else:
            server.stop(signal.SIGKILL)
        bench.write(1500)
        wait_for(lambda: "bridge.down" in bridge.kinds(), "it is seen to be away")
        wait_for(lambda: bridge.pump.backlog > 1000, "its backlog")
        server.start()
        if isinstance(server, Mosquitto):
            server.subscribe()
        bench.write(600)
        wait_for(lambda: bridge.pump.rowid == bench.count, "all events")
        wait_for(lambda: once(server.received()) == bench.expected(), "all events in order")
        bridge.end()
        found = server.received()
        twice = sum(map(len, found.values())) - bench.count
        assert 0 <= twice <= 200, "what was on its way"
        if kind == "redis":
            assert twice == 0, "it can look what has arrived"
    kinds = bridge.kinds()
    assert kinds[0] == "bridge.up"
    assert kinds[-1] == "bridge.up"
    assert kinds.count("bridge.down") == 1
    down = dict(bridge.told)["bridge.down"]
    assert int(str(down["backlog"])) > 0
    assert down["message"]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_bridge_that_dies_goes_on_where_it_was(tmp_path: Path, bench: Bench, kind: str) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server, section = MAKERS[kind](folder)
    with server:
        if isinstance(server, Mosquitto):
            server.subscribe()
        config = bench.config(**section)
        bench.write(900)
        first = bench.bridge(config)
        wait_for(lambda: first.pump.delivered > 0, "the first events")
        first.pump.stop()
        first.thread.join(timeout=30)
        # Killed after its events had arrived, and before its cursor was written.
        Cursor(bench.path, "bridge.b").advance(max(0, first.pump.rowid - 150))
        bench.write(300)
        second = bench.bridge(config)
        wait_for(lambda: second.pump.rowid == bench.count, "all events")
        wait_for(lambda: once(server.received()) == bench.expected(), "all events in order")
        twice = sum(map(len, server.received().values())) - bench.count
        assert twice == (0 if kind == "redis" else 150)


@pytest.mark.parametrize("older", [0, 3])
def test_a_bridge_begins_with_this_run(tmp_path: Path, bench: Bench, older: int) -> None:
    """Whether the log is there before the bridge, with what was before, or comes after it."""
    bench.write(older)
    with HookServer(tmp_path) as server:
        config = build_config(
            {
                **SCENE,
                "bridges": {"b": {"kind": "webhook", "address": server.address}},
                "events": {"log": str(bench.path)},
            }
        )
        live = {"gate": True, "yard": True}
        stage = Bridge(
            StageStart(
                spec=build_graph(config, live).stage("bridge.b"), config=config, live=live,
                run="r", incarnation=0, supervisor_pid=os.getpid(),
                control=f"ipc://@control{id(bench):x}", ledger_fd=-1,
            )
        )  # fmt: skip
        try:
            stage.on_open()
            bench.append([entry(older)._replace(time_ns=time.time_ns())])
            stage.on_stop(drain=True)
            wait_for(stage.finished, "the end of the thread")
            stage.on_close()
        finally:
            stage.close()
        expected = entry(older)
        assert server.received()[expected.camera] == [f"r-gate-{expected.seq}"]


def test_a_broker_that_was_never_there_is_no_reason_to_stay(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    for _, (_, section) in {kind: make(folder) for kind, make in MAKERS.items()}.items():
        bench.write(3)
        bridge = bench.bridge(bench.config(**section))
        wait_for(lambda told=bridge.kinds: "bridge.down" in told(), "it is away")
        bridge.end()
        assert bridge.pump.delivered == 0
        assert Cursor(bench.path, "bridge.b").rowid == 0, "all events wait for the next run"


def test_mqtt_tells_states_and_home_assistant(tmp_path: Path, bench: Bench) -> None:
    with Mosquitto(tmp_path) as server:
        assert isinstance(server, Mosquitto)
        bridge = bench.bridge(bench.config(kind="mqtt", address=server.address, root="site/a"))
        bench.append([
            entry(0, type="stream.up", reason="opened"),
            entry(1, type="stream.down"),
            entry(3, type="zone.enter", zone="door", occupancy=2, total=5),
            entry(6, type="line.crossed", line="exit", count_in=3, count_out=4),
            entry(9, type="rule.fired", rule="night", text="somebody is there"),
            entry(12, type="zone.leave", zone="door", occupancy=1),
        ])  # fmt: skip
        wait_for(lambda: bridge.pump.rowid == 6, "all events")
        server.subscribe()
        wait_for(lambda: len(server.retained) >= 14, "what is retained")
        states = {
            topic.removeprefix("site/a/"): payload
            for topic, payload in server.retained.items()
            if topic.startswith("site/a/")
        }
        alarm = msgspec.json.decode(states.pop("gate/alarm"))
        assert alarm["text"] == "somebody is there"
        assert states == {
            "status": b"online",
            "gate/availability": b"online",
            "yard/availability": b"offline",
            "gate/zones/door/occupancy": b"1",
            "gate/zones/door/visits": b"5",
            "gate/lines/exit/in": b"3",
            "gate/lines/exit/out": b"4",
        }
        found = {
            topic: msgspec.json.decode(payload)
            for topic, payload in server.retained.items()
            if topic.startswith("homeassistant/")
        }
        assert len(found) == 7
        for topic, entity in found.items():
            assert topic.endswith(f"/{entity['unique_id']}/config")
            assert {each["topic"] for each in entity["availability"]} <= {
                "site/a/status", "site/a/gate/availability", "site/a/yard/availability",
            }  # fmt: skip
            assert entity["state_topic"].removeprefix("site/a/") in {
                *states, "gate/alarm", "yard/alarm",
            }  # fmt: skip
        door = found["homeassistant/sensor/site_a_gate_zone_door_occupancy/config"]
        assert door["state_class"] == "measurement"
        assert door["device"]["identifiers"] == ["site_a_gate"]
        bridge.end()
        wait_for(lambda: server.retained["site/a/status"] == b"offline", "its goodbye")


def test_the_last_will_says_that_a_killed_bridge_is_away(tmp_path: Path, bench: Bench) -> None:
    with Mosquitto(tmp_path) as server:
        assert isinstance(server, Mosquitto)
        config = bench.config(kind="mqtt", address=server.address)
        target = make_target(config, "b")
        target.open()
        server.subscribe()
        wait_for(lambda: server.retained.get("streamer/status") == b"online", "online")
        client = target._client  # type: ignore[attr-defined]
        client.socket().shutdown(2)  # as the kernel does to a process that is killed
        wait_for(lambda: server.retained["streamer/status"] == b"offline", "the last will")
        target.close()


def test_a_connection_that_breaks_while_publishing_is_told_as_such(
    tmp_path: Path, bench: Bench
) -> None:
    with Mosquitto(tmp_path) as server:
        target = make_target(bench.config(kind="mqtt", address=server.address), "b")
        bench.write(200)
        rows = LogReader(bench.path).read(0)
        target.open()
        target.send(rows)
        target._client.socket().shutdown(2)  # type: ignore[attr-defined]
        with pytest.raises(TargetDown, match=r"mqtt://127\.0\.0\.1:\d+: "):
            target.send(rows * 100)
        with pytest.raises(TargetDown, match=r"mqtt://"):
            target.check()
        target.close()
        target.open()
        target.send(rows)
        target.close()


@pytest.mark.filterwarnings(  # the library leaves the socket of a failed handshake to the collector
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning",
    "ignore:unclosed <ssl.SSLSocket:ResourceWarning",
)
def test_mqtt_over_tls_checks_who_is_there(tmp_path: Path, bench: Bench) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, timeout=20, capture_output=True,
    )  # fmt: skip
    more = f"allow_anonymous true\ncertfile {certificate}\nkeyfile {key}\n"
    with Mosquitto(tmp_path, more=more) as server:
        address = server.address.replace("mqtt:", "mqtts:")
        bench.write(3)
        stranger = bench.bridge(bench.config(kind="mqtt", address=address))
        wait_for(lambda: stranger.pump.down, "it is not trusted")
        stranger.end()
        assert "certificate" in stranger.pump.down
        gc.collect()
        config = bench.config(kind="mqtt", address=address, ca_file=str(certificate))
        known = bench.bridge(config)
        wait_for(lambda: known.pump.delivered == 3, "all events")
        known.end()
    with pytest.raises(ConfigError, match=r"ca_file: .*missing\.pem can't be read"):
        make_target(bench.config(kind="mqtt", address=address, ca_file="missing.pem"), "b")


def test_what_the_environment_lacks_is_named(bench: Bench) -> None:
    for section in (
        {"kind": "mqtt", "address": "mqtt://a:${NOT_SET}@h"},
        {"kind": "redis", "address": "redis://:${NOT_SET}@h"},
        {"kind": "webhook", "address": "http://h/", "secret": "${NOT_SET}"},
    ):
        with pytest.raises(ConfigError, match=r"the environment variable 'NOT_SET' is not set"):
            make_target(bench.config(**section), "b")


def test_passwords_are_asked_for_and_never_told(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_PASSWORD", "hunt:er/2@")
    folder = tmp_path / "server"
    folder.mkdir()
    with RedisServer(folder, more=("--requirepass", "hunt:er/2@")) as server:
        right = f"redis://:${{BRIDGE_PASSWORD}}@127.0.0.1:{server.port}/0"
        wrong = f"redis://:hunter2@127.0.0.1:{server.port}/0"
        bench.write(3)
        bad = bench.bridge(bench.config(kind="redis", address=wrong))
        wait_for(lambda: bad.pump.down, "it is refused")
        bad.end()
        assert "invalid username-password pair" in bad.pump.down
        assert "hunter2" not in str(bad.told)
        good = bench.bridge(bench.config(kind="redis", address=right))
        wait_for(lambda: good.pump.delivered == 3, "all events")
        good.end()
        assert "hunt" not in str(good.told)


def test_mqtt_asks_for_passwords_too(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_PASSWORD", "hunt:er/2@")
    passwords = tmp_path / "passwords"
    tool = program("mosquitto_passwd", "mosquitto")
    subprocess.run([tool, "-b", "-c", passwords, "ann", "hunt:er/2@"], check=True, timeout=20,
                   capture_output=True)  # fmt: skip
    more = f"allow_anonymous false\npassword_file {passwords}\n"
    with Mosquitto(tmp_path, more=more) as server:
        bench.write(3)
        at = f"127.0.0.1:{server.port}"
        bad = bench.bridge(bench.config(kind="mqtt", address=f"mqtt://ann:hunter2@{at}"))
        wait_for(lambda: bad.pump.down, "it is refused")
        bad.end()
        assert "Not authorized" in bad.pump.down
        assert "hunter2" not in str(bad.told)
        right = f"mqtt://ann:${{BRIDGE_PASSWORD}}@{at}"
        good = bench.bridge(bench.config(kind="mqtt", address=right))
        wait_for(lambda: good.pump.delivered == 3, "all events")


def test_a_webhook_signs_time_and_body(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", "s3cret")
    with HookServer(tmp_path) as server:
        assert isinstance(server, HookServer)
        bench.write(5)
        section = {"kind": "webhook", "address": server.address, "secret": "${HOOK_SECRET}"}
        bridge = bench.bridge(bench.config(**section))
        wait_for(lambda: bridge.pump.delivered == 5, "all events")
        bridge.end()
        for post in server.posts():
            headers = post["headers"]
            assert isinstance(headers, dict)
            stamp, body = headers["X-Streamer-Timestamp"], str(post["body"]).encode()
            assert headers["X-Streamer-Signature"] == sign(b"s3cret", stamp, body)
            assert headers["X-Streamer-Signature"] != sign(b"s3cret", str(int(stamp) + 1), body)
        assert once(server.received()) == {
            camera: ids for camera, ids in bench.expected().items() if ids
        }


def test_a_connection_that_was_closed_for_idleness_is_no_failure(
    tmp_path: Path, bench: Bench
) -> None:
    with HookServer(tmp_path) as server:
        bridge = bench.bridge(bench.config(kind="webhook", address=server.address))
        bench.write(3)
        wait_for(lambda: bridge.pump.delivered == 3, "the first events")
        server.stop()
        server.start()
        bench.write(3)
        wait_for(lambda: bridge.pump.delivered == 6, "all events")
        bridge.end()
        assert bridge.kinds() == ["bridge.up"]
        assert once(server.received()) == bench.expected()


def test_the_signature_is_what_another_program_computes() -> None:
    # printf '1700000000.{}' | openssl dgst -sha256 -hmac key
    expected = "9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
    assert sign(b"key", "1700000000", b"{}") == f"sha256={expected}"


@pytest.mark.parametrize("batch", [1, 4])
def test_a_refused_event_is_parked_and_the_others_go_on(
    tmp_path: Path, bench: Bench, batch: int
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    with HookServer(folder) as server:
        entries = [entry(number) for number in range(12)]
        entries[4] = entry(4, text="poison")
        entries[7] = entry(7, text="poison")
        bench.append(entries)
        bridge = bench.bridge(bench.config(kind="webhook", address=server.address, batch=batch))
        wait_for(lambda: bridge.pump.rowid == 12, "all events")
        bridge.end()
        parked = (tmp_path / "parked.jsonl").read_bytes().splitlines()
        assert parked == [entries[4].line, entries[7].line]
        told = [fields for kind, fields in bridge.told if kind == "bridge.parked"]
        assert sum(int(str(fields["count"])) for fields in told) == 2
        assert told[0]["first_id"] == "r-yard-2"
        assert "422" in str(told[0]["message"])
        assert bridge.pump.delivered == 10
        good = {camera: [i for i in ids if i not in ("r-yard-2", "r-yard-3")]
                for camera, ids in bench.expected().items()}  # fmt: skip
        accepted = {
            camera: [i for i in ids if i not in ("r-yard-2", "r-yard-3")]
            for camera, ids in once(server.received()).items()
        }
        assert accepted == good


@pytest.mark.parametrize(("status", "says"), [(429, "429"), (503, "503"), (302, "redirects are")])
def test_answers_that_ask_for_patience_lose_nothing(
    tmp_path: Path, bench: Bench, status: int, says: str
) -> None:
    with HookServer(tmp_path) as server:
        bench.write(3)
        section = {"kind": "webhook", "address": f"{server.address}/answer/{status}"}
        bridge = bench.bridge(bench.config(**section))
        wait_for(lambda: bridge.pump.down, "it is told")
        assert says in bridge.pump.down
        bridge.end()
        assert bridge.pump.rowid == 0
        assert bridge.pump.parked == 0


def test_bridges_carry_what_they_are_asked_for() -> None:
    rules = {
        "night": {"when": {"event": "stream.down"}, "then": {"webhooks": ["desk"]}},
        "other": {"when": {"event": "stream.up"}},
    }
    config = build_config({
        **SCENE,
        "rules": rules,
        "bridges": {
            "all": {"kind": "redis", "address": "redis://h"},
            "zones": {"kind": "redis", "address": "redis://i", "types": ["zone", "stream.up"]},
            "gate": {"kind": "redis", "address": "redis://j", "cameras": ["gate"]},
            "desk": {"kind": "webhook", "address": "http://h/"},
        },
    })  # fmt: skip
    events = {
        "zone": entry(0, type="zone.enter"), "up": entry(1, type="stream.up"),
        "zonal": entry(2, type="zonal"), "mine": entry(3, type="rule.fired", rule="night"),
        "clip": entry(4, type="clip.saved", rule="night"),
        "not_mine": entry(6, type="rule.fired", rule="other"),
        "down_all": entry(5, type="bridge.down", bridge="all"),
        "down_desk": entry(8, type="bridge.down", bridge="desk"),
    }  # fmt: skip

    def carried(name: str) -> set[str]:
        wanted: Callable[[object], bool] = is_wanted(config, name)  # type: ignore[assignment]
        return {what for what, event in events.items() if wanted(event)}

    assert carried("all") == events.keys() - {"down_all"}
    assert carried("zones") == {"zone", "up"}
    assert carried("gate") == {"zone", "mine", "not_mine"}
    assert carried("desk") == {"mine", "clip"}


def test_waits_double_up_to_a_limit_and_differ() -> None:
    waits = [Backoff(30.0) for _ in range(20)]
    first = [each.next_s() for each in waits]
    assert all(0.25 <= wait <= 0.5 for wait in first)
    assert len(set(first)) > 10
    later = [[each.next_s() for _ in range(12)] for each in waits]
    assert all(15 <= series[-1] <= 30 for series in later)
    waits[0].reset()
    assert waits[0].next_s() <= 0.5


def test_a_parking_lot_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.bridges.parked._MOST_BYTES", 100)
    lot = ParkingLot(tmp_path / "parked.jsonl")
    for _ in range(40):
        lot.add(b"x" * 29)
    assert {path.name for path in tmp_path.iterdir()} == {"parked.jsonl", "parked.jsonl.1"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 300


def test_the_benchmark_counts_what_is_lost(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_bridges", "--minutes", "0.05", "--kinds", "redis"],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["passed"]
    assert document["results"]["redis"]["events"] == 2600
    whole = {camera: [f"bench-{camera}-{seq}" for seq in (1, 2)] for camera in BENCH_CAMERAS}
    assert check(whole, 16) == {"lost": 0, "disordered": 0, "twice": 0}
    one, other = BENCH_CAMERAS[:2]
    wrong = {**whole, one: whole[one][::-1], other: whole[other][:1] * 2}
    assert check(wrong, 16) == {"lost": 1, "disordered": 2, "twice": 1}
