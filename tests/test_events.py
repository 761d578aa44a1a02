"""Events as users get them: valid by their schema, numbered without gaps, cut by media time."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from samples import info_of, tracks_of

from streamer import events as events_module
from streamer.events import (
    AnyEvent,
    Event,
    Numbering,
    TrackEnded,
    TrackStarted,
    TrackUpdated,
    decode_event,
    encode_event,
    event_of_notice,
    schema,
    utc,
)
from streamer.frame_events import FrameEvents
from streamer.messages import Detections, FrameInfo, Happening, Notice, Tracks

ROOT = Path(__file__).resolve().parent.parent
BOX = (3.4, 1.8, 17.0, 9.0)
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")

OF_RULE = {"rule": "night", "cause_id": "run1-gate-7", "severity": "alarm"}
NOTICES = [
    Notice("stream.up", "gate", {"reason": "opened", "width": 34, "height": 18, "fps": 25.0,
                                 "codec": "h264"}, 1000),
    Notice("stream.up", "gate", {"reason": "reconnected", "width": 34, "height": 18, "fps": None,
                                 "codec": "h264"}, 1000),
    Notice("stream.down", "gate", {"reason": "auth", "message": "no", "retry_in_s": None}, 1000),
    Notice("stream.damaged", "gate", {"corrupt_frames": 3, "skipped_frames": 0}, 1000),
    Notice(
        "recording.started",
        "gate",
        {"path": "a.mp4", "codec": "h264", "width": 1280, "height": 720},
        1000,
    ),
    Notice("recording.segment", "gate", {"path": "a.mp4", "start_utc": utc(0), "duration_s": 2.5,
                                         "frames": 50, "size_bytes": 9, "finished": True}, 1000),
    Notice("recording.ended", "gate", {"frames": 50}, 1000, 49, 1.96),
    Notice("recording.failed", "gate", {"path": "a.mp4", "message": "disk full"}, 1000),
    Notice("recording.resumed", "gate", {"path": "b.mp4", "frames_lost": 4}, 1000),
    Notice("recording.changed", "gate", {"path": "b.mp4", "message": "another size"}, 1000),
    Notice("stage.restarted", "", {"stage": "infer", "cause": "killed by SIGKILL",
                                   "down_s": 0.4}, 1000),
    Notice("stage.failed", "", {"stage": "infer", "reason": "exit code 1"}, 1000),
    Notice("frames.dropped", "gate", {"cause": "infer_busy", "count": 2, "total": 9}, 1000),
    Notice("log.recovered", "", {"path": "e.db", "moved_to": "e.damaged.db",
                                 "message": "file is not a database"}, 1000),
    Notice("log.failed", "", {"path": "e.db", "message": "disk full"}, 1000),
    Notice("log.resumed", "", {"path": "e.db", "events_lost": 7}, 1000),
    Notice("log.pruned", "", {"reader": "mqtt.home", "events_lost": 7}, 1000),
    Notice("action.started", "gate", {"class": "fight", "score": 0.7, "start_s": 1.5}, 1000, 49, 2),
    Notice("action.ended", "gate", {"class": "wave", "score": 0.9, "track_id": 3, "start_s": 1.5,
                                    "end_s": 3.0}, 1000, 99, 4.0),
    Notice("surface.blocked", "gate", {"name": "lane", "surface": "road", "share": 0.4}, 1000),
    Notice("surface.cleared", "gate", {"name": "lane", "surface": "road", "share": 0.1}, 1000),
    Notice("rule.fired", "gate", {**OF_RULE, "text": "somebody", "cause_type": "zone.enter",
                                  "count": 2, "zone": "yard", "line": None, "track_id": 3}, 1000),
    Notice("clip.saved", "gate", {**OF_RULE, "path": "a.mp4", "size_bytes": 9, "frames": 250,
                                  "start_utc": utc(0), "duration_s": 10.0, "cause_s": 5.2,
                                  "complete": True}, 1000),
    Notice("snapshot.saved", "gate", {**OF_RULE, "path": "a.jpg", "size_bytes": 9, "width": 34,
                                      "height": 18, "frame_utc": utc(0)}, 1000),
    Notice("clip.failed", "gate", {**OF_RULE, "what": "clip", "message": "disk full"}, 1000),
    Notice("bridge.up", "", {"bridge": "home", "backlog": 7, "down_s": 3.5}, 1000),
    Notice("bridge.down", "", {"bridge": "home", "backlog": 7, "message": "refused",
                               "retry_in_s": 0.5, "down_s": 0.0}, 1000),
    Notice("bridge.parked", "", {"bridge": "desk", "backlog": 0, "message": "422", "count": 2,
                                 "first_id": "a", "last_id": "b", "path": "p.jsonl"}, 1000),
]  # fmt: skip


OF_TRACK = {"track_id": 1, "class": "car", "box_xyxy_px": BOX, "box_xyxy_rel": (0.1, 0.1, 0.5, 0.5)}
IN_ZONE = {**OF_TRACK, "zone": "yard"}
HAPPENINGS = [
    Happening("zone.enter", {**IN_ZONE, "entered_pts_s": 0.2, "appeared": True, "occupancy": 1,
                             "total": 7}),
    Happening("zone.leave", {**IN_ZONE, "reason": "lost", "entered_pts_s": 0.2, "dwell_s": 3.5,
                             "occupancy": 0}),
    Happening("zone.dwell", {**IN_ZONE, "dwell_s": 3.0}),
    Happening("zone.occupancy", {"zone": "yard", "active": True, "occupancy": 6, "limit": 5}),
    Happening("line.crossed", {**OF_TRACK, "line": "kerb", "direction": "in", "crossed_pts_s": 0.21,
                               "count_in": 4, "count_out": 2, "speed_kmh": None}),
    Happening("speed.over", {**IN_ZONE, "speed_kmh": 52.5, "limit_kmh": 50.0}),
    Happening("loitering", {**IN_ZONE, "total_s": 60.0}),
    Happening("crowding", {"zone": "yard", "active": False, "occupancy": 5, "limit": 5,
                           "duration_s": 12.0}),
    Happening("direction.wrong", {**OF_TRACK, "line": "kerb"}),
    Happening("absence", {"zone": "yard", "active": True, "duration_s": 30.0}),
    Happening("vehicle.stopped", {**IN_ZONE, "active": True, "duration_s": 10.0}),
]  # fmt: skip


def make(*, score: float = 0.3, updated_per_s: float = 5.0) -> FrameEvents:
    return FrameEvents(Numbering("run1", "gate", 0), score=score, updated_per_s=updated_per_s)


def kinds(events: list[AnyEvent]) -> list[str]:
    return [str(event.__struct_config__.tag) for event in events]


def street(frames: int) -> list[Tracks]:
    """Track 1 from frame 2 to the end, track 2 from frame 5 to 9."""
    messages = []
    for seq in range(frames):
        tracks = {1: BOX} if seq >= 2 else {}
        if 5 <= seq < 10:
            tracks[2] = (0.0, 0.0, 34.0, 18.0)
        messages.append(tracks_of(info_of(seq), tracks, ended=(2,) if seq == 12 else ()))
    return messages


def play(messages: list[Tracks], maker: FrameEvents) -> list[AnyEvent]:
    return [event for message in messages for event in maker.events(message)]


# What is valid.


@pytest.fixture(scope="module")
def validator() -> jsonschema.protocols.Validator:
    published = schema()
    jsonschema.Draft202012Validator.check_schema(published)
    return jsonschema.Draft202012Validator(published)


def test_every_kind_of_event_is_valid_and_comes_back(
    validator: jsonschema.protocols.Validator,
) -> None:
    maker = make()
    made = play(street(20), maker)
    made += maker.end(info_of(19), HAPPENINGS)
    made += [event_of_notice(notice, Numbering("run1", "gate", 0)) for notice in NOTICES]
    made.append(
        events_module.Heartbeat(id="x", seq=1, camera="", time_utc=utc(0), uptime_s=1.0, events=3)
    )
    for event in made:
        line = encode_event(event)
        assert b"\n" not in line
        validator.validate(json.loads(line))
        assert decode_event(line) == event
    assert {type(event) for event in made} == set(AnyEvent.__args__)


def test_the_schema_refuses_what_is_none(validator: jsonschema.protocols.Validator) -> None:
    event = json.loads(encode_event(event_of_notice(NOTICES[0], Numbering("r", "gate", 0))))
    for damaged in (
        {**event, "type": "stream.sideways"},
        {**event, "seq": "one"},
        {key: value for key, value in event.items() if key != "id"},
    ):
        with pytest.raises(jsonschema.ValidationError, match="is not valid under any"):
            validator.validate(damaged)
        with pytest.raises(msgspec.ValidationError, match=r"Invalid value|Expected|missing"):
            decode_event(json.dumps(damaged))


def test_events_are_flat_json_with_what_all_of_them_say() -> None:
    maker = make()
    for event in play(street(6), maker) + [
        event_of_notice(notice, Numbering("r", "gate", 0)) for notice in NOTICES
    ]:
        plain = json.loads(encode_event(event))
        assert plain["schema"] == 1
        assert TIME.match(plain["time_utc"])
        assert {"type", "id", "seq", "camera", "pts_s", "frame"} <= set(plain)
        nested = [key for key, value in plain.items() if isinstance(value, dict)]
        assert nested == []
        lists = {key for key, value in plain.items() if isinstance(value, list)}
        assert lists <= {"objects", "box_xyxy_px", "box_xyxy_rel"}


def test_every_event_says_what_it_is_about_in_the_schema() -> None:
    for kind in AnyEvent.__args__:
        assert issubclass(kind, Event)
        assert kind.__doc__
        assert re.fullmatch(r"[a-z]+(\.[a-z]+)?", kind.__struct_config__.tag)


@pytest.mark.parametrize("source", sorted((ROOT / "streamer").rglob("*.py")), ids=lambda p: p.name)
def test_stages_report_what_the_schema_knows(source: Path) -> None:
    """A notice that makes no event would only be found out by the process that publishes it."""
    known = {kind.__struct_config__.tag: kind for kind in AnyEvent.__args__}
    for call in ast.walk(ast.parse(source.read_text())):
        name = getattr(getattr(call, "func", None), "attr", "")
        if name not in ("notice", "_notice") or not isinstance(call.args[0], ast.Constant):
            continue
        kind = known[call.args[0].value]
        given = {keyword.arg for keyword in call.keywords if keyword.arg}
        opened = any(keyword.arg is None for keyword in call.keywords)  # **fields
        fields = {f.name: f for f in msgspec.structs.fields(kind)}
        own = {
            name
            for name, field in fields.items()
            if field.required and name not in ("id", "seq", "camera", "time_utc")
        }
        assert given <= set(fields), f"{source.name}:{call.lineno}: {given - set(fields)}"
        assert opened or own <= given, f"{source.name}:{call.lineno}: lacks {own - given}"


def test_a_notice_that_is_no_event_is_refused() -> None:
    numbering = Numbering("run1", "gate", 0)
    for notice in (
        Notice("stream.sideways", "gate", {}),
        Notice("stage.failed", "gate", {"stage": "infer"}),
    ):
        with pytest.raises(msgspec.ValidationError, match=r"Invalid value|missing required"):
            event_of_notice(notice, numbering)


# Numbers and times.


def test_numbers_have_no_gaps_and_ids_are_unique() -> None:
    maker = make()
    made = play(street(30), maker) + list(maker.end(info_of(29)))
    assert [event.seq for event in made] == list(range(1, len(made) + 1))
    assert [event.id for event in made] == [f"run1-gate-{n}" for n in range(1, len(made) + 1)]


def test_numbers_go_on_after_a_restart() -> None:
    numbering = Numbering("run1", "", 41)
    assert numbering.next() == (42, "run1-host-42")
    assert numbering.last == 42


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (999, "1970-01-01T00:00:00.000000Z"),
        (1_795_256_130_123_456_789, "2026-11-21T10:15:30.123456Z"),
        (1_709_164_799_999_999_999, "2024-02-28T23:59:59.999999Z"),
        (1_709_164_800_000_000_000, "2024-02-29T00:00:00.000000Z"),
    ],
)
def test_times_are_iso_8601_and_never_round_up(time_ns: int, text: str) -> None:
    assert utc(time_ns) == text


def test_events_carry_the_frames_own_times() -> None:
    info = info_of(7)
    (event, _) = make().events(tracks_of(info, {1: BOX}))
    assert (event.frame, event.pts_s, event.camera) == (7, 0.28, "gate")
    assert event.time_utc == utc(info.capture_ns)


# Objects and tracks.


def test_a_frame_without_objects_has_no_event() -> None:
    assert list(make().events(tracks_of(info_of(0), {}))) == []


def test_objects_are_what_scored_enough() -> None:
    message = tracks_of(info_of(0), {1: BOX, 2: BOX, 3: BOX}, scores=(0.3, 0.29, 0.98768))
    plain = json.loads(encode_event(next(make(score=0.3).events(message))))
    assert plain["type"] == "detection"
    assert plain["objects"] == [
        {"class": "person", "score": 0.3, "box_xyxy_px": [3.4, 1.8, 17.0, 9.0],
         "box_xyxy_rel": [0.1, 0.1, 0.5, 0.5]},
        {"class": "person", "score": 0.9877, "box_xyxy_px": [3.4, 1.8, 17.0, 9.0],
         "box_xyxy_rel": [0.1, 0.1, 0.5, 0.5]},
    ]  # fmt: skip


def test_a_track_starts_once_and_ends_once() -> None:
    maker = make(updated_per_s=0)
    made = [event for event in play(street(20), maker) if kinds([event])[0] != "detection"]
    made += maker.end(info_of(19))
    assert [(kind, event.frame) for kind, event in zip(kinds(made), made, strict=True)] == [
        ("track.started", 2),
        ("track.started", 5),
        ("track.ended", 12),
        ("track.ended", 19),
    ]
    two, one = made[2], made[3]
    assert isinstance(two, TrackEnded)
    assert isinstance(one, TrackEnded)
    assert (two.track_id, two.duration_s) == (2, 0.16)  # from its start to its last sight
    assert two.box_xyxy_rel == (0.0, 0.0, 1.0, 1.0)
    assert (one.track_id, one.duration_s) == (1, 0.68)
    assert list(maker.end(info_of(19))) == []


def test_what_happens_to_a_track_lies_between_its_start_and_its_end() -> None:
    enter, leave = HAPPENINGS[:2]
    maker = make()
    first = msgspec.structs.replace(tracks_of(info_of(0), {1: BOX}), happenings=(enter,))
    last = msgspec.structs.replace(tracks_of(info_of(9), {}, ended=(1,)), happenings=(leave,))
    made = play([first, last], maker)
    assert kinds(made) == ["detection", "track.started", "zone.enter", "zone.leave", "track.ended"]
    assert [event.seq for event in made] == [1, 2, 3, 4, 5]
    assert [event.frame for event in made] == [0, 0, 0, 9, 9]


def test_a_happening_that_is_no_event_is_refused() -> None:
    for wrong in (Happening("zone.sideways", {}), Happening("zone.enter", {"zone": "yard"})):
        message = msgspec.structs.replace(tracks_of(info_of(0), {}), happenings=(wrong,))
        with pytest.raises(msgspec.ValidationError, match=r"Invalid value|missing required"):
            list(make().events(message))


def test_a_track_that_was_never_seen_does_not_end() -> None:
    assert list(make().events(tracks_of(info_of(0), {}, ended=(7,)))) == []


@pytest.mark.parametrize(
    ("per_s", "fps", "frames", "updates"),
    [(5.0, 25, 101, 20), (1.0, 25, 101, 4), (100.0, 25, 101, 100), (0.0, 25, 101, 0),
     (30.0, 30, 31, 30), (15.0, 30, 31, 15), (7.5, 30, 31, 7), (25.0, 25, 26, 25),
     (0.5, 10, 41, 2)],
)  # fmt: skip
def test_updates_come_by_media_time(per_s: float, fps: int, frames: int, updates: int) -> None:
    """However fast a file is read, and however jerkily a stream arrives."""
    maker = make(updated_per_s=per_s)
    messages = [
        tracks_of(msgspec.structs.replace(info_of(seq), time_base=(1, fps)), {1: BOX})
        for seq in range(frames)
    ]
    made = play(messages, maker)
    assert kinds(made).count("track.started") == 1
    assert kinds(made).count("track.updated") == updates


def test_updates_of_two_tracks_do_not_share_a_budget() -> None:
    made = play([tracks_of(info_of(seq), {1: BOX, 2: BOX}) for seq in range(26)], make())
    updates = [event.track_id for event in made if isinstance(event, TrackUpdated)]
    assert updates == [1, 2] * 5


def test_no_update_without_sight() -> None:
    """While a track is lost it is not confirmed, and nothing is said of it."""
    maker = make()
    messages = [tracks_of(info_of(0), {1: BOX})]
    messages += [tracks_of(info_of(seq), {}) for seq in range(1, 20)]
    messages += [tracks_of(info_of(20), {1: BOX})]
    made = [event for event in play(messages, maker) if kinds([event])[0] != "detection"]
    assert [(type(event), event.frame) for event in made] == [(TrackStarted, 0), (TrackUpdated, 20)]


def test_an_update_carries_the_newest_box_and_class() -> None:
    maker = make(updated_per_s=100)
    list(maker.events(tracks_of(info_of(0), {1: BOX})))
    info = info_of(1)
    found = Detections(info, b"", b"", b"", ("person", "car"))
    box = np.array([1.006, 2, 3, 4], np.float32).tobytes()
    score = np.array([0.5], np.float32).tobytes()
    message = Tracks(info, found, np.array([1]).tobytes(), box, b"", score,
                     np.array([1], np.int16).tobytes())  # fmt: skip
    (event,) = maker.events(message)
    assert isinstance(event, TrackUpdated)
    assert (event.class_name, event.score) == ("car", 0.5)
    assert event.box_xyxy_px == (1.01, 2.0, 3.0, 4.0)


def test_times_that_are_no_decimal_stay_exact_over_days() -> None:
    """30000/1001 frames a second, three days on: rounding does not change the rate."""
    start = 3 * 86_400 * 30
    base = info_of(0)
    infos: list[FrameInfo] = [
        msgspec.structs.replace(base, seq=n, pts=start + n, time_base=(1001, 30000))
        for n in range(31)
    ]
    made = play([tracks_of(info, {1: BOX}) for info in infos], make(updated_per_s=15000 / 1001))
    assert kinds(made).count("track.updated") == 15
