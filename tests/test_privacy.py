"""What must not be seen is in no file, whatever is known, late, missing or forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from pipeline import segments, streamer
from samples import info_of, tracks_of

from streamer.config import HideConfig
from streamer.configfile import build_config
from streamer.errors import ConfigError
from streamer.messages import FrameInfo, Tracks
from streamer.overlay.conceal import conceal
from streamer.painter import PREDICT_S, Hider
from streamer.planes import Planes

PERSON = (HideConfig(classes=("person",), how="fill"),)
BOX = (40.0, 20.0, 60.0, 70.0)


def noise(width: int = 120, height: int = 90, seed: int = 0) -> Planes:
    generator = np.random.default_rng(seed)
    planes = Planes.empty(width, height)
    for plane in (planes.y, planes.u, planes.v):
        plane[:] = generator.integers(30, 220, plane.shape, np.uint8)
    return planes


def detail(plane: np.ndarray) -> float:
    """How much neighbours differ."""
    return float(np.abs(np.diff(plane.astype(np.int16), axis=1)).mean())


@pytest.mark.parametrize("size", [(120, 90), (121, 91), (1280, 720)])
def test_inside_nothing_is_left_and_outside_nothing_changes(size: tuple[int, int]) -> None:
    planes, before = noise(*size), noise(*size)
    conceal(planes, np.array([BOX], np.float32))
    assert detail(planes.y[20:70, 40:60]) < detail(before.y[20:70, 40:60]) / 8
    assert detail(planes.u[10:35, 20:30]) < detail(before.u[10:35, 20:30]) / 4
    for name in ("y", "u", "v"):
        plane, was = getattr(planes, name), getattr(before, name)
        kept = np.ones(plane.shape, bool)
        scale = 1 if name == "y" else 2
        kept[20 // scale : 70 // scale, 40 // scale : 60 // scale] = False
        assert np.array_equal(plane[kept], was[kept])


def test_a_filled_box_is_black_and_a_polygon_is_filled() -> None:
    planes = noise()
    triangle = np.array([[80, 10], [110, 10], [80, 60]], np.float32)
    conceal(planes, np.array([BOX], np.float32), [triangle], how="fill")
    assert (planes.y[20:70, 40:60] == 16).all()
    assert (planes.u[10:35, 20:30] == 128).all()
    assert (planes.y[14:20, 84:90] == 16).all()
    assert not (planes.y[50:60, 100:110] == 16).any()


def test_boxes_beyond_the_border_and_broken_ones_are_harmless() -> None:
    planes, before = noise(), noise()
    nowhere = [[np.nan, 0, 5, 5], [-50, -50, -10, -10], [200, 0, 300, 50], [30, 30, 30, 30]]
    conceal(planes, np.array(nowhere, np.float32))
    assert np.array_equal(planes.y, before.y)
    conceal(planes, np.array([[-10, -10, 400, 400]], np.float32), how="fill")
    assert (planes.y == 16).all()


def hidden(hider: Hider, info: FrameInfo) -> np.ndarray:
    """Which luma samples one picture loses."""
    planes = noise(info.width, info.height)
    hider.hide(planes, info)
    black: np.ndarray = planes.y == 16
    return black


def at(seq: int, epoch: int = 1) -> FrameInfo:
    return info_of(seq, epoch=epoch, width=120, height=90)


def seen(seq: int, *boxes: tuple[float, float, float, float]) -> Tracks:
    return tracks_of(at(seq), dict(enumerate(boxes, 1)))


def test_where_nobody_knows_everything_is_hidden() -> None:
    hider = Hider("gate", PERSON)
    assert hidden(hider, at(0)).all()
    hider.learn(at(1), seen(1))
    assert not hidden(hider, at(1)).any()
    late = int(PREDICT_S * 25)
    hider.learn(at(late), None)
    assert not hidden(hider, at(late)).any()
    hider.learn(at(late + 2), None)
    assert hidden(hider, at(late + 2)).all()


def test_another_epoch_knows_nothing() -> None:
    hider = Hider("gate", PERSON)
    hider.learn(at(1), seen(1))
    hider.learn(at(2, epoch=2), None)
    assert hidden(hider, at(2, epoch=2)).all()


def test_who_is_missed_for_a_moment_stays_hidden() -> None:
    hider = Hider("gate", PERSON)
    hider.learn(at(1), seen(1, BOX))
    for seq in range(2, 10):
        hider.learn(at(seq), seen(seq))
        black = hidden(hider, at(seq))
        assert black[20:70, 40:60].all()
        assert 1000 < black.sum() < 2000


def test_only_the_upper_fifth_is_the_head() -> None:
    hider = Hider("gate", (HideConfig(classes=("head",), how="fill"),))
    hider.learn(at(1), seen(1, BOX))
    black = hidden(hider, at(1))
    assert black[20:30, 40:60].all()
    assert not black[34:].any()


def test_places_need_no_detector() -> None:
    corners = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
    hider = Hider("gate", (HideConfig(polygons=(corners,), how="fill"),))
    black = hidden(hider, at(0))
    assert black[:, 62:].all()
    assert not black[:, :58].any()


def test_a_class_that_the_detector_lacks_is_an_error() -> None:
    hider = Hider("gate", (HideConfig(classes=("dog",)),))
    with pytest.raises(ConfigError, match=r"cameras\.gate\.hide\.classes: 'dog' must be a class"):
        hider.learn(at(1), seen(1))


@pytest.mark.parametrize(
    ("rule", "sections", "text"),
    [
        ({}, {}, r"cameras\.gate\.hide: must name classes or polygons"),
        ({"classes": ["person"]}, {"detector": None}, r"hide\.classes: need a detector"),
        ({"classes": ["head"]}, {"detector": {"classes": ["car"]}}, r"'person' must be in detec"),
        ({"polygons": [[[0, 0], [1, 1]]]}, {}, r"hide\.polygons: must have 3 corners"),
        ({"polygons": [[[0, 0], [1, 1], [0, 2]]]}, {}, r"hide\.0\.polygons\.0\.2\.1: expected"),
        ({"classes": ["person"], "how": "smear"}, {}, r"hide\.0\.how: .*blur, fill"),
    ],
)
def test_wrong_rules_are_refused(
    rule: dict[str, object], sections: dict[str, object], text: str
) -> None:
    camera = {"source": "x", "hide": [rule]}
    with pytest.raises(ConfigError, match=text):
        build_config({"cameras": {"gate": camera}, **sections})


def test_the_readme_shows_rules_that_work() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    block = readme.partition("tests/test_privacy.py -->\n```yaml\n")[2].partition("```")[0]
    camera = build_config(yaml.safe_load(block)).cameras["gate"]
    assert [rule.how for rule in camera.hide_in("record")] == ["blur", "fill"]
    assert [rule.how for rule in camera.hide_in("out")] == ["fill"]


def test_each_output_has_its_own_rules(tmp_path: Path) -> None:
    """A real run: people are to be seen in one file and hidden in the other."""
    config = tmp_path / "scene.yaml"
    config.write_text(
        f"""
cameras:
  gate:
    source: synthetic:street?seed=3&size=640x360&fps=10&seconds=4
    regime: offline
    overlay: false
    out: {tmp_path / "open.mp4"}
    record: {tmp_path / "hidden"}
    hide:
      - classes: [person]
        outputs: [record]
"""
    )
    done = streamer("run", config, "--events", tmp_path / "events.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    people = {
        event["frame"]: [o["box_xyxy_px"] for o in event["objects"] if o["class"] == "person"]
        for event in map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
        if event["type"] == "detection"
    }
    (recorded,) = segments(tmp_path / "hidden")
    shown, concealed = [], []
    for number, (plain, hid) in enumerate(
        zip(pictures(tmp_path / "open.mp4"), pictures(recorded), strict=True)
    ):
        for x1, y1, x2, y2 in people.get(number, []):
            box = (slice(max(0, int(y1)), int(y2)), slice(max(0, int(x1)), int(x2)))
            shown.append(detail(plain[box]))
            concealed.append(detail(hid[box]))
    assert len(shown) > 20
    assert np.median(concealed) < np.median(shown) / 3
    assert max(concealed) < np.median(shown)


def pictures(path: Path) -> list[np.ndarray]:
    """Luma of all frames."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
