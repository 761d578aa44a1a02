"""Say which events of the log go over a bridge, from the configuration alone.

A bridge never carries events about itself: one that is refused would make another, for ever.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from streamer.bridges.section import WebhookConfig
from streamer.config import Config
from streamer.eventlog import Row

OF_RULES = ("rule.fired", "clip.saved", "clip.failed", "snapshot.saved")


class _Subject(msgspec.Struct):
    bridge: str = ""
    rule: str = ""


def is_wanted(config: Config, name: str) -> Callable[[Row], bool]:
    """The filter of one bridge.

    What names neither types nor rules takes all; a webhook that rules name takes what these rules
    make, and the types that it names itself.
    """
    bridge = config.bridges[name]
    rules = (
        {each for each, rule in config.rules.items() if name in rule.then.webhooks}
        if isinstance(bridge, WebhookConfig)
        else set()
    )
    everything = not bridge.types and not rules
    families = tuple(f"{each}." for each in bridge.types)

    def wanted(row: Row) -> bool:
        if bridge.cameras and row.camera not in bridge.cameras:
            return False
        if row.kind.startswith("bridge.") and _subject(row).bridge == name:
            return False
        if everything or row.kind in bridge.types or row.kind.startswith(families):
            return True
        return bool(rules) and row.kind in OF_RULES and _subject(row).rule in rules

    return wanted


def _subject(row: Row) -> _Subject:
    return msgspec.json.decode(row.line, type=_Subject)
