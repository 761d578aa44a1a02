"""Publish with its log, socket and replay service, killed, starved of disk and asked nonsense."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec
import psutil
import pytest
import zmq
from conftest import missing
from pipeline import COMMAND, assert_no_gaps, environment, streamer, wait_for
from samples import info_of, tracks_of
from test_eventlog import damage, filled

from benchmarks.burst import burst_graph
from streamer.client import Subscription, subscribe
from streamer.config import EventsConfig
from streamer.configfile import build_config
from streamer.errors import ConfigError
from streamer.eventlog import Cursor, LogReader
from streamer.events import AnyEvent, Numbering
from streamer.frame_events import FrameEvents
from streamer.log_events import LogFailed, LogResumed
from streamer.messages import Annotation, Happening
from streamer.replay import replay_address
from streamer.sequence import ReplayAnswer
from streamer.supervisor import Outcome, Supervisor

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = 7
FAST = 125
"""Frames a second: with as many objects, 1,000 events a second."""


class Burst:
    """A pipeline of a source of tracks and the real publish, in processes of their own.

    Args:
        folder: for the log, the event file and the socket.
        frames: that are sent.
        stay: go on after the last frame, until the with block ends.
        events: what differs from the usual configuration.
    """

    def __init__(self, folder: Path, frames: int, *, stay: bool = True, **events: object) -> None:
        self.folder = folder
        self.file = folder / "events.jsonl"
        self.address = f"ipc://{folder}/pub"
        config = {"log": str(folder / "events.db"), "file": str(self.file),
                  "publish": self.address, "updated_per_s": 25.0} | events  # fmt: skip
        self._frames, self._stay = frames, stay
        source = f"burst?fps={FAST}&objects={OBJECTS}&frames={frames}&stay={int(stay)}"
        graph = burst_graph({"gate": source}, msgspec.convert(config, EventsConfig))
        self._supervisor = Supervisor(graph)
        self._thread = threading.Thread(target=self._run)
        self.outcome: Outcome | None = None

    def __enter__(self) -> Burst:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None or self._stay:
            self._supervisor.request_stop()
        self._thread.join()

    def hear(self, events: Subscription) -> list[AnyEvent]:
        """All events of the camera up to the last of the last frame."""
        heard: list[AnyEvent] = []
        for event in events:
            heard.append(event)
            if event.frame == self._frames - 1 and getattr(event, "track_id", 0) == OBJECTS:
                return heard
        raise AssertionError(f"silence after {len(heard)} events")

    def kill_publish(self) -> None:
        """As the kernel does when memory is short."""
        os.kill(wait_for(self._publish, "the publish process"), signal.SIGKILL)

    def events(self) -> list[dict[str, object]]:
        """What is in the event file."""
        lines = self.file.read_bytes().splitlines()
        return [json.loads(line) for line in lines]

    def logged(self) -> list[dict[str, object]]:
        """What is in the log."""
        reader = LogReader(self.folder / "events.db")
        rows = reader.read(0, limit=10**6)
        reader.close()
        return [json.loads(row.line) for row in rows]

    def _run(self) -> None:
        self.outcome = self._supervisor.run()

    def _publish(self) -> int | None:
        for child in psutil.Process().children():
            try:
                if child.cmdline()[-1:] == ["publish"]:
                    return child.pid
            except psutil.Error:
                continue
        return None


@pytest.fixture(autouse=True)
def stages_find_the_source(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


# Nothing is lost.


def test_killed_publish_loses_and_renumbers_nothing(tmp_path):
    """1,000 events a second; killed twice; every logged number reaches the subscriber once."""
    frames = 500
    seen: list[AnyEvent] = []
    with (
        Burst(tmp_path, frames) as burst,
        subscribe(burst.address, camera="gate", since={"gate": 1}, silent_s=20) as events,
    ):
        for kill_after in (800, 2000):
            seen += itertools.islice(events, kill_after - len(seen))
            burst.kill_publish()
        seen += burst.hear(events)
        assert events.missed == 0
    logged = [event for event in burst.logged() if event["camera"] == "gate"]
    assert [event["seq"] for event in logged] == list(range(1, len(logged) + 1))
    assert [event.id for event in seen] == [event["id"] for event in logged][: len(seen)]
    assert len({event.id for event in seen}) == len(seen) > 4000
    detections = [event["frame"] for event in logged if event["type"] == "detection"]
    assert detections == list(range(frames)), "every frame once, also those that were in hand"
    restarts = [event for event in logged if event["type"] == "stage.restarted"]
    assert len(restarts) == 2
    assert {event["lost_from"] for event in restarts} == {None}
    # The file has them all, too; what was in hand at a kill may be there twice.
    written = Counter(str(event["id"]) for event in burst.events() if event["camera"] == "gate")
    assert set(written) == {event["id"] for event in logged}


def test_without_a_log_publish_says_what_may_be_lost(tmp_path):
    with (
        Burst(tmp_path, 250, log="off") as burst,
        subscribe(burst.address, camera="gate", silent_s=20) as events,
    ):
        assert len(list(itertools.islice(events, 500))) == 500
        burst.kill_publish()
        wait_for(lambda: b'"frame":249' in burst.file.read_bytes(), "the last frame")
    assert_no_gaps(burst.events())


def test_numbers_go_on_over_runs_and_a_subscriber_that_was_away_gets_both(tmp_path):
    for _ in range(2):
        with Burst(tmp_path, 20, stay=False) as burst:
            pass
        assert burst.outcome is not None
        assert burst.outcome.errors == ()
    with (
        Burst(tmp_path, 20) as burst,
        subscribe(burst.address, camera="gate", since={"gate": 1}, silent_s=20) as events,
    ):
        seen: list[AnyEvent] = []
        while len({event.id.partition("-")[0] for event in seen}) < 3:
            seen += burst.hear(events)
        assert events.missed == 0
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert len({event.id.partition("-")[0] for event in seen}) == 3
    assert len(seen) == 3 * 20 * (1 + OBJECTS) + 2 * OBJECTS


def test_the_shell_reads_what_was_logged(tmp_path):
    with Burst(tmp_path, 10, stay=False):
        pass
    log = tmp_path / "events.db"
    done = streamer("events", "--log", log, "--since", "10m", "--camera", "gate",
                    "--type", "track.started", "--json")  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["track_id"] for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert all(event["type"] == "track.started" for event in events)
    words = streamer("events", "--log", log, "--type", "detection", "--count", 1).stdout
    assert words.endswith(" gate detection #1 at 0.00 s 7 objects\n")
    assert streamer("events", "--log", log, "--since", "2100-01-01T00:00Z").stdout == ""


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--since", "yesterday"), "--since: must be a span such as 90s"),
        (("--log", "nowhere.db"), "nowhere.db: there is no event log; `streamer run` keeps one"),
        ((), "there is no event log"),
    ],
)
def test_bad_options_of_the_shell_are_one_clear_error(tmp_path, options, error):
    if "--since" in options:
        filled(tmp_path / "events.db", 500)
        options = (*options, "--log", tmp_path / "events.db")
    done = streamer("events", *options)
    assert done.returncode == 2
    assert done.stderr.startswith("streamer: error: ")
    assert error in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_shell_follows_the_log(tmp_path):
    follower = subprocess.Popen(
        [*COMMAND, "events", "--log", str(tmp_path / "events.db"), "--follow", "--count", "20",
         "--type", "detection", "--json"],
        stdout=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    with Burst(tmp_path, 20, stay=False):
        out, _ = follower.communicate(timeout=20)
    assert follower.returncode == 0
    assert [json.loads(line)["frame"] for line in out.splitlines()] == list(range(20))


# The disk is full, or the log is damaged.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        missing("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_full_disk_is_one_event_and_publishing_goes_on(tmp_path, small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(7 << 20))
    with (
        Burst(tmp_path, 400, log=str(small_disk / "events.db")) as burst,
        subscribe(burst.address, silent_s=20) as events,
    ):
        assert next(event for event in events if isinstance(event, LogFailed))
        ballast.unlink()
        lost = next(event for event in events if isinstance(event, LogResumed)).events_lost
        burst.hear(events)
    assert burst.outcome is not None
    assert burst.outcome.errors == ()
    kinds = Counter(event["type"] for event in burst.events())
    assert (kinds["log.failed"], kinds["log.resumed"]) == (1, 1)
    assert kinds["detection"] == 400
    failed = next(event for event in burst.events() if event["type"] == "log.failed")
    assert "database or disk is full" in failed["message"]
    logged = LogReader(small_disk / "events.db").last_rowid()
    assert logged + lost == sum(kinds.values()) - kinds["heartbeat"]
    assert_no_gaps(burst.events())


def test_a_damaged_log_is_one_event_and_numbers_go_on(tmp_path):
    log = tmp_path / "events.db"
    filled(log)
    damage(log, (40 * 4096, 20 * 4096))
    with Burst(tmp_path, 5, stay=False) as burst:
        pass
    (recovered,) = [event for event in burst.events() if event["type"] == "log.recovered"]
    assert Path(str(recovered["moved_to"])).exists()
    assert recovered["path"] == str(log)
    assert str(recovered["time_utc"]) > "2000"
    first = next(event for event in burst.logged() if event["camera"] == "gate")
    assert first["seq"] == 4901


def test_a_log_that_another_pipeline_writes_is_a_clear_error(tmp_path):
    with Burst(tmp_path, 10) as first, subscribe(first.address, silent_s=20) as events:
        next(events)
        with Burst(tmp_path, 5, publish="", stay=False) as second:
            pass
    assert second.outcome is not None
    (error,) = second.outcome.errors
    assert error.kind == "ConfigError"
    assert "is written by another pipeline (process" in str(error)


def test_a_reader_that_was_away_for_too_long_is_told(tmp_path):
    Cursor(tmp_path / "events.db", "mqtt.home").advance(0)
    with Burst(tmp_path, 300, stay=False, log_days=1e-6) as burst:  # a tenth of a second
        pass
    pruned = [event for event in burst.events() if event["type"] == "log.pruned"]
    assert pruned
    assert {event["reader"] for event in pruned} == {"mqtt.home"}
    assert all(event["events_lost"] > 0 for event in pruned)


# Asking.


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[zmq.Socket[bytes]]:
    """A REQ socket to a publish that has logged 1200 events."""
    with Burst(tmp_path, 150, replay=f"ipc://{tmp_path}/again") as burst:
        with subscribe(burst.address, silent_s=20) as events:
            burst.hear(events)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.REQ)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVTIMEO, 5000)
        socket.connect(f"ipc://{tmp_path}/again")
        try:
            yield socket
        finally:
            socket.close()
            context.term()


def ask(socket: zmq.Socket[bytes], request: bytes) -> tuple[ReplayAnswer, list[bytes]]:
    socket.send(request)
    head, lines = socket.recv_multipart()
    return msgspec.json.decode(head, type=ReplayAnswer), lines.splitlines()


def test_any_program_can_ask(replay):
    answer, lines = ask(replay, b'{"camera": "gate", "from_seq": 11, "to_seq": 13}')
    assert [json.loads(line)["seq"] for line in lines] == [11, 12, 13]
    assert (answer.camera, answer.first_seq, answer.more, answer.error) == ("gate", 1, False, "")
    answer, lines = ask(replay, b'{"camera": "gate"}')
    assert (len(lines), answer.more) == (1000, True)
    answer, lines = ask(replay, b'{"camera": "nobody"}')
    assert (answer.last_seq, answer.more, lines) == (0, False, [])
    for nonsense, problem in (
        (b"", "truncated"),
        (b"\xff\xfe", "malformed"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `camera`"),
        (b'{"camera": "gate", "from_seq": 0}', "Expected `int` >= 1"),
        (b'{"camera": "gate", "from_seq": 1e99}', "Expected `int`"),
        (b'{"camera": "gate", "limit": 100000}', "Expected `int` <= 1000"),
        (b'{"camera": "gate", "sql": "DROP"}', "unknown field `sql`"),
        (b'{"camera": "%s"}' % (b"x" * 41), "length <= 40"),
    ):
        answer, lines = ask(replay, nonsense)
        assert problem in answer.error
        assert lines == []
    # One that is too long is not even read; the connection of its sender is cut.
    replay.send(b'{"camera": "%s"}' % (b"x" * 10_000))
    assert replay.poll(300) == 0
    assert ask_anew(replay, b'{"camera": "gate", "to_seq": 1}')


def ask_anew(socket: zmq.Socket[bytes], request: bytes) -> list[bytes]:
    with zmq.Context() as context, context.socket(zmq.REQ) as other:
        other.connect(socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        other.send(request)
        assert other.poll(5000)
        return other.recv_multipart()[1].splitlines()


@pytest.mark.parametrize(
    ("replay", "publish", "address"),
    [
        ("auto", "tcp://127.0.0.1:5560", "tcp://127.0.0.1:5561"),
        ("auto", "tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("auto", "tcp://[::1]:65535", "tcp://[::1]:*"),
        ("auto", "ipc://@events", "ipc://@events.replay"),
        ("auto", "", None),
        ("off", "tcp://127.0.0.1:5560", None),
        ("tcp://127.0.0.1:7000", "tcp://127.0.0.1:5560", "tcp://127.0.0.1:7000"),
    ],
)
def test_where_the_service_is(replay, publish, address):
    assert replay_address(replay, publish) == address


def test_an_address_that_is_open_to_others_must_be_wanted():
    graph = {"cameras": {"gate": "a.mp4"}, "events": {"replay": "tcp://0.0.0.0:5561"}}
    with pytest.raises(ConfigError, match=r"events\.replay: tcp://0\.0\.0\.0:5561 can be reached"):
        build_config(graph)
    graph["events"]["allow_remote"] = True
    assert build_config(graph).events.replay == "tcp://0.0.0.0:5561"


# What other stages saw.


def test_what_other_stages_saw_in_a_frame_is_an_event_of_that_frame():
    info = info_of(7)
    maker = FrameEvents(Numbering("run1", "gate", 0), score=0.3, updated_per_s=5)
    list(maker.events(tracks_of(info, {1: (1, 1, 5, 5)})))
    fields = {"cause": "act_busy", "count": 1, "total": 2}
    seen = Annotation(info, (Happening("frames.dropped", fields),))
    (event,) = maker.happened(seen.info, seen.happenings)
    assert (event.seq, event.frame, event.pts_s, event.camera) == (3, 7, 0.28, "gate")
