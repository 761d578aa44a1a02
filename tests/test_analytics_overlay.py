"""Zones, lines, counts and speeds on the planes: where they are, in which colour, and clipped."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from samples import info_of, tracks_of

from streamer.config import CameraConfig
from streamer.messages import Readings, Tracks
from streamer.overlay.analytics import ViewOverlay
from streamer.overlay.colours import ALERT, PALETTE, yuv_from_rgb
from streamer.planes import Planes
from streamer.view import LineConfig, ZoneConfig

WIDTH, HEIGHT = 320, 180
CAMERA = CameraConfig(
    source="x",
    zones={"yard": ZoneConfig(polygon=((0.25, 0.5), (0.5, 0.5), (0.5, 0.9), (0.25, 0.9)))},
    lines={"kerb": LineConfig(ends=((0.75, 0.9), (0.75, 0.5)))},
)
GREY = 90


def blank(width: int = WIDTH, height: int = HEIGHT) -> Planes:
    planes = Planes.empty(width, height)
    planes.fill(GREY)
    return planes


def tracks(readings: Readings | None, *boxes: tuple[float, float, float, float]) -> Tracks:
    made = tracks_of(info_of(1, width=WIDTH, height=HEIGHT), dict(enumerate(boxes, 1)))
    return msgspec.structs.replace(made, readings=readings)


def yuv(rgb: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(yuv_from_rgb(np.array([rgb], np.uint8), "bt601")[0].tolist())


def changed(planes: Planes) -> np.ndarray:
    return planes.y != GREY


def test_a_zone_and_a_line_are_drawn_where_they_are() -> None:
    planes = blank()
    ViewOverlay(CAMERA, WIDTH, HEIGHT).draw(planes, None)
    y, u, v = yuv(tuple(PALETTE[0].tolist()))
    assert (planes.y[161, 90:150] == y).all()  # the zone's lower edge
    assert (planes.u[81, 45:75] == u).all()
    assert (planes.v[81, 45:75] == v).all()
    assert (planes.y[100:150, 160] == y).all()  # its right edge
    assert (planes.y[130, 90:150] == GREY).all()  # nothing inside
    y, _, _ = yuv(tuple(PALETTE[1].tolist()))
    assert (planes.y[140:160, 240] == y).all()  # the line
    middle = (0.5 + 0.9) / 2 * HEIGHT
    assert (planes.y[round(middle), 241:247] == y).all()  # its arrow: in is to the right
    assert (planes.y[round(middle), 225:238] == GREY).all()


def test_counts_are_written_and_change_with_the_readings() -> None:
    overlay = ViewOverlay(CAMERA, WIDTH, HEIGHT)
    pictures = []
    for readings in (
        None,
        Readings((0,), (False,), ((0, 0),)),
        Readings((7,), (False,), ((0, 0),)),
        Readings((0,), (False,), ((3, 1),)),
    ):
        planes = blank()
        overlay.draw(planes, tracks(readings))
        pictures.append(planes.y.copy())
    assert all((a != b).any() for n, a in enumerate(pictures) for b in pictures[n + 1 :])
    zone_tag, line_tag = np.s_[70:92, 60:160], np.s_[70:92, 225:]
    assert (pictures[1][zone_tag] != pictures[2][zone_tag]).any()
    np.testing.assert_array_equal(pictures[1][line_tag], pictures[2][line_tag])
    assert (pictures[1][line_tag] != pictures[3][line_tag]).any()


def test_an_alarm_turns_the_zone_red() -> None:
    planes = blank()
    overlay = ViewOverlay(CAMERA, WIDTH, HEIGHT)
    overlay.draw(planes, tracks(Readings((1,), (True,), ((0, 0),))))
    y, u, v = yuv(ALERT)
    assert (planes.y[161, 90:150] == y).all()
    assert (planes.v[81, 45:75] == v).all()
    assert (planes.u[81, 45:75] == u).all()


def test_speeds_are_below_their_boxes_and_only_where_known() -> None:
    overlay = ViewOverlay(CameraConfig(source="x"), WIDTH, HEIGHT)
    speeds = np.array([42.4, np.nan], np.float32).tobytes()
    planes = blank()
    boxes = (40.0, 20.0, 80.0, 60.0), (200.0, 20.0, 240.0, 60.0)
    overlay.draw(planes, tracks(Readings((), (), (), speeds), *boxes))
    assert not changed(planes).any()  # no boxes are drawn, so no speeds are
    overlay.draw(planes, tracks(Readings((), (), (), speeds), *boxes), np.array(boxes, np.float32))
    rows, columns = np.nonzero(changed(planes))
    assert rows.min() == 60
    assert rows.max() < 60 + 14
    assert (columns.min(), columns.max()) >= (40, 60)
    assert columns.max() < 200
    moved = blank()
    overlay.draw(
        moved, tracks(Readings((), (), (), speeds), *boxes),
        np.array([(100, 20, 140, 60), boxes[1]], np.float32),
    )  # fmt: skip
    assert np.nonzero(changed(moved))[1].min() == 100


@pytest.mark.parametrize(("width", "height"), [(33, 17), (64, 48), (1280, 720)])
def test_any_size_and_any_place_stays_inside(width: int, height: int) -> None:
    """Corners on the border, boxes far off or not finite: nothing breaks, nothing wraps."""
    camera = CameraConfig(
        source="x",
        zones={"whole-picture": ZoneConfig(polygon=((0, 0), (1, 0), (1, 1), (0, 1)))},
        lines={"edge": LineConfig(ends=((1, 0), (1, 1)))},
    )
    far = [(-1e6, -1e6, -1e5, -1e5), (1e6, 1e6, 1e7, 1e7), (np.nan, 0, 1, np.inf), (0, 0, 1, 1)]
    readings = Readings((3,), (False,), ((1, 2),), np.full(4, 9, np.float32).tobytes())
    planes = blank(width, height)
    ViewOverlay(camera, width, height, matrix="bt709").draw(
        planes, tracks(readings, *far), np.array(far, np.float32)
    )
    assert changed(planes).any()
    assert planes.y.min() >= 16
    assert planes.y.max() <= 235
