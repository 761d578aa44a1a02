"""Read the event log, in any process, while it is being written; changes nothing.

A log that is not there yet reads as empty. When publish had to move a damaged log aside and begin
anew, reading goes on in the new one, whose rows have higher numbers. One reader a thread.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from streamer.errors import SinkError
from streamer.eventlog.rows import SCHEMA_VERSION, Row

POLL_S = 0.02
"""A query for the newest row takes some microseconds; fifty a second are no load."""
_COLUMNS = "SELECT rowid, camera, seq, kind, time_ns, line FROM events"


class LogReader:
    """A view of the log that goes on from row to row.

    Args:
        path: of the log; it need not exist yet.

    Every method raises SinkError if the log is damaged or of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def read(
        self,
        after: int,
        *,
        limit: int = 1000,
        camera: str | None = None,
        kind: str | None = None,
        since_ns: int | None = None,
    ) -> list[Row]:
        """The next rows, in the order in which they were logged.

        A reader that keeps a cursor does better to filter by itself: its cursor then moves over
        what it does not want, too.

        Args:
            after: rows above this number.
            limit: at most so many.
            camera: only of this camera; "" for those of the host.
            kind: only of types that begin so.
            since_ns: only of this wall-clock time or later.
        """
        where, values = ["rowid > ?"], [after]
        more: list[str | int] = []
        if camera is not None:
            where.append("+camera = ?")  # the plus keeps the order of rowid as the way through
            more.append(camera)
        if kind:
            where.append("substr(kind, 1, ?) = ?")
            more += [len(kind), kind]
        if since_ns is not None:
            where.append("+time_ns >= ?")
            more.append(since_ns)
        sql = f"{_COLUMNS} WHERE {' AND '.join(where)} ORDER BY rowid LIMIT ?"
        return self._rows(sql, [*values, *more, limit])

    def numbers(
        self,
        camera: str,
        *,
        from_seq: int = 1,
        to_seq: int = 2**63 - 1,
        after: int = 0,
        limit: int = 1000,
        limit_bytes: int = 2**63 - 1,
    ) -> list[Row]:
        """The rows of one camera by sequence number, both ends included.

        Args:
            camera: "" for the host.
            from_seq: first number.
            to_seq: last number.
            after: only rows above this number of row.
            limit: at most so many.
            limit_bytes: no more after the row with which the lines are as large as this.
        """
        return self._rows(
            f"{_COLUMNS} WHERE camera = ? AND seq BETWEEN ? AND ? AND +rowid > ? "
            "ORDER BY seq LIMIT ?",
            [camera, from_seq, to_seq, after, limit],
            limit_bytes,
        )

    def last_seq(self, camera: str) -> int:
        """The highest number that a camera's events have reached, pruned ones included; 0: none."""
        sql = (
            "SELECT max(coalesce((SELECT max(seq) FROM events WHERE camera = ?1), 0), "
            "coalesce((SELECT last_seq FROM numbers WHERE camera = ?1), 0))"
        )
        return self._number(sql, [camera])

    def first_seq(self, camera: str) -> int:
        """The lowest number of a camera that is still held; 0 if there is none."""
        return self._number("SELECT min(seq) FROM events WHERE camera = ?", [camera])

    def first_rowid(self) -> int:
        """The oldest row that is still held; 0 if there is none."""
        return self._number("SELECT min(rowid) FROM events")

    def last_rowid(self) -> int:
        """The newest row; 0 if there is none."""
        return self._number("SELECT max(rowid) FROM events")

    def rowid_before(self, since_ns: int) -> int:
        """What `read` takes as `after` to begin at this wall-clock time."""
        first = self._number("SELECT min(rowid) FROM events WHERE time_ns >= ?", [since_ns])
        return first - 1 if first else self.last_rowid()

    def lost(self, after: int) -> int:
        """How many rows above this number were pruned before they could be read."""
        return max(0, self.first_rowid() - after - 1)

    def wait(self, after: int, timeout_s: float) -> bool:
        """Wait for rows above this number; True as soon as there are, False after the timeout."""
        deadline = time.monotonic() + timeout_s
        while self.last_rowid() <= after:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(POLL_S, left_s))
        return True

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _number(self, sql: str, values: Sequence[str | int] = ()) -> int:
        connection = self._open()
        if connection is None:
            return 0
        try:
            found = connection.execute(sql, values).fetchone()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        return int(found[0] or 0)

    def _rows(
        self, sql: str, values: Sequence[str | int], limit_bytes: int = 2**63 - 1
    ) -> list[Row]:
        connection = self._open()
        if connection is None:
            return []
        rows: list[Row] = []
        try:
            cursor = connection.execute(sql, values)
            for row in map(Row._make, cursor):
                rows.append(row)
                limit_bytes -= len(row.line)
                if limit_bytes <= 0:
                    cursor.close()  # so that no view of the log is held open
                    break
            return rows
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _open(self) -> sqlite3.Connection | None:
        """The connection to the file that has the name now; None as long as there is no log."""
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if self._connection is not None and inode == self._inode:
            return self._connection
        self.close()
        if not inode:
            return None
        try:
            connection = sqlite3.connect(
                f"file:{quote(str(self._path))}?mode=ro",
                uri=True,
                isolation_level=None,
                timeout=2.0,
            )
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        if version == 0:  # its tables are being made
            connection.close()
            return None
        if version != SCHEMA_VERSION:
            connection.close()
            raise SinkError(
                f"{self._path}: the event log is of version {version}, and this program reads "
                f"version {SCHEMA_VERSION}; read it with the program that wrote it"
            )
        self._connection, self._inode = connection, inode
        return connection

    def _damaged(self, error: sqlite3.DatabaseError) -> SinkError:
        self.close()
        return SinkError(
            f"{self._path}: the event log can't be read: {error}; the next `streamer run` moves it "
            "aside and begins a new one"
        )
