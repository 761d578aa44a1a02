"""Keep how far each reader of the event log has come, one small file a reader beside the log.

Not in the log itself: its only writer must never wait for a reader. One process a name.
"""

from __future__ import annotations

import re
from pathlib import Path

from streamer.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")


class Cursor:
    """How far one reader has come; survives it.

    Args:
        log: path of the event log.
        name: of the reader, such as "mqtt.home"; it is a file's name.
    """

    def __init__(self, log: Path, name: str) -> None:
        if not _NAME.fullmatch(name) or name.startswith("."):
            raise ConfigError(
                f"cursor: a name must be 1 to 80 of A-Z a-z 0-9 _ . - and not begin with a dot, "
                f"got {name!r}; rename it"
            )
        self._path = folder(log) / name
        self.rowid = _read(self._path)
        """The last row that is done with; None if the reader is new or its file is damaged."""

    def advance(self, rowid: int) -> None:
        """Remember that all rows up to this one are done with."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}.new")
        fresh.write_text(f"{rowid}\n")
        fresh.replace(self._path)
        self.rowid = rowid


def folder(log: Path) -> Path:
    """Where the cursors of a log are."""
    return log.with_name(f"{log.name}.cursors")


def cursors(log: Path) -> dict[str, int]:
    """How far each reader of a log has come."""
    found = {path.name: _read(path) for path in sorted(folder(log).glob("[!.]*"))}
    return {name: rowid for name, rowid in found.items() if rowid is not None}


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
