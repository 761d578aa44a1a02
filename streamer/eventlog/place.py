"""Say which file the event log is in, from the configuration and the environment; opens nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from streamer.config import Config


def default_path() -> Path:
    """The log of this host: $XDG_STATE_HOME/streamer/events.db, by default in ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "streamer" / "events.db"


def log_path(config: Config, live: Mapping[str, bool]) -> Path | None:
    """The log of a run, or None if it keeps none.

    Args:
        config: of the run.
        live: by camera, which regime it runs in.
    """
    where = config.events.log
    if where == "off":
        return None
    if where == "auto":
        needed = any(live.values()) or config.rules or config.bridges
        return default_path() if needed else None
    return Path(where).expanduser()
