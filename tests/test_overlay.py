"""Pixels that the overlay draws, and those that it must leave alone."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from streamer.overlay import PALETTE, Overlay, Trails, colour_of, draw_label_map, letterbox
from streamer.overlay.colours import yuv_from_rgb
from streamer.overlay.glyphs import Glyphs
from streamer.planes import Planes

YUV = yuv_from_rgb(PALETTE, "bt601").tolist()
SIZES = [(320, 240), (161, 97), (1280, 720), (16, 16)]


def grey(width: int, height: int) -> Planes:
    planes = Planes.empty(width, height)
    planes.fill(60)
    return planes


def copy(planes: Planes) -> Planes:
    other = Planes.empty(planes.width, planes.height)
    other.copy_from(planes)
    return other


def changed(planes: Planes, before: Planes) -> np.ndarray:
    """Say where a picture differs from what it was, at full resolution."""
    chroma = (planes.u != before.u) | (planes.v != before.v)
    wide = chroma.repeat(2, axis=0).repeat(2, axis=1)[: planes.height, : planes.width]
    return (planes.y != before.y) | wide


def guarded(width: int, height: int, margin: int = 8) -> tuple[Planes, list[np.ndarray]]:
    """Planes that are windows of larger ones, as an encoder's are; and those larger ones."""
    half = (height + 1) // 2, (width + 1) // 2
    whole = [
        np.full((h + 2 * margin, w + 2 * margin), 77, np.uint8)
        for h, w in ((height, width), half, half)
    ]
    y, u, v = (plane[margin:-margin, margin:-margin] for plane in whole)
    return Planes(y, u, v), whole


def untouched(whole: list[np.ndarray], margin: int = 8) -> bool:
    for plane in whole:
        frame = np.ones(plane.shape, bool)
        frame[margin:-margin, margin:-margin] = False
        if (plane[frame] != 77).any():
            return False
    return True


# Colours


def test_colours_agree_with_opencv_and_the_norms():
    for rgb, yuv in zip(PALETTE, YUV, strict=True):
        picture = cv2.cvtColor(np.full((2, 2, 3), rgb, np.uint8), cv2.COLOR_RGB2YUV_I420)
        assert np.abs(picture.ravel()[[0, 4, 5]].astype(int) - yuv).max() <= 1
    red = yuv_from_rgb(np.array([[255, 0, 0]], np.uint8), "bt709")
    assert red.tolist() == [[63, 102, 240]]
    with pytest.raises(ValueError, match="matrix must be one of bt601, bt709, got 'bt2020'"):
        yuv_from_rgb(PALETTE, "bt2020")


def test_colours_of_tracks_last_and_neighbours_differ():
    assert [colour_of(7), colour_of(7 + len(PALETTE))] == [7, 7]
    assert 0 <= colour_of(-1) < len(PALETTE)
    distance = np.abs(PALETTE.astype(int) - np.roll(PALETTE, 1, axis=0)).max(axis=1)
    assert distance.min() > 60


def test_tags_can_be_read_in_every_colour():
    overlay = Overlay(1280, 720)
    for number, colour in enumerate(YUV):
        planes = grey(1280, 720)
        overlay.boxes(planes, np.array([[100, 100, 300, 300]]), [number], ["person 12 0.87"])
        tag = planes.y[80:100, 104:200].astype(int)
        assert np.abs(tag - colour[0]).max() > 80


# Boxes


@pytest.mark.parametrize("height", [240, 720, 1440])
def test_edges_of_a_box_lie_just_inside_it(height):
    planes = grey(640, height)
    before = copy(planes)
    overlay = Overlay(640, height)
    line = overlay.line_px
    assert line == (4 if height == 1440 else 2)
    overlay.boxes(planes, np.array([[100.2, 40.4, 199.7, 120.1]], np.float32), [3])
    wanted = np.zeros((height, 640), bool)
    wanted[40:120, 100:200] = True
    wanted[40 + line : 120 - line, 100 + line : 200 - line] = False
    assert (changed(planes, before) == wanted).all()
    assert (planes.y[wanted] == YUV[3][0]).all()
    assert (planes.u[wanted[::2, ::2]] == YUV[3][1]).all()
    assert (planes.v[wanted[::2, ::2]] == YUV[3][2]).all()


def test_corners_leave_the_middle_of_the_edges_free():
    planes = grey(320, 240)
    before = copy(planes)
    Overlay(320, 240).boxes(planes, np.array([[40, 40, 120, 200]]), [0], corners=True)
    drawn = changed(planes, before)
    for x in (40, 118):
        for y in (40, 198):
            assert drawn[y, x]
    assert not drawn[60:180, 64:96].any()
    assert not drawn[40:200, 64:96].any()
    assert not drawn[90:150, 40:120].any()


def test_a_box_that_leaves_the_picture_shows_no_edge_at_the_border():
    planes = grey(320, 240)
    before = copy(planes)
    Overlay(320, 240).boxes(planes, np.array([[-50, 60, 100, 900]]), [0])
    drawn = changed(planes, before)
    assert drawn[60:62, :100].all()
    assert drawn[60:, 98:100].all()
    assert drawn.sum() == 2 * 100 + 2 * (240 - 62)


@pytest.mark.parametrize("size", SIZES)
def test_no_box_whatever_draws_outside_the_planes(size):
    width, height = size
    rng = np.random.default_rng(0)
    strange = [np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0, width, height, -3.0]
    boxes = rng.uniform(-0.5, 1.5, (400, 4)) * [width, height, width, height]
    odd = rng.random(boxes.shape) < 0.15
    boxes[odd] = rng.choice(strange, odd.sum())
    planes, whole = guarded(width, height)
    overlay = Overlay(width, height)
    colours = rng.integers(-5, 500, 400).tolist()
    labels = ["", "person 12 0.87", "a very long label indeed that nobody can read"] * 134
    for corners in (False, True):
        overlay.boxes(planes, boxes.astype(np.float32), colours, labels[:400], corners=corners)
    overlay.trails(planes, [boxes[:40, :2].astype(np.float32), boxes[:0, :2]], [1, 2])
    overlay.caption(planes, "camera " * 30, "right " * 30)
    assert untouched(whole)
    assert (planes.y != 77).any()


def test_the_smallest_box_is_still_a_box():
    planes = grey(320, 240)
    Overlay(320, 240).boxes(planes, np.array([[99.5, 50.5, 99.6, 50.6]]), [0])
    rows, columns = np.nonzero(changed(planes, grey(320, 240)))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 53, 100, 103)


def test_boxes_without_area_or_numbers_draw_nothing():
    planes = grey(320, 240)
    before = copy(planes)
    overlay = Overlay(320, 240)
    bad = [[50, 50, 50, 90], [90, 50, 50, 90], [np.nan, 0, 9, 9], [0, 0, np.inf, 9]]
    outside = [[-90, 10, -20, 50], [330, 10, 400, 50], [10, -90, 50, -20], [10, 250, 50, 300]]
    boxes = np.array(bad + outside, np.float32)
    overlay.boxes(planes, boxes, [0] * 8, ["text"] * 8)
    overlay.boxes(planes, np.zeros((0, 4), np.float32), [], [])
    assert not changed(planes, before).any()


# Tags


def test_a_tag_sits_on_its_box_and_moves_in_at_the_borders():
    overlay = Overlay(320, 240)
    height = 12
    for box, top, left in (
        ([100, 100, 200, 200], 100 - height, 100),
        ([100, 4, 200, 200], 4, 100),  # no room above
        ([100, -30, 200, 200], 0, 100),
        ([-40, 100, 60, 200], 100 - height, 0),
    ):
        planes = grey(320, 240)
        overlay.boxes(planes, np.array([box]), [0], ["car 3"])
        drawn = changed(planes, grey(320, 240))
        assert drawn[top : top + height, left : left + 24].all()
        assert not drawn[:top, left : left + 24].any()
        assert not drawn[top + height + 2 : top + height + 20, left + 4 : left + 24].any()
    tagged = grey(320, 240)
    overlay.boxes(tagged, np.array([[300, 100, 400, 200]]), [0], ["car 3"])
    columns = np.flatnonzero(changed(tagged, grey(320, 240))[88:100].any(axis=0))
    alone = grey(320, 240)
    overlay.boxes(alone, np.array([[100, 100, 200, 200]]), [0], ["car 3"])
    wide = np.flatnonzero(changed(alone, grey(320, 240))[88:100].any(axis=0))
    assert (columns.max(), len(columns)) == (319, len(wide))  # whole, and not beyond the border


def test_glyphs_differ_and_words_are_remembered():
    glyphs = Glyphs(20)
    ink, ground = (16, 128, 128), (180, 90, 200)
    digits = [glyphs.alpha(digit) for digit in "0123456789"]
    for number, one in enumerate(digits):
        assert one.max() > 200
        for other in digits[number + 1 :]:
            assert one.shape != other.shape or np.abs(one.astype(int) - other).max() > 100
    y, u, v = glyphs.tile("person 12", ink, ground)
    assert y.shape[0] == 20
    assert y.shape[1] % 2 == 0
    assert u.shape == v.shape == (10, y.shape[1] // 2)
    assert (y[0, 0], u[0, 0], v[0, 0]) == ground
    assert y.min() < 40
    assert glyphs.tile("person 12", ink, ground)[0] is y
    assert glyphs.tile("person 12", ground, ink)[0] is not y


def test_text_beyond_ascii_is_spelled_as_well_as_can_be():
    glyphs = Glyphs(20)
    assert (glyphs.alpha("Café") == glyphs.alpha("Cafe")).all()
    assert (glyphs.alpha("北\n") == glyphs.alpha("??")).all()
    assert glyphs.alpha("").shape[1] > 0


def test_remembered_tiles_are_bounded():
    glyphs = Glyphs(12)
    for number in range(5000):
        glyphs.tile(f"{number}", (16, 128, 128), (180, 90, 200))
    assert len(glyphs._tiles) <= 4096


# Captions


def test_a_caption_darkens_its_bar_alone_and_shows_text_at_both_ends():
    planes = grey(640, 360)
    planes.fill(200, 90, 160)
    before = copy(planes)
    Overlay(640, 360).caption(planes, "gate 2026-11-21 10:15:30 UTC", "persons 3")
    rows = np.flatnonzero(changed(planes, before).any(axis=1))
    bottom = int(rows.max()) + 1
    assert rows.min() == 0
    assert 12 <= bottom <= 20
    assert (planes.y[:bottom, 300:360] < 100).all()
    assert np.abs(planes.u[: bottom // 2].astype(int) - 128).max() < 16
    assert planes.y[:bottom, :200].max() > 220
    assert planes.y[:bottom, -60:].max() > 220


def test_a_caption_line_alert_and_lack_of_room():
    overlay = Overlay(320, 240)
    plain, second, alert, crowded = (grey(320, 240) for _ in range(4))
    overlay.caption(plain, "gate")
    overlay.caption(second, "gate", line=1)
    overlay.caption(alert, "gate", alert=True)
    overlay.caption(crowded, "gate", "x" * 80)
    height = int(np.flatnonzero(changed(plain, grey(320, 240)).any(axis=1)).max()) + 1
    assert (second.y[height : 2 * height] == plain.y[:height]).all()
    assert (second.y[:height] == 60).all()
    assert alert.v[0, 100] > 180
    assert (crowded.y == plain.y).all()
    overlay.caption(plain, "gate", line=1000)


# Trails


def test_trails_follow_the_feet_and_are_forgotten():
    trails = Trails(length=3, keep=2)
    ids = np.array([7, 9])
    for step in range(5):
        boxes = np.array([[0, 0, 20, 40], [np.nan, 0, 1, 1]], np.float32) + step * 10
        trails.update(ids, boxes)
    lines = trails.lines()
    assert list(lines) == [7]
    assert lines[7].tolist() == [[30, 60], [40, 70], [50, 80]]
    for step in range(3):
        trails.update(ids[:0], np.zeros((0, 4), np.float32))
        assert trails.lines() == {}
        assert (7 in trails._points) == (step < 2)


def test_a_trail_is_a_line_in_its_colour():
    planes = grey(320, 240)
    before = copy(planes)
    points = np.array([[20, 100], [100, 100], [100, 180]], np.float32)
    Overlay(320, 240).trails(planes, [points], [4])
    drawn = changed(planes, before)
    assert drawn[100, 20:100].all()
    assert drawn[100:180, 100].all()
    assert not drawn[:96].any()
    assert not drawn[:, 105:].any()
    assert planes.y[100, 60] == YUV[4][0]
    assert (planes.u[50, 30], planes.v[50, 30]) == tuple(YUV[4][1:])


# Label maps


def test_a_label_map_tints_its_regions_and_leaves_the_rest():
    planes = grey(320, 240)
    labels = np.zeros((24, 32), np.uint8)
    labels[:, 16:] = 1
    labels[:, 28:] = 200  # beyond the palette
    draw_label_map(planes, labels, PALETTE[:2], np.array([0.0, 0.5]))
    assert (planes.y[:, :150] == 60).all()
    assert (planes.u[:, :75] == 128).all()
    assert (planes.y[:, 290:] == 60).all()
    y, u, v = YUV[1]
    assert np.abs(planes.y[:, 175:265] - (0.75 * 60 + 0.25 * y)).max() <= 1.5
    assert np.abs(planes.u[:, 88:132] - (0.5 * 128 + 0.5 * u)).max() <= 1.5
    assert np.abs(planes.v[:, 88:132] - (0.5 * 128 + 0.5 * v)).max() <= 1.5


def test_a_label_map_is_drawn_inside_strided_planes_of_odd_size():
    planes, whole = guarded(161, 97)
    draw_label_map(planes, np.ones((10, 20), np.uint8), PALETTE, 1.0)
    assert untouched(whole)
    assert (planes.u == YUV[1][1]).all()


# Letterbox


@pytest.mark.parametrize(
    ("source", "into", "wanted"),
    [
        ((64, 64), (128, 64), (32, 0, 64, 64)),
        ((640, 360), (320, 240), (0, 30, 320, 180)),
        ((101, 51), (160, 160), (0, 38, 160, 81)),
        ((33, 200), (97, 51), (44, 0, 8, 51)),
        ((4000, 2), (64, 64), (0, 30, 64, 1)),
    ],
)
def test_letterbox_keeps_the_shape_between_black_bars(source, into, wanted):
    picture = Planes.empty(*source)
    picture.fill(200, 90, 160)
    planes, whole = guarded(*into)
    x, y, width, height = letterbox(picture, planes)
    assert (x, y, width, height) == wanted
    inside = np.zeros(planes.y.shape, bool)
    inside[y : y + height, x : x + width] = True
    assert (planes.y[inside] == 200).all()
    assert (planes.y[~inside] == 16).all()
    assert planes.u[y // 2, x // 2] == 90
    assert (planes.v == 160).sum() == ((width + 1) // 2) * ((height + 1) // 2)
    assert (planes.u[planes.u != 90] == 128).all()
    assert untouched(whole)


# Cost


def yardstick_ms() -> float:
    """Work of the same kind, some Python and some memory, which busy neighbours slow down alike."""
    begin_ns = time.thread_time_ns()
    numbers = {f"{number}": number for number in range(3000)}
    plane = np.arange(200_000, dtype=np.int32) * 3
    plane[::2] += len(numbers)
    return (time.thread_time_ns() - begin_ns) / 1e6


def test_thirty_people_cost_little():
    rng = np.random.default_rng(0)
    overlay, planes = Overlay(1280, 720), grey(1280, 720)
    ids, corner = np.arange(30), rng.uniform(100, 600, (30, 2))
    boxes = np.hstack([corner, corner + np.array([40, 100])]).astype(np.float32)
    trails, colours = Trails(), [colour_of(i) for i in range(30)]
    costs_ms, yardsticks_ms = [], []
    for step in range(40):
        begin_ns = time.thread_time_ns()
        trails.update(ids, boxes + step)
        lines = trails.lines()
        overlay.trails(planes, lines.values(), (colour_of(i) for i in lines))
        scores = rng.uniform(0.3, 1, 30).tolist()
        overlay.boxes(planes, boxes, colours, [f"person {i} {scores[i]:.2f}" for i in range(30)])
        overlay.caption(planes, f"gate 10:15:{step}", "persons 30")
        costs_ms.append((time.thread_time_ns() - begin_ns) / 1e6)
        yardsticks_ms.append(yardstick_ms())
    assert min(costs_ms[20:]) < max(1.5, 4.5 * min(yardsticks_ms[20:]))
