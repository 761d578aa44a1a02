"""Say what a rule can be told, and refuse rules that can never fire or do what they say.

Pure: knows no event log and no stage. What a rule does with events is in engine.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from msgspec import Meta

from streamer.errors import ConfigError
from streamer.strict import Name, Seconds, Strict, check_names

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Severity = Literal["info", "warning", "alarm", "critical"]

OF_TRACKS = (
    "track.started", "track.updated", "track.ended", "detection", "zone.enter", "zone.leave",
    "zone.dwell", "zone.occupancy", "line.crossed", "speed.over", "loitering", "crowding",
    "direction.wrong", "absence", "vehicle.stopped",
)  # fmt: skip
OF_ACTIONS = ("action.started", "action.ended")
OF_SURFACES = ("surface.blocked", "surface.cleared")
OF_THE_PIPELINE = (
    "stream.up", "stream.down", "stream.damaged", "recording.started", "recording.segment",
    "recording.ended", "recording.failed", "recording.resumed", "recording.changed",
    "stage.restarted", "stage.failed", "frames.dropped", "log.recovered", "log.failed",
    "log.resumed", "log.pruned",
)  # fmt: skip
TYPES = (*OF_TRACKS, *OF_ACTIONS, *OF_SURFACES, *OF_THE_PIPELINE)
"""Types of events that a rule can wait for; its own kind are not among them."""
MADE = (
    "rule.fired", "clip.saved", "clip.failed", "snapshot.saved", "bridge.up", "bridge.down",
    "bridge.parked", "heartbeat",
)  # fmt: skip
"""Types that it can not."""
LASTING = ("duration_s", "dwell_s", "total_s")
"""Fields of events that say for how long something has been so."""
ENDS = {
    "track.started": "track.ended",
    "zone.enter": "zone.leave",
    "stream.down": "stream.up",
    "recording.failed": "recording.resumed",
    "action.started": "action.ended",
    "surface.blocked": "surface.cleared",
}
"""What ends that which an event of a type begins."""
_MEASURED = ("track.ended", "zone.leave", "zone.dwell", "loitering")
_ACTIVE = ("zone.occupancy", "crowding", "absence", "vehicle.stopped")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-4]):([0-5]\d)")


class WhenConfig(Strict, frozen=True):
    """Which events fire a rule; all that is given must hold."""

    event: str
    """Type such as zone.enter, or a family such as zone."""
    cameras: tuple[str, ...] = ()
    """Only of these cameras; empty for all."""
    zones: tuple[str, ...] = ()
    """Only of these zones."""
    lines: tuple[str, ...] = ()
    """Only of these lines."""
    classes: tuple[str, ...] = ()
    """Only about objects, or actions, of these classes."""
    direction: Literal["in", "out"] | None = None
    """line.crossed: only this way."""
    between: str = ""
    """Time of day of capture, such as 08:00-17:30; 22:00-06:00 goes over midnight."""
    days: tuple[Day, ...] = ()
    """Only on these days; what goes over midnight belongs to the day on which it began."""
    timezone: str = ""
    """Of `between` and `days`, such as Europe/Berlin; empty for that of this machine."""
    lasts_s: Seconds = 0.0
    """Only when it has been so for so long: a visit that goes on, a source that stays down."""
    count: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """Only every so many events of one camera"""
    within_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """within so many seconds."""


class ClipConfig(Strict, frozen=True):
    """A video of the moment, cut from the recording without encoding anew."""

    before_s: Annotated[float, Meta(ge=0, le=600)] = 5.0
    after_s: Annotated[float, Meta(ge=0, le=600)] = 5.0


class ThenConfig(Strict, frozen=True):
    """What happens when a rule fires: an event rule.fired, always, and more if asked for."""

    severity: Severity = "alarm"
    text: str = ""
    """Of the event; {camera}, {rule}, {type}, {zone}, {line}, {class}, {track_id} and {time} are
    filled in. Empty for the rule's name."""
    clip: ClipConfig | None = None
    snapshot: bool = False
    """A JPEG of the moment, from the recording."""
    webhooks: tuple[str, ...] = ()
    """Bridges of kind webhook that are told of it, and of its clip and snapshot."""


class RuleConfig(Strict, frozen=True):
    """When this, then that."""

    when: WhenConfig
    then: ThenConfig = ThenConfig()
    cooldown_s: Seconds = 0.0
    """After it has fired it rests for so long, for each camera by itself."""


PLACEHOLDERS = ("camera", "rule", "type", "zone", "line", "class", "track_id", "time")
Rules = dict[Name, RuleConfig]


@dataclass(frozen=True)
class Surroundings:
    """What rules may name, by camera where that matters."""

    zones: Mapping[str, Collection[str]]
    lines: Mapping[str, Collection[str]]
    recorded: Mapping[str, bool]
    """Of every camera."""
    classes: Collection[str] | None
    """That the detector keeps, empty for all; None if there is no detector."""
    webhooks: Collection[str]
    actions: bool
    segmenter: bool
    """Whether there is such a section."""
    codec: str
    """That recordings are in."""


def check_rules(rules: Rules, around: Surroundings) -> None:
    """Refuse rules that name what is not there.

    Raises:
        ConfigError: with the path of what is wrong, and the nearest name that is known.
    """
    for name, rule in rules.items():
        where = f"rules.{name}"
        _check_when(f"{where}.when", rule.when, around)
        _check_then(f"{where}.then", rule, around)


def family(event: str) -> tuple[str, ...]:
    """All types that a type or family stands for."""
    return tuple(each for each in TYPES if each == event or each.startswith(event + "."))


def parse_between(text: str) -> tuple[int, int]:
    """Begin and end in minutes of the day.

    Raises:
        ConfigError: it is no such time.
    """
    found = _CLOCK.fullmatch(text)
    begin, end = (0, 0) if found is None else _minutes(found)
    if found is None or begin == end or end > 24 * 60:
        raise ConfigError(f"must be HH:MM-HH:MM with two different times, got {text!r}; mend it")
    return begin, end


def _minutes(found: re.Match[str]) -> tuple[int, int]:
    hours = [int(part) for part in found.groups()]
    return hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]


def _check_when(where: str, when: WhenConfig, around: Surroundings) -> None:
    types = family(when.event)
    if not types:
        families = {each.partition(".")[0] for each in TYPES}
        check_names(f"{where}.event", [when.event], {*TYPES, *families})
    for what, made, configured in (
        ("a detector", OF_TRACKS, around.classes is not None),
        ("actions", OF_ACTIONS, around.actions),
        ("a segmenter", OF_SURFACES, around.segmenter),
    ):
        if not configured and all(each in made for each in types):
            raise ConfigError(f"{where}.event: {when.event} needs {what}, got none; configure one")
    cameras = when.cameras or tuple(around.recorded)
    check_names(f"{where}.cameras", when.cameras, around.recorded)
    for key, names, known in (
        ("zones", when.zones, around.zones),
        ("lines", when.lines, around.lines),
    ):
        there = {each for camera in cameras for each in known.get(camera, ())}
        check_names(f"{where}.{key}", names, there, among=f" of {' or '.join(cameras)}")
    if around.classes and all(each in OF_TRACKS for each in types):
        check_names(f"{where}.classes", when.classes, around.classes, among=" in detector.classes")
    if when.lasts_s:
        for each in types:
            if each not in (*ENDS, *_MEASURED, *_ACTIVE):
                raise ConfigError(
                    f"{where}.lasts_s: {each} happens in one moment; leave it out, or wait for one "
                    f"of {', '.join((*ENDS, *_ACTIVE, *_MEASURED))}"
                )
    try:
        if when.between:
            parse_between(when.between)
    except ConfigError as error:
        raise ConfigError(f"{where}.between: {error}") from None
    if when.timezone:
        _check_timezone(f"{where}.timezone", when.timezone)


def _check_then(where: str, rule: RuleConfig, around: Surroundings) -> None:
    then = rule.then
    check_names(f"{where}.text", re.findall(r"{([^{}]*)}", then.text), PLACEHOLDERS)
    check_names(f"{where}.webhooks", then.webhooks, around.webhooks, among=" of kind webhook")
    for what, wanted in (("clip", then.clip is not None), ("snapshot", then.snapshot)):
        for camera in rule.when.cameras or tuple(around.recorded):
            if wanted and not around.recorded[camera]:
                raise ConfigError(
                    f"{where}.{what}: camera {camera!r} must be recorded to cut from; "
                    f"add record.folder or cameras.{camera}.record"
                )
        if wanted and around.codec == "learned":
            raise ConfigError(
                f"{where}.{what}: must be cut from H.264, HEVC or AV1, got encode.codec learned; "
                "set encode.codec to h264, or to h264+learned for both"
            )


def _check_timezone(where: str, name: str) -> None:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise ConfigError(
            f"{where}: must be a name of the time zone database, got {name!r}; "
            "use one such as Europe/Berlin"
        ) from error
