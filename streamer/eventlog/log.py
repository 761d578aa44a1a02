"""Write events to the log, in batches of one transaction each; runs in the publish process alone.

A batch that `append` has returned from survives a kill of every process. A power cut may take the
last seconds: to sync the disk for each batch would cost milliseconds. A thread carries what was
written from the write-ahead log to the tables, so that the writer hardly ever waits for a disk.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from streamer.errors import ConfigError, SinkError
from streamer.eventlog.cursors import cursors
from streamer.eventlog.lock import lock
from streamer.eventlog.reader import LogReader
from streamer.eventlog.recover import Salvage, move_aside, salvage
from streamer.eventlog.rows import SCHEMA_VERSION, TABLES, Entry

log = logging.getLogger(__name__)

_CHECKPOINT_S = 1.0
_CHECKPOINT_BYTES = 1 << 20
_RESTART_BYTES = 128 << 20
"""A write-ahead log of this size is begun anew, for which the writer may wait some 50 ms."""
_QUICK_CHECK_BYTES = 64 << 20
"""A larger log is not read through when it is opened."""
_PRUNED_PER_WRITTEN = 2
"""As long as the log is too large."""
_PRUNED_AT_ONCE = 1000
_LOCKED_S = 0.5
"""Longest wait for somebody who writes to the log with other tools."""
_INSERT = "INSERT INTO events (rowid, camera, seq, kind, time_ns, line) VALUES (?, ?, ?, ?, ?, ?)"


class EventLog:
    """The one writer of a log; used by one thread.

    Args:
        path: of the log; its folder is made, for this user alone.
        size_bytes: the oldest rows are pruned beyond this.
        age_s: rows that are older are pruned.

    Attributes:
        path: of the log.
        recovered: what was done if the log was damaged; whoever tells it sets it to None.

    Raises:
        ConfigError: the file can't be written, belongs to another pipeline, or is no event log.
    """

    def __init__(self, path: Path, *, size_bytes: int = 1 << 30, age_s: float = 30 * 86400) -> None:
        self.path = path
        self._size_bytes = size_bytes
        self._age_ns = int(age_s * 1e9)
        self._too_large = False
        self._told_lost: dict[str, int] = {}
        self.recovered: Salvage | None = None
        self._lock = lock(path)
        try:
            self._connection = self._open_or_begin_anew()
        except ConfigError:
            self._lock.close()
            raise
        self.reader = LogReader(path)
        """For the thread that writes; others make their own."""
        self._last = self._last_rowid()
        self._closing = threading.Event()
        self._checkpointer = threading.Thread(target=self._checkpoints, daemon=True)
        self._checkpointer.start()

    def append(self, entries: Sequence[Entry]) -> int:
        """Write a batch as a whole or not at all.

        Returns:
            Number of its last row.

        Raises:
            SinkError: there is no room, or the disk failed; nothing of the batch was written.
        """
        try:
            self._write(entries)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise self._failed(error) from error
            self._connection.close()
            self._connection = self._begin_anew(str(error))
            self._last = max(self._last, self._last_rowid())
            try:
                self._write(entries)
            except sqlite3.DatabaseError as again:
                raise self._failed(again) from again
        self._last += len(entries)
        return self._last

    def maintain(self) -> dict[str, int]:
        """Keep the log within its bounds; call it about once a second.

        Returns:
            By name, the cursors that lost rows since the last call, and how many: they were pruned
            before they were read.
        """
        try:
            pages, free, page_bytes = (
                self._connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
            self._too_large = (pages - free) * page_bytes > self._size_bytes
            self._connection.execute("BEGIN IMMEDIATE")
            self._prune_old()
            self._connection.execute("COMMIT")
            if self._wal_bytes() > _RESTART_BYTES:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.DatabaseError as error:
            self._roll_back()
            log.warning("%s: not pruned: %s", self.path, error)
        return self._newly_lost()

    def close(self) -> None:
        """Close the log; safe to call twice."""
        self._closing.set()
        self._checkpointer.join()
        self.reader.close()
        self._connection.close()
        self._lock.close()

    # Writing.

    def _write(self, entries: Sequence[Entry]) -> None:
        rows = [(rowid, *entry) for rowid, entry in enumerate(entries, self._last + 1)]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT, rows)
            if self._too_large:
                self._prune(self.reader.first_rowid() + _PRUNED_PER_WRITTEN * len(rows))
            self._connection.execute("COMMIT")
        except sqlite3.DatabaseError:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _failed(self, error: sqlite3.DatabaseError) -> SinkError:
        # The write-ahead log may take the room that the tables need.
        with contextlib.suppress(sqlite3.DatabaseError):  # the error that counts is the first
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return SinkError(f"{self.path}: {error}")

    # Pruning.

    def _prune_old(self) -> None:
        first = self.reader.first_rowid()
        cutoff_ns = time.time_ns() - self._age_ns
        (young,) = self._connection.execute(
            "SELECT min(rowid) FROM events WHERE rowid BETWEEN ? AND ? AND +time_ns >= ?",
            (first, first + _PRUNED_AT_ONCE, cutoff_ns),
        ).fetchone()
        self._prune(first + _PRUNED_AT_ONCE if young is None else young)

    def _prune(self, before: int) -> None:
        """Delete rows below this number, but never the newest: the next number follows from it."""
        upto = min(before - 1, self._last - 1)
        self._connection.execute(
            "INSERT INTO numbers SELECT camera, max(seq) FROM events WHERE rowid <= ? "
            "GROUP BY camera ON CONFLICT DO UPDATE SET last_seq = excluded.last_seq",
            (upto,),
        )
        self._connection.execute("DELETE FROM events WHERE rowid <= ?", (upto,))

    def _newly_lost(self) -> dict[str, int]:
        held_from = self.reader.first_rowid()
        lost = {}
        for name, rowid in cursors(self.path).items():
            seen = max(rowid, self._told_lost.get(name, 0))
            if held_from - 1 > seen:
                lost[name] = held_from - 1 - seen
                self._told_lost[name] = held_from - 1
        return lost

    # Opening and mending.

    def _open_or_begin_anew(self) -> sqlite3.Connection:
        try:
            connection = _open(self.path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise _cannot(self.path, str(error)) from error
            return self._begin_anew(str(error))
        problem = _damage_in(connection, self.path)
        if problem:
            connection.close()
            return self._begin_anew(problem)
        return connection

    def _begin_anew(self, reason: str) -> sqlite3.Connection:
        saved = salvage(move_aside(self.path), reason)
        log.error(
            "%s: damaged (%s); moved to %s, a new one is begun", self.path, reason, saved.moved_to
        )
        self.recovered = saved
        try:
            connection = _open(self.path)
            connection.executemany("INSERT INTO numbers VALUES (?, ?)", saved.last_seq.items())
        except sqlite3.DatabaseError as error:
            raise _cannot(self.path, str(error)) from error
        return connection

    def _last_rowid(self) -> int:
        """Also above what cursors have seen of a log that was damaged."""
        saved = self.recovered.last_rowid if self.recovered else 0
        return max(self.reader.last_rowid(), saved, *cursors(self.path).values())

    # The thread.

    def _checkpoints(self) -> None:
        while not self._closing.wait(_CHECKPOINT_S):
            if self._wal_bytes() < _CHECKPOINT_BYTES:
                continue
            try:
                connection = sqlite3.connect(self.path, isolation_level=None)
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                connection.close()
            except sqlite3.DatabaseError as error:
                log.debug("%s: checkpoint: %s", self.path, error)  # the writer will say it

    def _wal_bytes(self) -> int:
        try:
            return Path(f"{self.path}-wal").stat().st_size
        except FileNotFoundError:
            return 0


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=_LOCKED_S, check_same_thread=False
    )
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise _cannot(path, "its file system does not share memory between processes")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version == 0 and tables == 0:
        connection.execute("BEGIN IMMEDIATE")
        for sql in TABLES:
            connection.execute(sql)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    elif version != SCHEMA_VERSION:
        connection.close()
        raise _cannot(path, f"it is no event log of version {SCHEMA_VERSION} (but {version})")
    return connection


def _damage_in(connection: sqlite3.Connection, path: Path) -> str:
    """What is wrong with a log, or nothing; a large one is looked at only where it is used."""
    try:
        if path.stat().st_size <= _QUICK_CHECK_BYTES:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            return "" if found == "ok" else str(found)
        for order in ("rowid", "camera", "time_ns"):
            for way in ("ASC", "DESC"):
                connection.execute(
                    f"SELECT * FROM events ORDER BY {order} {way} LIMIT 100"  # noqa: S608
                ).fetchall()
    except sqlite3.DatabaseError as error:
        return str(error)
    return ""


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Of the file itself; a full disk or a lock is an error of a subclass."""
    return type(error) is sqlite3.DatabaseError


def _cannot(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"events.log: can't use {path}: {why}; choose another file, or `log: off` for none"
    )
