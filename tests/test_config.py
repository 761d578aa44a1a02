"""Configuration: every error says where, what and what to do; the remedy it gives works."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import get_origin

import msgspec
import pytest

from streamer.config import (
    CameraConfig,
    Config,
    DetectorConfig,
    EncodeConfig,
    EventsConfig,
    RecordConfig,
    SupervisorConfig,
    TrackerConfig,
    check_address,
)
from streamer.configfile import build_config, load_config
from streamer.errors import ConfigError

Load = Callable[[str], Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write text as a file and read it."""

    def load(text: str) -> Config:
        path = tmp_path / "scene.yaml"
        path.write_text(text)
        return load_config(path)

    return load


def test_a_camera_may_be_its_source_alone(load: Load) -> None:
    config = load("cameras: {gate: clip.mp4, door: 0, yard: {source: 1}}")
    assert {name: camera.source for name, camera in config.cameras.items()} == {
        "gate": "clip.mp4",
        "door": "0",
        "yard": "1",
    }


def test_defaults(load: Load) -> None:
    config = load("cameras: {gate: clip.mp4}")
    assert config == Config(cameras={"gate": CameraConfig(source="clip.mp4")})
    assert config.detector == DetectorConfig()
    assert config.detector.score_low <= config.detector.score
    assert config.events.publish == ""
    assert config.supervisor.stop_s < 5.0
    assert not config.writes("gate")
    assert load("cameras: {gate: clip.mp4}\ndetector: null").detector is None


def test_a_config_survives_the_trip_to_a_stage(load: Load) -> None:
    config = load("cameras: {gate: {source: a, out: b.mp4}}\nencode: {crf: 30}\ndetector: null")
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config


def test_where_a_camera_is_recorded(load: Load) -> None:
    config = load(
        "cameras: {a: {source: x, record: own}, b: y, c: {source: z, out: z.mp4}}\n"
        "record: {folder: shared}"
    )
    assert [config.record_folder(name) for name in "abc"] == ["own", "shared", "shared"]
    alone = load("cameras: {c: {source: z, out: z.mp4}, d: w}")
    assert [alone.writes(name) for name in "cd"] == [True, False]


SCENE = "cameras: {gate: clip.mp4}\n"
WRONG = [
    # what is wrong, where, what the error says, and the text that mends it
    (
        SCENE + "\ndetecter: {score: 0.5}",
        "3: detecter: unknown key; did you mean 'detector'?",
        SCENE + "\ndetector: {score: 0.5}",
    ),
    (
        SCENE + "detector:\n  score: 0.5\n  iou: 0.4",
        "4: detector.iou: unknown key; did you mean 'nms_iou'?",
        SCENE + "detector:\n  score: 0.5\n  nms_iou: 0.4",
    ),
    (
        SCENE + "tracker: {zzz: 1}",
        "2: tracker.zzz: unknown key; known are name, high_score, ",
        SCENE + "tracker: {name: default}",
    ),
    (
        "cameras:\n  gate:\n    source: x\n    regieme: live",
        "4: cameras.gate.regieme: unknown key; did you mean 'regime'?",
        "cameras:\n  gate:\n    source: x\n    regime: live",
    ),
    (
        "cameras: {gate: {source: x, regime: Live}}",
        "1: cameras.gate.regime: must be one of auto, live, offline, got 'Live'; "
        "mend the value or leave the key out",
        "cameras: {gate: {source: x, regime: live}}",
    ),
    (
        SCENE + "encode: {codec: vp9}",
        "2: encode.codec: must be one of h264, hevc, av1, learned, h264+learned, "
        "hevc+learned, av1+learned, got 'vp9'; ",
        SCENE + "encode: {codec: av1}",
    ),
    (
        SCENE + "encode:\n  crf: high",
        "3: encode.crf: expected `int | null`, got 'high'; mend the value or leave the key out",
        SCENE + "encode:\n  crf: 20",
    ),
    (
        SCENE + "detector:\n  classes:\n    - person\n    - 7",
        "5: detector.classes.1: expected `str`, got 7; ",
        SCENE + "detector:\n  classes:\n    - person\n    - car",
    ),
    (
        SCENE + "events: here.jsonl",
        "2: events: expected `object`, got 'here.jsonl'; ",
        SCENE + "events: {file: here.jsonl}",
    ),
    (
        "cameras: {gate: {out: a.mp4}}",
        "1: cameras.gate: object missing required field `source`; add it",
        "cameras: {gate: {source: clip.mp4, out: a.mp4}}",
    ),
    (
        "cameras:\n  gate: x\n  door:",
        "3: cameras.door: expected `object`, got None; ",
        "cameras:\n  gate: x\n  door: y",
    ),
    (
        "cameras: {gate: true}",
        "1: cameras.gate: expected `object`, got True; ",
        "cameras: {gate: 'true'}",
    ),
    (
        "cameras: {gate: ''}",
        "1: cameras.gate.source: must not be empty; give a file or URI",
        "cameras: {gate: clip.mp4}",
    ),
    (
        "\ncameras: {}",
        "2: cameras: must name at least one camera, got none; add one",
        "cameras: {gate: clip.mp4}",
    ),
    (
        "cameras: [clip.mp4]",
        "1: cameras: must map names to sources, such as `gate: rtsp://host/path`",
        "cameras: {gate: rtsp://host/path}",
    ),
    (
        "events: {}",
        "1: cameras: must map names to sources",
        "cameras: {gate: clip.mp4}\nevents: {}",
    ),
    (
        "",
        "1: configuration: must be a mapping with the key `cameras`",
        "cameras: {gate: clip.mp4}",
    ),
    (
        "cameras:\n  ok: x\n  front door: y",
        "3: cameras.front door: a name must be 1 to 40 of A-Z a-z 0-9 _ -; rename it",
        "cameras:\n  ok: x\n  front-door: y",
    ),
    (
        "cameras:\n  gate: x\n  door: y\n  gate: z",
        "4: gate: given twice, first in line 2; remove or rename one of them",
        "cameras:\n  gate: x\n  door: y\n  gate2: z",
    ),
    (
        SCENE + "detector: {score: 0.2, score_low: 0.25}",
        "2: detector.score_low: must be at most detector.score (0.2), got 0.25; lower it",
        SCENE + "detector: {score: 0.2, score_low: 0.2}",
    ),
    (
        SCENE + "tracker: {low_score: 0.6, high_score: 0.5}",
        "2: tracker.low_score: must be at most tracker.high_score (0.5), got 0.6; lower it",
        SCENE + "tracker: {low_score: 0.5, high_score: 0.5}",
    ),
    (
        SCENE + "tracker: {name: deepsort}",
        "2: tracker.name: must be one of default, sort, bytetrack, ocsort, botsort, got 'deepsort'",
        SCENE + "tracker: {name: botsort}",
    ),
    (
        "cameras:\n  a: same.mp4\n  b: same.mp4",
        "3: cameras.b.source: must differ from that of camera 'a'; each camera needs its own, "
        "so remove one of the two",
        "cameras:\n  a: same.mp4",
    ),
    (
        "cameras:\n  a: {source: x, out: o.mp4}\n  b:\n    source: y\n    out: ./o.mp4",
        "5: cameras.b.out: must differ from that of camera 'a'",
        "cameras:\n  a: {source: x, out: o.mp4}\n  b:\n    source: y\n    out: ./p.mp4",
    ),
    (
        SCENE + "events:\n  publish: tcp://0.0.0.0:5560",
        "3: events.publish: tcp://0.0.0.0:5560 can be reached by other hosts; "
        "use tcp://127.0.0.1:PORT, or set events.allow_remote if that is wanted",
        SCENE + "events:\n  publish: tcp://0.0.0.0:5560\n  allow_remote: true",
    ),
    (
        SCENE + "events:\n  publish: 127.0.0.1:5560",
        "3: events.publish: must be tcp://HOST:PORT or ipc://NAME, got '127.0.0.1:5560'; "
        "use tcp://127.0.0.1:5560",
        SCENE + "events:\n  publish: tcp://127.0.0.1:5560",
    ),
    (
        SCENE + "duration_s: 2024-99-99",
        " not YAML: month must be in 1..12; mend it there",
        SCENE + "duration_s: 20",
    ),
    (
        "cameras:\n  gate: clip.mp4\n\tdoor: x",
        "3: not YAML: found character '\\t' that cannot start any token; mend it there",
        "cameras:\n  gate: clip.mp4\n  door: x",
    ),
    ("cameras: {gate: clip.mp4", "1: not YAML: expected ',' or '}'", "cameras: {gate: clip.mp4}"),
]


@pytest.mark.parametrize(("wrong", "error", "mended"), WRONG, ids=[case[1][:40] for case in WRONG])
def test_errors_say_where_and_what_and_the_remedy_works(
    load: Load, wrong: str, error: str, mended: str
) -> None:
    with pytest.raises(ConfigError, match=r"scene\.yaml:" + re.escape(error)):
        load(wrong)
    load(mended)


RANGES = [
    # section, key, what is just allowed, what is just not, what the error says
    ("detector", "score", (0.1, 0.99), (0, 1), "expected `float`"),
    ("detector", "score_low", (0.01, 0.3), (0, 1), "expected `float`"),
    ("detector", "nms_iou", (0.01, 1), (0, 1.01), "expected `float`"),
    ("detector", "batch", (0, 64), (-1, 65), "expected `int`"),
    ("detector", "collect_ms", (0, 1000), (-1, 1001), "expected `float`"),
    ("detector", "streams", (0, 64), (-1, 65), "expected `int`"),
    ("detector", "age_s", (0.01, 100), (0, -1), "expected `float` > 0.0"),
    ("tracker", "high_score", (0, 1), (-0.1, 1.1), "expected `float"),
    ("tracker", "low_score", (0, 1), (-0.1, 1.1), "expected `float"),
    ("tracker", "birth_score", (0, 1), (-0.1, 1.1), "expected `float"),
    ("tracker", "match_iou", (0, 1), (-0.1, 1.1), "expected `float"),
    ("tracker", "confirm_hits", (1, 1000), (0, 1001), "expected `int"),
    ("tracker", "lost_s", (0.001, 3600), (0, 3601), "expected `float"),
    ("tracker", "appearance_distance", (0, 2), (-0.1, 2.1), "expected `float"),
    ("tracker", "reid_crops", (1, 1000), (0, 1001), "expected `int`"),
    ("encode", "crf", (0, 63), (-1, 64), "expected `int`"),
    ("encode", "threads", (0, 64), (-1, 65), "expected `int`"),
    ("encode", "join_frames", (2, 250), (1, 251), "expected `int`"),
    ("encode", "deadline_s", (0.01, 10), (0, 10.1), "expected `float`"),
    ("record", "segment_s", (1, 86400), (0.9, 86401), "expected `float`"),
    ("record", "min_free_mb", (0, 10**6), (-1, 0.5), "expected `int`"),
    ("events", "updated_per_s", (0, 100), (-1, 101), "expected `float`"),
    ("events", "heartbeat_s", (0.1, 60), (0, ".nan"), "expected `float` > 0.0"),
    ("events", "log_mb", (1, 10**6), (0, 0.5), "expected `int`"),
    ("events", "log_days", (0.01, 3650), (0, -1), "expected `float` > 0.0"),
    ("supervisor", "restarts", (0, 1000), (-1, 1.5), "expected `int`"),
    ("supervisor", "window_s", (0.1, 1e6), (0, -1), "expected `float` > 0.0"),
    ("supervisor", "ready_s", (0.1, 1e6), (0, -1), "expected `float` > 0.0"),
    ("supervisor", "beat_s", (0.1, 1e6), (0, -1), "expected `float` > 0.0"),
    ("supervisor", "stop_s", (0.6, 60), (0.5, -1), "expected `float` > 0.5"),
    ("cameras.gate", "open_s", (0.1, 300), (0, 301), "expected `float`"),
    ("cameras.gate", "first_frame_s", (0.1, 300), (0, 301), "expected `float`"),
    ("cameras.gate", "frame_s", (0.1, 300), (0, 301), "expected `float`"),
    ("", "duration_s", (0, 1e6), (-0.1, ".nan"), "expected `float` >= 0.0"),
]


def scene_with(section: str, key: str, value: object) -> str:
    """A scene in which one key of one section is set."""
    if section == "cameras.gate":
        return f"cameras: {{gate: {{source: x, {key}: {value}}}}}"
    return SCENE + (f"{section}: {{{key}: {value}}}" if section else f"{key}: {value}")


@pytest.mark.parametrize(
    ("section", "key", "good", "bad", "rule"), RANGES, ids=[f"{r[0]}.{r[1]}" for r in RANGES]
)
def test_ranges_are_as_documented(
    load: Load,
    section: str,
    key: str,
    good: tuple[float, ...],
    bad: tuple[object, ...],
    rule: str,
) -> None:
    path = f"{section}.{key}".lstrip(".")
    for value in good:
        load(scene_with(section, key, value))
    for value in bad:
        with pytest.raises(ConfigError, match=re.escape(path) + ": " + re.escape(rule)):
            load(scene_with(section, key, value))


def test_every_number_with_a_range_is_tested() -> None:
    sections = {
        "cameras.gate": CameraConfig,
        "detector": DetectorConfig,
        "tracker": TrackerConfig,
        "encode": EncodeConfig,
        "record": RecordConfig,
        "events": EventsConfig,
        "supervisor": SupervisorConfig,
    }
    numbers = {
        (name, field.name)
        for name, section in sections.items()
        for field in msgspec.structs.fields(section)
        if "Meta" in repr(field.type) or field.type in (int, float)
        if get_origin(field.type) is not dict
    }
    assert numbers == {(section, key) for section, key, *_ in RANGES if section}


SECRETS = [
    "cameras: {gate: [rtsp://ann:hunter2@host/s]}",
    "cameras: {'rtsp://ann:hunter2@host/s': x}",
    "cameras: {gate: {source: rtsp://ann:hunter2@host/s, regime: rtsp://ann:hunter2@host/s}}",
    "cameras: {gate: {source: rtsp://ann:hunter2@host/s, crf: 3}}",
    "cameras: {gate: {source: {rtsp://ann:hunter2@host/s: 1}}}",
    "cameras: {a: rtsp://ann:hunter2@host/s, b: rtsp://ann:hunter2@host/s}",
    "cameras: {gate: x, 'rtsp://ann:hunter2@h': x, 'rtsp://ann:hunter2@h': x}",
    "cameras: {gate: x}\nevents: {publish: 'tcp://ann:hunter2@host:5560'}",
    "cameras: {gate: x}\nevents: {publish: 'http://ann:hunter2@host:5560'}",
    "cameras: {gate: x}\n'http://ann:hunter2@host:5560': 1",
    "cameras: {gate: x}\ndetector: http://host/model?token=hunter2",
    "- rtsp://ann:hunter2@host/s",
    "rtsp://ann:hunter2@host/s",
]


@pytest.mark.parametrize("text", SECRETS)
def test_errors_never_show_a_password(load: Load, text: str) -> None:
    with pytest.raises(ConfigError, match=r"scene\.yaml") as caught:
        load(text)
    assert "hunter2" not in str(caught.value)
    assert "ann:" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["", "ipc://@events", "tcp://127.0.0.1:5560", "tcp://localhost:1", "tcp://127.0.0.1:*"],
)
def test_addresses_of_this_host_are_allowed(address: str) -> None:
    check_address(address, allow_remote=False)


@pytest.mark.parametrize(
    "address", ["tcp://*:5560", "tcp://0.0.0.0:1", "tcp://10.0.0.7:80", "tcp://[::]:80"]
)
def test_addresses_that_others_reach_need_consent(address: str) -> None:
    with pytest.raises(ConfigError, match="can be reached by other hosts"):
        check_address(address, allow_remote=False)
    check_address(address, allow_remote=True)


@pytest.mark.parametrize(
    "address",
    ["5560", "tcp://127.0.0.1", "tcp://:5560", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536",
     "tcp://127.0.0.1:http", "inproc://x", "udp://127.0.0.1:1"],
)  # fmt: skip
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ConfigError, match=r"must be tcp://HOST:PORT or ipc://NAME"):
        check_address(address, allow_remote=True)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"missing\.yaml: can't be read: No such file.*; check the path"
    ):
        load_config(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load_config(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml: not YAML: .*can't decode"):
        load_config(binary)


def test_plain_data_of_a_command_line() -> None:
    assert build_config({"cameras": {"gate": "x"}}).cameras["gate"].source == "x"
    with pytest.raises(ConfigError, match=r"^encode\.crf: expected `int` <= 63, got 99"):
        build_config({"cameras": {"gate": "x"}, "encode": {"crf": 99}})


def test_the_readme_shows_actions_and_surfaces_as_they_are_declared(tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    block = readme.partition("tests/test_config.py -->\n```yaml\n")[2].partition("```")[0]
    (tmp_path / "scene.yaml").write_text(block)
    config = load_config(tmp_path / "scene.yaml")
    assert config.actions is not None
    assert (config.actions.on, config.actions.off) == (0.6, 0.4)
    assert config.segmenter is not None
    assert config.segmenter.surfaces["lane"].by == ("car",)
    assert config.cameras["gate"].zones["carriageway"].on == ("road",)


def test_only_true_and_false_are_truth_values(tmp_path: Path) -> None:
    (tmp_path / "scene.yaml").write_text(
        "cameras: {no: {source: off, overlay: false}, yes: {source: y, overlay: True}}"
    )
    cameras = load_config(tmp_path / "scene.yaml").cameras
    assert {name: (c.source, c.overlay) for name, c in cameras.items()} == {
        "no": ("off", False),
        "yes": ("y", True),
    }
