"""Say where events go, and refuse addresses that can't be used; imports no protocol."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from streamer.errors import ConfigError
from streamer.sources.redact import redact
from streamer.strict import Strict


class EventsConfig(Strict, frozen=True):
    """Where events go."""

    file: str = ""
    """JSON lines, appended."""
    publish: str = ""
    """ZeroMQ PUB endpoint to bind, such as tcp://127.0.0.1:5560."""
    replay: str = "auto"
    """ZeroMQ ROUTER endpoint where subscribers ask the log for what they missed; auto: the port
    after that of `publish`; off: none."""
    allow_remote: bool = False
    """Let `publish` and `replay` bind to an address that other hosts reach."""
    log: str = "auto"
    """Durable log, a file; auto: $XDG_STATE_HOME/streamer/events.db (~/.local/state without it) if
    a camera is live or there are rules or bridges, which read it; off: none."""
    log_mb: Annotated[int, Meta(ge=1)] = 1024
    """The oldest events are pruned beyond this."""
    log_days: Annotated[float, Meta(gt=0)] = 30.0
    """Older events are pruned."""
    updated_per_s: Annotated[float, Meta(ge=0, le=100)] = 5.0
    """track.updated events a second and track at the most."""
    heartbeat_s: Annotated[float, Meta(gt=0)] = 1.0


def check_address(address: str, *, allow_remote: bool, where: str = "events.publish") -> None:
    """Refuse an address that is malformed, or open to other hosts without being asked to."""
    if not address or address.startswith("ipc://"):
        return
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    number = int(port) if port.isdecimal() and len(port) < 6 else 0
    if not address.startswith("tcp://") or not host or not (0 < number < 65536 or port == "*"):
        raise ConfigError(
            f"{where}: must be tcp://HOST:PORT or ipc://NAME, got {redact(address)!r}; "
            "use tcp://127.0.0.1:5560"
        )
    if host not in ("127.0.0.1", "localhost", "[::1]") and not allow_remote:
        raise ConfigError(
            f"{where}: {redact(address)} can be reached by other hosts; "
            "use tcp://127.0.0.1:PORT, or set events.allow_remote if that is wanted"
        )
