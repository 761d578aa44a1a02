"""What one row of the event log holds, and the tables that hold it; opens nothing.

Rows are numbered without gaps in the order in which they were logged, over all cameras and runs.
A number is never given twice, also when the log was pruned or had to be begun anew.
"""

from __future__ import annotations

from typing import NamedTuple

SCHEMA_VERSION = 1

TABLES = (
    """CREATE TABLE events (
        rowid INTEGER PRIMARY KEY,
        camera TEXT NOT NULL,
        seq INTEGER NOT NULL,
        kind TEXT NOT NULL,
        time_ns INTEGER NOT NULL,
        line BLOB NOT NULL
    )""",
    "CREATE UNIQUE INDEX events_by_seq ON events (camera, seq)",
    "CREATE INDEX events_by_time ON events (time_ns)",
    # What must be known of rows that were pruned.
    "CREATE TABLE numbers (camera TEXT PRIMARY KEY, last_seq INTEGER NOT NULL) WITHOUT ROWID",
)


class Entry(NamedTuple):
    """One event, as it is given to the log."""

    camera: str
    """Empty for the host."""
    seq: int
    kind: str
    time_ns: int
    """Wall clock of what happened."""
    line: bytes
    """The event as JSON, without a line end."""


class Row(NamedTuple):
    """One event, as the log gives it back."""

    rowid: int
    camera: str
    seq: int
    kind: str
    time_ns: int
    line: bytes
