"""Say what a bridge can be told, and refuse addresses and secrets that can't be used.

Pure: imports no protocol. Addresses keep their ${NAME}; only the bridge's own process resolves
them, so a password is in no message, log or event.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from streamer.errors import ConfigError
from streamer.sources.redact import redact
from streamer.strict import Name, Strict, check_names

_SECRET = re.compile(r"\$\{[^}]+\}")


class _Bridge(Strict, frozen=True, kw_only=True):
    types: tuple[str, ...] = ()
    """Only events of these types or families, such as zone or rule.fired; empty for all."""
    cameras: tuple[str, ...] = ()
    """Only events of these cameras; empty for all, and for those of the host."""
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 10.0
    """How long connecting or an answer may take."""
    retry_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """Longest wait before the next try; it begins with a fraction of it and doubles."""
    ca_file: str = ""
    """Certificates that a server's must descend from; empty for those of this machine."""


class MqttConfig(_Bridge, frozen=True, tag_field="kind", tag="mqtt"):
    """Events to an MQTT broker (QoS 1), and the state of cameras, zones and lines as retained."""

    address: str
    """mqtt://user:${PASSWORD}@host:1883, or mqtts:// for TLS."""
    root: Annotated[str, Meta(pattern=r"^[^+#\s/][^+#\s]*$", max_length=100)] = "streamer"
    """First level of all topics."""
    client_id: str = ""
    """Empty for streamer- and the bridge's name."""
    discovery: str = "homeassistant"
    """Prefix of Home Assistant's discovery; empty for none."""
    in_flight: Annotated[int, Meta(ge=1, le=1000)] = 100
    """Messages that may wait for their acknowledgement at once."""


class RedisConfig(_Bridge, frozen=True, tag_field="kind", tag="redis"):
    """Events to Redis Streams."""

    address: str
    """redis://user:${PASSWORD}@host:6379/0, or rediss:// for TLS."""
    stream: str = "streamer:{camera}"
    """Key of the stream; {camera} is filled in, "host" for events of the host."""
    max_len: Annotated[int, Meta(ge=1000)] = 100_000
    """Entries that a stream keeps, about."""


class WebhookConfig(_Bridge, frozen=True, tag_field="kind", tag="webhook"):
    """Events to an HTTP server, signed."""

    address: str
    """https://host/path; ${NAME} is filled in."""
    secret: str = ""
    """Key of the HMAC-SHA256 signature, as ${NAME}; empty for none."""
    batch: Annotated[int, Meta(ge=1, le=1000)] = 1
    """1 posts each event as an object; more posts up to so many as an array."""


BridgeConfig = MqttConfig | RedisConfig | WebhookConfig
Bridges = dict[Name, BridgeConfig]

_SCHEMES = {
    MqttConfig: ("mqtt", "mqtts"),
    RedisConfig: ("redis", "rediss"),
    WebhookConfig: ("http", "https"),
}
_EXAMPLES = {
    MqttConfig: "mqtt://127.0.0.1:1883",
    RedisConfig: "redis://127.0.0.1:6379/0",
    WebhookConfig: "https://192.0.2.7/events",
}


def check_bridges(
    bridges: Mapping[str, BridgeConfig], cameras: Collection[str], types: Collection[str]
) -> None:
    """Refuse what can't be used.

    Args:
        bridges: by name.
        cameras: names of all.
        types: of all events.

    Raises:
        ConfigError: with the path of what is wrong; never with a password.
    """
    for name, bridge in bridges.items():
        where = f"bridges.{name}"
        _check_address(f"{where}.address", bridge)
        families = {each.partition(".")[0] for each in types}
        check_names(f"{where}.cameras", bridge.cameras, cameras)
        check_names(f"{where}.types", bridge.types, {*types, *families})
        secret = bridge.secret if isinstance(bridge, WebhookConfig) else ""
        if secret and not _SECRET.fullmatch(secret):
            raise ConfigError(
                f"{where}.secret: must come from the environment, got a plain text; "
                "write ${NAME} and set NAME"
            )


def _check_address(where: str, bridge: BridgeConfig) -> None:
    address = _SECRET.sub("x", bridge.address)
    schemes = _SCHEMES[type(bridge)]
    try:
        parts = urlsplit(address)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        port_ok = False
    if not port_ok or parts.scheme not in schemes or not parts.hostname:
        raise ConfigError(
            f"{where}: must be {schemes[0]}:// or {schemes[1]}:// with a host, "
            f"got {redact(bridge.address)!r}; use {_EXAMPLES[type(bridge)]}"
        )
