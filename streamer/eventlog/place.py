"""Say which file the event log is in, from the configuration and the environment; opens nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from streamer.config import EventsConfig


def default_path() -> Path:
    """The log of this host: $XDG_STATE_HOME/streamer/events.db, by default in ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "streamer" / "events.db"


def log_path(events: EventsConfig, live: Mapping[str, bool]) -> Path | None:
    """The log of a run, or None if it keeps none.

    Args:
        events: of its configuration.
        live: by camera, which regime it runs in.
    """
    if events.log == "off":
        return None
    if events.log == "auto":
        return default_path() if any(live.values()) else None
    return Path(events.log).expanduser()
