"""The durable log: what was appended is there, in bounds, for other processes, whatever breaks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import missing

from streamer.config import Config
from streamer.configfile import build_config
from streamer.errors import ConfigError, SinkError
from streamer.eventlog import (
    Cursor,
    Entry,
    EventLog,
    LogReader,
    cursors,
    default_path,
    log_path,
)

ROOT = Path(__file__).resolve().parent.parent
NOW_NS = time.time_ns()


def entries(first: int, count: int, *, camera: str = "gate", size: int = 200) -> list[Entry]:
    return [
        Entry(camera, seq, "track.updated", NOW_NS + seq, b'{"n":%d,"x":"%s"}' % (seq, b"x" * size))
        for seq in range(first, first + count)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "events.db"


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    log = EventLog(path)
    yield log
    log.close()


@pytest.fixture
def reader(path: Path) -> Iterator[LogReader]:
    reader = LogReader(path)
    yield reader
    reader.close()


# Reading what was written.


def test_rows_come_back_in_order_and_numbered_without_gaps(log, reader):
    assert log.append(entries(1, 3)) == 3
    assert log.append([*entries(1, 2, camera=""), *entries(4, 1)]) == 6
    rows = reader.read(0)
    assert [row.rowid for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [(row.camera, row.seq) for row in rows[2:]] == [
        ("gate", 3), ("", 1), ("", 2), ("gate", 4),
    ]  # fmt: skip
    assert tuple(rows[0][1:]) == entries(1, 1)[0]
    assert [row.rowid for row in reader.read(2, limit=2)] == [3, 4]
    assert reader.read(6) == []


def test_filters(log, reader):
    log.append(entries(1, 2))
    log.append([Entry("yard", 1, "zone.enter", NOW_NS + 500, b"{}")])
    assert [row.seq for row in reader.read(0, camera="gate")] == [1, 2]
    assert [row.kind for row in reader.read(0, kind="zone")] == ["zone.enter"]
    assert reader.read(0, camera="") == []
    assert [row.camera for row in reader.read(0, since_ns=NOW_NS + 2)] == ["gate", "yard"]
    assert [row.seq for row in reader.numbers("gate", from_seq=2)] == [2]
    assert [row.seq for row in reader.numbers("gate", to_seq=1)] == [1]
    assert reader.numbers("gate", after=2) == []
    assert [row.seq for row in reader.numbers("gate", limit_bytes=1)] == [1]
    assert (reader.first_seq("gate"), reader.last_seq("gate"), reader.last_seq("roof")) == (1, 2, 0)


def test_since_finds_the_first_row_of_a_time(log, reader):
    log.append(entries(1, 100))
    assert reader.read(reader.rowid_before(NOW_NS + 40))[0].seq == 40
    assert reader.read(reader.rowid_before(0))[0].seq == 1
    assert reader.read(reader.rowid_before(NOW_NS + 101)) == []


def test_a_log_that_is_not_there_yet_is_empty_and_then_appears(path, reader):
    assert reader.read(0) == []
    assert reader.last_rowid() == 0
    assert not reader.wait(0, timeout_s=0.01)
    log = EventLog(path)
    log.append(entries(1, 1))
    assert reader.wait(0, timeout_s=2)
    assert len(reader.read(0)) == 1
    log.close()


def test_a_waiting_reader_learns_of_new_rows_at_once(log, path):
    log.append(entries(1, 1))
    woken_s: list[float] = []
    waiting = threading.Event()

    def wait() -> None:
        reader = LogReader(path)
        assert reader.last_rowid() == 1
        waiting.set()
        assert reader.wait(1, timeout_s=10)
        woken_s.append(time.monotonic())
        reader.close()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(5)
    log.append(entries(2, 1))
    written_s = time.monotonic()
    thread.join()
    assert woken_s[0] - written_s < 1.0


def test_a_batch_is_written_whole_or_not_at_all(log, reader):
    log.append(entries(1, 2))
    with pytest.raises(SinkError, match="UNIQUE constraint failed"):
        log.append([*entries(3, 2), *entries(2, 1)])
    assert [row.seq for row in reader.read(0)] == [1, 2]
    log.append(entries(3, 1))
    assert [row.rowid for row in reader.read(0)] == [1, 2, 3]


def test_another_process_reads_while_one_writes(log, path):
    log.append(entries(1, 1000))
    code = (
        "import sys; from pathlib import Path; from streamer.eventlog import LogReader;"
        "print(len(LogReader(Path(sys.argv[1])).read(0, limit=5000)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "1000\n"


# Surviving.


def test_numbers_go_on_after_a_restart(path):
    log = EventLog(path)
    log.append(entries(1, 5))
    log.close()
    log = EventLog(path)
    assert log.reader.last_seq("gate") == 5
    assert log.append(entries(6, 1)) == 6
    log.close()


def test_what_was_appended_survives_a_kill(path):
    """The writer says each batch that it has appended; all that it said is there."""
    code = (
        "import sys; from pathlib import Path; from streamer.eventlog import EventLog, Entry\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "for batch in range(10**9):\n"
        "    log.append([Entry('gate', 5 * batch + i + 1, 'k', 1, b'{}') for i in range(5)])\n"
        "    print(5 * batch + 5, flush=True)\n"
    )
    for _ in range(3):
        path.parent.mkdir(exist_ok=True, parents=True)
        for old in path.parent.iterdir():
            old.unlink()
        writer = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        for _ in range(100):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        said = writer.stdout.read().split(b"\n")[:-1]
        writer.wait()
        writer.stdout.close()
        log = EventLog(path)
        assert log.recovered is None
        rows = log.reader.read(0, limit=10**9)
        log.close()
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        assert len(rows) % 5 == 0
        assert len(rows) >= int(said[-1] if said else 500)


def test_two_pipelines_cannot_write_to_one_log(log, path, monkeypatch):
    monkeypatch.setattr("streamer.eventlog.lock._PATIENCE_S", 0.05)
    with pytest.raises(ConfigError, match=rf"by another pipeline \(process {os.getpid()}\)"):
        EventLog(path)
    other = EventLog(path.with_name("other.db"))  # the remedy
    other.close()


# Bounds.


def test_it_stays_within_its_size_and_numbers_are_not_given_again(path):
    log = EventLog(path, size_bytes=1 << 20)
    for batch in range(100):
        log.append(entries(1 + 100 * batch, 100, size=300))
        log.maintain()
    first, last = log.reader.first_rowid(), log.reader.last_rowid()
    assert last == 10_000
    assert 1000 < last - first < 4000
    assert log.reader.first_seq("gate") == first
    log.close()
    assert path.stat().st_size < 2 << 20
    log = EventLog(path, size_bytes=1 << 20)
    assert (log.reader.last_seq("gate"), log.append(entries(10_001, 1))) == (10_000, 10_001)
    log.close()


def test_old_rows_go_and_their_numbers_are_remembered(path):
    log = EventLog(path, age_s=3600)
    old = [Entry("yard", seq, "k", NOW_NS - 2 * 3600 * 10**9, b"{}") for seq in (1, 2, 3)]
    log.append([*old, *entries(1, 2)])
    log.maintain()
    assert [row.camera for row in log.reader.read(0)] == ["gate", "gate"]
    assert log.reader.last_seq("yard") == 3
    assert log.reader.first_seq("yard") == 0
    log.close()


def test_the_newest_row_stays_however_old(path):
    log = EventLog(path, age_s=1)
    log.append([Entry("gate", 1, "k", 0, b"{}"), Entry("gate", 2, "k", 0, b"{}")])
    log.maintain()
    assert [row.rowid for row in log.reader.read(0)] == [2]
    assert log.append(entries(3, 1)) == 3
    log.close()


def test_the_write_ahead_log_is_begun_anew(path, monkeypatch):
    monkeypatch.setattr("streamer.eventlog.log._RESTART_BYTES", 1 << 20)
    log = EventLog(path)
    for batch in range(60):
        log.append(entries(1 + 100 * batch, 100))
    wal = Path(f"{path}-wal")
    assert wal.stat().st_size > 1 << 20
    log.maintain()
    assert wal.stat().st_size == 0
    assert len(log.reader.read(0, limit=10_000)) == 6000
    log.close()


# Cursors.


def test_a_cursor_survives_its_reader(log, path):
    cursor = Cursor(path, "mqtt.home")
    assert cursor.rowid is None
    cursor.advance(7)
    assert Cursor(path, "mqtt.home").rowid == 7
    assert cursors(path) == {"mqtt.home": 7}


def test_a_damaged_cursor_counts_as_new(log, path):
    Cursor(path, "mqtt").advance(7)
    (path.parent / "events.db.cursors" / "mqtt").write_bytes(b"\0\xff")
    assert Cursor(path, "mqtt").rowid is None
    assert cursors(path) == {}


@pytest.mark.parametrize("name", ["", "../mqtt", ".mqtt", "a b", "x" * 81])
def test_cursor_names_are_file_names(path, name):
    with pytest.raises(ConfigError, match="cursor: a name must be 1 to 80 of"):
        Cursor(path, name)


def test_what_a_cursor_loses_by_pruning_is_told_once(path):
    log = EventLog(path, age_s=3600)
    Cursor(path, "slow").advance(2)
    Cursor(path, "quick").advance(9)
    log.append([Entry("gate", seq, "k", 0, b"{}") for seq in range(1, 10)])
    log.append(entries(10, 1))
    assert log.maintain() == {"slow": 7}
    assert log.maintain() == {}
    reader = LogReader(path)
    assert (reader.lost(2), reader.lost(9)) == (7, 0)
    reader.close()
    log.close()


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        missing("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)


def fill(log: EventLog) -> None:
    while True:
        log.append(entries(log.reader.last_rowid() + 1, 100))


def test_a_full_disk_is_one_error_and_loses_nothing_that_was_logged(small_disk):
    log = EventLog(small_disk / "events.db")
    with pytest.raises(SinkError, match=r"events\.db: database or disk is full"):
        fill(log)
    written = log.reader.last_rowid()
    assert written > 500
    assert [row.seq for row in log.reader.read(0, limit=10**6)] == list(range(1, written + 1))
    log.close()


def test_with_room_again_it_goes_on(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    log = EventLog(small_disk / "events.db")
    with pytest.raises(SinkError, match="full"):
        fill(log)
    written = log.reader.last_rowid()
    ballast.unlink()
    assert log.append(entries(written + 1, 100)) == written + 100
    log.close()


def test_a_disk_that_is_full_at_the_start_is_a_clear_error(small_disk):
    (small_disk / "ballast").write_bytes(bytes(2 * 1024 * 1024 - 4096))
    with pytest.raises(ConfigError, match=r"events\.log: can't .*choose another file, or"):
        EventLog(small_disk / "events.db")


# Damage.


def filled(path: Path, rows: int = 5000) -> None:
    log = EventLog(path)
    for first in range(1, rows + 1, 500):
        log.append([*entries(first, 400), *entries(first // 5 + 1, 100, camera="")])
    log.close()


def damage(path: Path, *places: tuple[int, int]) -> None:
    with path.open("r+b") as file:
        for offset, length in places:
            file.seek(offset)
            file.write(b"\xa5" * length)


@pytest.mark.parametrize(
    ("places", "numbers_kept"),
    [
        ([(0, 100)], False),  # the header: nothing can be read
        ([(40 * 4096, 20 * 4096)], True),  # pages in the middle
    ],
)
def test_a_damaged_log_is_moved_aside_and_a_new_one_begun(path, places, numbers_kept):
    filled(path)
    reader = LogReader(path)
    last = reader.last_seq("gate")
    reader.close()
    before = path.read_bytes()
    damage(path, *places)
    log = EventLog(path)
    saved = log.recovered
    assert saved is not None
    assert saved.moved_to.name.startswith("events.damaged-")
    assert len(saved.moved_to.read_bytes()) == len(before)
    assert log.reader.read(0) == []
    assert (log.reader.last_seq("gate") == last) is numbers_kept
    log.append(entries(last + 1, 3))
    assert [row.seq for row in log.reader.read(0)] == [last + 1, last + 2, last + 3]
    log.close()


def test_a_cut_off_log_is_moved_aside(path):
    filled(path)
    os.truncate(path, path.stat().st_size // 2 + 17)
    log = EventLog(path)
    assert log.recovered is not None
    log.append(entries(10**6, 1))
    log.close()


def test_damage_while_it_is_written_is_mended_on_the_way(path, reader):
    filled(path)
    log = EventLog(path)
    log.append(entries(5001, 1))
    old = reader.last_rowid()
    size = path.stat().st_size
    damage(path, (0, 100), *((page, 4096) for page in range(4096, size, 4096)))
    log._connection.close()  # as after a failure of the disk: nothing of it is cached
    log._connection = sqlite3.connect(path, isolation_level=None)
    assert log.append(entries(5002, 2)) > old
    assert log.recovered is not None
    rows = reader.read(old)
    assert [row.seq for row in rows] == [5002, 5003], "a reader goes on in the new log"
    log.close()


def test_rows_of_a_new_log_are_above_what_cursors_have_seen(path):
    filled(path)
    Cursor(path, "mqtt").advance(123_456)
    damage(path, (0, 100))
    log = EventLog(path)
    assert log.append(entries(1, 1)) == 123_457
    log.close()


def test_a_reader_says_what_is_wrong_with_a_damaged_log(path):
    filled(path)
    damage(path, (0, 100))
    reader = LogReader(path)
    with pytest.raises(SinkError, match=r"can't be read: file is not a database; the next"):
        reader.read(0)


def test_a_stranger_s_file_is_not_moved_aside(tmp_path):
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"\0\0\0 ftypisom" * 100)
    with pytest.raises(ConfigError, match="is a file of another kind; choose another name"):
        EventLog(video)
    assert video.read_bytes().startswith(b"\0\0\0 ftyp")


def test_a_stranger_s_database_is_left_alone(tmp_path):
    database = tmp_path / "theirs.db"
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigError, match="it is no event log of version 1"):
        EventLog(database)
    assert not list(tmp_path.glob("*damaged*"))


def test_a_log_of_a_later_version_is_refused_by_reader_and_writer(path):
    filled(path, 500)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(ConfigError, match=r"no event log of version 1 \(but 9\)"):
        EventLog(path)
    with pytest.raises(SinkError, match="is of version 9, and this program reads version 1"):
        LogReader(path).read(0)


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"events\.log: can't write .*: File exists; choose"):
        EventLog(tmp_path / "file" / "events.db")


# Where it is.


def config(**events: object) -> Config:
    return build_config({"cameras": {"gate": "a.mp4"}, "events": events})


def test_live_runs_have_the_log_of_the_host_and_others_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert log_path(config(), {"gate": True}) == tmp_path / "streamer" / "events.db"
    assert log_path(config(), {"gate": False}) is None
    assert log_path(config(log="off"), {"gate": True}) is None
    assert log_path(config(log="my.db"), {"gate": False}) == Path("my.db")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_path() == Path("/home/somebody/.local/state/streamer/events.db")


def test_bridges_need_a_log_in_any_regime(tmp_path):
    bridge = {"kind": "webhook", "address": "http://127.0.0.1:9/"}
    bridged = build_config({"cameras": {"gate": "a.mp4"}, "bridges": {"hook": bridge}})
    assert log_path(bridged, {"gate": False}) == default_path()
    with pytest.raises(ConfigError, match=r"events\.log: must not be off, for rules and bridges"):
        build_config(
            {
                "cameras": {"gate": "a.mp4"},
                "bridges": {"hook": bridge},
                "events": {"log": "off"},
            }
        )
