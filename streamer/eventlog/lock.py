"""Let one process at a time write to an event log, with a lock that dies with it."""

from __future__ import annotations

import fcntl
import os
import time
from io import TextIOWrapper
from pathlib import Path

from streamer.errors import ConfigError

_PATIENCE_S = 2.0
"""The kernel may need a moment to free what a dead predecessor held."""
_SQLITE = b"SQLite format 3\0"


def lock(path: Path) -> TextIOWrapper:
    """Take the lock of a log; it is held until this file is closed.

    Raises:
        ConfigError: somebody holds it, it can't be made, or the file is something else.
    """
    beside = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and not beside.exists():
            _refuse_strangers(path)
        held = beside.open("a+")
    except OSError as error:
        raise ConfigError(
            f"events.log: can't write {path}: {error.strerror}; choose another file, or `log: off` "
            "for none"
        ) from error
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            held.seek(0)
            holder = held.read().strip()
            held.close()
            raise ConfigError(
                f"events.log: {path} is written by another pipeline (process {holder}); give this "
                "one a file of its own, or `log: off` for none"
            ) from error
    held.truncate(0)
    held.write(f"{os.getpid()}\n")
    held.flush()
    return held


def _refuse_strangers(path: Path) -> None:
    """What never was a log of ours is not moved aside as a damaged one."""
    with path.open("rb") as file:
        head = file.read(len(_SQLITE))
    if head not in (b"", _SQLITE):
        raise ConfigError(
            f"events.log: {path} is a file of another kind; choose another name for the log"
        )
