"""Describe cameras, zones and lines to Home Assistant, as its MQTT discovery wants it; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from streamer import __version__
from streamer.bridges import state
from streamer.config import CameraConfig

Entity = dict[str, object]
STATUS = "status"
"""Topic, below the root, that says whether the bridge itself is there."""


def discovery(
    prefix: str, root: str, cameras: Mapping[str, CameraConfig]
) -> Iterator[tuple[str, bytes]]:
    """Topic and payload of each entity.

    Args:
        prefix: that Home Assistant listens to, "homeassistant" unless it was told otherwise.
        root: first level of our topics.
        cameras: by name.
    """
    for name, camera in cameras.items():
        online: Entity = {
            "name": "Online",
            "device_class": "connectivity",
            "state_topic": f"{root}/{state.availability(name)}",
            "payload_on": "online",
            "payload_off": "offline",
            "availability": [_status(root)],
        }
        yield _entity(prefix, root, name, "binary_sensor", "online", online)
        last: Entity = {
            "name": "Last alarm",
            "icon": "mdi:alarm-light",
            "state_topic": f"{root}/{state.alarm(name)}",
            "value_template": "{{ value_json.text }}",
            "json_attributes_topic": f"{root}/{state.alarm(name)}",
        }
        yield _entity(prefix, root, name, "sensor", "alarm", last)
        for zone in camera.zones:
            topic = f"{root}/{state.in_zone(name, zone, 'occupancy')}"
            there: Entity = {
                "name": f"{zone} occupancy", "state_topic": topic, "state_class": "measurement",
            }  # fmt: skip
            yield _entity(prefix, root, name, "sensor", f"zone_{zone}_occupancy", there)
        for line in camera.lines:
            for way in ("in", "out"):
                count: Entity = {
                    "name": f"{line} {way}",
                    "state_topic": f"{root}/{state.over_line(name, line, way)}",
                    "state_class": "total_increasing",
                }
                yield _entity(prefix, root, name, "sensor", f"line_{line}_{way}", count)


def _entity(
    prefix: str, root: str, camera: str, component: str, what: str, fields: Entity
) -> tuple[str, bytes]:
    identity = f"{root}_{camera}_{what}".replace("/", "_")
    whole: Entity = {
        # An entity is there while its camera and the bridge are.
        "availability": [_status(root), {"topic": f"{root}/{state.availability(camera)}"}],
        "availability_mode": "all",
        **fields,
        "unique_id": identity,
        "device": {
            "identifiers": [f"{root}_{camera}".replace("/", "_")],
            "name": camera,
            "manufacturer": "streamer",
            "sw_version": __version__,
        },
    }
    return f"{prefix}/{component}/{identity}/config", msgspec.json.encode(whole)


def _status(root: str) -> Entity:
    return {"topic": f"{root}/{STATUS}"}
