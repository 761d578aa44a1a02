"""Decide which events fire which rules; holds all that must be remembered in between.

Pure: no clock, no file, no log. Time is what the events say: media time where a camera's files are
read, the wall clock of capture where it is live. The same events fire the same rules again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import msgspec

from streamer.rules.section import ENDS, RuleConfig, Rules, WhenConfig, family, parse_between
from streamer.rules.seen import Seen

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NS = 10**9


class Firing(msgspec.Struct, frozen=True):
    """A rule has fired."""

    rule: str
    cause: Seen
    moment_ns: int
    """Wall clock of capture: of the cause, or of the end of lasts_s."""
    pts_s: float | None
    count: int
    """Events that it took."""


class Lasting(msgspec.Struct, frozen=True):
    """Something that fires a rule if it goes on until then."""

    rule: str
    cause: Seen
    since_s: float
    due_s: float


class Memory(msgspec.Struct):
    """What an engine remembers; written to disk between events."""

    lasting: list[Lasting] = []
    counted: dict[str, list[float]] = {}
    """By rule and camera: times of the events that count."""
    rested: dict[str, float] = {}
    """By rule and camera: until when it rests."""
    clocks: dict[str, float] = {}
    """By camera: how late it is there."""


class Engine:
    """All rules of a run.

    Args:
        rules: by name.
        live: by camera, which regime it runs in; events of the host count as live.
        memory: of an engine before this one.
    """

    def __init__(self, rules: Rules, live: Mapping[str, bool], memory: Memory) -> None:
        self.memory = memory
        memory.lasting = [each for each in memory.lasting if each.rule in rules]
        self._rules = rules
        self._live = live
        self._by_type: dict[str, list[str]] = {}
        for name, rule in rules.items():
            for each in family(rule.when.event):
                self._by_type.setdefault(each, []).append(name)

    def take(self, event: Seen) -> Iterator[Firing]:
        """What one event fires; events must come in the order of the log."""
        if event.type == "stream.up" and event.reason == "opened":
            self._forget(event.camera)
        now_s = self._tell_time(event)
        yield from self._over(event.camera, now_s, event.capture_ns)
        self._end(event)
        for name in self._by_type.get(event.type, ()):
            rule = self._rules[name]
            if not _matches(rule.when, event):
                continue
            rest_s = rule.when.lasts_s - event.lasted_s
            if rest_s <= 0:
                yield from self._fire(name, event, now_s, event.capture_ns, after_s=0.0)
            elif event.active or event.type in ENDS:
                self.memory.lasting.append(Lasting(name, event, now_s, now_s + rest_s))

    def at(self, now_s: float) -> Iterator[Firing]:
        """What fires because time goes by and nothing is told, where cameras are live.

        Args:
            now_s: wall clock, less what an event may need to get into the log.
        """
        for camera in {each.cause.camera for each in self.memory.lasting}:
            if self._live.get(camera, True):
                yield from self._over(camera, now_s, round(now_s * _NS))

    def clock_s(self, camera: str) -> float:
        """How late it is where this camera is, by its events."""
        return self.memory.clocks.get(camera, float("-inf"))

    def time_of(self, camera: str, moment_ns: int, pts_s: float | None) -> float:
        """A moment on the clock of its camera."""
        if self._live.get(camera, True):
            return moment_ns / _NS
        return self.clock_s(camera) if pts_s is None else pts_s

    def _tell_time(self, event: Seen) -> float:
        now_s = self.time_of(event.camera, event.capture_ns, event.pts_s)
        self.memory.clocks[event.camera] = max(now_s, self.clock_s(event.camera))
        return now_s

    def _over(self, camera: str, now_s: float, now_ns: int) -> Iterator[Firing]:
        """What has lasted long enough by now."""
        over = [
            each
            for each in self.memory.lasting
            if each.cause.camera == camera and each.due_s <= now_s
        ]
        for each in sorted(over, key=lambda one: one.due_s):
            self.memory.lasting.remove(each)
            after_s = each.due_s - each.since_s
            live = self._live.get(camera, True)
            due_ns = each.cause.capture_ns + round(after_s * _NS) if live else now_ns
            yield from self._fire(each.rule, each.cause, each.due_s, due_ns, after_s=after_s)

    def _end(self, event: Seen) -> None:
        """What this event ends does not last any longer."""
        restarted = event.stage if event.type == "stage.restarted" else ""

        def ends(one: Seen) -> bool:
            if restarted:
                return restarted == f"track.{one.camera}" and one.track_id is not None
            off = event.active is False and one.type == event.type
            return (off or ENDS.get(one.type) == event.type) and one.subject == event.subject

        self.memory.lasting = [each for each in self.memory.lasting if not ends(each.cause)]

    def _fire(
        self, name: str, cause: Seen, now_s: float, moment_ns: int, *, after_s: float
    ) -> Iterator[Firing]:
        """Count, rest, and fire."""
        rule, key = self._rules[name], f"{name} {cause.camera}"
        since_s = now_s - rule.when.within_s
        times = [*self.memory.counted.get(key, ()), now_s]
        times = [each for each in times if each > since_s][-rule.when.count :]
        self.memory.counted[key] = times
        if len(times) < rule.when.count or now_s < self.memory.rested.get(key, now_s):
            return
        self.memory.counted[key] = []
        self.memory.rested[key] = now_s + rule.cooldown_s
        pts_s = None if cause.pts_s is None else cause.pts_s + after_s
        yield Firing(name, cause, moment_ns, pts_s, rule.when.count)

    def _forget(self, camera: str) -> None:
        """Another run begins: what was going on in the one before is over."""
        memory = self.memory
        memory.lasting = [each for each in memory.lasting if each.cause.camera != camera]
        if not self._live.get(camera, True):
            memory.clocks.pop(camera, None)
            for times in (memory.counted, memory.rested):
                for key in [key for key in times if key.endswith(f" {camera}")]:
                    del times[key]


def text_of(rule: RuleConfig, firing: Firing) -> str:
    """The text of a firing, with its placeholders filled in."""
    cause = firing.cause
    values = {
        "camera": cause.camera,
        "rule": firing.rule,
        "type": cause.type,
        "zone": cause.zone,
        "line": cause.line,
        "class": cause.class_name,
        "track_id": cause.track_id,
        "time": cause.time_utc,
    }
    text = rule.then.text or firing.rule
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", "" if value is None else str(value))
    return text


def _matches(when: WhenConfig, event: Seen) -> bool:
    return (
        event.active is not False
        and (not when.cameras or event.camera in when.cameras)
        and (not when.zones or event.zone in when.zones)
        and (not when.lines or event.line in when.lines)
        and (when.direction is None or event.direction == when.direction)
        and (not when.classes or _is_of(when.classes, event))
        and in_hours(when, event.capture_ns)
    )


def _is_of(classes: tuple[str, ...], event: Seen) -> bool:
    return event.class_name in classes or any(each.class_name in classes for each in event.objects)


def in_hours(when: WhenConfig, time_ns: int) -> bool:
    """True if a moment lies in a rule's hours; those over midnight belong to the day they began."""
    if not when.between and not when.days:
        return True
    zone = ZoneInfo(when.timezone) if when.timezone else None
    local = datetime.fromtimestamp(time_ns // _NS, timezone.utc).astimezone(zone)
    begin, end = parse_between(when.between) if when.between else (0, 24 * 60)
    minute = local.hour * 60 + local.minute
    if begin > end and minute < end:
        local -= timedelta(days=1)
        inside = True
    else:
        inside = begin <= minute < end or (begin > end and minute >= begin)
    return inside and (not when.days or _DAYS[local.weekday()] in when.days)
