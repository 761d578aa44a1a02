"""Append events to a file of JSON lines; runs in the publish process."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from streamer.errors import ConfigError

log = logging.getLogger(__name__)


class EventFile:
    """JSON lines, appended; a line is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._full = False
        self.lost_bytes = 0
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._size = os.fstat(self._fd).st_size
        except OSError as error:
            raise ConfigError(
                f"events.file: can't write {path}: {error.strerror}; choose another file"
            ) from error
        self._cut_half_line()

    def append(self, lines: bytes) -> None:
        """Write whole lines; where the disk is full they are lost, and that is logged once."""
        try:
            written = os.write(self._fd, lines)
            if written < len(lines):
                raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            self.lost_bytes += len(lines)
            if not self._full:
                log.error(
                    "%s: %s; events go on being published but are not in the file until there is "
                    "room", self._path, error.strerror,
                )  # fmt: skip
            self._full = True
            os.ftruncate(self._fd, self._size)
            return
        if self._full:
            self._full = False
            log.warning("%s: there is room again, %d bytes were lost", self._path, self.lost_bytes)
        self._size += len(lines)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _cut_half_line(self) -> None:
        """A writer that was killed may have left half a line."""
        if not self._path.is_file() or not self._size:
            return
        with self._path.open("rb") as reader:
            reader.seek(max(0, self._size - (1 << 20)))
            tail = reader.read()
        if not tail.endswith(b"\n"):
            self._size -= len(tail) - (tail.rfind(b"\n") + 1)
            os.ftruncate(self._fd, self._size)
