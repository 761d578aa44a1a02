"""When rules fire: conditions, durations, counts, hours and cooldowns; and what is refused."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import yaml

from streamer.config import Config
from streamer.configfile import build_config
from streamer.errors import ConfigError
from streamer.events import AnyEvent, utc
from streamer.graph import build_graph
from streamer.rules.engine import Engine, Firing, Memory, in_hours, text_of
from streamer.rules.jobs import Checkpoint, jobs_of, load, save
from streamer.rules.section import ENDS, MADE, TYPES, RuleConfig, ThenConfig, WhenConfig
from streamer.rules.seen import Seen, read_seen

START_NS = 1_795_256_130_000_000_000
Fields = dict[str, object]


def rule(then: Fields | None = None, cooldown_s: float = 0.0, **when: object) -> RuleConfig:
    return msgspec.convert(
        {"when": {"event": "zone.enter", **when}, "then": then or {}, "cooldown_s": cooldown_s},
        RuleConfig,
    )


def seen(kind: str, at_s: float, camera: str = "gate", **fields: object) -> Seen:
    """An event whose wall clock runs with its media time."""
    line = {
        "type": kind, "id": f"run-{camera}-{at_s}", "camera": camera, "pts_s": at_s,
        "time_utc": utc(START_NS + round(at_s * 1e9)), **fields,
    }  # fmt: skip
    return read_seen(msgspec.json.encode(line))


def engine(*rules: RuleConfig, live: bool = True, memory: Memory | None = None) -> Engine:
    named = {f"r{index}": each for index, each in enumerate(rules)}
    return Engine(named, {"gate": live, "yard": live}, memory or Memory())


def fired(engine: Engine, *events: Seen) -> list[float]:
    """Media times at which rules fire."""
    return [firing.pts_s or -1.0 for event in events for firing in engine.take(event)]


def test_every_condition_must_hold() -> None:
    rules = engine(
        rule(cameras=["gate"], zones=["door"], classes=["person"]),
    )
    good = {"zone": "door", "class": "person", "track_id": 1}
    assert fired(rules, seen("zone.enter", 1, **good)) == [1]
    assert fired(rules, seen("zone.leave", 2, **good)) == []
    assert fired(rules, seen("zone.enter", 3, camera="yard", **good)) == []
    assert fired(rules, seen("zone.enter", 4, **{**good, "zone": "yard"})) == []
    assert fired(rules, seen("zone.enter", 5, **{**good, "class": "car"})) == []
    assert fired(rules, seen("zone.enter", 6, **{**good, "zone": None})) == []


def test_a_family_a_direction_and_the_end_of_what_was_active() -> None:
    family = engine(rule(event="zone"))
    assert fired(family, seen("zone.leave", 1, zone="a"), seen("zone.enter", 2, zone="a")) == [1, 2]
    line = engine(rule(event="line.crossed", direction="in", lines=["l"]))
    assert fired(line, seen("line.crossed", 1, line="l", direction="out")) == []
    assert fired(line, seen("line.crossed", 2, line="l", direction="in")) == [2]
    crowd = engine(rule(event="crowding"))
    assert fired(crowd, seen("crowding", 1, zone="a", active=False, duration_s=9)) == []
    assert fired(crowd, seen("crowding", 2, zone="a", active=True, duration_s=9)) == [2]


def test_objects_of_a_detection_have_classes_too() -> None:
    rules = engine(rule(event="detection", classes=["car"]))
    assert fired(rules, seen("detection", 1, objects=[{"class": "person"}])) == []
    assert fired(rules, seen("detection", 2, objects=[{"class": "person"}, {"class": "car"}])) == [
        2
    ]


def test_what_must_last_fires_when_it_has_and_not_when_it_ends_before() -> None:
    rules = engine(rule(lasts_s=5))
    one, two = {"zone": "a", "track_id": 1}, {"zone": "a", "track_id": 2}
    assert fired(rules, seen("zone.enter", 0, **one), seen("zone.enter", 1, **two)) == []
    assert fired(rules, seen("zone.leave", 3, dwell_s=3.0, **one)) == []
    assert fired(rules, seen("track.updated", 5.9, track_id=2)) == []
    (firing,) = rules.take(seen("track.updated", 6.5, track_id=2))
    assert firing.cause.track_id == 2
    assert firing.pts_s == 6, "5 s after its cause, not when that was noticed"
    assert firing.moment_ns == START_NS + 6 * 10**9
    assert fired(rules, seen("zone.leave", 9, dwell_s=8.0, **two)) == [], "once"


def test_an_event_that_says_how_long_needs_no_waiting() -> None:
    rules = engine(rule(event="zone.leave", lasts_s=5))
    assert fired(rules, seen("zone.leave", 1, zone="a", dwell_s=4.9)) == []
    assert fired(rules, seen("zone.leave", 2, zone="a", dwell_s=5.0)) == [2]
    crowd = engine(rule(event="crowding", lasts_s=30))
    begun = seen("crowding", 10, zone="a", active=True, duration_s=10.0)
    assert fired(crowd, begun, seen("heartbeat", 29, camera="gate")) == []
    assert fired(crowd, seen("track.updated", 31)) == [30], "20 s more were wanting"
    again = seen("crowding", 40, zone="a", active=True, duration_s=10.0)
    over = seen("crowding", 50, zone="a", active=False, duration_s=20.0)
    assert fired(crowd, again, over, seen("track.updated", 90)) == []


def test_silence_ends_a_wait_too_where_cameras_are_live() -> None:
    down = seen("stream.down", 0)
    for live, expected in ((True, 1), (False, 0)):
        rules = engine(rule(event="stream.down", lasts_s=30), live=live)
        assert fired(rules, down) == []
        assert not list(rules.at(START_NS / 1e9 + 29))
        assert len(list(rules.at(START_NS / 1e9 + 30))) == expected
        assert fired(rules, seen("stream.up", 40, reason="reconnected")) in ([30], [])
    rules = engine(rule(event="stream.down", lasts_s=30))
    assert fired(rules, down, seen("stream.up", 20, reason="reconnected")) == []
    assert not list(rules.at(START_NS / 1e9 + 99))


def test_what_ends_is_what_has_begun() -> None:
    rules = engine(rule(event="action.started", lasts_s=5))
    wave, fight = {"track_id": 1, "class": "wave"}, {"track_id": 1, "class": "fight"}
    events = [seen("action.started", 0, **wave), seen("action.started", 1, **fight),
              seen("action.ended", 2, **wave), seen("track.updated", 9)]  # fmt: skip
    assert fired(rules, *events) == [6]
    rules = engine(rule(event="surface.blocked", lasts_s=5))
    events = [seen("surface.blocked", 0, name="a"), seen("surface.blocked", 1, name="b"),
              seen("surface.cleared", 2, name="b"), seen("track.updated", 9)]  # fmt: skip
    assert fired(rules, *events) == [5]


def test_a_tracker_or_a_run_that_begins_anew_ends_all_visits() -> None:
    enter = seen("zone.enter", 1, zone="a", track_id=1)
    for news in (
        seen("stage.restarted", 2, stage="track.gate"),
        seen("stream.up", 0, reason="opened"),
    ):
        rules = engine(rule(lasts_s=5))
        assert fired(rules, enter, news, seen("track.updated", 60)) == []


def test_counts_within_a_window_of_each_camera() -> None:
    rules = engine(rule(count=3, within_s=10))
    times = [0, 9, 10.5, 11, 12, 13, 14]
    events = [seen("zone.enter", at, zone="a") for at in times]
    assert fired(rules, *events) == [11, 14], "0 had left the window; then it counts anew"
    mixed = [
        seen("zone.enter", at, camera=camera, zone="a")
        for at, camera in ((20, "gate"), (21, "yard"), (22, "gate"), (23, "yard"))
    ]
    assert fired(rules, *mixed) == []


def test_cooldown_of_each_camera() -> None:
    rules = engine(rule(cooldown_s=10))
    events = [seen("zone.enter", at, zone="a") for at in (0, 5, 9.9, 10, 15)]
    assert fired(rules, *events) == [-1.0, 10]
    assert fired(rules, seen("zone.enter", 16, camera="yard", zone="a")) == [16]


def test_offline_time_is_media_time_and_begins_anew_with_a_run() -> None:
    rules = engine(rule(lasts_s=5, cooldown_s=100), live=False)

    def read_fast(kind: str, at_s: float, **fields: object) -> Seen:
        return seen(kind, at_s, time_utc=utc(START_NS + round(at_s * 1e7)), **fields)

    enter = read_fast("zone.enter", 1, zone="a", track_id=1)
    assert fired(rules, enter, read_fast("track.updated", 5.9)) == []
    assert fired(rules, read_fast("track.updated", 6)) == [6]
    opened = read_fast("stream.up", 0, reason="opened", pts_s=None)
    assert fired(rules, opened, enter, read_fast("track.updated", 7)) == [6]


def test_the_same_memory_goes_on_where_it_was(tmp_path: Path) -> None:
    events = [
        seen("zone.enter", at, zone="a", track_id=int(at)) for at in (0, 1, 2, 2.5, 3, 8, 9, 20)
    ]
    rules = (rule(lasts_s=4, cooldown_s=3), rule(count=3, within_s=4))
    whole = [(f.rule, f.pts_s) for e in [engine(*rules)] for event in events for f in e.take(event)]
    assert len(whole) > 3
    for cut in range(len(events)):
        first = engine(*rules)
        parts = [(f.rule, f.pts_s) for event in events[:cut] for f in first.take(event)]
        save(tmp_path / "c", Checkpoint(rowid=cut, memory=first.memory))
        found = load(tmp_path / "c")
        assert found is not None
        second = engine(*rules, memory=found.memory)
        parts += [(f.rule, f.pts_s) for event in events[cut:] for f in second.take(event)]
        assert parts == whole


def test_a_checkpoint_that_is_none(tmp_path: Path) -> None:
    assert load(tmp_path / "missing") is None
    (tmp_path / "half").write_bytes(b'{"rowid": 3, "mem')
    assert load(tmp_path / "half") is None


def local(text: str) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
    return int(moment.timestamp()) * 10**9


@pytest.mark.parametrize(
    ("between", "days", "inside", "outside"),
    [
        ("08:00-17:30", (), ["2026-11-20T08:00:00", "2026-11-20T17:29:59"],
         ["2026-11-20T07:59:59", "2026-11-20T17:30:00"]),
        ("22:00-06:00", (), ["2026-11-20T22:00:00", "2026-11-21T05:59:59", "2026-11-20T00:00:00"],
         ["2026-11-20T21:59:59", "2026-11-21T06:00:00"]),
        # The night of Friday the 20th ends on Saturday morning.
        ("22:00-06:00", ("fri",), ["2026-11-20T23:00:00", "2026-11-21T05:00:00"],
         ["2026-11-20T05:00:00", "2026-11-21T23:00:00"]),
        ("", ("sat", "sun"), ["2026-11-21T00:00:00", "2026-11-22T23:59:59"],
         ["2026-11-20T23:59:59", "2026-11-23T00:00:00"]),
        ("18:00-24:00", ("fri",), ["2026-11-20T23:59:59"], ["2026-11-21T00:00:00"]),
    ],
)  # fmt: skip
def test_hours(between: str, days: tuple[str, ...], inside: list[str], outside: list[str]) -> None:
    when = WhenConfig(event="zone.enter", between=between, days=days, timezone="UTC")  # type: ignore[arg-type]
    assert [in_hours(when, local(text)) for text in inside] == [True] * len(inside)
    assert [in_hours(when, local(text)) for text in outside] == [False] * len(outside)


def test_hours_are_those_of_the_named_place_also_in_summer() -> None:
    when = WhenConfig(event="zone.enter", between="08:00-09:00", timezone="Europe/Berlin")
    assert in_hours(when, local("2026-01-15T07:30:00"))
    assert not in_hours(when, local("2026-07-15T07:30:00"))
    assert in_hours(when, local("2026-07-15T06:30:00"))


def test_texts_and_jobs() -> None:
    then = {"text": "{class} {track_id} in {zone} of {camera}{line}: {rule}", "snapshot": True,
            "clip": {"before_s": 2, "after_s": 3}, "severity": "critical"}  # fmt: skip
    one = rule(then)
    (firing,) = engine(one).take(
        seen("zone.enter", 1.5, zone="a", track_id=7, **{"class": "person"})
    )
    assert text_of(one, firing) == "person 7 in a of gate: r0"
    clip, snapshot = jobs_of(one, firing)
    assert (clip.what, clip.before_s, clip.after_s) == ("clip", 2, 3)
    assert (snapshot.what, snapshot.moment_ns, snapshot.pts_s) == (
        "snapshot", START_NS + 1_500_000_000, 1.5,
    )  # fmt: skip
    assert clip.key != snapshot.key
    host = Firing("r0", seen("stage.failed", 1, camera=""), START_NS, None, 1)
    assert not list(jobs_of(one, host)), "no camera has seen it"


def test_all_types_of_events_can_be_waited_for_but_those_of_rules_and_bridges() -> None:
    types = {str(each.__struct_config__.tag) for each in get_args(AnyEvent)}
    own = {each for each in types if each.startswith(("rule.", "clip.", "snapshot.", "bridge."))}
    assert len(own) == 7
    assert set(TYPES) == types - own - {"heartbeat"}
    assert set(MADE) == own | {"heartbeat"}
    assert set(ENDS) | set(ENDS.values()) <= types


# What is refused.

SCENE: Fields = {
    "cameras": {
        "gate": {
            "source": "a.mp4",
            "zones": {"door": {"polygon": [[0, 0], [1, 0], [1, 1]]}},
            "lines": {"exit": {"ends": [[0, 0], [1, 1]]}},
        },
        "yard": "b.mp4",
    },
    "detector": {"classes": ["person", "car"]},
    "record": {"folder": "recordings"},
    "bridges": {
        "desk": {"kind": "webhook", "address": "https://host/x"},
        "home": {"kind": "mqtt", "address": "mqtt://host"},
    },
}


def config(when: Fields, then: Fields | None = None, **more: object) -> Config:
    rules = {"night": {"when": {"event": "zone.enter", **when}, "then": then or {}}}
    return build_config({**SCENE, **more, "rules": rules})


def test_a_whole_rule_is_taken() -> None:
    when: Fields = {"zones": ["door"], "classes": ["person"], "between": "22:00-06:00",
                    "days": ["fri"], "lasts_s": 2, "count": 2}  # fmt: skip
    made = config(when, {"clip": {}, "snapshot": True, "webhooks": ["desk"], "text": "{zone}"})
    assert made.rules["night"].then.clip is not None
    assert made.rules["night"].then == ThenConfig(
        clip=made.rules["night"].then.clip, snapshot=True, webhooks=("desk",), text="{zone}"
    )


@pytest.mark.parametrize(
    ("when", "then", "says"),
    [
        ({"zones": ["dor"]}, {}, r"rules\.night\.when\.zones: there is no 'dor' of gate or yard; "
         r"did you mean 'door'\?"),
        ({"zones": ["door"], "cameras": ["yard"]}, {}, r"no 'door' of yard; known are none"),
        ({"cameras": ["gat"]}, {}, r"when\.cameras: there is no 'gat'; did you mean 'gate'\?"),
        ({"event": "line.crossed", "lines": ["exti"]}, {}, r"when\.lines: .* did you mean 'exit'"),
        ({"classes": ["persn"]}, {}, r"no 'persn' in detector\.classes; did you mean 'person'\?"),
        ({"event": "zone.entered"}, {}, r"when\.event: there is no 'zone\.entered'; did you mean"),
        ({"event": "rule.fired"}, {}, r"when\.event: there is no 'rule\.fired'"),
        ({"event": "line.crossed", "lasts_s": 1}, {}, r"lasts_s: line\.crossed happens in one mom"),
        ({"between": "8-9"}, {}, r"when\.between: must be HH:MM-HH:MM .*, got '8-9'"),
        ({"between": "08:00-08:00"}, {}, r"two different times"),
        ({"timezone": "Europe/Berln"}, {}, r"when\.timezone: must be a name of the time zone data"),
        ({}, {"text": "{zne}"}, r"then\.text: there is no 'zne'; did you mean 'zone'\?"),
        ({}, {"webhooks": ["home"]}, r"there is no 'home' of kind webhook; known are desk"),
        ({"days": ["friday"]}, {}, r"rules\.night\.when\.days.*: must be one of mon, tue"),
        ({}, {"clip": {"before": 1}}, r"then\.clip\.before: unknown key; did you mean 'before_s'"),
    ],
)  # fmt: skip
def test_rules_that_can_not_be_meant(when: Fields, then: Fields, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(when, then)


def test_a_clip_needs_a_recording_and_the_remedy_works() -> None:
    then: Fields = {"clip": {}}
    says = r"then\.clip: camera 'gate' must be recorded .* add record\.folder or cameras\.gate\.rec"
    with pytest.raises(ConfigError, match=says):
        config({"cameras": ["gate"]}, then, record={})
    assert config({"cameras": ["gate"]}, then, record={"folder": "r"}).rules


def test_a_clip_needs_a_codec_that_can_be_cut() -> None:
    says = r"then\.snapshot: must be cut from H\.264, HEVC or AV1, got encode\.codec learned; set"
    with pytest.raises(ConfigError, match=says):
        config({}, {"snapshot": True}, encode={"codec": "learned"})
    for codec in ("h264", "h264+learned"):
        assert config({}, {"snapshot": True}, encode={"codec": codec}).rules


def test_events_of_objects_need_a_detector() -> None:
    plain = {"cameras": {"gate": "a.mp4"}, "detector": None}
    with pytest.raises(ConfigError, match=r"when\.event: track needs a detector, got none"):
        build_config({**plain, "rules": {"x": {"when": {"event": "track"}}}})
    with pytest.raises(ConfigError, match=r"when\.event: action needs actions, got none"):
        build_config({**plain, "rules": {"x": {"when": {"event": "action"}}}})
    assert build_config({**plain, "rules": {"x": {"when": {"event": "stream.down"}}}}).rules


def test_classes_of_actions_are_not_those_of_the_detector() -> None:
    assert config({"event": "action.started", "classes": ["fight"]}, actions={}).rules


@pytest.mark.parametrize("what", ["rules", "bridges"])
def test_rules_and_bridges_need_the_log_and_the_remedy_works(what: str) -> None:
    section = {
        "rules": {"x": {"when": {"event": "stream.down"}}},
        "bridges": {"x": {"kind": "redis", "address": "redis://host"}},
    }[what]
    scene: Fields = {"cameras": {"gate": "a.mp4"}, what: section}
    with pytest.raises(ConfigError, match=r"events\.log: must not be off, for rules and bridges"):
        build_config({**scene, "events": {"log": "off"}})
    assert build_config({**scene, "events": {"log": "events.db"}})
    assert build_config(scene)


@pytest.mark.parametrize(
    ("bridge", "says"),
    [
        ({"kind": "mqtt", "address": "http://h"}, r"b\.address: must be mqtt:// or mqtts://"),
        ({"kind": "redis", "address": "redis://:pw@"}, r"with a host, got 'redis://\*\*\*@'"),
        ({"kind": "webhook", "address": "https://h:x/"}, r"use https://192\.0\.2\.7/events"),
        ({"kind": "mqqt", "address": "mqtt://h"}, r"b\.kind: must be one of mqtt, redis, webhook"),
        ({"kind": "mqtt", "address": "mqtt://h", "rot": "x"}, r"unknown key; did you mean 'root'"),
        ({"kind": "mqtt", "address": "mqtt://h", "root": "a/#"}, r"bridges\.b\.root: "),
        ({"kind": "mqtt", "address": "mqtt://h", "cameras": ["gat"]}, r"did you mean 'gate'"),
        ({"kind": "mqtt", "address": "mqtt://h", "types": ["zones"]}, r"did you mean 'zone'"),
        ({"kind": "webhook", "address": "http://h", "secret": "hunter2"},
         r"secret: must come from the environment, got a plain text; write \$\{NAME\}"),
    ],
)  # fmt: skip
def test_bridges_that_can_not_be_meant(bridge: Fields, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build_config({"cameras": {"gate": "a.mp4"}, "bridges": {"b": bridge}})
    assert "hunter2" not in str(caught.value)


def test_the_example_of_the_readme_is_taken() -> None:
    readme = (Path(__file__).resolve().parent.parent / "README.md").read_text()
    example = readme.partition("<!-- loaded by tests/test_rules.py -->")[2]
    text = example.partition("```yaml\n")[2].partition("```")[0]
    made = build_config(yaml.safe_load(text))
    assert set(made.bridges) == {"desk", "home", "store"}
    assert made.rules["somebody_at_night"].when.lasts_s == 3


def test_rules_end_after_the_streams_then_publish_then_bridges() -> None:
    graph = build_graph(config({"zones": ["door"]}), {"gate": True, "yard": False})
    rules, publish = graph.stage("rules"), graph.stage("publish")
    streams = {"decode.gate", "track.gate", "encode.gate", "decode.yard", "track.yard",
               "encode.yard", "infer"}  # fmt: skip
    assert set(rules.after) == streams
    assert set(publish.after) == {*streams, "rules"}
    for name in ("bridge.desk", "bridge.home"):
        assert graph.stage(name).after == ("publish",)
        assert not graph.neighbours(name), "it reads the log"
    plain = build_graph(build_config({"cameras": {"gate": "a.mp4"}}), {"gate": False})
    assert {stage.name for stage in plain.stages} == {
        "decode.gate", "infer", "track.gate", "publish",
    }  # fmt: skip
