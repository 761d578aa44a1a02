"""Move a damaged event log aside and save from it what its successor must know; runs in publish.

Nothing is deleted: what was moved aside can be read with SQLite's own tools.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_NEWEST_ROWS = 10_000
_QUERIES = (
    # Each reads another part of the file, so that one damaged page does not take everything.
    "SELECT camera, last_seq, 0 FROM numbers",
    "WITH RECURSIVE names(name) AS (SELECT min(camera) FROM events UNION ALL "
    "SELECT (SELECT min(camera) FROM events WHERE camera > name) FROM names "
    "WHERE name IS NOT NULL) "
    "SELECT name, (SELECT max(seq) FROM events WHERE camera = name), 0 FROM names "
    "WHERE name IS NOT NULL",
    f"SELECT camera, seq, rowid FROM events ORDER BY rowid DESC LIMIT {_NEWEST_ROWS}",  # noqa: S608
)


@dataclass(frozen=True)
class Salvage:
    """What became of a damaged log."""

    moved_to: Path
    reason: str
    """What is wrong with it."""
    last_seq: dict[str, int] = field(default_factory=dict)
    """By camera, as far as it could be read: where numbering goes on."""
    last_rowid: int = 0


def move_aside(path: Path) -> Path:
    """Rename a log so that a new one can be begun; returns its new name."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for attempt in range(100):
        moved = path.with_name(f"{path.stem}.damaged-{stamp}{f'-{attempt}' * (attempt > 0)}.db")
        if not moved.exists():
            break
    # The write-ahead log first: were we killed in between, it must not be taken for the new log's.
    for suffix in ("-wal", ""):
        if Path(f"{path}{suffix}").exists():
            Path(f"{path}{suffix}").replace(f"{moved}{suffix}")
    Path(f"{path}-shm").unlink(missing_ok=True)
    return moved


def salvage(moved: Path, reason: str) -> Salvage:
    """Read from a damaged log how far its numbers had come."""
    last_seq: dict[str, int] = {}
    last_rowid = 0
    for camera, seq, rowid in _readable(moved):
        last_seq[camera] = max(seq, last_seq.get(camera, 0))
        last_rowid = max(rowid, last_rowid)
    return Salvage(moved, reason, last_seq, last_rowid)


def _readable(moved: Path) -> Iterator[tuple[str, int, int]]:
    try:
        connection = sqlite3.connect(moved)
    except sqlite3.DatabaseError:
        return
    for sql in _QUERIES:
        try:
            for camera, seq, rowid in connection.execute(sql):
                if isinstance(camera, str) and isinstance(seq, int):
                    yield camera, seq, rowid
        except sqlite3.DatabaseError:
            continue  # what came before the damage was good
    connection.close()
