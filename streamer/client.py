"""Subscribe to the events of a running pipeline; imports zmq and msgspec alone.

for event in subscribe("tcp://127.0.0.1:5560"):
    print(event.camera, event)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import msgspec
import zmq

from streamer.errors import ConfigError
from streamer.events import AnyEvent, decode_event

log = logging.getLogger(__name__)
_QUEUED = 100_000


def subscribe(
    address: str,
    *,
    camera: str | None = None,
    kind: str | None = None,
    silent_s: float | None = None,
) -> Iterator[AnyEvent]:
    """Yield events as they come; reconnects by itself.

    Args:
        address: that the pipeline publishes on, such as "tcp://127.0.0.1:5560".
        camera: only events of this camera; None for all, "" for those of the host.
        kind: only events whose type begins with this, such as "track".
        silent_s: end after so many seconds without an event; None never ends.

    Raises:
        ConfigError: the address can't be used.
    """
    for line in subscribe_raw(address, camera=camera, kind=kind, silent_s=silent_s):
        try:
            yield decode_event(line)
        except msgspec.MsgspecError as error:
            log.warning("an event of another version was passed over: %s", error)


def subscribe_raw(
    address: str,
    *,
    camera: str | None = None,
    kind: str | None = None,
    silent_s: float | None = None,
) -> Iterator[bytes]:
    """Yield events as JSON lines; arguments as for subscribe."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.IPV6, "[" in address)
    socket.set(zmq.RCVHWM, _QUEUED)
    topic = "" if camera is None else f"{camera}.{kind or ''}"
    socket.set(zmq.SUBSCRIBE, topic.encode())
    try:
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise ConfigError(
                f"{address}: {error}; give the address that the pipeline publishes on, "
                "such as tcp://127.0.0.1:5560"
            ) from error
        until = float("inf") if silent_s is None else time.monotonic() + silent_s
        while time.monotonic() < until:
            if not socket.poll(200):
                continue
            name, line = socket.recv_multipart()
            if kind and not name.decode(errors="replace").partition(".")[2].startswith(kind):
                continue
            if silent_s is not None:
                until = time.monotonic() + silent_s
            yield line
    finally:
        socket.close()
        context.term()
