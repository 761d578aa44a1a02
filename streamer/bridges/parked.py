"""Keep the events that a server refused for good, as JSON lines beside the log; bounded."""

from __future__ import annotations

from pathlib import Path

_MOST_BYTES = 64 << 20


class ParkingLot:
    """One file a bridge; when it is full it becomes FILE.1 and another is begun."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, line: bytes) -> None:
        """Append one event.

        Raises:
            OSError: it can't be written.
        """
        if self.path.exists() and self.path.stat().st_size > _MOST_BYTES:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        with self.path.open("ab") as file:
            file.write(line + b"\n")
