"""What is declared about a view: each mistake is one error, and the remedy it gives works."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from streamer.config import Config
from streamer.configfile import load_config
from streamer.errors import ConfigError
from streamer.view import MOST, LineConfig, ZoneConfig

ROOT = Path(__file__).resolve().parent.parent
SQUARE = "[[0.1, 0.1], [0.5, 0.1], [0.5, 0.5], [0.1, 0.5]]"
QUAD = "[[0.1, 0.9], [0.9, 0.9], [0.7, 0.5], [0.3, 0.5]]"
METRES = "[[0, 0], [10, 0], [10, 20], [0, 20]]"


def zone(fields: str, polygon: str = SQUARE, more: str = "") -> str:
    inner = f"polygon: {polygon}" + (f", {fields}" if fields else "")
    return f"cameras:\n  gate:\n    source: x\n    zones:\n      yard: {{{inner}}}\n{more}"


def line(ends: str, fields: str = "") -> str:
    return f"cameras:\n  gate:\n    source: x\n    lines:\n      kerb: {{ends: {ends}{fields}}}\n"


def ground(picture: str = QUAD, metres: str = METRES) -> str:
    return (
        "cameras:\n  gate:\n    source: x\n    calibration:\n"
        f"      picture: {picture}\n      ground_m: {metres}\n"
    )


LINE = line("[[0.5, 0.9], [0.5, 0.1]]")
AT_ZONE, AT_LINE = "5: cameras.gate.zones.yard", "5: cameras.gate.lines.kerb"
WRONG = [
    # what is wrong, what the error says after the file's name, and what mends it
    (
        zone("", "[[0.1, 0.1], [0.5, 0.5], [0.5, 0.1], [0.1, 0.5]]"),
        f"{AT_ZONE}.polygon: its edges 1 and 3 must not cross or touch; "
        "give the corners in order around the zone",
        zone(""),
    ),
    (
        zone("", "[[0.1, 0.1], [0.5, 0.1], [0.3, 0.1]]"),
        f"{AT_ZONE}.polygon: its edges 1 and 2 must not cross or touch",
        zone("", "[[0.1, 0.1], [0.5, 0.1], [0.3, 0.2]]"),
    ),
    (
        zone("", "[[100, 100], [500, 100], [500, 500]]"),
        f"{AT_ZONE}.polygon: point 1 must lie in the frame, 0..1, got [100, 100]; "
        "divide pixels by the frame's width and height",
        zone("", "[[0.1, 0.1], [0.5, 0.1], [0.5, 0.5]]"),
    ),
    (
        zone("", "[[0.1, 0.1], [0.5, 0.1]]"),
        f"{AT_ZONE}.polygon: must have 3 to {MOST} corners, got 2; add or remove some",
        zone("", "[[0.1, 0.1], [0.5, 0.1], [0.5, 0.5]]"),
    ),
    (
        zone("", SQUARE[:-1] + ", [0.1, 0.1]]"),
        f"{AT_ZONE}.polygon: corner 5 is given twice in a row; remove one",
        zone(""),
    ),
    (zone("dwel_s: 3"), f"{AT_ZONE}.dwel_s: unknown key; did you mean 'dwell_s'?",
     zone("dwell_s: 3")),
    (zone("dwell_s: 0"), f"{AT_ZONE}.dwell_s: expected `float` > 0.0, got 0; ", zone("dwell_s: 1")),
    (zone("anchor: feet"), f"{AT_ZONE}.anchor: must be one of bottom, center, top, left, right, "
     "got 'feet'; ", zone("anchor: bottom")),
    (zone("direction: [0, 0]"), f"{AT_ZONE}.direction: must have a length, got [0.0, 0.0]; "
     "use [1, 0] for to the right", zone("direction: [1, 0]")),
    (
        zone("speed_over_kmh: 30"),
        f"{AT_ZONE}.speed_over_kmh: needs a calibration, got none; add cameras.gate.calibration",
        zone("speed_over_kmh: 30",
             more=f"    calibration: {{picture: {QUAD}, ground_m: {METRES}}}\n"),
    ),
    (
        zone("classes: [dog]", more="detector: {classes: [person]}"),
        f"{AT_ZONE}.classes: 'dog' must be in detector.classes to be found; add it there",
        zone("classes: [dog]", more="detector: {classes: [person, dog]}"),
    ),
    (
        zone("", more="detector: null"),
        "4: cameras.gate.zones: need a detector, got none; configure one",
        zone("", more="detector: {model: street}"),
    ),
    (
        zone("").replace("yard", "my yard"),
        "5: cameras.gate.zones.my yard: a name must be 1 to 40 of A-Z a-z 0-9 _ -; rename it",
        zone(""),
    ),
    (
        zone("", more=f"      yard: {{polygon: {SQUARE}}}\n"),
        "6: yard: given twice, first in line 5; remove or rename one of them",
        zone("", more=f"      field: {{polygon: {SQUARE}}}\n"),
    ),
    (
        zone("", more="    lines:\n      yard: {ends: [[0, 0], [1, 1]]}\n"),
        "7: cameras.gate.lines.yard: must not have the name of a zone, for rules go by name; "
        "rename it",
        zone("", more="    lines:\n      kerb: {ends: [[0, 0], [1, 1]]}\n"),
    ),
    (
        line("[[0.5, 0.5], [0.5, 0.5]]"),
        f"{AT_LINE}.ends: must be two different points, got [0.5, 0.5] twice; move one of them",
        LINE,
    ),
    (
        line("[[0.5, 0.5], [0.5, 1.5]]"),
        f"{AT_LINE}.ends: point 2 must lie in the frame, 0..1, got [0.5, 1.5]; ",
        LINE,
    ),
    (line("[[0.5, 0.5]]"), f"{AT_LINE}.ends: expected `array` of length 2", LINE),
    (line("[[0, 0], [1, 1]]", ", allowed: up"), f"{AT_LINE}.allowed: must be one of both, in, out",
     line("[[0, 0], [1, 1]]", ", allowed: in")),
    (
        ground("[[0.1, 0.9], [0.5, 0.9], [0.9, 0.9], [0.3, 0.5]]"),
        "5: cameras.gate.calibration.picture: no three of the points may lie on a line, as "
        "[0.1, 0.9], [0.5, 0.9], [0.9, 0.9] do; move one of them",
        ground(),
    ),
    (
        ground(metres="[[0, 0], [10, 0], [20, 0], [0, 20]]"),
        "6: cameras.gate.calibration.ground_m: no three of the points may lie on a line",
        ground(),
    ),
    (
        ground(metres="[[0, 0], [10, 20], [10, 0], [0, 20]]"),
        "6: cameras.gate.calibration.ground_m: must give the points in the order of "
        "cameras.gate.calibration.picture, and these can't be the same four; swap two of them",
        ground(metres="[[0, 0], [10, 0], [10, 20], [0, 20]]"),
    ),
    (
        ground(metres="[[0, 0], [10, 0], [10, .inf], [0, 20]]"),
        "6: cameras.gate.calibration.ground_m: must be finite numbers",
        ground(),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "error", "mended"), WRONG, ids=[case[1][:60] for case in WRONG])
def test_each_mistake_is_one_error_and_its_remedy_works(
    tmp_path: Path, wrong: str, error: str, mended: str
) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(wrong)
    with pytest.raises(ConfigError, match=r"scene\.yaml:" + re.escape(error)):
        load_config(path)
    path.write_text(mended)
    load_config(path)


def test_more_zones_than_there_are_places_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.yaml"
    zones = "".join(f"      z{n}: {{polygon: {SQUARE}}}\n" for n in range(MOST + 1))
    text = f"cameras:\n  gate:\n    source: x\n    zones:\n{zones}"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"zones: must be at most 64, got 65; remove some"):
        load_config(path)
    path.write_text(text.replace(f"      z{MOST}: {{polygon: {SQUARE}}}\n", ""))
    assert len(load_config(path).cameras["gate"].zones) == MOST


def test_a_mirrored_ground_is_a_ground(tmp_path: Path) -> None:
    """Metres may be counted to the left, or away from the camera as well as towards it."""
    for metres in ("[[0, 0], [-10, 0], [-10, 20], [0, 20]]", "[[0, 9], [5, 9], [5, 0], [0, 0]]"):
        (tmp_path / "scene.yaml").write_text(ground(metres=metres))
        load_config(tmp_path / "scene.yaml")


def test_the_example_loads_and_survives_the_trip_to_a_stage() -> None:
    config = load_config(ROOT / "configs" / "street_zones.yaml")
    assert config.cameras["street"].zones.keys() >= {"pavement", "road"}
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config


def test_what_the_readme_shows_loads(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text().partition("tests/test_analytics_view.py -->\n```yaml\n")
    (tmp_path / "scene.yaml").write_text(text[2].partition("```")[0])
    camera = load_config(tmp_path / "scene.yaml").cameras["gate"]
    assert camera.zones["yard"].dwell_s == 10
    assert camera.lines["kerb"].ends == ((0.5, 0.9), (0.5, 0.5))


def test_every_field_says_what_it_means() -> None:
    source = (ROOT / "streamer" / "view.py").read_text()
    for section in (ZoneConfig, LineConfig):
        for field in msgspec.structs.fields(section):
            told = re.search(rf"\n    {field.name}: [^\n]*\n    (\"\"\"|[a-z_]+: )", source)
            assert told, f"{section.__name__}.{field.name} has no word of explanation"
